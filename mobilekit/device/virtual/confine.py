"""A device's file tree, reached from outside it: no path leaves the root, whatever symlinks the device holds."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mobilekit.device.virtual.kernel import openat2

__all__ = ["Incoming", "Root"]


class Root:
    """Paths are Android's (absolute, or taken as absolute); errors are ``OSError``. Owns the descriptor ``fd``."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        os.close(self.fd)

    def stat(self, path: str) -> os.stat_result:
        return self._stat(path, os.O_PATH)

    def lstat(self, path: str) -> os.stat_result:
        return self._stat(path, os.O_PATH | os.O_NOFOLLOW)

    def _stat(self, path: str, flags: int) -> os.stat_result:
        fd = openat2(self.fd, path, flags)
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def open_file(self, path: str) -> int:
        """A regular file for reading; devices, pipes and sockets are refused (they could block or never end)."""
        fd = openat2(self.fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        mode = os.fstat(fd).st_mode
        if stat.S_ISREG(mode):
            return fd
        os.close(fd)
        raise OSError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, "not a regular file", path)

    def list_dir(self, path: str) -> Iterator[tuple[bytes, os.stat_result | OSError]]:
        """Names with what ``lstat`` says of each."""
        fd = openat2(self.fd, path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for name in (b".", b"..", *map(os.fsencode, os.listdir(fd))):  # noqa: PTH208
                try:
                    # ".." of the root is the root, as everywhere.
                    inside = b"." if name == b".." and self._is_root(fd) else name
                    yield name, os.stat(inside, dir_fd=fd, follow_symlinks=False)
                except OSError as error:
                    yield name, error
        finally:
            os.close(fd)

    def _is_root(self, fd: int) -> bool:
        here, root = os.fstat(fd), os.fstat(self.fd)
        return (here.st_dev, here.st_ino) == (root.st_dev, root.st_ino)

    @contextmanager
    def parent(self, path: str, *, create: bool = False) -> Iterator[tuple[int, str]]:
        """The opened folder that ``path`` stands in, and its last component, which is a plain name."""
        head, _, name = path.rstrip("/").rpartition("/")
        if name in ("", ".", ".."):
            raise OSError(errno.EISDIR, "not a file name", path)
        flags = os.O_PATH | os.O_DIRECTORY
        try:
            fd = openat2(self.fd, head or "/", flags)
        except FileNotFoundError:
            if not create:
                raise
            self.make_dirs(head)
            fd = openat2(self.fd, head or "/", flags)
        try:
            yield fd, name
        finally:
            os.close(fd)

    def make_dirs(self, path: str) -> None:
        """Like ``mkdir -p``; what exists is left as it is."""
        done = ""
        for part in path.split("/"):
            if part in ("", "."):
                continue
            if part == "..":
                raise OSError(errno.EINVAL, "'..' in the path of a folder to be made", path)
            fd = openat2(self.fd, done or "/", os.O_PATH | os.O_DIRECTORY)
            try:
                with suppress(FileExistsError):
                    os.mkdir(part, 0o775, dir_fd=fd)
            finally:
                os.close(fd)
            done += "/" + part

    def receive(self, path: str) -> Incoming:
        """Begin a file that appears at ``path`` only when it is whole."""
        with self.parent(path, create=True) as (folder, name):
            return Incoming(os.dup(folder), name)

    def symlink(self, target: bytes, path: str) -> None:
        with self.parent(path, create=True) as (folder, name):
            temporary = _temporary_name()
            os.symlink(target, os.fsencode(temporary), dir_fd=folder)
            try:
                os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise


class Incoming:
    """A file on its way in: written under a temporary name, renamed by :meth:`commit`, gone after :meth:`abort`."""

    def __init__(self, folder: int, name: str) -> None:
        self._folder, self._name = folder, name
        self._temporary = _temporary_name()
        try:
            self.fd = os.open(
                self._temporary,
                os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
                0o600,
                dir_fd=folder,
            )
        except BaseException:
            os.close(folder)
            raise

    def write(self, data: memoryview) -> None:
        while data:
            data = data[os.write(self.fd, data) :]

    def commit(self, *, mode: int, mtime_s: int) -> None:
        try:
            os.fchmod(self.fd, mode)
            os.utime(self.fd, (mtime_s, mtime_s))
            os.rename(self._temporary, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except BaseException:
            self.abort()
            raise
        self._close()

    def abort(self) -> None:
        with suppress(OSError):
            os.unlink(self._temporary, dir_fd=self._folder)
        self._close()

    def _close(self) -> None:
        os.close(self.fd)
        os.close(self._folder)


def _temporary_name() -> str:
    return f".mobilekit-{secrets.token_hex(8)}.part"
