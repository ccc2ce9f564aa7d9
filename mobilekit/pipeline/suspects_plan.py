"""What a search in a plan found, said: the node, TensorRT's layer of it and what is fused there, its numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from mobilekit.errors import MobilekitError
from mobilekit.pipeline.suspects import points_of, range_of

if TYPE_CHECKING:
    from mobilekit.pipeline.bisect_plan import PlanSession
    from mobilekit.report.bisection import BisectionReport, LayerLine, Suspect, TensorRange
    from mobilekit.report.model import ReferenceFacts
    from mobilekit.tensors import Array
    from mobilekit.validate.blobnet import Unit
    from mobilekit.validate.firstbad import Found

__all__ = ["report_of"]

_OTHERS = 5
_ROUNDING = frozenset({"Cast", "QuantizeLinear", "DequantizeLinear"})

Stage = Literal["none", "layer", "rewrite", "mapping", "gradual", "amplified"]


def report_of(session: PlanSession, found: Found, reference: ReferenceFacts) -> BisectionReport:
    """What ``mobilekit bisect --target tensorrt`` says. Runs the node once more to see what a fault looks like."""
    from mobilekit import __version__
    from mobilekit.report.bisection import BisectionReport

    manifest, options, search = session.bundle.manifest, session.options, session.search_
    assert session.sample is not None
    first: Suspect | None = None
    others: list[Suspect] = []
    stage: Stage = "none"
    changed = ""
    if search is not None:
        changed = session.changed_by_preparation()
        stage = _stage(found, changed)
        fused = _layers(session)
        if found.first is not None:
            first = _suspect(session, session.net.units[found.first], fused, look=True)
            limit = search.local_limit if stage != "gradual" else 0.0
            ranked = sorted(search.local, key=lambda blob: -search.local[blob].relative_l2)
            others = [
                _suspect(session, session.net.units[blob], fused, look=False)
                for blob in ranked
                if blob != found.first and search.local[blob].relative_l2 > limit
            ][:_OTHERS]
    return BisectionReport(
        mobilekit_version=__version__,
        target="tensorrt",
        model=manifest.model.id,
        model_sha256=manifest.model.sha256,
        precision=session.artifact.precision,
        device=session.facts,
        reference=reference,
        mode=options.mode,
        sample=session.sample.name,
        seed=options.seed if options.inputs is None else None,
        verdict=session.verdict,
        sentence=_sentence(session, found, stage, first, changed),
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
        unmapped=(),
        curve=points_of(search, session.net),
    )


def _stage(found: Found, changed: str) -> Stage:
    if changed:
        return "rewrite"
    if found.first is None:
        return "mapping"
    if found.why == "layer":
        return "layer"
    return "amplified" if found.why == "amplifies" else "gradual"


def _layers(session: PlanSession) -> dict[str, dict[str, Any]]:
    """TensorRT's layer of each node, from the file beside the plan; of none where that does not tell."""
    from mobilekit.pipeline.inspect_plan import inspect_plan

    try:
        return {node: layer for layer in inspect_plan(session.bundle.root).layers for node in layer["onnx_nodes"]}
    except (MobilekitError, KeyError, TypeError):
        return {}


def _suspect(session: PlanSession, unit: Unit, fused: dict[str, dict[str, Any]], *, look: bool) -> Suspect:
    from mobilekit.report.bisection import Suspect

    search = session.search_
    assert search is not None
    nodes = tuple(layer.name for layer in unit.layers)
    causes: tuple[str, ...] = ()
    actual: Array | None = None
    inputs: tuple[TensorRange, ...] = ()
    expected: TensorRange | None = None
    if look:
        actual, causes = _look(session, unit)
        named = session.expected([*unit.parents, unit.blob])
        inputs = tuple(range_of(name, named[name]) for name in unit.parents if name in named)
        expected = range_of(unit.blob, named[unit.blob]) if unit.blob in named else None
    accumulated, local = search.accumulated.get(unit.blob), search.local.get(unit.blob)
    return Suspect(
        tensor=unit.blob,
        blob=unit.blob,
        layers=_lines(session, nodes, fused),
        nodes=nodes,
        operators=tuple(session.model.operators[node] for node in nodes),
        accumulated=accumulated.relative_l2 if accumulated is not None else None,
        local=local.relative_l2 if local is not None else None,
        inputs=inputs,
        expected=expected,
        actual=range_of(unit.blob, actual) if actual is not None else None,
        causes=causes,
    )


def _lines(session: PlanSession, nodes: tuple[str, ...], fused: dict[str, dict[str, Any]]) -> tuple[LayerLine, ...]:
    from mobilekit.report.bisection import LayerLine

    lines: dict[str, LayerLine] = {}
    for node in nodes:
        if (layer := fused.get(node)) is None:
            continue
        params = {"fused": ", ".join(layer["onnx_nodes"]), "tactic": str(layer.get("tactic", ""))}
        lines[layer["name"]] = LayerLine(type=str(layer.get("kind", "")), name=layer["name"], params=params)
    if not lines:  # the log told nothing of these nodes: the last one stands for what TensorRT made of them
        return (LayerLine(type=session.model.operators[nodes[-1]], name=nodes[-1], params={}),)
    return tuple(lines.values())


def _look(session: PlanSession, unit: Unit) -> tuple[Array | None, tuple[str, ...]]:
    """What the node makes of right inputs, and what that looks like."""
    from mobilekit.validate.causes import likely_causes

    try:
        actual = session.compute_local([unit]).get(unit.blob)
    except MobilekitError:
        actual = None
    expected = session.expected([unit.blob]).get(unit.blob)
    if actual is None or expected is None or actual.shape != expected.shape:
        return actual, ()
    operators = {session.model.operators[layer.name] for layer in unit.layers}
    saturates = bool(operators & {"Relu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid"})
    half = session.artifact.precision == "fp16"
    return actual, likely_causes(actual, expected.astype("float32"), saturates=saturates, fp16=half)


def _sentence(session: PlanSession, found: Found, stage: Stage, first: Suspect | None, changed: str) -> str:
    if stage == "none":
        if any(state.verdict.value == "pass" for state in session.states):
            return "every output that says something is within tolerance of ONNX Runtime: there is nothing to look for"
        return "the outputs say nothing on these inputs (zero or constant); try real ones with --inputs DIR"
    worst = max((state for state in session.states if state.name in session.off), key=lambda each: each.relative_l2)
    head = f"the output {worst.name!r} is off ({worst.reason})"
    if stage == "rewrite":
        return f"{head}: preparing the model for TensorRT changed {changed!r}, before any number format"
    if first is None:
        return f"{head}, but every tensor that could be compared is right"
    # What computes is said, not what rounds its result.
    computing = [index for index, operator in enumerate(first.operators) if operator not in _ROUNDING]
    last = computing[-1] if computing else -1
    what = f"{first.operators[last]} node {first.nodes[last]!r}"
    if first.layers[-1].params:
        what += f" (TensorRT layer {first.layers[-1].name!r})"
    if stage == "layer":
        errors = [
            f"relative L2 {value:.3g} {how}"
            for value, how in ((first.local, "on right inputs"), (first.accumulated, "accumulated"))
            if value is not None
        ]
        cause = f"; {first.causes[0]}" if first.causes else ""
        sure = "" if found.confirmed else " (not confirmed by its local error)"
        return f"{head}; the first node that goes wrong is the {what}{sure}: {', '.join(errors)}{cause}"
    if stage == "amplified":
        return f"{head}; the {what} is the first beyond tolerance, but is right on right inputs: it enlarges errors"
    local = f" (largest: {what}, relative L2 {first.local:.3g})" if first.local is not None else ""
    return f"{head}; no single node is to blame, the error grows over many{local}: see mobilekit repair"
