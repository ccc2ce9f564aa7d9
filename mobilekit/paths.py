"""Where mobilekit keeps things on the user's machine, and how it writes files that are whole or not there."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mobilekit.errors import StorageError, UsageError

__all__ = [
    "Scratch",
    "atomic_dir",
    "atomic_file",
    "cache_dir",
    "data_dir",
    "file_sha256",
    "readable",
    "state_dir",
    "storage_errors",
]

_NOT_THERE = frozenset(
    {errno.EACCES, errno.EEXIST, errno.EFBIG, errno.EIO, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR}
    | {errno.EPERM, errno.EROFS}
)
"""What the system says of a place where nothing can be written."""

_RANDOM = "[a-z0-9_]{8}"
"""What ``tempfile`` puts into a name."""


def cache_dir(*parts: str) -> Path:
    """``$MOBILEKIT_CACHE``, else ``$XDG_CACHE_HOME/mobilekit``, else ``~/.cache/mobilekit``; created on demand."""
    base = os.environ.get("MOBILEKIT_CACHE")
    root = Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mobilekit"
    return _made(root.joinpath(*parts), 0o777, "MOBILEKIT_CACHE")


def state_dir(*parts: str) -> Path:
    """Run-time state (virtual devices, logs): ``$MOBILEKIT_STATE``, else ``$XDG_STATE_HOME/mobilekit``."""
    base = os.environ.get("MOBILEKIT_STATE")
    root = (
        Path(base) if base else Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "mobilekit"
    )
    return _made(root.joinpath(*parts), 0o700, "MOBILEKIT_STATE")


def _made(path: Path, mode: int, variable: str) -> Path:
    try:
        with storage_errors(path):
            path.mkdir(parents=True, exist_ok=True, mode=mode)
    except (FileNotFoundError, FileExistsError, StorageError) as error:  # /proc takes no folders; a file in the way
        said = error.message if isinstance(error, StorageError) else f"cannot make {path}: {error.strerror}"
        raise StorageError(said, hint=f"set HOME, or {variable}, to a folder that you may write") from error
    return path


def data_dir(name: str) -> Path:
    """A folder that ships with the package (``android-harness``, ``model_zoo``): from the wheel, or the checkout."""
    package = Path(__file__).resolve().parent
    for candidate in (package / "_data" / name, package.parent / name):
        if candidate.is_dir():
            return candidate
    raise UsageError(f"this installation of mobilekit lacks its {name} folder", hint="reinstall mobilekit")


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, a read-only place or a missing permission into :class:`StorageError`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"no space left while writing {path}", hint="free some space, or choose another folder"
            ) from error
        if error.errno in _NOT_THERE:
            raise StorageError(
                f"cannot write {path}: {error.strerror}", hint="choose a folder that you may write"
            ) from error
        raise


def _make_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # a place where no folder can be made, such as /proc
        raise StorageError(f"cannot write {path}: {error.strerror}", hint="choose another folder") from error


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with storage_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Scratch:
    """A private folder for temporary files, gone with :meth:`cleanup` or the ``with`` block.

    Its lock is held until then, so that whoever makes the next one can tell what processes left that were killed.
    """

    def __init__(self, purpose: str, home: Path | None = None) -> None:
        home = home or Path(tempfile.gettempdir())
        _sweep(home, re.compile(f"mobilekit-scratch-[a-z-]+-{_RANDOM}"))
        with storage_errors(home):
            self.path, lock = _claim(lambda: tempfile.mkdtemp(prefix=f"mobilekit-scratch-{purpose}-", dir=home))
        self._remove = weakref.finalize(self, _removed, self.path, lock)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *exc: object) -> None:
        self.cleanup()

    def cleanup(self) -> None:
        """Remove the folder; again is no error."""
        self._remove()


def _removed(path: Path, lock: int) -> None:
    shutil.rmtree(path, ignore_errors=True)
    os.close(lock)


def _claim(make: Callable[[], str]) -> tuple[Path, int]:
    """The file or folder that ``make`` made, and a descriptor that holds its lock."""
    while True:
        path = Path(make())
        try:
            handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # swept between the two lines
            continue
        with suppress(OSError):  # a file system without locks, where nothing can be swept either
            fcntl.flock(handle, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.fstat(handle).st_ino == path.stat().st_ino:
                return path, handle
        os.close(handle)


def _sweep(folder: Path, name: re.Pattern[str]) -> None:
    """Remove what a process that was killed left in ``folder`` under such a name: nobody holds its lock."""
    with suppress(OSError):
        found = [entry for entry in os.scandir(folder) if name.fullmatch(entry.name)]
        for entry in found:
            with suppress(OSError):
                handle = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if entry.is_dir(follow_symlinks=False):
                        shutil.rmtree(entry.path, ignore_errors=True)
                    else:
                        Path(entry.path).unlink()
                finally:
                    os.close(handle)


@contextmanager
def _part(target: Path, make: Callable[[str, str], str]) -> Iterator[Path]:
    """What will become ``target``, beside it and locked; those that were left half-made there are removed first."""
    _sweep(target.parent, re.compile(rf"{re.escape('.' + target.name)}\.{_RANDOM}\.part"))
    try:
        path, lock = _claim(lambda: make(f".{target.name}.", ".part"))
    except FileNotFoundError as error:  # the folder is there, and takes no files: such as /proc
        raise StorageError(f"cannot write {target}: {error.strerror}", hint="choose another folder") from error
    try:
        yield path
    finally:
        os.close(lock)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; rename it into place on success, remove it on any failure.

    What is at ``path`` and is no regular file (``/dev/stdout``, a pipe) is written to, never replaced; a link is
    followed.
    """
    with storage_errors(path):
        if path.exists() and not path.is_file():
            with Scratch("output") as folder:
                temporary = folder / "content"
                yield temporary
                with temporary.open("rb") as content, path.open("wb") as special:
                    shutil.copyfileobj(content, special)
            return
        target = path.resolve() if path.is_symlink() else path
        _make_parent(target)

        def make(prefix: str, suffix: str) -> str:
            handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=target.parent)
            os.close(handle)
            return name

        with _part(target, make) as temporary:
            try:
                yield temporary
                temporary.chmod(0o644)
                temporary.replace(target)
            except BaseException:
                with suppress(OSError):
                    temporary.unlink()
                raise


@contextmanager
def atomic_dir(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Give a temporary folder beside ``path``; on success it takes ``path``'s place whole, else it is removed.

    With ``replace`` an existing folder at ``path`` is swapped out and then deleted; the caller makes sure first
    that it is one of ours. Raises :class:`StorageError` where the disk is full or may not be written.
    """
    with storage_errors(path):
        if (path.exists() or path.is_symlink()) and (path.is_symlink() or not path.is_dir()):
            raise StorageError(f"{path} is not a folder", hint="choose another folder")
        _make_parent(path)
        with _part(path, lambda prefix, suffix: tempfile.mkdtemp(suffix, prefix, path.parent)) as temporary:
            try:
                yield temporary
                temporary.chmod(0o755)
                _swap(temporary, path, replace=replace)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise


def readable(name: str) -> str:
    """A file's name as text that can be written: bytes of it that are no UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def write_text(path: Path, text: str) -> None:
    """``text`` as UTF-8, whole or not at all (:func:`atomic_file`)."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _swap(temporary: Path, path: Path, *, replace: bool) -> None:
    if not path.exists():
        temporary.rename(path)
        return
    if not replace:
        raise StorageError(f"{path} already exists", hint="remove it or choose another folder")
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
    try:
        path.rename(old / "previous")
        try:
            temporary.rename(path)
        except BaseException:
            (old / "previous").rename(path)
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
