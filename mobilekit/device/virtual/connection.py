"""One ADB connection over TCP: authentication, and the streams multiplexed in it with their flow control."""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

from mobilekit.device.virtual import auth, wire
from mobilekit.device.virtual.auth import PublicKey

__all__ = ["Connection", "Service", "Stream", "StreamClosedError", "settle"]

_log = logging.getLogger(__name__)
# The host sends its next packet only after our OKAY: giving that early keeps one in flight while one is worked on.
_WINDOW_BYTES = 4 * 1024 * 1024
_MAX_STREAMS = 1024
_AUTHENTICATION_S = 60.0
_MAX_ATTEMPTS = 64


def settle(future: asyncio.Future[None]) -> None:
    """Let whoever waits go on; a second call does nothing."""
    if not future.done():
        future.set_result(None)


class StreamClosedError(Exception):
    """The other side closed the stream."""


class Stream:
    """Two-way bytes. Reads give what arrives; a write returns when the host has taken it."""

    def __init__(self, connection: Connection, local: int, remote: int) -> None:
        self._connection = connection
        self.local, self.remote = local, remote
        self._arrived: deque[memoryview] = deque()
        self._size = 0
        self._unacknowledged = 0
        self._closed = False
        self._reader: asyncio.Future[None] | None = None
        self._okay: asyncio.Future[None] | None = None
        self._write_lock = asyncio.Lock()
        self.on_close: list[Callable[[], None]] = []

    @property
    def closed(self) -> bool:
        return self._closed

    async def read(self) -> memoryview:
        """What came next; empty once the other side has closed and everything before was read."""
        while not self._arrived:
            if self._closed:
                return memoryview(b"")
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        data = self._arrived.popleft()
        self._size -= len(data)
        while self._unacknowledged and self._size < _WINDOW_BYTES and not self._closed:
            self._unacknowledged -= 1
            self._connection.send(wire.OKAY, self.local, self.remote)
        return data

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything; raises :class:`StreamClosedError` where the other side is gone."""
        view = memoryview(data)
        async with self._write_lock:
            while view:
                if self._closed:
                    raise StreamClosedError
                part, view = view[: self._connection.max_payload], view[self._connection.max_payload :]
                self._okay = asyncio.get_running_loop().create_future()
                self._connection.send(wire.WRTE, self.local, self.remote, part)
                await self._okay

    def close(self) -> None:
        """Close from our side; a second call does nothing."""
        if not self._closed:
            self._connection.send(wire.CLSE, self.local, self.remote)
            self._connection.forget(self)
            self.closed_by_peer()

    def arrived(self, payload: memoryview) -> None:
        if payload:
            self._arrived.append(payload)
            self._size += len(payload)
        if self._size < _WINDOW_BYTES:
            self._connection.send(wire.OKAY, self.local, self.remote)
        else:
            self._unacknowledged += 1
        self._wake()

    def acknowledged(self) -> None:
        okay, self._okay = self._okay, None
        if okay is not None:
            settle(okay)

    def closed_by_peer(self) -> None:
        if self._closed:
            return
        self._closed = True
        okay, self._okay = self._okay, None
        if okay is not None and not okay.done():
            okay.set_exception(StreamClosedError())
        self._wake()
        for callback in self.on_close:
            callback()

    def _wake(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            settle(reader)


class Service(Protocol):
    """Serves one stream to its end. Raises ``OSError`` before the first byte where the service cannot be had."""

    def __call__(self, stream: Stream) -> Awaitable[None]: ...


class Connection(asyncio.BufferedProtocol):
    """``open_service(connection, name)`` gives the service behind an OPEN, or ``None`` to refuse it. Programs of the
    user ``owner`` get in with any key."""

    def __init__(
        self,
        *,
        keys: tuple[PublicKey, ...],
        banner: bytes,
        open_service: Callable[[Connection, str], Awaitable[Service | None]],
        on_gone: Callable[[Connection], None],
        owner: int | None = None,
    ) -> None:
        self._keys, self._banner, self._open_service, self._on_gone = keys, banner, open_service, on_gone
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self.authenticated = False
        self._attempts = 0
        self._token = b""
        self.max_payload = wire.UNAUTHENTICATED_MAX_PAYLOAD
        self._peer_version = wire.VERSION
        self._streams: dict[int, Stream] = {}
        self._opening: dict[int, asyncio.Future[Stream]] = {}
        self._identifiers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._header_bytes = bytearray(wire.HEADER_SIZE)
        self._header: wire.Header | None = None
        self._buffer = memoryview(self._header_bytes)
        self._filled = 0
        self._timer: asyncio.TimerHandle | None = None

    # -- transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        # asyncio sets it only where the socket names its protocol; without it small answers wait 40 ms.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._timer = asyncio.get_running_loop().call_later(_AUTHENTICATION_S, self._too_late)

    def _too_late(self) -> None:
        if not self.authenticated:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self._timer is not None:
            self._timer.cancel()
        self._transport = None
        for stream in list(self._streams.values()):
            stream.closed_by_peer()
        self._streams.clear()
        for opening in self._opening.values():
            if not opening.done():
                opening.set_exception(StreamClosedError())
        self._opening.clear()
        self._on_gone(self)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._buffer[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        if self._filled < len(self._buffer):
            return
        try:
            self._complete()
        except wire.WireError as error:
            _log.warning("connection dropped: %s", error)
            self.abort()

    def _complete(self) -> None:
        header = self._header
        if header is None:
            limit = wire.MAX_PAYLOAD if self.authenticated else wire.UNAUTHENTICATED_MAX_PAYLOAD
            header = wire.parse_header(self._header_bytes, max_payload=limit)
            if header.length:
                self._header, self._buffer, self._filled = header, memoryview(bytearray(header.length)), 0
                return
            payload = memoryview(b"")
        else:
            payload = self._buffer
        self._header, self._buffer, self._filled = None, memoryview(self._header_bytes), 0
        self._packet(header, payload)

    def send(self, command: int, arg0: int, arg1: int, payload: bytes | memoryview = b"") -> None:
        if self._transport is not None and not self._transport.is_closing():
            old = self._peer_version < wire.VERSION_SKIP_CHECKSUM
            header = wire.pack(command, arg0, arg1, payload, sum_payload=old)
            self._transport.write(b"".join((header, payload)) if payload else header)

    # -- protocol

    def _packet(self, header: wire.Header, payload: memoryview) -> None:
        if header.command == wire.CNXN:
            self._connect(header)
        elif header.command == wire.AUTH:
            self._authenticate(header, payload)
        elif not self.authenticated:
            raise wire.WireError("a command before authentication")
        elif header.command == wire.OPEN:
            self._open(header.arg0, bytes(payload))
        else:
            self._to_stream(header, payload)

    def _connect(self, header: wire.Header) -> None:
        if self._streams:
            raise wire.WireError("CNXN while streams are open")
        self.authenticated = False
        self._peer_version = min(header.arg0, wire.VERSION)
        self.max_payload = max(1024, min(header.arg1, wire.MAX_PAYLOAD))
        self._challenge()

    def _challenge(self) -> None:
        self._token = secrets.token_bytes(auth.TOKEN_SIZE)
        self.send(wire.AUTH, wire.AUTH_TOKEN, 0, self._token)

    def _authenticate(self, header: wire.Header, payload: memoryview) -> None:
        if self.authenticated or not self._token:
            return
        if header.arg0 == wire.AUTH_SIGNATURE:
            token, self._token = self._token, b""
            self._attempts += 1
            # An adb server that the owner started under another HOME has another key, and is the owner's all the same.
            if auth.verify(token, bytes(payload), self._keys) or self._is_owners():
                self._welcome()
            elif self._attempts >= _MAX_ATTEMPTS:
                raise wire.WireError("too many wrong signatures")
            else:
                self._challenge()
        elif header.arg0 == wire.AUTH_PUBLIC_KEY:
            # A phone would ask its owner here. Nobody is asked: the keys were given when the device was started.
            _log.warning("a host without a trusted adb key was refused")

    def _welcome(self) -> None:
        self.authenticated = True
        self.send(wire.CNXN, wire.VERSION, wire.MAX_PAYLOAD, self._banner)

    def _is_owners(self) -> bool:
        if self._owner is None or self._transport is None:
            return False
        here, there = (self._transport.get_extra_info(name) for name in ("sockname", "peername"))
        return auth.peer_user(here, there) == self._owner

    def _open(self, remote: int, payload: bytes) -> None:
        name = payload.rstrip(b"\0").decode("utf-8", "surrogateescape")
        if remote == 0 or len(self._streams) >= _MAX_STREAMS:
            self.send(wire.CLSE, 0, remote)
            return
        self.start(self._serve(remote, name))

    def start(self, work: Awaitable[None]) -> None:
        """Run ``work`` beside; it is kept alive until it ends."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, remote: int, name: str) -> None:
        try:
            service = await self._open_service(self, name)
        except OSError as error:
            _log.info("%r refused: %s", name[:200], error)
            service = None
        if service is None:
            self.send(wire.CLSE, 0, remote)
            return
        stream = Stream(self, next(self._identifiers), remote)
        self._streams[stream.local] = stream
        self.send(wire.OKAY, stream.local, remote)
        if self._transport is None:
            stream.closed_by_peer()
        await self.run(stream, service)

    async def run(self, stream: Stream, service: Service) -> None:
        """Serve one stream; it is closed at the end, whatever happens."""
        try:
            await service(stream)
        except StreamClosedError:
            pass
        except OSError as error:
            _log.info("stream ended: %s", error)
        except Exception:
            _log.exception("a service failed")
        finally:
            stream.close()

    def _to_stream(self, header: wire.Header, payload: memoryview) -> None:
        local = header.arg1
        if header.command == wire.OKAY and local in self._opening:
            stream = Stream(self, local, header.arg0)
            self._streams[local] = stream
            opening = self._opening.pop(local)
            if not opening.done():
                opening.set_result(stream)
            return
        if header.command == wire.CLSE and local in self._opening:
            opening = self._opening.pop(local)
            if not opening.done():
                opening.set_exception(ConnectionRefusedError("the host refused the connection"))
            return
        known = self._streams.get(local)
        if known is None or (known.remote != header.arg0 and not (header.command == wire.CLSE and header.arg0 == 0)):
            if header.command == wire.WRTE:
                self.send(wire.CLSE, 0, header.arg0)
            return
        if header.command == wire.WRTE:
            known.arrived(payload)
        elif header.command == wire.OKAY:
            known.acknowledged()
        elif header.command == wire.CLSE:
            self.send(wire.CLSE, known.local, known.remote)
            self.forget(known)
            known.closed_by_peer()

    def forget(self, stream: Stream) -> None:
        self._streams.pop(stream.local, None)

    async def open(self, name: str) -> Stream:
        """Open a stream to the host (``adb reverse``); raises ``ConnectionRefusedError`` where it does not want it."""
        local = next(self._identifiers)
        opening: asyncio.Future[Stream] = asyncio.get_running_loop().create_future()
        self._opening[local] = opening
        self.send(wire.OPEN, local, 0, name.encode() + b"\0")
        return await opening
