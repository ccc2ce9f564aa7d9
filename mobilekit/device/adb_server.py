"""The adb server: where it listens, how it is started, and what its errors mean.

One that already runs is used as it is, whoever started it and whatever its version. Everything that adbutils or a
socket can raise becomes one of :mod:`mobilekit.errors` in :func:`wire`; nothing else leaves these modules.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import adbutils

from mobilekit.device.base import remedy
from mobilekit.errors import (
    AdbError,
    DeviceError,
    DeviceLostError,
    DeviceStorageError,
    MissingToolError,
    MobilekitError,
    NoDeviceError,
    UsageError,
)

__all__ = [
    "ServerAddress",
    "adb_program",
    "client",
    "connect",
    "disconnect",
    "list_devices",
    "open_service",
    "server_address",
    "wire",
]

_SERVER = "adb server"
_ANSWER_S = 30.0
_START_S = 20.0
_OTHER_S = 3.0
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

# What adbutils and the sockets under it raise: its own errors, int() and struct on an answer that is no adb answer,
# its asserts and RuntimeErrors on states it does not know, and the run of `adb start-server`.
WIRE_ERRORS = (
    adbutils.AdbError,
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    AssertionError,
    IndexError,
    struct.error,
    subprocess.SubprocessError,
)


@dataclass(frozen=True, slots=True)
class ServerAddress:
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class ListedDevice:
    """A line of ``adb devices -l``. ``state`` is ``"device"`` where it can be used; else ``hint`` says how to mend it.

    ``transport``: ``"usb"``, ``"tcp"`` or ``"emulator"``. ``model`` as adb shows it (may be empty).
    """

    serial: str
    state: str
    transport: str
    model: str = ""
    hint: str = ""

    @property
    def usable(self) -> bool:
        return self.state == "device"


def server_address() -> ServerAddress:
    """``ADB_SERVER_SOCKET`` (``tcp:PORT``, ``tcp:HOST:PORT``), else ``ANDROID_ADB_SERVER_ADDRESS`` and ``_PORT``."""
    text = os.environ.get("ADB_SERVER_SOCKET")
    if text:
        match = re.fullmatch(r"tcp:(?:(?P<host>[^:]+|\[[^]]+\]):)?(?P<port>\d+)", text)
        if match is None:
            raise UsageError(f"ADB_SERVER_SOCKET={text!r} is not understood", hint="write tcp:PORT or tcp:HOST:PORT")
        return ServerAddress((match["host"] or "127.0.0.1").strip("[]"), _port(match["port"], "ADB_SERVER_SOCKET"))
    host = os.environ.get("ANDROID_ADB_SERVER_ADDRESS") or os.environ.get("ANDROID_ADB_SERVER_HOST") or "127.0.0.1"
    return ServerAddress(host, _port(os.environ.get("ANDROID_ADB_SERVER_PORT") or "5037", "ANDROID_ADB_SERVER_PORT"))


def _port(text: str, variable: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise UsageError(f"{variable}: {text!r} is no port", hint="give a number from 1 to 65535")
    return int(text)


def adb_program() -> str:
    """``$ADB``, else adb on PATH, else the one in adbutils' wheel. Raises :class:`MissingToolError`."""
    named = os.environ.get("ADB")
    if named:
        return named
    try:
        return str(adbutils.adb_path())
    except WIRE_ERRORS as error:
        raise MissingToolError(
            "there is no adb program that runs here", hint="apt install adb, or set ADB to the path of one"
        ) from error


def _listens(address: ServerAddress) -> bool:
    try:
        with socket.create_connection((address.host, address.port), timeout=3):
            return True
    except OSError:
        return False


def _start(address: ServerAddress) -> None:
    if address.host not in _LOOPBACK:
        raise NoDeviceError(
            f"no adb server answers at {address.host}:{address.port}",
            hint="start `adb -a nodaemon server` there, or unset ADB_SERVER_SOCKET and ANDROID_ADB_SERVER_ADDRESS",
        )
    program = adb_program()
    environment = {**os.environ, "ANDROID_ADB_SERVER_PORT": str(address.port)}
    environment.pop("ADB_SERVER_SOCKET", None)
    hint = "run `adb start-server` by hand to see why; ADB names another adb program"
    # A file, not a pipe: the server that is left running would keep a pipe open.
    with tempfile.TemporaryFile() as said:
        try:
            code = subprocess.run(
                [program, "start-server"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                timeout=_START_S,
            ).returncode
        except (OSError, subprocess.SubprocessError) as error:
            raise MissingToolError(f"{program} start-server failed: {error}", hint=hint) from error
        said.seek(0)
        lines = said.read().decode("utf-8", "replace").strip().splitlines()
    # Whatever adb says: where two commands start a server at once, one of them fails, and its server is the other's.
    deadline = time.monotonic() + _OTHER_S
    while not _listens(address):
        if code == 0 or time.monotonic() > deadline:
            reason = lines[-1] if lines else f"exit code {code}"
            raise MissingToolError(f"the adb server did not start on port {address.port}: {reason}", hint=hint)
        time.sleep(0.05)


class _Client(adbutils.AdbClient):  # type: ignore[misc]
    """adbutils' client, which starts a missing server quietly and never waits for ever."""

    def __init__(self, address: ServerAddress) -> None:
        super().__init__(host=address.host, port=address.port)
        self._address = address

    def make_connection(self, timeout: float | None = None) -> Any:
        if not _listens(self._address):
            _start(self._address)
        return super().make_connection(timeout or _ANSWER_S)


def client() -> Any:
    """An adbutils client for :func:`server_address`; the server is started on the first use."""
    return _Client(server_address())


@contextmanager
def wire(serial: str, command: str) -> Iterator[None]:
    """Around every use of adbutils or its sockets: whatever those raise leaves as a :class:`DeviceError`.

    The device gone (or its connection cut) is :class:`DeviceLostError`, a full device :class:`DeviceStorageError`,
    the rest :class:`AdbError` with its fields.
    """
    try:
        yield
    except WIRE_ERRORS as error:
        raise _translate(serial, command, error) from error


def storage_error(serial: str, command: str) -> DeviceStorageError:
    return DeviceStorageError(
        f"{serial}: no space left on the device during `{command}`",
        hint=f"`mobilekit device clean --device {serial}` removes what mobilekit put there; or free space on it",
    )


def lost_error(serial: str, command: str, state: str) -> DeviceLostError:
    now = f"now {state}" if state else "no longer listed by adb"
    if state == "device":
        now = "adb lists it again"
    return DeviceLostError(
        f"{serial}: the connection to the device was lost during `{command}` ({now})",
        hint="check the cable or network, then `mobilekit devices`; a virtual one: `mobilekit device virtual list`",
    )


_LOST = re.compile(
    r"device '.*' not found|device offline|device still (connecting|authorizing)|device unauthorized"
    r"|no devices/emulators found|^connection closed$|^closed$|Unknown data: b''",
    re.IGNORECASE | re.DOTALL,
)
_FULL = re.compile(r"no space left|disk quota exceeded", re.IGNORECASE)


def _translate(serial: str, command: str, error: BaseException) -> DeviceError:
    text = str(error)
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or _FULL.search(text):
        return storage_error(serial, command)
    timed_out = isinstance(error, TimeoutError | adbutils.AdbTimeout | subprocess.TimeoutExpired)
    if serial != _SERVER:
        cut = isinstance(error, EOFError | ConnectionError) or text == "Connection is closed"
        state = _state(serial)
        # "closed" is also what adb says of a service that the device does not offer.
        if cut or state not in ("device", None) or (_LOST.search(text) and text != "closed"):
            return lost_error(serial, command, state or "")
    if timed_out:
        return AdbError(
            command, serial=serial, stderr="no answer in time", hint="`adb reconnect`, or replug the device"
        )
    return AdbError(command, serial=serial, stderr=text or type(error).__name__, hint=remedy(text))


def _state(serial: str) -> str | None:
    """State of one device, ``""`` where adb does not list it, ``None`` where adb does not answer."""
    try:
        return next((device.state for device in list_devices() if device.serial == serial), "")
    except MobilekitError:
        return None


def open_service(serial: str, service: str, *, timeout_s: float = _ANSWER_S) -> Any:
    """An adbutils connection to a service of the device (``"shell,v2,raw:ls"``, ``"sync:"``), to be closed.

    Call it inside :func:`wire`; ``timeout_s`` bounds each send and receive.
    """
    connection = client().make_connection(timeout_s)
    try:
        connection.send_command(f"host:transport:{serial}")
        connection.check_okay()
        connection.send_command(service)
        connection.check_okay()
    except BaseException:
        connection.close()
        raise
    return connection


_TAGS = re.compile(r"\s(usb|product|model|device|transport_id|features|devpath):(\S*)")


def _parse(line: str) -> ListedDevice | None:
    nameless = "(no serial number)"
    if line.startswith(nameless):
        serial, rest = nameless, line[len(nameless) :]
    else:
        serial, _, rest = line.partition("\t") if "\t" in line else line.partition(" ")
    first = _TAGS.search(" " + rest)
    state = (rest[: max(0, first.start() - 1)] if first else rest).strip()
    if not serial or not state:
        return None
    tags = dict(_TAGS.findall(" " + rest))
    network = re.search(r":\d+$|\._adb(-tls-connect)?\._tcp", serial)
    transport = "emulator" if serial.startswith("emulator-") else "tcp" if network else "usb"
    return ListedDevice(serial, state, transport, tags.get("model", "").replace("_", " "), _hint(serial, state))


_OTHER_SERVER = (
    "a virtual device lets its owner in, and the adb server that runs is another user's: ask for one of your own with"
    " `export ANDROID_ADB_SERVER_PORT=5038`, or end that one with `adb kill-server`;\n"
    "a phone behind a tunnel: answer yes to 'Allow USB debugging?'"
)


def _hint(serial: str, state: str) -> str:
    if state == "device":
        return ""
    if state.startswith("no permissions"):
        return "install adb's udev rules (apt install android-sdk-platform-tools-common), then replug the device"
    hints = {
        "offline": f"replug it; over the network: `adb disconnect {serial}`, then `adb connect {serial}`",
        "unauthorized": _OTHER_SERVER
        if serial.startswith("127.0.0.1:")
        else "unlock it and answer yes to 'Allow USB debugging?'",
        "authorizing": "wait a few seconds, and unlock it if it asks for leave",
        "connecting": "wait a few seconds",
    }
    return hints.get(state, f"it is in the state {state!r}: boot it to Android (`adb -s {serial} reboot`)")


def list_devices() -> tuple[ListedDevice, ...]:
    """What ``adb devices -l`` lists, usable or not, in adb's order.

    Raises :class:`MissingToolError` where no adb server runs nor starts, :class:`AdbError` where it misbehaves.
    """
    with wire(_SERVER, "adb devices"), client().make_connection() as connection:
        connection.send_command("host:devices-l")
        connection.check_okay()
        text = str(connection.read_string_block())
    return tuple(device for line in text.splitlines() if (device := _parse(line)) is not None)


def connect(address: str, *, timeout_s: float = 15.0) -> None:
    """``adb connect HOST:PORT``, and wait until it can be used.

    A stale entry (offline, after its daemon was restarted) is disconnected first. Raises :class:`NoDeviceError`.
    """
    until = time.monotonic() + timeout_s
    listed = _listed(address)
    if listed is not None and listed.usable:
        return
    if listed is not None:
        disconnect(address)
    with wire(_SERVER, f"adb connect {address}"):
        said = str(client().connect(address, timeout=timeout_s)).strip()
    if not said.startswith(("connected to", "already connected to")):
        refused = "failed to authenticate" in said
        raise NoDeviceError(
            f"adb connect {address}: {said}",
            hint=_hint(address, "unauthorized")
            if refused
            else "check the address; is the device (or virtual device) running?",
        )
    while (listed := _listed(address)) is None or not listed.usable:
        if time.monotonic() > until:
            state = listed.state if listed else "gone"
            hint = listed.hint if listed else "is it still running? `mobilekit device virtual list`"
            raise NoDeviceError(f"{address} connected, but is {state}", hint=hint)
        time.sleep(0.05)


def disconnect(address: str) -> None:
    """``adb disconnect HOST:PORT``; one that is not connected is no error."""
    with wire(_SERVER, f"adb disconnect {address}"):
        client().disconnect(address)


def _listed(address: str) -> ListedDevice | None:
    found = next((device for device in list_devices() if device.serial == address), None)
    return replace(found) if found else None
