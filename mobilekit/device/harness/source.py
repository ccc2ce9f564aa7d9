"""ncnn's C++ source: the sdist of the wheel's own version, fetched through pip's index, checked and unpacked."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path, PurePosixPath

from mobilekit import pypi
from mobilekit.errors import FetchError
from mobilekit.paths import atomic_dir, cache_dir, file_sha256
from mobilekit.progress import SILENT, Progress

__all__ = ["NCNN_SHA256", "NCNN_VERSION", "ncnn_source"]

NCNN_VERSION = "1.0.20261020"
NCNN_SHA256 = "ad8cdd63e9755cfa8e23b9b6d9ce46156077d80298a89e7c3ba325ffccfca200"
_MAX_ARCHIVE_BYTES = 64 << 20
_MAX_UNPACKED_BYTES = 512 << 20


def ncnn_source(progress: Progress = SILENT) -> Path:
    """The unpacked source tree, in the cache. Raises :class:`FetchError`, :class:`ChecksumError`."""
    folder = cache_dir("sources")
    stem = f"ncnn-{NCNN_VERSION}"
    tree = folder / stem
    if (tree / "CMakeLists.txt").is_file():
        return tree
    archive = folder / f"{stem}.tar.gz"
    if not (archive.is_file() and file_sha256(archive) == NCNN_SHA256):
        progress.step(f"finding the source of ncnn {NCNN_VERSION}")
        remote = pypi.find_file("ncnn", NCNN_VERSION, archive.name, NCNN_SHA256)
        pypi.download(remote, archive, sha256=NCNN_SHA256, progress=progress, max_bytes=_MAX_ARCHIVE_BYTES)
    with atomic_dir(tree) as temporary:
        _unpack(archive, stem, temporary)
    return tree


def _unpack(archive: Path, stem: str, folder: Path) -> None:
    """The files and folders under the archive's one top folder; nothing else is taken, nothing lands outside.

    By hand, since tarfile's data filter came with Python 3.11.4 and Debian 12 has 3.11.2.
    """
    total = 0
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                top, _, inner = member.name.partition("/")
                if top != stem or not inner:
                    continue
                total += member.size
                if total > _MAX_UNPACKED_BYTES:
                    raise FetchError(f"{archive.name} unpacks to more than {_MAX_UNPACKED_BYTES} bytes")
                target = folder / inner
                if PurePosixPath(inner).is_absolute() or ".." in PurePosixPath(inner).parts:
                    raise FetchError(f"{archive.name} holds an unsafe path: {member.name!r}")
                content = tar.extractfile(member) if member.isreg() else None
                if content is not None:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with content, target.open("xb") as file:
                        shutil.copyfileobj(content, file)
                    target.chmod(0o755 if member.mode & 0o100 else 0o644)
    except (tarfile.TarError, EOFError) as error:
        raise FetchError(f"{archive} cannot be unpacked: {error}", hint="delete it and try again") from error
    if not (folder / "CMakeLists.txt").is_file():
        raise FetchError(f"{archive.name} holds no {stem}/CMakeLists.txt")
