"""Where mobilekit keeps things on the user's machine, and how it writes files that are whole or not there."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mobilekit.errors import StorageError, UsageError

__all__ = ["atomic_dir", "atomic_file", "cache_dir", "data_dir", "state_dir", "storage_errors"]


def cache_dir(*parts: str) -> Path:
    """``$MOBILEKIT_CACHE``, else ``$XDG_CACHE_HOME/mobilekit``, else ``~/.cache/mobilekit``; created on demand."""
    base = os.environ.get("MOBILEKIT_CACHE")
    root = Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mobilekit"
    path = root.joinpath(*parts)
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def state_dir(*parts: str) -> Path:
    """Run-time state (virtual devices, logs): ``$MOBILEKIT_STATE``, else ``$XDG_STATE_HOME/mobilekit``."""
    base = os.environ.get("MOBILEKIT_STATE")
    root = (
        Path(base) if base else Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "mobilekit"
    )
    path = root.joinpath(*parts)
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
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
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
            raise StorageError(
                f"cannot write {path}: {error.strerror}", hint="choose a folder that you may write"
            ) from error
        raise


def _make_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # a place where no folder can be made, such as /proc
        raise StorageError(f"cannot write {path}: {error.strerror}", hint="choose another folder") from error


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; rename it into place on success, remove it on any failure.

    What is at ``path`` and is no regular file (``/dev/stdout``, a pipe) is written to, never replaced; a link is
    followed.
    """
    with storage_errors(path):
        if path.exists() and not path.is_file():
            with tempfile.TemporaryDirectory(prefix="mobilekit-") as folder:
                temporary = Path(folder) / "content"
                yield temporary
                with temporary.open("rb") as content, path.open("wb") as special:
                    shutil.copyfileobj(content, special)
            return
        target = path.resolve() if path.is_symlink() else path
        _make_parent(target)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        os.close(handle)
        temporary = Path(name)
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
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        old: Path | None = None
        try:
            yield temporary
            temporary.chmod(0o755)
            if path.exists():
                if not replace:
                    raise StorageError(f"{path} already exists", hint="remove it or choose another folder")
                old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
                path.rename(old / "previous")
            try:
                temporary.rename(path)
            except BaseException:
                if old is not None:
                    (old / "previous").rename(path)
                raise
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        finally:
            if old is not None:
                shutil.rmtree(old, ignore_errors=True)
