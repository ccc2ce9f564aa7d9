"""``sync:``, the file service: STAT, LIST, SEND and RECV in both versions.

Formats after AOSP ``file_sync_protocol.h``: requests are a 4-letter id, a uint32 path length and the path; data comes
in DATA chunks of at most 64 kB. Integers are little-endian; errors in the second version are Linux errno values.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import struct
from collections.abc import Callable

from mobilekit.device.virtual.confine import Incoming, Root
from mobilekit.device.virtual.connection import Stream, StreamClosedError
from mobilekit.device.virtual.layout import SHELL_ID

__all__ = ["DATA_MAX", "PATH_MAX", "SyncService"]

DATA_MAX = 64 * 1024
PATH_MAX = 1024
_REQUEST = struct.Struct("<4sI")
_STAT_V1 = struct.Struct("<4sIII")
_STAT_V2 = struct.Struct("<4sIQQIIIIQqqq")
_DENT_V1 = struct.Struct("<4sIIII")
_DENT_V2 = struct.Struct("<4sIQQIIIIQqqqI")
_SEND_V2 = struct.Struct("<4sII")
_DRY_RUN = 0x80000000
_TIMES_MAX = 0xFFFFFFFF


class _EndError(Exception):
    """The host has finished, or broke the protocol."""


class _RefusedError(Exception):
    """What becomes a FAIL message."""


class SyncService:
    """Serves one ``sync:`` stream. ``quota`` gives the bytes that may still be written, or ``None`` for no limit."""

    def __init__(self, root: Root, quota: Callable[[], int | None]) -> None:
        self._root, self._quota = root, quota

    async def __call__(self, stream: Stream) -> None:
        session = _Session(stream, self._root, self._quota)
        try:
            while True:
                await session.request()
        except _EndError:
            return


class _Session:
    def __init__(self, stream: Stream, root: Root, quota: Callable[[], int | None]) -> None:
        self._stream, self._root, self._quota = stream, root, quota
        self._rest = memoryview(b"")

    # -- reading

    async def _some(self, limit: int) -> memoryview:
        """At least one byte, at most ``limit``, without a copy."""
        if not self._rest:
            self._rest = await self._stream.read()
            if not self._rest:
                raise _EndError
        data, self._rest = self._rest[:limit], self._rest[limit:]
        return data

    async def _exactly(self, size: int) -> bytes:
        data = bytes(await self._some(size)) if size else b""
        while len(data) < size:
            data += await self._some(size - len(data))
        return data

    # -- requests

    async def request(self) -> None:
        kind, length = _REQUEST.unpack(await self._exactly(_REQUEST.size))
        if kind == b"QUIT":
            raise _EndError
        if length > PATH_MAX:
            await self._fail("the path is too long")
            raise _EndError
        path = os.fsdecode(await self._exactly(length))
        if kind == b"STAT":
            await self._stat_v1(path)
        elif kind in (b"STA2", b"LST2"):
            await self._stat_v2(kind, path)
        elif kind in (b"LIST", b"LIS2"):
            await self._list(path, v2=kind == b"LIS2")
        elif kind == b"SEND":
            await self._send_v1(path)
        elif kind == b"SND2":
            _, mode, flags = _SEND_V2.unpack(await self._exactly(_SEND_V2.size))
            await self._send(path, mode, flags)
        elif kind == b"RECV":
            await self._recv(path, 0)
        elif kind == b"RCV2":
            _, flags = _REQUEST.unpack(await self._exactly(_REQUEST.size))
            await self._recv(path, flags)
        else:
            await self._fail(f"unknown request {kind!r}")
            raise _EndError

    async def _fail(self, text: str) -> None:
        data = text.encode("utf-8", "replace")[:DATA_MAX]
        await self._stream.write(_REQUEST.pack(b"FAIL", len(data)) + data)

    # -- stat and list

    async def _stat_v1(self, path: str) -> None:
        try:
            found = self._root.lstat(path)
        except OSError:
            await self._stream.write(_STAT_V1.pack(b"STAT", 0, 0, 0))
            return
        await self._stream.write(_STAT_V1.pack(b"STAT", found.st_mode, _u32(found.st_size), _u32(int(found.st_mtime))))

    async def _stat_v2(self, kind: bytes, path: str) -> None:
        try:
            found = self._root.stat(path) if kind == b"STA2" else self._root.lstat(path)
        except OSError as error:
            await self._stream.write(_STAT_V2.pack(kind, error.errno or errno.EIO, *[0] * 10))
            return
        await self._stream.write(_STAT_V2.pack(kind, 0, *_fields(found)))

    async def _list(self, path: str, *, v2: bool) -> None:
        parts: list[bytes] = []
        try:
            for name, found in self._root.list_dir(path):
                if isinstance(found, OSError):
                    if v2:
                        parts += (_DENT_V2.pack(b"DNT2", found.errno or errno.EIO, *[0] * 10, len(name)), name)
                elif v2:
                    parts += (_DENT_V2.pack(b"DNT2", 0, *_fields(found), len(name)), name)
                else:
                    times = _u32(int(found.st_mtime))
                    parts += (_DENT_V1.pack(b"DENT", found.st_mode, _u32(found.st_size), times, len(name)), name)
        except OSError:
            pass  # adbd, too, answers with an empty list
        parts.append(b"DONE" + bytes((_DENT_V2 if v2 else _DENT_V1).size - 4))
        await self._stream.write(b"".join(parts))

    # -- send: the host pushes

    async def _send_v1(self, path: str) -> None:
        name, comma, mode = path.rpartition(",")
        if not comma or not mode.isascii() or not mode.isdigit():
            await self._fail(f"no mode in {path!r}")
            raise _EndError
        await self._send(name, int(mode), 0)

    async def _send(self, path: str, mode: int, flags: int) -> None:
        sink: Incoming | None = None
        target = bytearray()
        refused = ""
        link = stat.S_ISLNK(mode)
        dry_run = bool(flags & _DRY_RUN)
        left = self._quota()
        try:
            if flags & ~_DRY_RUN:
                raise _RefusedError("compression is not supported")
            if not link and not dry_run:
                sink = self._root.receive(path)
        except (OSError, _RefusedError) as error:
            refused = await self._refuse(path, error)
        try:
            while True:
                kind, length = _REQUEST.unpack(await self._exactly(_REQUEST.size))
                if kind == b"DONE":
                    break
                if kind != b"DATA" or length > DATA_MAX:
                    if not refused:
                        await self._fail(f"invalid data message {kind!r} of {length} bytes")
                    raise _EndError
                while length:
                    data = await self._some(length)
                    length -= len(data)
                    if refused:
                        continue
                    try:
                        if left is not None:
                            left -= len(data)
                            if left < 0:
                                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
                        if sink is not None:
                            sink.write(data)
                        elif link:
                            target += data
                            if len(target) > PATH_MAX * 4:
                                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
                    except OSError as error:
                        # The rest is read and dropped: the host looks for the answer when it has sent everything.
                        if sink is not None:
                            sink.abort()
                            sink = None
                        refused = await self._refuse(path, error)
            if refused:
                return
            try:
                if sink is not None:
                    finished, sink = sink, None
                    finished.commit(mode=mode & 0o777, mtime_s=length)
                elif link and not dry_run:
                    self._root.symlink(bytes(target).rstrip(b"\0"), path)
            except OSError as error:
                await self._refuse(path, error)
                return
            await self._stream.write(_REQUEST.pack(b"OKAY", 0))
        finally:
            # The host went away in the middle, or an error above: nothing half-made stays.
            if sink is not None:
                sink.abort()

    async def _refuse(self, path: str, error: Exception) -> str:
        text = f"couldn't create file {path!r}: {error.strerror}" if isinstance(error, OSError) else str(error)
        await self._fail(text)
        return text

    # -- receive: the host pulls

    async def _recv(self, path: str, flags: int) -> None:
        if flags:
            await self._fail("compression is not supported")
            return
        try:
            fd = self._root.open_file(path)
        except OSError as error:
            await self._fail(f"open failed: {error.strerror}")
            return
        buffer = bytearray(16 * (DATA_MAX + _REQUEST.size))
        view = memoryview(buffer)
        try:
            end = False
            while not end:
                filled = 0
                while filled < len(buffer):
                    start = filled + _REQUEST.size
                    try:
                        size = os.readv(fd, [view[start : start + DATA_MAX]])
                    except OSError as error:
                        await self._stream.write(bytes(view[:filled]))
                        await self._fail(f"read failed: {error.strerror}")
                        return
                    if size == 0:
                        _REQUEST.pack_into(buffer, filled, b"DONE", 0)
                        filled += _REQUEST.size
                        end = True
                        break
                    _REQUEST.pack_into(buffer, filled, b"DATA", size)
                    filled = start + size
                await self._stream.write(view[:filled])
                await asyncio.sleep(0)
        except StreamClosedError as error:
            raise _EndError from error
        finally:
            os.close(fd)


def _u32(value: int) -> int:
    return max(0, min(value, _TIMES_MAX))


def _fields(found: os.stat_result) -> tuple[int, ...]:
    """dev, ino, mode, nlink, uid, gid, size, atime, mtime, ctime; what the device's user owns belongs to ``shell``."""
    own = found.st_uid == os.geteuid()
    owner = SHELL_ID if own else 0
    return (
        found.st_dev,
        found.st_ino,
        found.st_mode,
        found.st_nlink,
        owner,
        owner,
        found.st_size,
        int(found.st_atime),
        int(found.st_mtime),
        int(found.st_ctime),
    )
