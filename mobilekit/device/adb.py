"""Devices over adb, through adbutils: list, connect, choose one, and use it as a :class:`device.base.Device`."""

from __future__ import annotations

import os
import re
import secrets
import select as _select
import shlex
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from stat import S_IFREG
from typing import Any

from mobilekit.device.adb_process import AdbProcess, run_shell
from mobilekit.device.adb_server import (
    ListedDevice,
    client,
    connect,
    disconnect,
    list_devices,
    open_service,
    storage_error,
    wire,
)
from mobilekit.device.base import DeviceInfo, ShellResult, remedy
from mobilekit.errors import (
    AdbError,
    AmbiguousDeviceError,
    DeviceError,
    DeviceLostError,
    NoDeviceError,
    StorageError,
    UsageError,
)
from mobilekit.paths import atomic_file
from mobilekit.progress import SILENT, Progress

__all__ = ["AdbDevice", "ListedDevice", "connect", "disconnect", "list_devices", "select"]

_CHUNK = 64 * 1024  # SYNC_DATA_MAX of adb's sync protocol
_STALL_S = 60.0
_PROPERTIES = (
    "ro.product.model",
    "ro.product.manufacturer",
    "ro.build.version.release",
    "ro.product.cpu.abilist",
    "ro.product.cpu.abi",
    "ro.mobilekit.virtual",
    "ro.mobilekit.cpu",
    "ro.serialno",
)
_PLUG_IN = (
    "plug in a phone with USB debugging on, or start a virtual device: `mobilekit device virtual start`,\n"
    "or run on this machine: --device local"
)


def select(serial: str | None = None) -> AdbDevice:
    """The device called ``serial``; without one ``$ANDROID_SERIAL``, else the only one connected.

    A ``HOST:PORT`` that adb does not know yet is connected to. Raises :class:`NoDeviceError` (none, not the one
    named, or one that cannot be used, with the reason) and :class:`AmbiguousDeviceError`.
    """
    listed = list_devices()
    serial = serial or os.environ.get("ANDROID_SERIAL") or None
    usable = [device for device in listed if device.usable]
    if serial is not None:
        found = next((device for device in listed if device.serial == serial), None)
        if found is None and re.fullmatch(r"\S+:\d+", serial):
            connect(serial)
        elif found is None:
            raise NoDeviceError(
                f"there is no device {serial!r}{_others(listed)}", hint="`mobilekit devices` lists them"
            )
        elif not found.usable:
            raise NoDeviceError(f"the device {serial} is {found.state}", hint=found.hint)
        return AdbDevice(serial)
    if len(usable) > 1:
        raise AmbiguousDeviceError(
            f"{len(usable)} devices are connected: {', '.join(_named(d) for d in usable)}",
            hint="name one with --device SERIAL",
        )
    if not usable:
        reasons = [f"{device.serial} is {device.state}: {device.hint}" for device in listed]
        raise NoDeviceError(f"no device is connected{_others(listed)}", hint="\n".join([*reasons, _PLUG_IN]))
    return AdbDevice(usable[0].serial)


def _named(device: ListedDevice) -> str:
    return f"{device.serial} ({device.model})" if device.model else device.serial


def _others(listed: Sequence[ListedDevice]) -> str:
    return f"; adb lists {', '.join(f'{d.serial} ({d.state})' for d in listed)}" if listed else ""


class AdbDevice:
    """A device that adb lists as usable; implements :class:`~mobilekit.device.base.Device`.

    Every method raises only :class:`DeviceError` (:class:`DeviceLostError` where it went away,
    :class:`DeviceStorageError` where it is full) and what it says itself.
    """

    def __init__(self, serial: str) -> None:
        self.serial = serial
        self._info: DeviceInfo | None = None

    def __repr__(self) -> str:
        return f"AdbDevice({self.serial!r})"

    def info(self) -> DeviceInfo:
        """From ``getprop``, asked once."""
        if self._info is None:
            result = self.script('for name; do getprop "$name"; done', *_PROPERTIES)
            if result.returncode != 0:
                raise self._failed("getprop", result)
            lines = [line.strip() for line in result.stdout.decode("utf-8", "replace").splitlines()]
            if len(lines) != len(_PROPERTIES):
                raise self._failed("getprop", result)
            model, manufacturer, android, abilist, abi, virtual, profile, serialno = lines
            emulated = virtual == "1" or manufacturer.lower() == "mobilekit"
            self._info = DeviceInfo(
                serial=self.serial,
                model=model,
                manufacturer=manufacturer,
                android=android,
                abis=tuple(name for name in (abilist or abi).split(",") if name),
                virtual=emulated,
                cpu_profile=profile,
                hardware_serial="" if emulated else serialno,
            )
        return self._info

    def shell(self, argv: Sequence[str], *, timeout_s: float = 60.0, stdin: bytes = b"") -> ShellResult:
        """Run a program (no shell built-in; for those, :meth:`script`) to its end; it is killed past ``timeout_s``."""
        return run_shell(self.serial, argv, timeout_s=timeout_s, stdin=stdin)

    def script(self, text: str, *arguments: str, timeout_s: float = 60.0) -> ShellResult:
        """Run a piece of shell; ``arguments`` are its ``$1``, ``$2``, and so on."""
        return self.shell(["sh", "-c", text, "sh", *arguments], timeout_s=timeout_s)

    def spawn(self, argv: Sequence[str]) -> AdbProcess:
        return AdbProcess(self.serial, argv)

    def _failed(self, command: str, result: ShellResult) -> DeviceError:
        stdout, stderr = (text.decode("utf-8", "replace") for text in (result.stdout, result.stderr))
        if "no space left" in stderr.lower():
            return storage_error(self.serial, command)
        return AdbError(
            command,
            serial=self.serial,
            returncode=result.returncode,
            stdout=stdout,
            stderr=stderr,
            hint=remedy(stderr or stdout),
        )

    def push(self, local: Path, remote: str, *, mode: int = 0o644, progress: Progress = SILENT) -> None:
        """Copy a file there, whole or not at all: to a temporary name beside ``remote``, then renamed.

        Folders on the way are made. Raises :class:`UsageError` where ``local`` cannot be read.
        """
        path = PurePosixPath(remote)
        temporary = str(path.parent / f".{path.name}.{secrets.token_hex(4)}.part")
        try:
            file = local.open("rb")
        except OSError as error:
            raise UsageError(f"cannot read {local}: {error.strerror}") from error
        with file:
            size = os.fstat(file.fileno()).st_size
            try:
                with (
                    progress.task(f"pushing {local.name} to {self.serial}", size, unit="bytes") as bar,
                    self._sync(f"push {local.name}") as connection,
                ):
                    self._send(connection, file, temporary, mode, bar)
                result = self.script(
                    'chmod "$3" "$1" && [ "$(stat -c %s "$1")" -eq "$4" ] && mv -f "$1" "$2"',
                    *(temporary, remote, f"{mode:o}", str(size)),
                )
                if result.returncode != 0:
                    raise self._failed(f"push {local.name}", result)
            except DeviceLostError:
                raise  # adbd removes a file whose sender has gone; there is nobody left to ask
            except BaseException:
                with suppress(DeviceError):
                    self.shell(["rm", "-f", temporary], timeout_s=10)
                raise

    def _send(self, connection: Any, file: Any, remote: str, mode: int, bar: Any) -> None:
        """adb's sync ``SEND``: ``path,mode``, ``DATA`` of at most 64 kB each, ``DONE`` with a time; an answer."""
        name = f"{remote},{S_IFREG | mode}".encode()
        socket = connection.conn
        try:
            socket.sendall(b"SEND" + struct.pack("<I", len(name)) + name)
            while chunk := _local(file):
                socket.sendall(b"DATA" + struct.pack("<I", len(chunk)) + chunk)
                bar.advance(len(chunk))
                # A full disk is told at once; the rest of the file need not be sent first.
                if _select.select([socket], [], [], 0)[0]:
                    break
            else:
                socket.sendall(b"DONE" + struct.pack("<I", int(os.fstat(file.fileno()).st_mtime) & 0xFFFFFFFF))
        except ConnectionError:
            # The device may have said why before it hung up.
            with suppress(EOFError, OSError):
                _sync_status(connection)
            raise
        _sync_status(connection)

    @contextmanager
    def _sync(self, command: str) -> Iterator[Any]:
        with wire(self.serial, command):
            connection = open_service(self.serial, "sync:", timeout_s=_STALL_S)
            try:
                yield connection
            finally:
                connection.close()

    def pull(self, remote: str, local: Path) -> None:
        """Copy a file from there, whole or not at all. Raises :class:`StorageError` where it cannot be written here."""
        name = remote.encode()
        with atomic_file(local) as temporary, temporary.open("wb") as file, self._sync(f"pull {remote}") as connection:
            connection.conn.sendall(b"RECV" + struct.pack("<I", len(name)) + name)
            while True:
                kind = bytes(connection.read_exact(4))
                length = int.from_bytes(connection.read_exact(4), "little")
                if kind == b"DONE":
                    return
                if kind == b"FAIL":
                    raise ValueError(bytes(connection.read_exact(min(length, _CHUNK))).decode("utf-8", "replace"))
                if kind != b"DATA" or length > _CHUNK:
                    raise ValueError(f"an unknown sync answer {kind!r} of {length} bytes")
                data = connection.read_exact(length)
                try:
                    file.write(data)
                except OSError as error:
                    raise StorageError(f"cannot write {local}: {error.strerror}", hint="free some space") from error

    def forward_abstract(self, name: str) -> int:
        """``adb forward tcp:0 localabstract:NAME``; the port that adb chose on this machine's loopback."""
        command = f"forward:tcp:0;localabstract:{name}"
        with wire(self.serial, f"adb forward {shlex.quote(name)}"), self._host(command) as connection:
            connection.check_okay()
            return int(connection.read_string_block())

    def remove_forward(self, port: int) -> None:
        """Undo a forward; one that is no longer there is no error."""
        try:
            with (
                wire(self.serial, f"adb forward --remove tcp:{port}"),
                self._host(f"killforward:tcp:{port}") as connection,
            ):
                connection.check_okay()
        except AdbError as error:
            if "not found" not in error.stderr:
                raise

    @contextmanager
    def _host(self, command: str) -> Iterator[Any]:
        with client().make_connection() as connection:
            connection.send_command(f"host-serial:{self.serial}:{command}")
            connection.check_okay()
            yield connection


def _local(file: Any) -> bytes:
    try:
        return bytes(file.read(_CHUNK))
    except OSError as error:
        raise UsageError(f"cannot read {file.name}: {error.strerror}") from error


def _sync_status(connection: Any) -> None:
    kind = bytes(connection.read_exact(4))
    length = int.from_bytes(connection.read_exact(4), "little")
    if kind == b"OKAY":
        return
    said = bytes(connection.read_exact(min(length, _CHUNK))).decode("utf-8", "replace")
    raise ValueError(said if kind == b"FAIL" else f"an unknown sync answer {kind!r}")
