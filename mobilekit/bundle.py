"""The export directory: its manifest, its atomic writer, its distrustful reader.

::

    DIR/manifest.json           what is here; the same input and versions give the same bytes
    DIR/run.json                measurements of the export (times, errors); not part of that identity
    DIR/source/model.onnx       the original model, byte for byte, with its external files beside it
    DIR/ncnn/model.param, .bin  the ncnn model
    DIR/labels.txt              one class a line, where known
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from mobilekit.preprocess import Preprocess

__all__ = ["SCHEMA_VERSION", "FileEntry", "Manifest", "ModelInfo", "NcnnArtifact", "NcnnBlob", "TensorInfo"]

SCHEMA_VERSION = "1.0"


def _safe(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or "\0" in path or "\\" in path:
        raise ValueError(f"unsafe path {path!r}")
    return str(pure)


SafePath = Annotated[str, AfterValidator(_safe)]
"""A relative path inside the bundle: no ``..``, not absolute."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Frozen):
    path: SafePath
    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class TensorInfo(_Frozen):
    """A model input or output as exported: ONNX name, numpy dtype name, fixed shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class NcnnBlob(_Frozen):
    """How an ONNX tensor stands in the ncnn model.

    ``axes`` are the ONNX axes that ncnn keeps, in order; all others have size 1 (the batch axis, as a rule), so the
    data is the same row-major sequence. The Mat has ``len(axes)`` dims (w | h,w | c,h,w | c,d,h,w); a tensor with
    no axis kept is a 1-dim Mat of one element. ``kind`` is what a 4-byte element holds: integers as such only for
    the ids that ``Embed`` reads, everything else is float32 (``int64`` and ``bool`` values exactly, below 2^24).
    """

    tensor: str
    blob: str
    axes: tuple[int, ...]
    kind: Literal["float32", "int32"] = "float32"


class NcnnArtifact(_Frozen):
    param: SafePath
    bin: SafePath
    precision: Literal["fp32", "fp16"]
    inputs: tuple[NcnnBlob, ...]
    outputs: tuple[NcnnBlob, ...]
    layers: int = Field(ge=0)
    depth: int = Field(ge=0, description="longest chain of layers; ncnn recurses that deep")
    custom_layers: tuple[str, ...] = ()
    names: dict[str, str] = Field(default_factory=dict, description="escaped blob name -> ONNX tensor name")
    nodes: dict[str, tuple[str, ...]] = Field(default_factory=dict, description="ONNX node -> ncnn layer names")
    ncnn_version: str


class ModelInfo(_Frozen):
    """What was exported. ``id`` is the zoo id, or the file's stem."""

    id: str
    file: SafePath
    sha256: str
    opset: int
    license: str = ""
    producer: str = ""


class Manifest(_Frozen):
    schema_version: str = SCHEMA_VERSION
    mobilekit_version: str
    model: ModelInfo
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    ncnn: NcnnArtifact | None = None
    preprocess: Preprocess | None = None
    labels: SafePath | None = None
    task: str = ""
    verified: bool = False
    files: tuple[FileEntry, ...] = ()
