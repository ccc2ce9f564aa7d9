"""The host's side of ADB in a few lines, and a daemon served from a thread: what these tests speak with."""

from __future__ import annotations

import asyncio
import base64
import os
import random
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mobilekit.device.virtual import wire
from mobilekit.device.virtual.auth import PublicKey, parse_public_key
from mobilekit.device.virtual.confine import Root
from mobilekit.device.virtual.connection import Connection, Service, Stream
from mobilekit.device.virtual.sync import SyncService

_SHA1_PREFIX = bytes.fromhex("3021300906052b0e03021a05000414")


@dataclass(frozen=True)
class PrivateKey:
    modulus: int
    private_exponent: int

    @property
    def public_text(self) -> str:
        """Android's RSAPublicKey in base64, as ``adbkey.pub`` holds it."""
        n = self.modulus
        inverse = -pow(n, -1, 2**32) % 2**32
        square = pow(2, 4096, n)
        data = struct.pack("<II", 64, inverse) + n.to_bytes(256, "little") + square.to_bytes(256, "little")
        return base64.b64encode(data + struct.pack("<I", 65537)).decode() + " unit@test"

    def sign(self, token: bytes) -> bytes:
        payload = _SHA1_PREFIX + token
        block = b"\0\1" + b"\xff" * (253 - len(payload)) + b"\0" + payload
        return pow(int.from_bytes(block, "big"), self.private_exponent, self.modulus).to_bytes(256, "big")


def make_key(seed: int) -> PrivateKey:
    """A 2048-bit key from a seed: good for tests only."""
    source = random.Random(seed)
    while True:
        p, q = _prime(source), _prime(source)
        if p != q and (p * q).bit_length() == 2048 and (p - 1) % 65537 and (q - 1) % 65537:
            return PrivateKey(p * q, pow(65537, -1, (p - 1) * (q - 1)))


def _prime(source: random.Random) -> int:
    while True:
        candidate = source.getrandbits(1024) | 1 | 3 << 1022
        if all(candidate % small for small in (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)) and all(
            pow(base, candidate - 1, candidate) == 1 for base in (2, 3, 5, 7)
        ):
            return candidate


class Refused(Exception):
    """The daemon closed instead of opening."""


class Host:
    """One connection of a host, blocking."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._next = 1

    def send(self, command: int, arg0: int, arg1: int, payload: bytes = b"") -> None:
        self.socket.sendall(wire.pack(command, arg0, arg1, payload) + payload)

    def receive(self) -> tuple[int, int, int, bytes]:
        header = wire.parse_header(self._exactly(wire.HEADER_SIZE), max_payload=wire.MAX_PAYLOAD)
        return header.command, header.arg0, header.arg1, self._exactly(header.length)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def hello(self) -> bytes:
        """CNXN; the token to be signed."""
        self.send(wire.CNXN, wire.VERSION, wire.MAX_PAYLOAD, b"host::features=shell_v2\0")
        command, kind, _, token = self.receive()
        assert (command, kind) == (wire.AUTH, wire.AUTH_TOKEN)
        return token

    def log_in(self, key: PrivateKey) -> bytes:
        """The daemon's banner."""
        self.send(wire.AUTH, wire.AUTH_SIGNATURE, 0, key.sign(self.hello()))
        command, _, _, banner = self.receive()
        assert command == wire.CNXN
        return banner

    def open(self, name: str) -> HostStream:
        local, self._next = self._next, self._next + 1
        self.send(wire.OPEN, local, 0, name.encode() + b"\0")
        command, remote, to, _ = self.receive()
        assert to == local
        if command == wire.CLSE:
            raise Refused(name)
        assert command == wire.OKAY
        return HostStream(self, local, remote)


class HostStream:
    def __init__(self, host: Host, local: int, remote: int) -> None:
        self.host, self.local, self.remote = host, local, remote
        self._arrived = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.host.send(wire.WRTE, self.local, self.remote, data)
        while True:
            if self._take() == wire.OKAY:
                return

    def _take(self) -> int:
        command, _, to, payload = self.host.receive()
        assert to == self.local
        if command == wire.WRTE:
            self._arrived += payload
            self.host.send(wire.OKAY, self.local, self.remote)
        elif command == wire.CLSE:
            self.closed = True
            raise EOFError
        return command

    def read(self, size: int) -> bytes:
        while len(self._arrived) < size:
            self._take()
        data, self._arrived = self._arrived[:size], self._arrived[size:]
        return data

    def close(self) -> None:
        self.host.send(wire.CLSE, self.local, self.remote)


async def _echo(stream: Stream) -> None:
    while data := await stream.read():
        await stream.write(data)


@contextmanager
def serving(root: Path, key: PrivateKey, *, quota: int | None = None, owner: int | None = None) -> Iterator[int]:
    """A daemon with ``sync:`` on ``root`` and ``echo:``; its port. Without an ``owner`` it goes by the key alone."""
    loop = asyncio.new_event_loop()
    folder = Root(os.open(root, os.O_PATH | os.O_DIRECTORY))
    keys: tuple[PublicKey, ...] = (parse_public_key(key.public_text),)

    async def open_service(connection: Connection, name: str) -> Service | None:
        if name == "sync:":
            return SyncService(folder, lambda: quota)
        return _echo if name == "echo:" else None

    connections: list[Connection] = []

    def accepted() -> Connection:
        connection = Connection(
            keys=keys, banner=b"device::x", open_service=open_service, on_gone=lambda _: None, owner=owner
        )
        connections.append(connection)
        return connection

    server = loop.run_until_complete(loop.create_server(accepted, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:

        async def end() -> None:
            server.close()
            for connection in connections:
                connection.abort()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
        folder.close()
