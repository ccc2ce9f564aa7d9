"""What ``mobilekit bisect`` found, as data."""

from __future__ import annotations

from typing import Literal

from mobilekit.report.base import Frozen
from mobilekit.report.model import DeviceFacts, ReferenceFacts
from mobilekit.targets.base import TargetName
from mobilekit.validate.tolerance import Verdict

__all__ = ["BISECTION_SCHEMA", "BisectionReport", "LayerLine", "OutputState", "Point", "Suspect", "TensorRange"]

BISECTION_SCHEMA = "1.1"


class OutputState(Frozen):
    """``relative_l2``: of the whole, or of the part that fails where the reason names one."""

    name: str
    verdict: Verdict
    reason: str
    relative_l2: float


class Point(Frozen):
    """One blob that was measured: relative L2 with the model's own inputs (``accumulated``) and of the layer fed the
    reference's values (``local``); ``None`` where that was not measured."""

    blob: str
    tensor: str
    rank: int
    accumulated: float | None
    local: float | None


class TensorRange(Frozen):
    """The reference's values of a tensor, over its finite elements; ``shape`` as in ONNX."""

    tensor: str
    shape: tuple[int, ...]
    minimum: float
    maximum: float
    nonfinite: int


class LayerLine(Frozen):
    """A layer as the ``.param`` has it; ``params`` by name where the table of layers knows one. Of a plan, a layer of
    TensorRT's, as its build log tells; ``params`` say what computes it."""

    type: str
    name: str
    params: dict[str, str]


class Suspect(Frozen):
    """A layer, or the layers between two tensors that can be compared, and the ONNX nodes that became it."""

    tensor: str
    blob: str
    layers: tuple[LayerLine, ...]
    nodes: tuple[str, ...]
    operators: tuple[str, ...]
    accumulated: float | None
    local: float | None
    inputs: tuple[TensorRange, ...]
    expected: TensorRange | None
    actual: TensorRange | None
    causes: tuple[str, ...]


class BisectionReport(Frozen):
    """``stage``: where the fault lies. ``"layer"``: what ncnn computes there; ``"rewrite"``: the graph as mobilekit
    legalises it is no longer the original; ``"mapping"``: every blob is right, but the manifest takes an output from
    the wrong one; ``"gradual"``: many layers add a little each; ``"amplified"``: a layer makes much of small errors.

    ``runs``: inferences of the device, ``run_limit`` at most; ``unmapped``: layers whose outputs cannot be compared.
    """

    schema_version: str = BISECTION_SCHEMA
    kind: Literal["bisection"] = "bisection"
    mobilekit_version: str
    target: TargetName = "ncnn"
    model: str
    model_sha256: str
    precision: str
    device: DeviceFacts
    reference: ReferenceFacts
    mode: Literal["auto", "accumulated", "local"]
    sample: str
    seed: int | None
    verdict: Verdict
    sentence: str
    outputs: tuple[OutputState, ...]
    stage: Literal["none", "layer", "rewrite", "mapping", "gradual", "amplified"]
    confirmed: bool
    first: Suspect | None
    others: tuple[Suspect, ...] = ()
    limit: float
    local_limit: float
    runs: int
    run_limit: int
    exhausted: bool
    unmapped: tuple[str, ...]
    curve: tuple[Point, ...]
    repro: str | None = None
