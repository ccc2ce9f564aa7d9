"""The export directory: its layout, its writer, its distrustful reader (what its manifest says: ``manifest.py``).

::

    DIR/manifest.json           what is here; the same input and versions give the same bytes
    DIR/run.json                measurements of the export (times, errors); not part of that identity
    DIR/source/model.onnx       the original model, byte for byte, with its external files beside it
    DIR/fixed/0.npy             inputs of the original that were fixed to a value
    DIR/ncnn/model.param, .bin  the ncnn model
    DIR/tensorrt/model.onnx     the prepared model, model.plan its plan, layers.json what was fused
    DIR/labels.txt              one class a line, where known
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mobilekit.errors import BundleError, UsageError
from mobilekit.fields import first_wrong, unreadable
from mobilekit.manifest import (
    SCHEMA_VERSION,
    BatchPlace,
    FileEntry,
    FixedInput,
    FreeAxis,
    Manifest,
    ModelInfo,
    NcnnArtifact,
    NcnnBatch,
    NcnnBlob,
    NcnnInt8,
    NcnnRows,
    TensorInfo,
    TensorRTArtifact,
)

if TYPE_CHECKING:
    from mobilekit.tensors import Array

__all__ = [
    "MANIFEST",
    "MAX_DEPTH",
    "RUN",
    "SCHEMA_VERSION",
    "BatchPlace",
    "Bundle",
    "FileEntry",
    "FixedInput",
    "FreeAxis",
    "Manifest",
    "ModelInfo",
    "NcnnArtifact",
    "NcnnBatch",
    "NcnnBlob",
    "NcnnInt8",
    "NcnnRows",
    "TensorInfo",
    "TensorRTArtifact",
    "check_outside",
    "file_entries",
    "is_bundle",
    "manifest_text",
    "open_bundle",
    "sha256_of",
    "write_manifest",
]

MAX_DEPTH = 32_768
"""Layers one behind another: so many were run, on the host and on arm64. ncnn recurses once for each."""
_FICLONE = 0x40049409
"""Linux's ioctl for "the same blocks as that file, until one of them is written"."""

_PIECE_BYTES = 1 << 20
MANIFEST = "manifest.json"
RUN = "run.json"
"""Measurements; not listed in the manifest, may be missing."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle: its folder and its checked manifest."""

    root: Path
    manifest: Manifest

    @property
    def source(self) -> Path:
        """The original ONNX model."""
        return self.root / self.manifest.model.file

    def labels(self) -> tuple[str, ...]:
        """Class names, one a line of the labels file; empty where the bundle has none."""
        if self.manifest.labels is None:
            return ()
        return tuple((self.root / self.manifest.labels).read_text("utf-8").splitlines())

    @property
    def free(self) -> dict[str, tuple[int, ...]]:
        """The axes that have no fixed size, by input."""
        return {info.name: tuple(axis.axis for axis in info.free) for info in self.manifest.inputs if info.free}

    def fixed(self) -> dict[str, Array]:
        """The inputs of the original model that were fixed, by name."""
        from mobilekit.tensors import load_npy

        return {info.name: load_npy(self.root / info.file) for info in self.manifest.fixed}

    @property
    def size_bytes(self) -> int:
        return sum(entry.size_bytes for entry in self.manifest.files)


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_hashed(source: Path, copy: Path) -> str:
    """Copy a file in pieces, or share its blocks where the file system can; the hex sha256 of what was copied."""
    import fcntl

    with source.open("rb") as old, copy.open("wb") as new:
        try:
            fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
        except OSError:
            digest = hashlib.sha256()
            piece = memoryview(bytearray(_PIECE_BYTES))
            while count := old.readinto(piece):
                digest.update(piece[:count])
                new.write(piece[:count])
            return digest.hexdigest()
    return sha256_of(copy)


def is_bundle(path: Path) -> bool:
    """Whether mobilekit wrote the folder: many a program has a file of that name."""
    try:
        found = json.loads((path / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and {"schema_version", "mobilekit_version", "model"} <= found.keys()


def check_outside(folder: Path) -> None:
    """Raises :class:`UsageError` where ``folder`` would lie inside a bundle: that one is replaced as a whole, and with
    it what else was put there."""
    for parent in Path(os.path.realpath(folder)).parents:  # a loop of links is no error here
        if is_bundle(parent):
            raise UsageError(f"{folder} is inside the bundle {parent}", hint="give a folder outside of it")


def file_entries(root: Path, known: Mapping[str, str] | None = None) -> tuple[FileEntry, ...]:
    """Every file below ``root`` but the manifest and the measurements, sorted by path.

    ``known``: sha256 by relative path, of files that are not read again for it.
    """
    entries = []
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        relative = path.relative_to(root).as_posix()
        if relative not in (MANIFEST, RUN):
            sha256 = (known or {}).get(relative) or sha256_of(path)
            entries.append(FileEntry(path=relative, size_bytes=path.stat().st_size, sha256=sha256))
    return tuple(entries)


def write_manifest(root: Path, manifest: Manifest, known: Mapping[str, str] | None = None) -> Manifest:
    """Complete ``manifest`` with the files found below ``root`` and write it there, in canonical form."""
    complete = replace(manifest, files=file_entries(root, known))
    (root / MANIFEST).write_text(manifest_text(complete), encoding="utf-8")
    return complete


def manifest_text(manifest: Manifest) -> str:
    """The canonical form."""
    return json.dumps(manifest.to_json(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def open_bundle(path: Path, *, check: bool = True) -> Bundle:
    """Read and distrust the bundle at ``path``.

    Refuses a newer major schema, unknown fields, unsafe paths, symlinks, files of another size, and (with ``check``)
    of another sha256. Raises :class:`BundleError`.
    """
    from pydantic import TypeAdapter, ValidationError

    file = path / MANIFEST
    hint = "make it with: mobilekit export MODEL --target ncnn -o DIR"
    if not path.exists():
        raise BundleError(f"there is no bundle at {path}", hint=hint)
    if not file.is_file() or file.is_symlink():
        raise BundleError(f"{path} is not a bundle: it has no {MANIFEST}", hint=hint)
    again = "the bundle is damaged: export the model again"
    try:
        raw = json.loads(file.read_text("utf-8"))
        if not isinstance(raw, dict):
            raise ValueError("not an object")
        major = int(str(raw.get("schema_version", "")).split(".")[0])
    except (ValueError, OSError, RecursionError) as error:
        raise BundleError(f"cannot read {file}: {unreadable(error)}", hint=again) from error
    if major > int(SCHEMA_VERSION.split(".")[0]):
        raise BundleError(
            f"{path} was written by a newer mobilekit: schema {raw['schema_version']}, not {SCHEMA_VERSION}",
            hint="pip install -U mobilekit",
        )
    try:
        manifest = TypeAdapter(Manifest).validate_json(json.dumps(raw))
    except ValidationError as error:
        raise BundleError(f"{file} is not valid: {first_wrong(error)}", hint=again) from error
    if manifest.ncnn is not None and manifest.ncnn.depth > MAX_DEPTH:
        raise BundleError(
            f"the ncnn model of {path} is {manifest.ncnn.depth} layers deep; ncnn recurses once for each, and up to "
            f"{MAX_DEPTH} were tried",
            hint="split the model in two, export both, and run one after the other",
        )
    _check_files(path, manifest, check=check, hint=again)
    return Bundle(path, manifest)


def _check_files(root: Path, manifest: Manifest, *, check: bool, hint: str) -> None:
    listed = {entry.path for entry in manifest.files}
    wanted = {manifest.model.file, *(info.file for info in manifest.fixed)}
    if manifest.labels is not None:
        wanted.add(manifest.labels)
    if manifest.ncnn is not None:
        wanted |= {manifest.ncnn.param, manifest.ncnn.bin, *([manifest.ncnn.trace] if manifest.ncnn.trace else [])}
    if manifest.tensorrt is not None:
        wanted |= {manifest.tensorrt.onnx, manifest.tensorrt.plan, manifest.tensorrt.layers}
    if missing := sorted(wanted - listed):
        raise BundleError(f"{root / MANIFEST} names {missing[0]} but does not list it as a file", hint=hint)
    for entry in manifest.files:
        file = root / entry.path
        parts = PurePosixPath(entry.path).parts
        parents = [root.joinpath(*parts[:count]) for count in range(1, len(parts) + 1)]
        if any(parent.is_symlink() for parent in parents):
            raise BundleError(f"{file} is a symbolic link; a bundle holds only files", hint=hint)
        if not file.is_file():
            raise BundleError(f"the bundle lacks {file}", hint=hint)
        if (size := file.stat().st_size) != entry.size_bytes:
            raise BundleError(f"{file} has {size} bytes, its manifest says {entry.size_bytes}", hint=hint)
        if check and sha256_of(file) != entry.sha256:
            raise BundleError(f"{file} has changed: its sha256 is not the manifest's", hint=hint)
