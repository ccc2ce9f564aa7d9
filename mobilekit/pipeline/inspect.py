"""``mobilekit inspect``: what a model is, what it costs, and which targets take it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mobilekit.errors import Finding, UnsupportedModelError, UsageError
from mobilekit.pipeline.blame import blamed
from mobilekit.progress import SILENT, Progress
from mobilekit.tensors import TensorSpec

if TYPE_CHECKING:
    from mobilekit.graph import Graph, Value
    from mobilekit.importers.onnx import SourceModel
    from mobilekit.targets import Check
    from mobilekit.tensors import FixedValue

__all__ = ["ModelReport", "TargetReport", "inspect_model"]


@dataclass(frozen=True, slots=True)
class TargetReport:
    """What a target says. ``supported`` is ``None`` where it cannot be told yet (``reason`` says why);
    ``custom_layers`` are those of our own that an app needs to run the model."""

    name: str
    supported: bool | None
    findings: tuple[Finding, ...] = ()
    reason: str = ""
    custom_layers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelReport:
    """Facts of a model file and of the graph that it becomes.

    ``inputs`` and ``outputs`` are as in the file; ``shapes`` are the fixed shapes that the costs hold for (empty
    where they are not known). ``operators`` counts the file's nodes by type, bodies of If, Loop and Scan and local
    functions included. ``parameter_count`` and ``parameter_bytes`` are of the weights as stored. ``macs`` counts
    multiply-accumulates of one inference (formulas: :mod:`mobilekit.passes.cost`) by operator and in all;
    ``peak_activation_bytes`` is a lower bound for what a runtime needs beside the weights. Both are ``None`` where
    shapes are not known; ``unknown`` says why.
    """

    path: Path
    size_bytes: int
    external_files: tuple[str, ...]
    producer: str
    ir_version: int
    opsets: Mapping[str, int]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    shapes: Mapping[str, tuple[int, ...]]
    output_shapes: Mapping[str, tuple[int, ...]]
    operators: Mapping[str, int]
    parameter_count: int
    parameter_bytes: int
    macs: int | None
    macs_by_operator: Mapping[str, int]
    peak_activation_bytes: int | None
    unknown: str
    targets: tuple[TargetReport, ...]


def inspect_model(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    progress: Progress = SILENT,
    *,
    targets: Sequence[str] | None = None,
    fixed: Mapping[str, FixedValue] | None = None,
) -> ModelReport:
    """Look at a model without converting it. ``shapes`` fixes symbolic inputs, ``fixed`` gives inputs a
    value (they are no inputs then); ``targets`` names which to ask (all).

    Raises ``ModelError`` for a file that is no readable model and ``UsageError`` for shapes that do not fit it or a
    target that does not exist. Shapes that are missing, or depend on data, are no error: the report says so.
    """
    from mobilekit import targets as registry
    from mobilekit.importers.onnx import load

    known = registry.targets()
    wanted = list(known) if targets is None else list(targets)
    for name in wanted:
        if name not in known:
            raise UsageError(f"unknown target {name!r}", hint=f"targets: {', '.join(known)}")
    model = load(path, fixed)
    with blamed(path, model.fixed):
        return _report(model, shapes, {name: known[name]() for name in wanted}, progress)


def _report(
    model: SourceModel, shapes: Mapping[str, tuple[int, ...]], targets: Mapping[str, Check], progress: Progress
) -> ModelReport:
    from mobilekit.importers.convert import from_proto
    from mobilekit.passes import prepare
    from mobilekit.passes.cost import macs, peak_activation_bytes
    from mobilekit.passes.shapes import apply_shapes
    from mobilekit.pipeline.batch import choose_batch

    original = from_proto(model.proto, model.path.parent)
    operators, weights = _count(original)
    apply_shapes(original, shapes)
    graph: Graph | None = None
    unknown = ""
    obstacles: tuple[Finding, ...] = ()
    try:
        progress.step("inferring shapes")
        graph = prepare(model, shapes, simplify=False, progress=progress)
    except UsageError as error:
        unknown = f"{error.message}; {error.hint}" if error.hint else error.message
    except UnsupportedModelError as error:
        unknown, obstacles = error.message, error.findings
    convertible = graph and choose_batch(graph, model, shapes, simplify=False)[0]
    by_operator = {} if graph is None else macs(graph)
    bodies = [] if graph is None else sorted({node.op for node in graph.nodes if node.bodies()})
    if bodies:
        unknown = f"what runs inside of {', '.join(bodies)} is not counted"
    reports = []
    for name, check in targets.items():
        if convertible is not None:
            progress.step(f"asking {name}")
            found = check(convertible)
            reports.append(TargetReport(name, not found.findings, found.findings, custom_layers=found.custom_layers))
        else:
            reports.append(TargetReport(name, False if obstacles else None, obstacles, unknown))
    return ModelReport(
        path=model.path,
        size_bytes=model.size_bytes,
        external_files=model.external_files,
        producer=model.producer,
        ir_version=model.ir_version,
        opsets=model.opsets,
        inputs=model.inputs,
        outputs=model.outputs,
        shapes={} if graph is None else {value.name: _fixed(value) for value in graph.inputs},
        output_shapes={} if graph is None else {value.name: _fixed(value) for value in graph.results},
        operators=dict(operators.most_common()),
        parameter_count=sum(count for count, _ in weights.values()),
        parameter_bytes=sum(size for _, size in weights.values()),
        macs=None if graph is None or bodies else sum(by_operator.values()),
        macs_by_operator=by_operator,
        peak_activation_bytes=None if graph is None or bodies else peak_activation_bytes(graph),
        unknown=unknown,
        targets=tuple(reports),
    )


def _count(graph: Graph) -> tuple[Counter[str], dict[int, tuple[int, int]]]:
    """Operators by type, and (elements, stored bytes) of each floating-point or weight-sized constant."""
    from mobilekit.importers.tensors import dtype_bits

    operators: Counter[str] = Counter()
    weights: dict[int, tuple[int, int]] = {}
    pending = [graph]
    while pending:
        current = pending.pop()
        for node in current.nodes:
            operators[node.type_name] += 1
            pending += node.bodies()
        for value in current.values():
            if value.const is not None and value.dtype and value.dtype != "object":
                weights[id(value)] = (value.const.size, (value.const.size * dtype_bits(value.dtype) + 7) // 8)
    return operators, weights


def _fixed(value: Value) -> tuple[int, ...]:
    return tuple(axis for axis in value.shape or () if isinstance(axis, int))
