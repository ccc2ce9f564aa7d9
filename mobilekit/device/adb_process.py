"""adb's shell protocol, version 2: a program on the device with its own stdin, stdout, stderr and exit code.

A packet is one byte of kind, four of length (little-endian), then the data (AOSP, ``adb/shell_protocol.h``).
"""

from __future__ import annotations

import shlex
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from mobilekit.device.adb_server import WIRE_ERRORS, open_service, wire
from mobilekit.device.base import ShellResult, remedy
from mobilekit.errors import AdbError, DeviceError, HarnessCrashError, HarnessError, HarnessTimeoutError

__all__ = ["AdbProcess", "run_shell", "shown"]

_STDIN, _STDOUT, _STDERR, _EXIT, _CLOSE_STDIN = range(5)
_MAX_PACKET = 1 << 20
_MAX_LINE = 1 << 20
_STDERR_TAIL = 8192
_KILL_S = 5.0
_OPEN_S = 30.0


def shown(argv: Sequence[str]) -> str:
    """The command for a message: quoted, and not longer than a line."""
    text = shlex.join(argv)
    return text if len(text) <= 120 else text[:117] + "..."


class _Connection:
    """One shell,v2 stream. The remote shell says its process id first, so that the program can be ended."""

    def __init__(self, serial: str, argv: Sequence[str]) -> None:
        self.serial, self.command = serial, shown(argv)
        self.pid: int | None = None
        self._first = b""
        # exec: the program takes over the shell's process id, and its exit is the stream's end.
        self._wire: Any = open_service(serial, f"shell,v2,raw:echo $$; exec {shlex.join(argv)}", timeout_s=_OPEN_S)

    def settimeout(self, seconds: float | None) -> None:
        self._wire.conn.settimeout(seconds)

    def packets(self) -> Iterator[tuple[int, bytes]]:
        """Packets up to and with the exit code; the process id is taken out of stdout."""
        while True:
            kind, length = (header := self._wire.read_exact(5))[0], int.from_bytes(header[1:5], "little")
            if length > _MAX_PACKET:
                raise ValueError(f"a shell packet of {length} bytes")
            data = bytes(self._wire.read_exact(length)) if length else b""
            if kind == _STDOUT and self.pid is None:
                self._first += data
                line, newline, data = self._first.partition(b"\n")
                if not newline and len(line) < 32:
                    continue
                self.pid = int(line)
            if kind == _EXIT:
                if not data:
                    raise ValueError("a shell exit packet without a code")
                yield kind, data
                return
            yield kind, data

    def feed(self, data: bytes) -> None:
        """Send all of stdin and close it; a program that does not read to the end is no error."""
        with suppress(*WIRE_ERRORS):
            view = memoryview(data)
            for start in range(0, len(view), 65536):
                part = view[start : start + 65536]
                self._wire.conn.sendall(bytes([_STDIN]) + len(part).to_bytes(4, "little") + part)
            self._wire.conn.sendall(bytes([_CLOSE_STDIN]) + bytes(4))

    def kill(self) -> None:
        """End the program and its children, as far as the device still listens."""
        if self.pid is None:
            return
        with suppress(*WIRE_ERRORS, DeviceError):
            # adbd makes each command the leader of a process group; the second form is for a shell that does not.
            command = f"kill -9 -{self.pid} 2>/dev/null || kill -9 {self.pid}"
            connection = open_service(self.serial, f"shell,v2,raw:{command}", timeout_s=_KILL_S)
            try:
                while connection.read_exact(5)[0] != _EXIT:
                    pass
            finally:
                connection.close()

    def wake(self) -> None:
        """Make a thread that waits for a packet see the end of the stream."""
        with suppress(*WIRE_ERRORS):
            self._wire.conn.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with suppress(*WIRE_ERRORS):
            self._wire.close()


def run_shell(serial: str, argv: Sequence[str], *, timeout_s: float, stdin: bytes) -> ShellResult:
    """Run a program to its end. Past ``timeout_s`` (or on Ctrl-C) it is killed there. Raises :class:`AdbError`."""
    deadline = time.monotonic() + timeout_s
    with wire(serial, shown(argv)):
        connection = _Connection(serial, argv)
    feeder = threading.Thread(target=connection.feed, args=(stdin,), daemon=True)
    out, err, ended = bytearray(), bytearray(), False
    try:
        with wire(serial, connection.command):
            connection.settimeout(max(0.01, timeout_s))
            feeder.start()
            for kind, data in connection.packets():
                if kind == _STDOUT:
                    out += data
                elif kind == _STDERR:
                    err += data
                elif kind == _EXIT:
                    ended = True
                    return ShellResult(bytes(out), bytes(err), data[0])
                connection.settimeout(max(0.01, deadline - time.monotonic()))
            raise EOFError("the stream ended")
    except AdbError as error:
        if time.monotonic() < deadline:
            raise
        raise AdbError(
            connection.command,
            serial=serial,
            stderr=f"did not end within {timeout_s:g} s and was killed",
            hint="is the device hung? raise the limit with --timeout, or reboot it",
        ) from error
    finally:
        if not ended:
            connection.kill()
        connection.wake()
        if feeder.ident is not None:
            feeder.join()
        connection.close()


class AdbProcess:
    """A program left running on the device (:class:`~mobilekit.device.base.RemoteProcess`); closing it ends it."""

    def __init__(self, serial: str, argv: Sequence[str]) -> None:
        with wire(serial, shown(argv)):
            self._connection = _Connection(serial, argv)
            self._connection.settimeout(None)
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._stderr: deque[bytes] = deque()
        self._lock = threading.Lock()
        self._code: int | None = None
        self._failure: DeviceError | None = None
        self._closed = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._read, name=f"adb shell {serial}", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        rest = b""
        try:
            with wire(self._connection.serial, self._connection.command):
                for kind, data in self._connection.packets():
                    if kind == _STDOUT:
                        *lines, rest = (rest + data).split(b"\n")
                        for line in lines:
                            self._lines.put(line.decode("utf-8", "replace"))
                        if len(rest) > _MAX_LINE:
                            raise ValueError("a line of output without an end")
                    elif kind == _STDERR:
                        self._keep(data)
                    elif kind == _EXIT:
                        self._code = data[0]
        except DeviceError as error:
            self._failure = error
        finally:
            if rest:
                self._lines.put(rest.decode("utf-8", "replace"))
            self._done.set()
            self._lines.put(None)

    def _keep(self, data: bytes) -> None:
        with self._lock:
            self._stderr.append(data)
            while sum(map(len, self._stderr)) - len(self._stderr[0]) >= _STDERR_TAIL:
                self._stderr.popleft()

    @property
    def pid(self) -> int | None:
        """Its process id on the device, once it has said so."""
        return self._connection.pid

    def poll(self) -> int | None:
        """Exit code (128 + n after signal n) once it has ended, else ``None``. Raises :class:`DeviceLostError`."""
        if not self._done.is_set():
            return None
        if self._code is None and self._failure is not None and not self._closed:
            raise self._failure
        return self._code

    def wait(self, timeout_s: float) -> int | None:
        """Like :meth:`poll`, after waiting for the end up to ``timeout_s``."""
        self._done.wait(timeout_s)
        return self.poll()

    def stderr_tail(self) -> str:
        """The last of what it wrote to stderr (8 kB at least, where it wrote that much)."""
        with self._lock:
            return b"".join(self._stderr).decode("utf-8", "replace")

    def readline(self, timeout_s: float) -> str:
        """Next line of its stdout, without the newline.

        Raises :class:`HarnessTimeoutError` where none comes in time, :class:`HarnessCrashError` or
        :class:`HarnessError` where the program has ended instead, :class:`DeviceLostError` where the device has gone.
        """
        try:
            line = self._lines.get(timeout=timeout_s)
        except Empty:
            raise HarnessTimeoutError(
                f"{self._connection.serial}: `{self._connection.command}` said nothing for {timeout_s:g} s",
                hint="raise the limit with --timeout",
            ) from None
        if line is not None:
            return line
        self._lines.put(None)
        code = self.poll()
        name = f"{self._connection.serial}: `{self._connection.command}`"
        said = self.stderr_tail().strip()
        if code is not None and code > 128:
            raise HarnessCrashError(name, signal=code - 128, hint=said)
        raise HarnessError(
            f"{name} ended with exit code {code}", hint="\n".join(filter(None, (said, remedy(said, code))))
        )

    def close(self) -> None:
        """End the program if it still runs, and wait until its stream is closed. May be called again."""
        if self._closed:
            return
        self._closed = True
        if not self._done.is_set():
            self._connection.kill()
        self._connection.wake()
        self._thread.join()
        self._connection.close()
