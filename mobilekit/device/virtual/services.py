"""What an OPEN asks for: commands (``shell:``, ``exec:``), sockets (forward), ``reverse:``, ``sync:``."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import struct
import termios
from collections.abc import Awaitable, Callable
from contextlib import suppress

from mobilekit.device.virtual.connection import Connection, Service, Stream, StreamClosedError, settle
from mobilekit.device.virtual.sandbox import Program, Sandbox
from mobilekit.device.virtual.sync import SyncService

__all__ = ["FEATURES", "SERVICES", "Services"]

FEATURES = ("shell_v2", "cmd", "stat_v2", "ls_v2", "fixed_push_mkdir", "sendrecv_v2")
SERVICES = ("shell", "exec", "sync", "tcp", "localabstract", "localfilesystem", "reverse")

_STDIN, _STDOUT, _STDERR, _EXIT, _CLOSE_STDIN, _WINDOW_SIZE = range(6)
_V2_HEADER = struct.Struct("<BI")
_PIPE_BYTES = 1024 * 1024
_READ_BYTES = 256 * 1024
_SOCKET_KINDS = {"tcp": "tcp", "localabstract": "abstract", "localfilesystem": "file", "local": "file"}
_END_GRACE_S = 2.0
# After `adb exec-in` has sent everything it closes the stream, and the command still has to work on it.
_EXEC_IN_GRACE_S = 10.0


class Services:
    """Opens services for one device. ``env`` is what commands start with."""

    def __init__(self, sandbox: Sandbox, env: dict[str, str], *, quota: Callable[[], int | None]) -> None:
        self._sandbox, self._env, self._quota = sandbox, env, quota
        self._reverses: dict[tuple[Connection, str], _Reverse] = {}

    async def open(self, connection: Connection, name: str) -> Service | None:
        kind, _, rest = name.partition(":")
        options = kind.split(",")
        if options[0] == "shell":
            return self._shell(options[1:], rest)
        if kind == "exec":
            return self._plain(rest)
        if kind == "sync":
            return SyncService(self._sandbox.root, self._quota)
        if kind in _SOCKET_KINDS:
            made = await self._sandbox.connect(_SOCKET_KINDS[kind], _port(rest) if kind == "tcp" else rest)
            return lambda stream: pump(stream, made)
        if kind == "reverse":
            return await self._reverse(connection, rest)
        if kind in ("root", "unroot", "remount"):
            return _say(b"adbd cannot run as root: this is a virtual device of mobilekit\n")
        return None

    # -- commands

    def _shell(self, options: list[str], command: str) -> Service:
        env = dict(self._env)
        for option in options:
            if option.startswith("TERM="):
                env["TERM"] = option.removeprefix("TERM=")
        v2 = "v2" in options
        if "pty" in options or (not command and "raw" not in options):
            return lambda stream: self._terminal(stream, command, env, v2=v2)
        if not v2:
            return self._plain(command)
        return lambda stream: self._separate(stream, command, env)

    @staticmethod
    def _argv(command: str) -> list[str]:
        return ["/system/bin/sh", "-c", command] if command else ["/system/bin/sh", "-"]

    def _plain(self, command: str) -> Service:
        """``exec:`` and the first version of ``shell:``: stdout and stderr together, no exit code."""

        async def serve(stream: Stream) -> None:
            stdin, stdout = _Pipe.for_input(), _Pipe.for_output()
            try:
                program = await self._sandbox.spawn(
                    self._argv(command), self._env, (stdin.theirs, stdout.theirs, stdout.theirs)
                )
            except OSError as error:
                _close(stdin, stdout)
                await stream.write(f"{error.strerror}\n".encode())
                return
            stdin.give_away()
            stdout.give_away()

            async def feed() -> None:
                while data := await stream.read():
                    await stdin.write(data)
                stdin.close()

            async def answer() -> None:
                while data := await stdout.read():
                    await stream.write(data)

            await self._attend(stream, program, feed(), [answer()], [stdin, stdout], grace_s=_EXEC_IN_GRACE_S)

        return serve

    async def _separate(self, stream: Stream, command: str, env: dict[str, str]) -> None:
        """``shell,v2,raw:``: stdin, stdout, stderr and the exit code each under their own id."""
        stdin, stdout, stderr = _Pipe.for_input(), _Pipe.for_output(), _Pipe.for_output()
        try:
            program = await self._sandbox.spawn(self._argv(command), env, (stdin.theirs, stdout.theirs, stderr.theirs))
        except OSError as error:
            _close(stdin, stdout, stderr)
            await stream.write(_v2(_STDERR, f"{error.strerror}\n".encode()))
            await stream.write(_v2(_EXIT, b"\x7e"))
            return
        for pipe in (stdin, stdout, stderr):
            pipe.give_away()

        async def feed() -> None:
            packets = _V2Reader(stream)
            while (packet := await packets.next()) is not None:
                kind, data = packet
                if kind == _STDIN:
                    await stdin.write(data)
                elif kind == _CLOSE_STDIN:
                    stdin.close()

        async def answer(kind: int, pipe: _Pipe) -> None:
            while data := await pipe.read():
                await stream.write(_v2(kind, data))

        status = await self._attend(
            stream,
            program,
            feed(),
            [answer(_STDOUT, stdout), answer(_STDERR, stderr)],
            [stdin, stdout, stderr],
            grace_s=_END_GRACE_S,
        )
        await stream.write(_v2(_EXIT, bytes([status & 0xFF])))

    async def _terminal(self, stream: Stream, command: str, env: dict[str, str], *, v2: bool) -> None:
        program = await self._sandbox.spawn_on_terminal(self._argv(command), env)
        master = _Pipe(program.pty, -1)

        async def feed() -> None:
            if not v2:
                while data := await stream.read():
                    await master.write(data)
                return
            packets = _V2Reader(stream)
            while (packet := await packets.next()) is not None:
                kind, data = packet
                if kind == _STDIN:
                    await master.write(data)
                elif kind == _CLOSE_STDIN:
                    await master.write(memoryview(b"\x04"))
                elif kind == _WINDOW_SIZE:
                    _set_window_size(master.ours, bytes(data))

        async def answer() -> None:
            while data := await master.read():
                await stream.write(_v2(_STDOUT, data) if v2 else data)

        status = await self._attend(stream, program, feed(), [answer()], [master], grace_s=_END_GRACE_S)
        if v2:
            await stream.write(_v2(_EXIT, bytes([status & 0xFF])))

    async def _attend(
        self,
        stream: Stream,
        program: Program,
        feed: Awaitable[None],
        answers: list[Awaitable[None]],
        pipes: list[_Pipe],
        *,
        grace_s: float,
    ) -> int:
        """Carry data until the command has ended and its output is at its end; end the command if the host leaves."""
        feeding = asyncio.ensure_future(feed)
        answering = asyncio.gather(*answers)
        try:
            closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            stream.on_close.append(lambda: settle(closed))
            if stream.closed:
                settle(closed)
            finished = asyncio.ensure_future(_both(answering, program.exited))
            await asyncio.wait([finished, closed], return_when=asyncio.FIRST_COMPLETED)
            if closed.done() and not program.exited.done():
                with suppress(asyncio.TimeoutError, StreamClosedError, OSError):
                    if grace_s > _END_GRACE_S:
                        await asyncio.wait_for(asyncio.shield(feeding), grace_s)
                        await asyncio.wait_for(asyncio.shield(program.exited), grace_s)
            if finished.done():
                finished.result()
            else:
                finished.cancel()
                await asyncio.gather(finished, return_exceptions=True)
        finally:
            feeding.cancel()
            answering.cancel()
            await asyncio.gather(feeding, answering, return_exceptions=True)
            _close(*pipes)
            if not program.exited.done():
                await self._end(program)
        return program.exited.result()

    async def _end(self, program: Program) -> None:
        await self._sandbox.kill(program, signal.SIGHUP)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(program.exited), _END_GRACE_S)
            return
        await self._sandbox.kill(program, signal.SIGKILL)
        await program.exited

    # -- reverse

    async def _reverse(self, connection: Connection, request: str) -> Service:
        verb, _, rest = request.partition(":")
        if request == "list-forward":
            text = "".join(
                f"host-{index} {local} {reverse.remote}\n"
                for index, ((owner, local), reverse) in enumerate(self._reverses.items(), 1)
                if owner is connection
            )
            return _say(_counted(text))
        if request == "killforward-all":
            self.drop(connection)
            return _say(b"OKAY")
        if verb == "killforward":
            reverse = self._reverses.pop((connection, rest), None)
            if reverse is None:
                return _say(_fail(f"listener '{rest}' not found"))
            reverse.close()
            return _say(b"OKAY")
        if verb == "forward":
            keep = rest.startswith("norebind:")
            local, _, remote = rest.removeprefix("norebind:").partition(";")
            return _say(await self._reverse_forward(connection, local, remote, keep=keep))
        return _say(_fail(f"unknown reverse request {verb!r}"))

    async def _reverse_forward(self, connection: Connection, local: str, remote: str, *, keep: bool) -> bytes:
        kind, _, name = local.partition(":")
        if kind not in _SOCKET_KINDS or not remote:
            return _fail(f"cannot listen on {local!r}")
        known = self._reverses.get((connection, local))
        if known is not None:
            if keep:
                return _fail("cannot rebind existing socket")
            known.remote = remote
            return b"OKAY" + _resolved(kind, name)
        try:
            listener = await self._sandbox.listen(_SOCKET_KINDS[kind], _port(name) if kind == "tcp" else name)
        except OSError as error:
            return _fail(f"cannot bind listener: {error.strerror}")
        if kind == "tcp" and int(_port(name)) == 0:
            name = str(listener.getsockname()[1])
            local = f"tcp:{name}"
            answer = _counted(name)
        else:
            answer = b""
        self._reverses[connection, local] = _Reverse(connection, listener, remote)
        return b"OKAY" + answer

    def drop(self, connection: Connection) -> None:
        """Forget what a connection has listening."""
        for key in [key for key in self._reverses if key[0] is connection]:
            self._reverses.pop(key).close()


class _Reverse:
    """A listening socket in the device; every connection to it becomes a stream to the host."""

    def __init__(self, connection: Connection, listener: socket.socket, remote: str) -> None:
        self._connection, self._listener, self.remote = connection, listener, remote
        self._task = asyncio.ensure_future(self._accept())

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        with self._listener:
            while True:
                made, _ = await loop.sock_accept(self._listener)
                self._connection.start(self._carry(made))

    async def _carry(self, made: socket.socket) -> None:
        try:
            stream = await self._connection.open(self.remote)
        except (OSError, StreamClosedError):
            made.close()
            return
        await self._connection.run(stream, lambda opened: pump(opened, made))

    def close(self) -> None:
        self._task.cancel()


async def _both(answering: asyncio.Future[list[None]], exited: asyncio.Future[int]) -> None:
    await answering
    await asyncio.shield(exited)


async def pump(stream: Stream, made: socket.socket) -> None:
    """Carry bytes between a stream and a socket until one of them ends; takes over the socket."""
    loop = asyncio.get_running_loop()

    async def inward() -> None:
        while data := await stream.read():
            await loop.sock_sendall(made, data)

    async def outward() -> None:
        while data := await loop.sock_recv(made, _READ_BYTES):
            await stream.write(data)

    with made:
        made.setblocking(False)
        tasks = [asyncio.ensure_future(inward()), asyncio.ensure_future(outward())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class _Pipe:
    """One pipe to or from a command: ``ours`` is non-blocking, ``theirs`` is given to it."""

    def __init__(self, ours: int, theirs: int) -> None:
        self.ours, self.theirs = ours, theirs
        os.set_blocking(ours, False)

    @classmethod
    def for_input(cls) -> _Pipe:
        theirs, ours = os.pipe2(os.O_CLOEXEC)
        return cls(ours, theirs)

    @classmethod
    def for_output(cls) -> _Pipe:
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        with suppress(OSError):  # above the user's share of pipe memory the standard 64 kB serve
            fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        return cls(ours, theirs)

    def give_away(self) -> None:
        if self.theirs >= 0:
            os.close(self.theirs)
            self.theirs = -1

    def close(self) -> None:
        self.give_away()
        if self.ours >= 0:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self.ours)
            loop.remove_writer(self.ours)
            os.close(self.ours)
            self.ours = -1

    async def read(self) -> bytes:
        while True:
            try:
                return os.read(self.ours, _READ_BYTES)
            except BlockingIOError:
                await self._ready(asyncio.get_running_loop().add_reader, asyncio.get_running_loop().remove_reader)
            except OSError:  # a terminal whose programs have all ended gives EIO
                return b""

    async def write(self, data: memoryview) -> None:
        """What the command no longer reads is dropped, as adbd does."""
        while data and self.ours >= 0:
            try:
                data = data[os.write(self.ours, data) :]
            except BlockingIOError:
                await self._ready(asyncio.get_running_loop().add_writer, asyncio.get_running_loop().remove_writer)
            except OSError:
                return

    async def _ready(self, add: Callable[..., None], remove: Callable[[int], bool]) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        fd = self.ours
        add(fd, lambda: settle(done))
        try:
            await done
        finally:
            if self.ours == fd:
                remove(fd)


def _close(*pipes: _Pipe) -> None:
    for pipe in pipes:
        pipe.close()


class _V2Reader:
    """Shell protocol packets (id, length, data) from a stream; a long one comes in several pieces of the same id."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._rest = memoryview(b"")
        self._kind, self._left = 0, 0

    async def next(self) -> tuple[int, memoryview] | None:
        if self._left == 0:
            header = b""
            while len(header) < _V2_HEADER.size:
                if not self._rest and not await self._more():
                    return None
                missing = _V2_HEADER.size - len(header)
                header += bytes(self._rest[:missing])
                self._rest = self._rest[missing:]
            self._kind, self._left = _V2_HEADER.unpack(header)
            if self._left == 0:
                return self._kind, memoryview(b"")
        if not self._rest and not await self._more():
            return None
        data = self._rest[: self._left]
        self._rest = self._rest[len(data) :]
        self._left -= len(data)
        return self._kind, data

    async def _more(self) -> bool:
        self._rest = await self._stream.read()
        return bool(self._rest)


def _v2(kind: int, data: bytes) -> bytes:
    return _V2_HEADER.pack(kind, len(data)) + data


def _say(answer: bytes) -> Service:
    async def serve(stream: Stream) -> None:
        await stream.write(answer)

    return serve


def _counted(text: str) -> bytes:
    data = text.encode()
    return b"%04x" % len(data) + data


def _fail(text: str) -> bytes:
    return b"FAIL" + _counted(text)


def _resolved(kind: str, name: str) -> bytes:
    return _counted(name) if kind == "tcp" and name == "0" else b""


def _port(text: str) -> str:
    """The port of ``8080`` or ``localhost:8080``; raises ``OSError`` for another host: this device has no network."""
    host, _, port = text.rpartition(":")
    if host not in ("", "localhost", "127.0.0.1") or not port.isdigit() or int(port) > 65535:
        raise OSError(22, "not a port of this device", text)
    return port


def _set_window_size(fd: int, data: bytes) -> None:
    """``ROWSxCOLUMNS,WIDTHxHEIGHT``"""
    with suppress(ValueError, OSError, struct.error):
        cells, _, pixels = data.rstrip(b"\0").partition(b",")
        rows, columns = map(int, cells.split(b"x"))
        width, height = map(int, pixels.split(b"x"))
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, width, height))
