"""One named file out of a wheel or an sdist: nothing else is written, nothing in the archive is run."""

from __future__ import annotations

import hashlib
import lzma
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import IO

from mobilekit.errors import FetchError
from mobilekit.paths import storage_errors

__all__ = ["extract_member"]

_CHUNK = 1 << 20


def extract_member(archive: Path, member: str, dest: Path, *, limit_bytes: int) -> str:
    """Write ``member`` (its exact name in ``archive``) to the file ``dest``; returns the hex sha256 of its bytes.

    ``archive`` is a zip (``.whl``, ``.zip``) or a compressed tar. ``dest`` is chosen by the caller: no path in the
    archive is ever used as one. Raises :class:`FetchError` where the member is missing, is no plain file, is
    encrypted or longer than ``limit_bytes`` (declared or real), or where the archive is damaged.
    """
    try:
        with storage_errors(dest):
            if archive.suffix in (".whl", ".zip"):
                return _from_zip(archive, member, dest, limit_bytes)
            return _from_tar(archive, member, dest, limit_bytes)
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        NotImplementedError,
        RuntimeError,
        OSError,
    ) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise FetchError(
            f"{archive.name} is a damaged archive: {error}", hint="report it: the zoo entry names a bad file"
        ) from error


def _from_zip(archive: Path, member: str, dest: Path, limit_bytes: int) -> str:
    with zipfile.ZipFile(archive) as file:
        found = [info for info in file.infolist() if info.filename == member]
        if len(found) != 1:
            raise _wrong(archive, member, "is not in it" if not found else "is in it more than once")
        info = found[0]
        kind = stat.S_IFMT(info.external_attr >> 16)
        if info.is_dir() or kind not in (0, stat.S_IFREG):
            raise _wrong(archive, member, "is no plain file")
        if info.flag_bits & 0x1:
            raise _wrong(archive, member, "is encrypted")
        _check_size(archive, member, info.file_size, limit_bytes)
        with file.open(info) as source:
            return _copy(source, dest, archive, member, limit_bytes)


def _from_tar(archive: Path, member: str, dest: Path, limit_bytes: int) -> str:
    with tarfile.open(archive, "r:*") as file:
        for info in file:
            if info.name != member:
                continue
            # The standard library's own idea of harmless data (Python 3.11.4 on); it raises a TarError.
            harmless = getattr(tarfile, "data_filter", None)
            if harmless is not None:
                harmless(info, str(dest.parent))
            if not info.isreg():
                raise _wrong(archive, member, "is no plain file")
            _check_size(archive, member, info.size, limit_bytes)
            source = file.extractfile(info)
            assert source is not None
            with source:
                return _copy(source, dest, archive, member, limit_bytes)
    raise _wrong(archive, member, "is not in it")


def _copy(source: IO[bytes], dest: Path, archive: Path, member: str, limit_bytes: int) -> str:
    digest = hashlib.sha256()
    done = 0
    with dest.open("wb") as target:
        while chunk := source.read(_CHUNK):
            done += len(chunk)
            _check_size(archive, member, done, limit_bytes)
            digest.update(chunk)
            target.write(chunk)
    return digest.hexdigest()


def _check_size(archive: Path, member: str, size: int, limit_bytes: int) -> None:
    if size > limit_bytes:
        raise _wrong(archive, member, f"is longer than the limit of {limit_bytes} bytes")


def _wrong(archive: Path, member: str, how: str) -> FetchError:
    return FetchError(f"{archive.name}: {member} {how}", hint="correct the zoo entry's archive and member")
