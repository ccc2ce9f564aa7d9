"""The daemon's side of the zygote: programs and sockets in the device, as descriptors out here."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mobilekit.device.virtual.confine import Root
from mobilekit.device.virtual.connection import settle
from mobilekit.device.virtual.zygote import MAX_MESSAGE

__all__ = ["Program", "Sandbox"]


@dataclass(slots=True)
class Program:
    """A running command. ``pty`` is the terminal's master side, or -1."""

    pid: int
    exited: asyncio.Future[int]
    pty: int = -1


class Sandbox:
    """Talks to the zygote over ``control``; ``on_gone`` is called once when the zygote is no more."""

    def __init__(self, control: socket.socket, root: Root, on_gone: Callable[[], None]) -> None:
        self._control, self.root, self._on_gone = control, root, on_gone
        control.setblocking(False)
        self._identifiers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[tuple[dict[str, Any], list[int]]]] = {}
        self._programs: dict[int, asyncio.Future[int]] = {}
        self._gone = False
        asyncio.get_running_loop().add_reader(control, self._readable)

    def close(self) -> None:
        if not self._gone:
            self._gone = True
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(OSError(errno.ENODEV, "the device is gone"))
            for exited in self._programs.values():
                if not exited.done():
                    exited.set_result(137)

    def _readable(self) -> None:
        while not self._gone:
            try:
                data, fds, _, _ = socket.recv_fds(self._control, MAX_MESSAGE, 4, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            except OSError:
                data, fds = b"", []
            if not data:
                self.close()
                self._on_gone()
                return
            message = json.loads(data)
            if message.get("event") == "exit":
                exited = self._programs.pop(message["pid"], None)
                if exited is not None and not exited.done():
                    exited.set_result(message["status"])
                continue
            waiting = self._waiting.pop(message["id"], None)
            if waiting is None or waiting.done():
                for fd in fds:
                    os.close(fd)
            elif "errno" in message:
                waiting.set_exception(OSError(message["errno"], os.strerror(message["errno"])))
            else:
                if "pid" in message:
                    # Here and now: its exit may be the very next message.
                    message["exited"] = asyncio.get_running_loop().create_future()
                    self._programs[message["pid"]] = message["exited"]
                waiting.set_result((message, fds))

    async def _ask(self, request: dict[str, Any], fds: Sequence[int] = ()) -> tuple[dict[str, Any], list[int]]:
        if self._gone:
            raise OSError(errno.ENODEV, "the device is gone")
        request["id"] = next(self._identifiers)
        data = json.dumps(request).encode()
        if len(data) > MAX_MESSAGE:
            raise OSError(errno.E2BIG, "the command is too long")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[tuple[dict[str, Any], list[int]]] = loop.create_future()
        self._waiting[request["id"]] = answer
        while True:
            try:
                socket.send_fds(self._control, [data], list(fds))
                break
            except BlockingIOError:
                await asyncio.sleep(0.002)
        return await answer

    async def spawn(self, argv: Sequence[str], env: Mapping[str, str], fds: Sequence[int]) -> Program:
        """Start a command with ``fds`` as its stdin, stdout, stderr; the caller closes its own copies."""
        message, _ = await self._ask({"op": "spawn", "argv": list(argv), "env": dict(env), "pty": False}, fds)
        return Program(message["pid"], message["exited"])

    async def spawn_on_terminal(self, argv: Sequence[str], env: Mapping[str, str]) -> Program:
        message, fds = await self._ask({"op": "spawn", "argv": list(argv), "env": dict(env), "pty": True})
        return Program(message["pid"], message["exited"], fds[0])

    async def kill(self, program: Program, number: int) -> None:
        """Signal the command's process group."""
        with suppress(OSError):
            await self._ask({"op": "kill", "pid": program.pid, "signal": number})

    async def connect(self, kind: str, name: str) -> socket.socket:
        """A connection to a socket in the device; ``kind`` is ``tcp``, ``abstract`` or ``file``."""
        made = await self._socket("connect", kind, name)
        if kind == "tcp":
            loop = asyncio.get_running_loop()
            done: asyncio.Future[None] = loop.create_future()
            loop.add_writer(made, lambda: settle(done))
            try:
                await asyncio.wait_for(done, 10)
            finally:
                loop.remove_writer(made)
            number = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                made.close()
                raise OSError(number, os.strerror(number))
        return made

    async def listen(self, kind: str, name: str) -> socket.socket:
        return await self._socket("listen", kind, name)

    async def _socket(self, op: str, kind: str, name: str) -> socket.socket:
        _, fds = await self._ask({"op": op, "kind": kind, "name": name})
        made = socket.socket(fileno=fds[0])
        made.setblocking(False)
        return made
