"""Ways to start ``mobilekit-harness serve`` and reach its socket: on a device over adb, or on this machine."""

from __future__ import annotations

import os
import resource
import secrets
import select
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mobilekit import interrupts
from mobilekit.device.base import Device, RemoteProcess
from mobilekit.device.harness import protocol
from mobilekit.errors import (
    DeviceError,
    DeviceLostError,
    HarnessCrashError,
    HarnessError,
    HarnessTimeoutError,
    ProtocolError,
)
from mobilekit.paths import Scratch

__all__ = ["Running", "launch_local", "launch_on_device"]

_TOKEN_VARIABLE = "MOBILEKIT_HARNESS_TOKEN"  # noqa: S105 - the name of a variable
_TAIL = 8192


@dataclass(slots=True)
class Running:
    """A harness that listens. ``cleanup`` ends it and takes away what was set up for it, whatever state it is in."""

    what: str
    token: str
    process: RemoteProcess
    connection: socket.socket
    cleanup: Callable[[], None]


def launch_on_device(device: Device, executable: str, *, start_timeout_s: float, idle_timeout_s: float) -> Running:
    """The token travels in a file that only the harness's user can read and that the harness removes."""
    name, token = f"mobilekit-{secrets.token_hex(16)}", secrets.token_hex(32)
    token_file = str(PurePosixPath(executable).parent / f".{name}")
    what = f"{device.serial}: the harness"
    with ExitStack() as undo:
        undo.callback(_quietly, lambda: device.shell(["rm", "-f", token_file], timeout_s=10))
        with Scratch("token") as folder:
            local = folder / "token"
            local.write_text(token)
            device.push(local, token_file, mode=0o600)
        process = device.spawn([executable, *_serve(name, idle_timeout_s), "--token-file", token_file])
        undo.callback(_quietly, process.close)
        _await_ready(process, name, what, start_timeout_s)
        with interrupts.held():  # adb would keep a forward whose port nobody has heard
            port = device.forward_abstract(name)
            undo.callback(_quietly, lambda: device.remove_forward(port))
        try:
            connection = socket.create_connection(("127.0.0.1", port), timeout=start_timeout_s)
        except OSError as error:
            raise DeviceLostError(
                f"{what}: adb's forwarded port cannot be reached: {error}", hint="adb kill-server; adb devices"
            ) from error
        undo.callback(connection.close)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Running(what, token, process, connection, undo.pop_all().close)


def launch_local(
    executable: Path,
    *,
    emulator: Sequence[str],
    start_timeout_s: float,
    idle_timeout_s: float,
    memory_bytes: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Running:
    """Start a harness built for this machine (or another one under ``emulator``); ``memory_bytes`` bounds its data.
    ``environment``: where ours does not say otherwise."""
    name, token = f"mobilekit-{secrets.token_hex(16)}", secrets.token_hex(32)
    what = f"the harness {executable.name}"
    with ExitStack() as undo:
        command = [*emulator, str(executable), *_serve(name, idle_timeout_s)]
        unset = {name: value for name, value in (environment or {}).items() if name not in os.environ}
        with interrupts.held():
            process = LocalProcess(command, {**unset, _TOKEN_VARIABLE: token})
            undo.callback(process.close)
        if memory_bytes is not None:
            with suppress(ProcessLookupError):  # it ended at once: the next line says so
                resource.prlimit(process.pid, resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
        _await_ready(process, name, what, start_timeout_s)
        connection = socket.socket(socket.AF_UNIX)
        undo.callback(connection.close)
        connection.settimeout(start_timeout_s)
        try:
            connection.connect(f"\0{name}")
        except OSError as error:
            raise HarnessError(f"{what} cannot be reached: {error}", hint=process.stderr_tail()) from error
        return Running(what, token, process, connection, undo.pop_all().close)


def _serve(name: str, idle_timeout_s: float) -> list[str]:
    return ["serve", "--socket", name, "--idle-timeout-s", str(max(1, int(idle_timeout_s)))]


def _await_ready(process: RemoteProcess, name: str, what: str, timeout_s: float) -> None:
    line = process.readline(timeout_s)
    words = line.split()
    if words[:2] != ["mobilekit-harness", "ready"] or words[3:] != [name]:
        raise ProtocolError(f"{what} began with {line[:200]!r}", hint="mobilekit harness build")
    if words[2] != str(protocol.VERSION):
        raise ProtocolError(
            f"{what} speaks protocol version {words[2]}, this mobilekit speaks {protocol.VERSION}",
            hint="mobilekit harness build",
        )


def _quietly(action: Callable[[], object]) -> None:
    """Cleaning up after a device that may be gone must not hide what went wrong."""
    with suppress(DeviceError, OSError):
        action()


class LocalProcess:
    """A :class:`~mobilekit.device.base.RemoteProcess` on this machine."""

    def __init__(self, argv: Sequence[str], environment: dict[str, str]) -> None:
        self._name = Path(argv[0]).name
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        except OSError as error:
            self._stderr.close()
            raise HarnessError(f"cannot start {argv[0]}: {error.strerror}", hint="mobilekit harness build") from error
        self._pending = b""

    def poll(self) -> int | None:
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code

    def stderr_tail(self) -> str:
        if self._stderr.closed:
            return ""
        size = os.fstat(self._stderr.fileno()).st_size
        return os.pread(self._stderr.fileno(), _TAIL, max(0, size - _TAIL)).decode("utf-8", "replace")

    def readline(self, timeout_s: float) -> str:
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._pending:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise HarnessTimeoutError(f"{self._name} said nothing for {timeout_s:g} s")
            data = os.read(self._process.stdout.fileno(), 4096)
            if not data:
                self._process.wait()
                code = self.poll()
                assert code is not None
                if code > 128:
                    raise HarnessCrashError(self._name, signal=code - 128, hint=self.stderr_tail().strip())
                raise HarnessError(f"{self._name} ended with exit code {code}", hint=self.stderr_tail().strip())
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode("utf-8", "replace")

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._stderr.close()
