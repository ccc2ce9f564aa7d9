"""The daemon of one virtual device: ``python -m mobilekit.device.virtual.daemon``, started by :mod:`.manager`.

Settings come as one JSON line on stdin; the answer is one JSON line on stdout: ``{"ready": true, "port": n}`` or
``{"failed": step, "errno": n}``. Only when the starter has written the device down does it send a second line; without
it, a device nobody knows about would stay, so the daemon ends.
"""

from __future__ import annotations

import asyncio
import encodings.idna  # noqa: F401 - loaded before rights are dropped and the root is elsewhere
import json
import logging
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from mobilekit.device.virtual import kernel, rootfs
from mobilekit.device.virtual.auth import PublicKey, parse_public_key
from mobilekit.device.virtual.confine import Root
from mobilekit.device.virtual.connection import Connection, Service
from mobilekit.device.virtual.layout import Settings, environment
from mobilekit.device.virtual.sandbox import Sandbox
from mobilekit.device.virtual.services import FEATURES, Services
from mobilekit.device.virtual.zygote import Ingredients, fork_zygote

__all__ = ["main"]

_log = logging.getLogger(__name__)
_START_S = 60.0
_NOBODY = 65534
_SOCKET_BYTES = 4 * 1024 * 1024


def drop_root() -> None:
    """Root's device runs as ``nobody``: a root process in a sandbox may still write much of ``/proc``.

    Where this container knows one user only, its root is a plain user outside and stays what it is.
    """
    if os.geteuid() != 0:
        return
    try:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    except OSError:
        if _knows_every_user():
            raise


def _knows_every_user() -> bool:
    return Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    if sys.argv[1:2] == ["--probe"]:
        return _probe(sys.argv[2])
    settings = Settings.from_json(json.loads(sys.stdin.readline()))
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", settings.port))
    except OSError as error:
        _answer({"failed": "port", "errno": error.errno})
        return 1
    listener.listen(16)
    settings = Settings.from_json({**settings.to_json(), "port": listener.getsockname()[1]})
    ingredients = Ingredients.read(settings)
    owner = os.getuid()
    if settings.mode != "proot":
        drop_root()
    control, zygote = fork_zygote(settings, ingredients)
    del ingredients
    first = _first_message(control)
    if first is None or "failed" in first[0]:
        _answer(first[0] if first else {"failed": "the device's init", "errno": 0})
        return 1
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    _answer({"ready": True, "port": settings.port})
    if not sys.stdin.readline():
        return 1
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(settings, listener, control, Root(first[1]), owner))
    control.close()
    _end(zygote)
    return 0


def _probe(qemu: str) -> int:
    """Make a sandbox with an empty root, say how that went, and end it."""
    settings = Settings("probe", "", "max" if qemu else "host", "userns", 0, 1024 * 1024, 1, "", "", (), qemu)
    ingredients = Ingredients(rootfs.skeleton(), Path(qemu).read_bytes() if qemu else None)
    drop_root()
    control, zygote = fork_zygote(settings, ingredients)
    first = _first_message(control)
    _answer(first[0] if first else {"failed": "the device's init", "errno": 0})
    control.close()
    _end(zygote)
    return 0


def _answer(message: dict[str, Any]) -> None:
    with suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def _first_message(control: socket.socket) -> tuple[dict[str, Any], int] | None:
    if not select.select([control], [], [], _START_S)[0]:
        return None
    data, fds, _, _ = socket.recv_fds(control, 65536, 1, socket.MSG_CMSG_CLOEXEC)
    return (json.loads(data), fds[0] if fds else -1) if data else None


def _end(zygote: int) -> None:
    with suppress(ChildProcessError):
        for _ in range(200):
            if os.waitpid(zygote, os.WNOHANG)[0]:
                return
            select.select([], [], [], 0.01)
        os.kill(zygote, signal.SIGKILL)
        os.waitpid(zygote, 0)


def _quota(settings: Settings, root: Root) -> int | None:
    """proot has no partition of its own: what may still be pushed is counted."""
    if settings.mode != "proot":
        return None
    used = 0
    base = f"/proc/self/fd/{root.fd}/data"
    for folder, _, names in os.walk(base):
        for name in names:
            with suppress(OSError):
                used += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118
    return max(0, settings.storage_bytes - used)


async def _serve(settings: Settings, listener: socket.socket, control: socket.socket, root: Root, owner: int) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    sandbox = Sandbox(control, root, ended.set)
    services = Services(sandbox, environment(settings), quota=lambda: _quota(settings, root))
    # Users that a container does not know are listed as nobody.
    trusted = None if owner == _NOBODY and not _knows_every_user() else owner
    keys: tuple[PublicKey, ...] = tuple(parse_public_key(text) for text in settings.keys)
    banner = (
        "device::ro.product.name=mobilekit_virtual;"
        f"ro.product.model=mobilekit virtual {settings.cpu};ro.product.device=virtual;"
        f"features={','.join(FEATURES)}"
    ).encode()
    connections: set[Connection] = set()

    def gone(connection: Connection) -> None:
        connections.discard(connection)
        services.drop(connection)

    async def open_service(connection: Connection, name: str) -> Service | None:
        return await services.open(connection, name)

    def accepted() -> Connection:
        connection = Connection(keys=keys, banner=banner, open_service=open_service, on_gone=gone, owner=trusted)
        connections.add(connection)
        return connection

    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BYTES)
    server = await loop.create_server(accepted, sock=listener)
    _log.info("%s: %s, %s, %s, port %d", settings.name, settings.abi, settings.cpu, settings.mode, settings.port)
    await ended.wait()
    server.close()
    for connection in list(connections):
        connection.abort()
    await asyncio.sleep(0)
    sandbox.close()


if __name__ == "__main__":
    sys.exit(main())
