"""From what a search found to what is said about it: the layer, its nodes, its numbers, its likely cause."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from mobilekit.errors import MobilekitError

if TYPE_CHECKING:
    from mobilekit.pipeline.bisect import Session
    from mobilekit.report.bisection import BisectionReport, LayerLine, Point, Suspect, TensorRange
    from mobilekit.report.model import ReferenceFacts
    from mobilekit.targets.ncnn.reader import ParamLayer
    from mobilekit.tensors import Array
    from mobilekit.validate.blobnet import BlobNet, Unit
    from mobilekit.validate.firstbad import Found, Search

__all__ = ["points_of", "range_of", "report_of"]

_OTHERS = 5
_REWRITE_RTOL = 1e-3
_PART = 4

Stage = Literal["none", "layer", "rewrite", "mapping", "gradual", "amplified"]


def report_of(session: Session, found: Found, reference: ReferenceFacts) -> BisectionReport:
    """What ``mobilekit bisect`` says. Runs the device once more to see what a fault looks like."""
    from mobilekit import __version__
    from mobilekit.report.bisection import BisectionReport

    manifest, options = session.bundle.manifest, session.options
    assert session.sample is not None
    search = session.search_
    verdict = session.verdict
    first: Suspect | None = None
    others: list[Suspect] = []
    stage: Stage = "none"
    note = ""
    if search is not None:
        stage, note = _stage(session, found)
        if found.first is not None and stage != "mapping":
            first = _suspect(session, session.net.units[found.first], look=True)
            limit = search.local_limit if stage != "gradual" else 0.0
            ranked = sorted(search.local, key=lambda blob: -search.local[blob].relative_l2)
            others = [
                _suspect(session, session.net.units[blob], look=False)
                for blob in ranked
                if blob != found.first and search.local[blob].relative_l2 > limit
            ][:_OTHERS]
    return BisectionReport(
        mobilekit_version=__version__,
        model=manifest.model.id,
        model_sha256=manifest.model.sha256,
        precision="int8" if session.artifact.precision == "int8" else session.precision,
        device=session.facts,
        reference=reference,
        mode=options.mode,
        sample=session.sample.name,
        seed=options.seed if options.inputs is None else None,
        verdict=verdict,
        sentence=_sentence(session, found, stage, first, note),
        outputs=session.states,
        stage=stage,
        confirmed=found.confirmed,
        first=first,
        others=tuple(others),
        limit=search.limit if search is not None else 0.0,
        local_limit=search.local_limit if search is not None else 0.0,
        runs=session.runs,
        run_limit=options.runs,
        exhausted=found.exhausted,
        unmapped=_unmapped(session) if search is not None else (),
        curve=points_of(session.search_, session.net if session.search_ is not None else None),
    )


def _stage(session: Session, found: Found) -> tuple[Stage, str]:
    rewritten = _rewrite(session)
    if rewritten:
        return "rewrite", rewritten
    if exchanged := _exchanged(session):
        return "mapping", exchanged
    if found.first is None:
        return "mapping", _mapping(session)
    if found.why == "layer":
        return "layer", ""
    return ("amplified" if found.why == "amplifies" else "gradual"), ""


def _rewrite(session: Session) -> str:
    """The first tensor, in the order of the blobs, that legalising changed; empty where it changed no output by more
    than it may be off, nor by a good part of what it is off."""
    ours = session.inner.rewritten(session.inputs, session.off)
    right = session.inner.values(session.inputs, list(ours)) if ours else {}
    found = {state.name: state.relative_l2 for state in session.states}

    def unchanged(name: str) -> bool:
        enough = min(session.tolerances[name].rtol or 0.0, found[name] / _PART)
        return session.error(ours[name], right[name]).relative_l2 <= max(_REWRITE_RTOL, enough)

    if all(unchanged(name) for name in ours):
        return ""
    names = list(dict.fromkeys(unit.tensor for unit in session.net.units.values()))
    for start in range(0, len(names), 32):
        some = session.inner.rewritten(session.inputs, names[start : start + 32])
        right = session.inner.values(session.inputs, list(some)) if some else {}
        for name in some:
            if some[name].dtype.kind == "f" and not session.error(some[name], right[name]).relative_l2 <= _REWRITE_RTOL:
                return f"{name!r} is the first tensor that differs"
    return "no inner tensor that both have differs"


def _exchanged(session: Session) -> str:
    """Which input is fed to a blob that holds another; what is fed counts as right, so that no layer would show it."""
    names = {info.tensor for info in session.artifact.inputs}
    for info in session.artifact.inputs:
        unit = session.net.find(info.blob)
        if unit is not None and unit.tensor in names - {info.tensor}:
            return f"the input {info.tensor!r} is fed to the blob {info.blob!r}, which holds {unit.tensor!r}"
    return ""


def _mapping(session: Session) -> str:
    """Which output is taken from a blob that holds another tensor."""
    for info in session.artifact.outputs:
        unit = session.net.find(info.blob)
        if unit is not None and unit.tensor != info.tensor:
            return f"the output {info.tensor!r} is taken from the blob {info.blob!r}, which holds {unit.tensor!r}"
    return ""


def _suspect(session: Session, unit: Unit, *, look: bool) -> Suspect:
    from mobilekit.report.bisection import Suspect

    search = session.search_
    assert search is not None
    nodes, operators = _nodes(session, unit)
    causes: tuple[str, ...] = ()
    actual: Array | None = None
    inputs: tuple[TensorRange, ...] = ()
    expected: TensorRange | None = None
    if look:
        actual, causes = _look(session, unit)
        read = [session.net.units[blob] for blob in unit.parents]
        named = session.inner.values(session.inputs, list(dict.fromkeys(u.tensor for u in [*read, unit])))
        inputs = tuple(range_of(u.tensor, named[u.tensor]) for u in read if u.tensor in named)
        expected = range_of(unit.tensor, named[unit.tensor]) if unit.tensor in named else None
    accumulated, local = search.accumulated.get(unit.blob), search.local.get(unit.blob)
    return Suspect(
        tensor=unit.tensor,
        blob=unit.blob,
        layers=tuple(_line(layer) for layer in unit.layers),
        nodes=nodes,
        operators=operators,
        accumulated=accumulated.relative_l2 if accumulated is not None else None,
        local=local.relative_l2 if local is not None else None,
        inputs=inputs,
        expected=expected,
        actual=range_of(unit.tensor, actual) if actual is not None else None,
        causes=causes,
    )


def _look(session: Session, unit: Unit) -> tuple[Array | None, tuple[str, ...]]:
    """The layer's own output on right inputs, and what it looks like."""
    from mobilekit.validate.causes import likely_causes

    try:
        actual = session.compute_local([unit]).get(unit.blob)
    except MobilekitError:
        actual = None
    expected = session.answers([unit]).get(unit.blob)
    if actual is None or expected is None:
        return None, ()
    if actual.size != expected.size:
        return actual, (f"it has {actual.size} elements instead of {expected.size}",)
    if actual.shape != unit.dims and expected.size == _count(unit.dims):
        return actual, (f"its Mat has the dims {list(actual.shape)} instead of {list(unit.dims)}",)
    last = unit.layers[-1]
    fused = last.type.startswith(("Convolution", "Deconvolution", "InnerProduct")) and last.param(9) not in (None, "0")
    saturates = fused or last.type in ("ReLU", "Clip", "HardSwish", "HardSigmoid", "Sigmoid")
    half = session.precision == "fp16"
    return actual, likely_causes(actual, expected.reshape(actual.shape), saturates=saturates, fp16=half)


def _count(dims: Sequence[int]) -> int:
    import math

    return math.prod(dims)


def _nodes(session: Session, unit: Unit) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The ONNX nodes that became the unit's layers (several where they were fused), and their operators."""
    names = {layer.name for layer in unit.layers}
    labels = tuple(label for label, made in session.artifact.nodes.items() if names & set(made))
    graph = session.inner.graph
    types = {node.label: node.type_name for node in graph.nodes} if graph is not None else {}
    return labels, tuple(types.get(label, "") for label in labels)


def range_of(tensor: str, array: Array) -> TensorRange:
    """The least and the largest finite value."""
    import numpy as np

    from mobilekit.report.bisection import TensorRange

    values = array.astype(np.float64)
    finite = values[np.isfinite(values)]
    return TensorRange(
        tensor=tensor,
        shape=array.shape,
        minimum=float(finite.min()) if finite.size else float("nan"),
        maximum=float(finite.max()) if finite.size else float("nan"),
        nonfinite=int(values.size - finite.size),
    )


def _line(layer: ParamLayer) -> LayerLine:
    from mobilekit.report.bisection import LayerLine
    from mobilekit.targets.ncnn.layers import FEATURE_MASK, LAYERS

    names = {param.id: name for name, param in LAYERS.get(layer.type, {}).items()} | {FEATURE_MASK: "feature_mask"}

    def name(number: int) -> str:
        # An array's id is written as -23300 - id.
        return names.get(-23300 - number if number <= -23300 else number, str(number))

    params = {name(number): value.split(",", 1)[1] if number <= -23300 and "," in value else value
              for number, value in layer.params}  # fmt: skip
    return LayerLine(type=layer.type, name=layer.name, params=params)


def _unmapped(session: Session) -> tuple[str, ...]:
    """Layers whose outputs hold no tensor of the graph that the reference can give."""
    units = session.net.units
    return tuple(
        layer.name
        for layer in session.layers
        if layer.type not in ("Split", "MemoryData") and not any(blob in units for blob in layer.outputs)
    )


def points_of(search: Search | None, net: BlobNet | None) -> tuple[Point, ...]:
    """What was measured, in the order of computing."""
    from mobilekit.report.bisection import Point

    if search is None or net is None:
        return ()
    blobs = {*search.accumulated, *search.local}
    units = sorted((net.units[blob] for blob in blobs), key=lambda unit: unit.rank)

    def said(error: object) -> float | None:
        return getattr(error, "relative_l2", None) if getattr(error, "elements", 0) else None

    return tuple(
        Point(
            blob=unit.blob,
            tensor=unit.tensor,
            rank=unit.rank,
            accumulated=said(search.accumulated.get(unit.blob)),
            local=said(search.local.get(unit.blob)),
        )
        for unit in units
    )


def _sentence(session: Session, found: Found, stage: Stage, first: Suspect | None, note: str) -> str:
    against = "ONNX Runtime"
    if stage == "none":
        if any(state.verdict.value == "pass" for state in session.states):
            return f"every output that says something is within tolerance of {against}: there is nothing to look for"
        return "the outputs say nothing on these inputs (zero or constant); try real ones with --inputs DIR"
    worst = max((state for state in session.states if state.name in session.off), key=lambda each: each.relative_l2)
    head = f"the output {worst.name!r} is off ({worst.reason})"
    if stage == "rewrite":
        return f"{head}: legalising the graph changed it, {note}; try --verify-passes on export"
    if stage == "mapping" and note.startswith("the input"):
        return f"{head}: {note}"
    if stage == "mapping" or first is None:
        return f"{head}, but every blob that could be compared is right{': ' if note else ''}{note}"
    layer = first.layers[-1]
    what = f"{layer.type} layer {layer.name!r}"
    if len(first.nodes) > 1:
        what += f", made of {len(first.nodes)} fused nodes"
    if stage == "layer":
        errors = [f"relative L2 {value:.3g} {how}" for value, how in ((first.local, "on right inputs"),
                  (first.accumulated, "accumulated")) if value is not None]  # fmt: skip
        cause = f"; {first.causes[0]}" if first.causes else ""
        sure = "" if found.confirmed else " (not confirmed by its local error)"
        if found.shown_by is not None:
            shown = session.net.units[found.shown_by].layers[-1]
            return (
                f"{head}; it comes from the {what}: {errors[0]} does not show beside its larger values, but the "
                f"{shown.type} layer {shown.name!r} behind it is off by {found.shown:.3g} for it{cause}"
            )
        return f"{head}; the first layer that goes wrong is the {what}{sure}: {', '.join(errors)}{cause}"
    if stage == "amplified":
        return f"{head}; the {what} is the first beyond tolerance, but is right on right inputs: it enlarges errors"
    if session.artifact.int8 is not None:
        return (
            f"{head}; every int8 layer gives what its weights and scale do: int8 itself costs that (mobilekit repair)"
        )
    local = f" (largest: {what}, relative L2 {first.local:.3g})" if first.local is not None else ""
    return f"{head}; no single layer is to blame, the error grows over many{local}"
