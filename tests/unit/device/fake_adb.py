"""An adb server with one device, on loopback, for tests: real sockets and adb's own protocol, faults on demand.

Shell commands run in this machine's ``sh`` with ``/data/local/tmp`` rewritten to a folder of the test. ``fault`` is
called with the service's name before it is served and with the number of bytes pushed so far; it may return

* ``"close"``: hang up;  ``"hang"``: say nothing more;  ``"garbage"``: answer with bytes that are no protocol;
* ``"truncate"``: answer with half a frame, then hang up;  any other text: adb's ``FAIL`` with it.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

Fault = Callable[[str, int], str | None]


class FakeAdb:
    def __init__(
        self, root: Path, devices: dict[str, str] | None = None, fault: Fault | None = None, port: int = 0
    ) -> None:
        self.root = root
        self.devices = {"fake-1": "device"} if devices is None else devices
        self.fault: Fault = fault or (lambda service, done: None)
        self.log: list[str] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self.forwards: dict[int, str] = {}
        self.released = threading.Event()
        self.path = os.environ["PATH"]
        (root / "tmp").mkdir(parents=True, exist_ok=True)
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> FakeAdb:
        return self

    def __exit__(self, *exc: object) -> None:
        self.released.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for process in self.processes:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def host_path(self, remote: str) -> Path:
        return Path(remote.replace("/data/local/tmp", str(self.root / "tmp")))

    def remote_text(self, text: str) -> str:
        return text.replace("/data/local/tmp", str(self.root / "tmp"))

    def running(self) -> list[int]:
        return [process.pid for process in self.processes if process.poll() is None]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as adb does
            self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                self._client(connection)
        except (OSError, EOFError):
            pass
        finally:
            self._open.discard(connection)

    def _client(self, c: socket.socket) -> None:
        while (service := _request(c)) is not None:
            self.log.append(service)
            if self._faulty(c, service, 0):
                return
            if service == "host:version":
                c.sendall(b"OKAY" + _block("0029"))
                return
            if service == "host:devices-l":
                lines = "".join(f"{s:<22} {state} model:Fake transport_id:1\n" for s, state in self.devices.items())
                c.sendall(b"OKAY" + _block(lines))
                return
            if service.startswith(("host:connect:", "host:disconnect:")):
                verb, address = service.split(":", 2)[1:]
                if verb == "connect" and address not in self.devices:
                    c.sendall(b"OKAY" + _block(f"failed to connect to '{address}': Connection refused"))
                else:
                    c.sendall(b"OKAY" + _block(f"{verb}ed to {address}"))
                return
            if service.startswith("host:transport:"):
                serial = service.removeprefix("host:transport:")
                if not self._known(c, serial):
                    return
                c.sendall(b"OKAY")
                continue
            if service.startswith("host-serial:"):
                self._forward(c, service)
                return
            if service.startswith("shell,v2,raw:"):
                c.sendall(b"OKAY")
                self._shell(c, service.removeprefix("shell,v2,raw:"))
                return
            if service == "sync:":
                c.sendall(b"OKAY")
                self._sync(c)
                return
            c.sendall(b"FAIL" + _block("closed"))
            return

    def _known(self, c: socket.socket, serial: str) -> bool:
        state = self.devices.get(serial)
        if state == "device":
            return True
        c.sendall(b"FAIL" + _block(f"device '{serial}' not found" if state is None else f"device {state}"))
        return False

    def _faulty(self, c: socket.socket, service: str, done: int) -> bool:
        fault = self.fault(service, done)
        if fault is None:
            return False
        if fault == "hang":
            self.released.wait()
        elif fault == "garbage":
            c.sendall(b"\xff\x00zz\xfe" * 400)
        elif fault == "truncate":
            c.sendall(b"OKAY00")
        elif fault != "close":
            c.sendall(b"FAIL" + _block(fault))
        return True

    def _forward(self, c: socket.socket, service: str) -> None:
        command = service.split(":", 2)[2]
        if command.startswith("forward:tcp:0;"):
            port = 40000 + len(self.forwards)
            self.forwards[port] = command.partition(";")[2]
            c.sendall(b"OKAYOKAY" + _block(str(port)))
        elif command.startswith("killforward:tcp:"):
            known = self.forwards.pop(int(command.rpartition(":")[2]), None)
            c.sendall(b"OKAYOKAY" if known else b"OKAYFAIL" + _block("listener 'tcp:1' not found"))

    def _shell(self, c: socket.socket, command: str) -> None:
        process = subprocess.Popen(
            ["sh", "-c", self.remote_text(command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            cwd=self.root,
            env={**os.environ, "PATH": self.path},
        )
        self.processes.append(process)
        lock = threading.Lock()

        def relay(stream: object, kind: int) -> None:
            with suppress(OSError, ValueError):
                while data := os.read(stream.fileno(), 4096):  # type: ignore[attr-defined]
                    with lock:
                        c.sendall(_packet(kind, data))

        def stdin() -> None:
            with suppress(OSError, EOFError):
                while True:
                    kind, length = struct.unpack("<BI", _exactly(c, 5))
                    data = _exactly(c, length)
                    with suppress(OSError, ValueError):  # the program need not read it
                        if kind == 4:
                            process.stdin.close()
                        elif kind == 0:
                            process.stdin.write(data)
                            process.stdin.flush()
            process.send_signal(signal.SIGHUP)  # the client is gone; as adbd does, to the command alone

        threads = [
            threading.Thread(target=relay, args=(process.stdout, 1), daemon=True),
            threading.Thread(target=relay, args=(process.stderr, 2), daemon=True),
        ]
        threading.Thread(target=stdin, daemon=True).start()
        for thread in threads:
            thread.start()
        code = process.wait()
        for thread in threads:
            thread.join()
        for stream in (process.stdin, process.stdout, process.stderr):
            with suppress(OSError):
                stream.close()
        c.sendall(_packet(3, bytes([code if code >= 0 else 128 - code])))
        # Until the client has gone: closing over what it sent and nobody read would take back what is on its way.
        c.shutdown(socket.SHUT_WR)
        while c.recv(4096):
            pass

    def _sync(self, c: socket.socket) -> None:
        kind, length = struct.unpack("<4sI", _exactly(c, 8))
        name = _exactly(c, length).decode()
        if kind == b"RECV":
            self._recv(c, name)
            return
        remote, _, mode = name.rpartition(",")
        path = self.host_path(remote)
        path.parent.mkdir(parents=True, exist_ok=True)
        done = 0
        try:
            with path.open("wb") as file:
                while True:
                    kind, length = struct.unpack("<4sI", _exactly(c, 8))
                    if kind == b"DONE":
                        break
                    data = _exactly(c, length)
                    file.write(data)
                    done += len(data)
                    fault = self.fault("push", done)
                    if fault == "close":
                        raise EOFError
                    if fault is not None:
                        path.unlink()
                        c.sendall(b"FAIL" + struct.pack("<I", len(fault)) + fault.encode())
                        while _exactly(c, 1):
                            pass
        except EOFError:
            path.unlink(missing_ok=True)  # as adbd does
            raise
        path.chmod(int(mode) & 0o777)
        c.sendall(b"OKAY" + bytes(4))

    def _recv(self, c: socket.socket, name: str) -> None:
        try:
            data = self.host_path(name).read_bytes()
        except OSError as error:
            said = f"open failed: {error.strerror}".encode()
            c.sendall(b"FAIL" + struct.pack("<I", len(said)) + said)
            return
        for start in range(0, len(data), 65536):
            part = data[start : start + 65536]
            if self._faulty(c, "pull", start + len(part)):
                return
            c.sendall(b"DATA" + struct.pack("<I", len(part)) + part)
        c.sendall(b"DONE" + bytes(4))


def _exactly(c: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = c.recv(count - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def _request(c: socket.socket) -> str | None:
    try:
        return _exactly(c, int(_exactly(c, 4), 16)).decode()
    except EOFError:
        return None


def _block(text: str) -> bytes:
    return f"{len(text.encode()):04x}".encode() + text.encode()


def _packet(kind: int, data: bytes) -> bytes:
    return struct.pack("<BI", kind, len(data)) + data
