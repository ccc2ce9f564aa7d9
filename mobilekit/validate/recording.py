"""Recorded references: right answers that one machine computed, kept to hold results against on any other.

::

    DIR/recording.json      what was recorded, by whom, of which model; size and sha256 of every file
    DIR/recording.sha256    sha256sum's line for recording.json
    DIR/samples/I/T.npy     tensor T of sample I, in the order of recording.json

A recording is untrusted: where its files lie follows from their numbers alone, and :func:`open_recording` refuses
whatever is missing, changed, too long, of another shape, linked, or not listed. Checksums tell damage and mix-ups; they
are no signature.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from mobilekit.bundle import Bundle, sha256_of
from mobilekit.errors import BundleError, StorageError, UsageError
from mobilekit.fields import first_wrong
from mobilekit.tensors import format_shape
from mobilekit.validate.inputs import Sample

if TYPE_CHECKING:
    from mobilekit.tensors import Array, NamedTensors

__all__ = [
    "CHECKSUM",
    "DTYPES",
    "MANIFEST",
    "SCHEMA_VERSION",
    "Provider",
    "RecordedModel",
    "RecordedSample",
    "RecordedTensor",
    "Recording",
    "RecordingManifest",
    "RecordingWriter",
    "is_recording",
    "model_files",
    "open_recording",
]

MANIFEST = "recording.json"
CHECKSUM = "recording.sha256"
SCHEMA_VERSION = "1.0"

_INFINITE = sys.float_info.max

DTYPES = ("bool", *(f"{kind}{bits}" for bits in (8, 16, 32, 64) for kind in ("int", "uint")))
DTYPES += ("float16", "float32", "float64")
"""What numpy stores by itself; a tensor of another type (text, bfloat16) cannot be recorded."""

_LARGEST_MANIFEST = 64 << 20
_LARGEST_RANK = 32
_DAMAGED = "the recording is damaged or was changed: copy it again, or record it again"

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Axis = Annotated[int, Field(ge=0, le=1 << 48)]
Role = Literal["input", "output", "intermediate"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class RecordedTensor(_Strict):
    """A tensor by its ONNX name; ``dtype`` is numpy's name, the file is ``samples/I/T.npy``."""

    name: str
    role: Role
    dtype: str
    shape: tuple[Axis, ...] = Field(max_length=_LARGEST_RANK)
    size_bytes: int = Field(ge=0)
    sha256: Sha256


class RecordedSample(_Strict):
    """``doubt``: relative L2 by output between what was recorded and the provider without its optimisations; infinite
    ones stand as the largest float64."""

    name: str
    tensors: tuple[RecordedTensor, ...]
    doubt: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)


class RecordedModel(_Strict):
    """``files``: sha256 of the original model, of its data files and of the values of fixed inputs, by their path in
    the bundle. They say which model it is."""

    id: str
    sha256: Sha256
    files: dict[str, Sha256]


class Provider(_Strict):
    """Who computed: ``name`` ("ONNX Runtime CPU") and ``version``; ``gpu`` is empty where there was none."""

    name: str
    version: str
    machine: str
    gpu: str = ""
    versions: dict[str, str] = Field(default_factory=dict)


class RecordingManifest(_Strict):
    """``seed`` is that of the first sample, ``None`` for the user's own files. ``left_out``: intermediate tensors that
    cannot be recorded, and why."""

    schema_version: str = SCHEMA_VERSION
    mobilekit_version: str
    model: RecordedModel
    provider: Provider
    seed: int | None
    samples: tuple[RecordedSample, ...] = Field(min_length=1)
    left_out: dict[str, str] = Field(default_factory=dict)


def model_files(bundle: Bundle) -> dict[str, str]:
    """What :class:`RecordedModel` says of the model in ``bundle``: the same for every bundle made of that model."""
    source, values = (f"{Path(bundle.manifest.model.file).parts[0]}/", "fixed/")
    return {e.path: e.sha256 for e in bundle.manifest.files if e.path.startswith((source, values))}


def is_recording(path: Path) -> bool:
    """Whether mobilekit wrote the folder, and nobody put anything beside what it wrote."""
    try:
        _manifest(path)
        return {entry.name for entry in path.iterdir()} <= {MANIFEST, CHECKSUM, "samples"}
    except (OSError, BundleError):
        return False


@dataclass(frozen=True, slots=True)
class Recording:
    """An opened, checked recording. Tensors are read when they are asked for."""

    root: Path
    manifest: RecordingManifest

    @property
    def digest(self) -> str:
        """Of all that was recorded: the manifest has every tensor's sha256."""
        return hashlib.sha256(self.manifest.model_dump_json().encode()).hexdigest()

    def samples(self) -> Iterator[Sample]:
        """The recorded inputs, one sample at a time."""
        for index, sample in enumerate(self.manifest.samples):
            yield Sample(sample.name, dict(self.tensors(index, "input")))

    def tensors(self, sample: int, role: Role) -> NamedTensors:
        """The inputs, outputs or intermediate tensors of one sample, by ONNX name."""
        return {name: self.read(sample, name, role) for name in self.names(sample, role)}

    def doubt(self, sample: int) -> dict[str, float]:
        """How unsure the provider was of each output of a sample; infinite where it could not say at all."""
        found = self.manifest.samples[sample].doubt
        return {name: math.inf if value >= _INFINITE else value for name, value in found.items()}

    def names(self, sample: int, role: Role) -> tuple[str, ...]:
        return tuple(t.name for t in self.manifest.samples[sample].tensors if t.role == role)

    def read(self, sample: int, name: str, role: Role = "intermediate") -> Array:
        """One tensor, checked against what the manifest says of it."""
        for number, tensor in enumerate(self.manifest.samples[sample].tensors):
            if tensor.name == name and tensor.role == role:
                return _read(self.root / _file(sample, number), tensor)
        raise KeyError(name)

    def require_model(self, bundle: Bundle) -> None:
        """Raises :class:`BundleError` unless this is a recording of the model in ``bundle``, at its sizes."""
        theirs, ours = self.manifest.model.files, model_files(bundle)
        hint = f"record it again: mobilekit reference record {bundle.root} -o {self.root}"
        for path in sorted({*theirs, *ours}):
            if theirs.get(path) != ours.get(path):
                said = f"{_short(theirs, path)} there and {_short(ours, path)} in {bundle.root}"
                raise BundleError(f"{self.root} was recorded from another model: {path} has {said}", hint=hint)
        manifest = bundle.manifest
        for sample in self.manifest.samples:
            inputs = {tensor.name: tensor for tensor in sample.tensors if tensor.role == "input"}
            where = f"{self.root}, sample {sample.name!r}"
            wanted = {info.name: info for info in manifest.inputs}
            if inputs.keys() != wanted.keys():
                raise BundleError(
                    f"{where}, has the inputs {_list(inputs)}, the bundle's model takes {_list(wanted)}", hint=hint
                )
            for name, info in wanted.items():
                tensor = inputs[name]
                if tensor.dtype != info.dtype:
                    raise BundleError(f"{where}: {name!r} is {tensor.dtype}, the bundle takes {info.dtype}", hint=hint)
                if (misfit := info.misfit(tensor.shape)) is not None:
                    raise BundleError(f"{where}: {name!r} does not fit the bundle: {misfit}", hint=hint)
            outputs = {tensor.name for tensor in sample.tensors if tensor.role == "output"}
            if missing := [info.name for info in manifest.outputs if info.name not in outputs]:
                raise BundleError(f"{where}, lacks the output {missing[0]!r}", hint=hint)


def _short(files: Mapping[str, str], path: str) -> str:
    return f"sha256 {files[path][:12]}…" if path in files else "nothing"


def _list(names: Mapping[str, object]) -> str:
    return ", ".join(names) or "none"


def _file(sample: int, tensor: int) -> str:
    return f"samples/{sample}/{tensor}.npy"


def open_recording(root: Path) -> Recording:
    """Read and distrust the recording at ``root``; every file is read once, in pieces. Raises :class:`BundleError`."""
    hint = "make it with: mobilekit reference record BUNDLE -o DIR"
    if not root.is_dir():
        raise BundleError(f"there is no recording at {root}: it is no folder", hint=hint)
    for name in (MANIFEST, CHECKSUM):
        path = root / name
        if path.is_symlink() or not path.is_file():
            raise BundleError(f"{root} is not a recording: it has no file {name}", hint=hint)
    try:
        manifest = _manifest(root)
        _check_tree(root, manifest)
    except OSError as error:
        raise BundleError(f"cannot read {error.filename or root}: {error.strerror}", hint=_DAMAGED) from error
    return Recording(root, manifest)


def _manifest(root: Path) -> RecordingManifest:
    path = root / MANIFEST
    if (size := path.stat().st_size) > _LARGEST_MANIFEST:
        raise BundleError(f"{path} has {size} bytes; no recording's has more than {_LARGEST_MANIFEST}", hint=_DAMAGED)
    data = path.read_bytes()
    line = _checksum_line(data)
    with (root / CHECKSUM).open("rb") as file:
        if file.read(len(line) + 1) != line:
            raise BundleError(f"{path} has changed: its sha256 is not the one in {CHECKSUM}", hint=_DAMAGED)
    try:
        raw = json.loads(data)
        version = raw["schema_version"]
        major = int(re.fullmatch(r"(\d{1,4})\.\d{1,4}", version)[1])  # type: ignore[index]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{path} is no recording's manifest: {_said(error)}", hint=_DAMAGED) from error
    if major != int(SCHEMA_VERSION.partition(".")[0]):
        raise BundleError(
            f"{root} has the schema {version}; this mobilekit reads {SCHEMA_VERSION}",
            hint="pip install -U mobilekit" if major else "record it again",
        )
    try:
        return RecordingManifest.model_validate_json(data)
    except ValidationError as error:
        raise BundleError(f"{path} is not valid: {first_wrong(error)}", hint=_DAMAGED) from error


def _said(error: Exception) -> str:
    return "it nests too deeply" if isinstance(error, RecursionError) else f"{type(error).__name__}: {error}"


def _checksum_line(data: bytes) -> bytes:
    return f"{hashlib.sha256(data).hexdigest()}  {MANIFEST}\n".encode()


def _check_tree(root: Path, manifest: RecordingManifest) -> None:
    expected: dict[str, RecordedTensor | None] = {MANIFEST: None, CHECKSUM: None}
    folders = {"samples"}
    for index, sample in enumerate(manifest.samples):
        folders.add(f"samples/{index}")
        seen: set[tuple[str, str]] = set()
        for number, tensor in enumerate(sample.tensors):
            expected[_file(index, number)] = tensor
            if tensor.dtype not in DTYPES:
                raise BundleError(f"{root / MANIFEST}: {tensor.dtype!r} is no type of a tensor", hint=_DAMAGED)
            if (tensor.role, tensor.name) in seen:
                raise BundleError(f"{root / MANIFEST}: {tensor.name!r} stands twice in a sample", hint=_DAMAGED)
            seen.add((tensor.role, tensor.name))
    found: set[str] = set()
    for entry, relative in _walk(root):
        if entry.is_symlink():
            raise BundleError(f"{root / relative} is a symbolic link; a recording holds only files", hint=_DAMAGED)
        if entry.is_dir(follow_symlinks=False) and relative in folders:
            continue
        if relative not in expected or not entry.is_file(follow_symlinks=False):
            raise BundleError(f"{root / relative} does not belong to the recording", hint="remove it")
        found.add(relative)
    for relative, wanted in expected.items():
        if relative not in found:
            raise BundleError(f"the recording lacks {root / relative}", hint=_DAMAGED)
        if wanted is not None:
            _check_file(root / relative, wanted)


def _walk(root: Path, below: str = "") -> Iterator[tuple[os.DirEntry[str], str]]:
    """Every entry of the two levels that a recording has; links are not followed."""
    with os.scandir(root / below) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            relative = f"{below}{entry.name}"
            yield entry, relative
            if entry.is_dir(follow_symlinks=False) and relative.count("/") < 2:
                yield from _walk(root, f"{relative}/")


def _check_file(path: Path, tensor: RecordedTensor) -> None:
    if (size := path.stat().st_size) != tensor.size_bytes:
        raise BundleError(f"{path} has {size} bytes, the recording says {tensor.size_bytes}", hint=_DAMAGED)
    if sha256_of(path) != tensor.sha256:
        raise BundleError(f"{path} has changed: its sha256 is not the recording's", hint=_DAMAGED)
    _read(path, tensor)  # the header alone is read: the data is mapped


def _read(path: Path, tensor: RecordedTensor) -> Array:
    """Mapped, not read, so that a header which claims more than the file holds costs nothing."""
    import numpy as np

    try:
        empty = 0 in tensor.shape
        if empty and path.stat().st_size > 1 << 16:
            raise ValueError("an empty tensor in a file that is none")
        # Nothing can be mapped of an empty array, and then nothing is read.
        array: Array = np.load(path, mmap_mode=None if empty else "r", allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError, OverflowError) as error:
        raise BundleError(f"{path} is not a readable .npy file: {error}", hint=_DAMAGED) from error
    if array.shape != tensor.shape or array.dtype.name != tensor.dtype:
        raise BundleError(
            f"{path} holds {array.dtype} {format_shape(array.shape)}, the recording says {tensor.dtype} "
            f"{format_shape(tensor.shape)} for {tensor.name!r}",
            hint=_DAMAGED,
        )
    return array


@dataclass(slots=True)
class RecordingWriter:
    """Writes a recording into the folder ``root`` sample by sample; :meth:`finish` completes it."""

    root: Path
    _samples: list[RecordedSample] = field(default_factory=list)
    _open: list[RecordedTensor] = field(default_factory=list)
    _count: int = 0
    size_bytes: int = 0

    def add(self, role: Role, tensors: Mapping[str, Array]) -> None:
        """Tensors of the sample at hand. Raises :class:`UsageError` for a type that numpy does not store."""
        import numpy as np

        for name, array in tensors.items():
            plain = np.ascontiguousarray(array).reshape(np.shape(array))
            if plain.dtype.name not in DTYPES:
                raise UsageError(
                    f"the {role} {name!r} is {plain.dtype}, which cannot be recorded",
                    hint="cut the model so that its inputs and outputs are plain numbers",
                )
            path = self.root / _file(len(self._samples), len(self._open))
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, plain, allow_pickle=False)
            size = path.stat().st_size
            self._open.append(
                RecordedTensor(
                    name=name,
                    role=role,
                    dtype=plain.dtype.name,
                    shape=plain.shape,
                    size_bytes=size,
                    sha256=sha256_of(path),
                )
            )
            self._count += 1
            self.size_bytes += size

    def end_sample(self, name: str, doubt: Mapping[str, float]) -> None:
        # JSON knows no infinity; a doubt that is no number is as good as one.
        known = {output: value if math.isfinite(value) else _INFINITE for output, value in doubt.items()}
        self._samples.append(RecordedSample(name=name, tensors=tuple(self._open), doubt=known))
        self._open.clear()

    def finish(
        self,
        mobilekit_version: str,
        model: RecordedModel,
        provider: Provider,
        *,
        seed: int | None,
        left_out: Mapping[str, str],
    ) -> RecordingManifest:
        manifest = RecordingManifest(
            mobilekit_version=mobilekit_version,
            model=model,
            provider=provider,
            seed=seed,
            samples=tuple(self._samples),
            left_out=dict(left_out),
        )
        facts: dict[str, Any] = manifest.model_dump(mode="json")
        data = (json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode("utf-8")
        if len(data) > _LARGEST_MANIFEST:
            raise StorageError(
                f"{self._count} tensors are too many for one recording",
                hint="record fewer samples, or leave --intermediates out",
            )
        (self.root / MANIFEST).write_bytes(data)
        (self.root / CHECKSUM).write_bytes(_checksum_line(data))
        return manifest
