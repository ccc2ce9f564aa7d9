"""The manifest of an export directory: what it holds, as plain frozen dataclasses that check themselves."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any, ClassVar, Literal

from mobilekit.preprocess import Preprocess
from mobilekit.tensors import format_shape
from mobilekit.tuning import Tuned

__all__ = [
    "SCHEMA_VERSION",
    "BatchPlace",
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
]

SCHEMA_VERSION = "1.3"

_SHA256 = re.compile(r"[0-9a-f]{64}")


def _check(right: bool, message: str) -> None:
    if not right:
        raise ValueError(message)


def _check_paths(*paths: str | None) -> None:
    """Relative paths inside the bundle: no ``..``, not absolute, in their plainest form."""
    for path in paths:
        if path is not None:
            pure = PurePosixPath(path)
            inside = not pure.is_absolute() and ".." not in pure.parts and bool(pure.parts)
            _check(inside and "\0" not in path and "\\" not in path and str(pure) == path, f"unsafe path {path!r}")


class _Strict:
    """The parts of a manifest: plain frozen dataclasses, so that writing one needs no pydantic (0.13 s to import).

    What is read from a file is held against their types by pydantic, and unknown fields are refused there.
    """

    __pydantic_config__: ClassVar[Mapping[str, str]] = {"extra": "forbid"}


@dataclass(frozen=True, kw_only=True)
class FileEntry(_Strict):
    path: str
    size_bytes: int
    sha256: str

    def __post_init__(self) -> None:
        _check_paths(self.path)
        _check(self.size_bytes >= 0, f"a negative size of {self.path}")
        _check(_SHA256.fullmatch(self.sha256) is not None, f"{self.sha256!r} is no sha256")


@dataclass(frozen=True, kw_only=True)
class FreeAxis(_Strict):
    """An axis whose size is chosen at run time, of a model exported with ``--dynamic``.

    Its sizes are ``minimum``, and every ``multiple`` of that and more up to ``maximum`` (``None``: no limit). Axes of
    one ``symbol`` have the same size, in whatever input. Of an output's axis only its place is told (``symbol`` is
    empty): the size follows from the inputs'.
    """

    axis: int
    symbol: str = ""
    minimum: int = 1
    maximum: int | None = None
    multiple: int = 1

    def __post_init__(self) -> None:
        _check(self.axis >= 0 and self.minimum >= 1 and self.multiple >= 1, "no such free axis")

    def admits(self, size: int) -> bool:
        return self.minimum <= size <= (self.maximum or size) and size % self.multiple == 0

    def __str__(self) -> str:
        """``320..1280, a multiple of 32``"""
        span = f"{self.minimum}..{self.maximum if self.maximum is not None else ''}"
        return span if self.multiple == 1 else f"{span}, a multiple of {self.multiple}"


@dataclass(frozen=True, kw_only=True)
class TensorInfo(_Strict):
    """A model input or output as exported: ONNX name, numpy dtype name, shape.

    ``limit``: the integers of this input point into a table of so many rows, or are a mask's 0 and 1 (2); ``None``
    where neither is known. Axes in ``free`` may have other sizes than ``shape`` says, which then is what the model was
    exported with by default.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    limit: int | None = None
    free: tuple[FreeAxis, ...] = ()

    def __post_init__(self) -> None:
        _check(min(self.shape, default=0) >= 0, f"{self.name!r} has a negative size: {format_shape(self.shape)}")
        axes = len(self.shape)
        _check(all(axis.axis < axes for axis in self.free), f"{self.name!r} has only {axes} axes, and another is free")

    def misfit(self, shape: tuple[int, ...]) -> str | None:
        """Why a tensor of ``shape`` is none of this model's; ``None`` where it fits."""
        free = {axis.axis: axis for axis in self.free}
        if len(shape) == len(self.shape):
            wrong = [a for a, size in enumerate(shape) if a not in free and size != self.shape[a]]
            if not wrong:
                for index, axis in free.items():
                    if not axis.admits(shape[index]):
                        return f"its axis {index} has the size {shape[index]}, and takes {axis}"
                return None
        return f"it has shape {format_shape(shape)}, and takes {self.describe()}"

    def describe(self) -> str:
        """``1x3x320``, free axes as their range: ``1x3x64../32x64..640/32``."""
        axes: list[int | str] = list(self.shape)
        for axis in self.free:
            step = f"/{axis.multiple}" if axis.multiple > 1 else ""
            axes[axis.axis] = f"{axis.minimum}..{axis.maximum or ''}{step}" if axis.symbol else ".."
        return format_shape(tuple(axes))


@dataclass(frozen=True, kw_only=True)
class FixedInput(_Strict):
    """An input of the original model that was fixed to the array in ``file`` (``.npy``) before conversion.

    The converted model does not have it; ONNX Runtime is given it with every run of the original.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str

    def __post_init__(self) -> None:
        _check_paths(self.file)


@dataclass(frozen=True, kw_only=True)
class NcnnRows(_Strict):
    """An output whose length along ``axis`` depends on data: the blob ``count`` holds it, one float32 number.

    The shape that :class:`TensorInfo` gives is the upper bound; elements past the count mean nothing.
    """

    axis: int
    count: str

    def __post_init__(self) -> None:
        _check(self.axis >= 0, "a negative axis")


@dataclass(frozen=True, kw_only=True)
class NcnnBlob(_Strict):
    """How an ONNX tensor stands in the ncnn model.

    ``axes`` are the ONNX axes that ncnn keeps, in order; all others have size 1 (the batch axis, as a rule), so the
    data is the same row-major sequence. The Mat has ``len(axes)`` dims (w | h,w | c,h,w | c,d,h,w); a tensor with
    no axis kept is a 1-dim Mat of one element. ``kind`` is what a 4-byte element holds: integers as such only for
    the ids that ``Embed`` reads, everything else is float32 (``int64`` and ``bool`` values exactly, below 2^24).
    ``dims`` are the Mat's own where no choice of axes says them: a tensor of more than four long axes lies flat.
    """

    tensor: str
    blob: str
    axes: tuple[int, ...]
    kind: Literal["float32", "int32"] = "float32"
    dims: tuple[int, ...] | None = None
    rows: NcnnRows | None = None


@dataclass(frozen=True, kw_only=True)
class BatchPlace(_Strict):
    """Where a tensor holds the samples of a batch: its ``axis`` counts (outer, batch, rest), row-major."""

    axis: int
    outer: int = 1

    def __post_init__(self) -> None:
        _check(self.axis >= 0 and self.outer >= 1, "no such place of a batch")


@dataclass(frozen=True, kw_only=True)
class NcnnBatch(_Strict):
    """The ncnn model computes one sample; ``size`` of them, one after another, are the model as exported.

    ``places``: where inputs and outputs of the whole batch hold the samples. An input that is not listed is the same
    for all samples, an output that is not listed comes out the same for all.
    """

    size: int
    places: dict[str, BatchPlace]

    def __post_init__(self) -> None:
        _check(self.size >= 2, "a batch of fewer than two samples")


@dataclass(frozen=True, kw_only=True)
class NcnnInt8(_Strict):
    """Which ncnn layers compute in int8, and what their ranges were taken from.

    ``scales``: by layer, that of what it reads (127 / the largest magnitude); ``kept``: layers that could be int8 and
    stay float, and why. ``method``: the calibration's; ``samples`` inputs were seen, ``inputs_sha256`` tells which.
    """

    scales: dict[str, float]
    kept: dict[str, str] = field(default_factory=dict)
    method: str = ""
    samples: int = 0
    inputs_sha256: str = ""

    def __post_init__(self) -> None:
        _check(all(0 < scale < math.inf for scale in self.scales.values()), "a scale that is none")
        _check(self.samples >= 0, "a negative count of samples")


@dataclass(frozen=True, kw_only=True)
class NcnnArtifact(_Strict):
    """The ncnn model. ``depth``: the longest chain of layers, ncnn recurses that deep. ``names``: escaped blob name ->
    ONNX tensor name; ``nodes``: ONNX node -> ncnn layer names; ``trace``: a file that says which inner tensor each blob
    holds (:mod:`mobilekit.targets.ncnn.trace`)."""

    param: str
    bin: str
    precision: Literal["fp32", "fp16", "int8"]
    inputs: tuple[NcnnBlob, ...]
    outputs: tuple[NcnnBlob, ...]
    layers: int
    depth: int
    ncnn_version: str
    custom_layers: tuple[str, ...] = ()
    batch: NcnnBatch | None = None
    names: dict[str, str] = field(default_factory=dict)
    nodes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    trace: str | None = None
    int8: NcnnInt8 | None = None

    def __post_init__(self) -> None:
        _check_paths(self.param, self.bin, self.trace)
        _check((self.precision == "int8") == (self.int8 is not None), "int8 without its layers, or the reverse")
        _check(self.layers >= 0 and self.depth >= 0, "a negative count of layers")

    @property
    def int8_scales(self) -> dict[str, float]:
        """Layers in int8, with the scale of what each reads; empty where there are none."""
        return self.int8.scales if self.int8 is not None else {}


@dataclass(frozen=True, kw_only=True)
class TensorRTArtifact(_Strict):
    """A TensorRT plan and what it was made from.

    ``onnx`` is the prepared model, strongly typed: its tensors' types are the precision.
    ``layers`` is a JSON file that says what the optimiser fused. ``profiles`` are (min, opt, max) shapes of the inputs
    that may vary. ``reproducible``: the same input and version give the same bytes. ``verified``: the prepared ONNX was
    held against the original on ONNX Runtime; the plan itself runs only where there is a GPU. ``gpu``: the one that the
    kernels were measured on, with full TensorRT; which machine that was is nobody's business.
    """

    onnx: str
    plan: str
    layers: str
    flavour: Literal["rtx", "full"]
    version: str
    precision: Literal["fp32", "tf32", "fp16", "bf16", "int8", "fp8"]
    layer_count: int
    plan_bytes: int
    reproducible: bool
    compute_capabilities: tuple[str, ...] = ()
    profiles: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    workspace_bytes: int = 0
    optimization_level: int | None = None
    gpu: str = ""
    verified: bool = False

    def __post_init__(self) -> None:
        _check_paths(self.onnx, self.plan, self.layers)
        _check(self.layer_count >= 0 and self.plan_bytes >= 0 and self.workspace_bytes >= 0, "a negative count")


@dataclass(frozen=True, kw_only=True)
class ModelInfo(_Strict):
    """What was exported. ``id`` is the zoo id, or the file's stem."""

    id: str
    file: str
    sha256: str
    opset: int
    license: str = ""
    producer: str = ""

    def __post_init__(self) -> None:
        _check_paths(self.file)


@dataclass(frozen=True, kw_only=True)
class Manifest(_Strict):
    """``sizes``: of a model with free axes, the input shapes that were verified and that validation tries in turn.

    ``rtol``: how far, in relative L2, a right conversion may lie off the original, where that is further than the
    precision allows; ``rtol_reason`` says why. ``fake_quant=False``: the model keeps digits that the quantised
    original rounds. ``tuned``: the fastest settings by kind of device, at most one for each (``mobilekit tune``).
    """

    mobilekit_version: str
    model: ModelInfo
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    schema_version: str = SCHEMA_VERSION
    fixed: tuple[FixedInput, ...] = ()
    rtol: float | None = None
    rtol_reason: str = ""
    fake_quant: bool = True
    ncnn: NcnnArtifact | None = None
    tensorrt: TensorRTArtifact | None = None
    preprocess: Preprocess | None = None
    labels: str | None = None
    task: str = ""
    verified: bool = False
    sizes: tuple[dict[str, tuple[int, ...]], ...] = ()
    tuned: tuple[Tuned, ...] = ()
    files: tuple[FileEntry, ...] = ()

    def __post_init__(self) -> None:
        _check_paths(self.labels)
        _check(self.rtol is None or 0 < self.rtol <= 0.5, f"a tolerance of {self.rtol}")

    def to_json(self) -> dict[str, Any]:
        """JSON-able values."""
        return asdict(self)

    @property
    def picks(self) -> bool:
        """Whether the ncnn model picks rows by score, so that ties may exchange them."""
        return self.ncnn is not None and not _PICKING.isdisjoint(self.ncnn.custom_layers)


_PICKING = frozenset({"MkTopK", "MkNonMaxSuppression"})
