"""Symmetric 8-bit numbers as ncnn computes with them, and the same arithmetic written into a graph for ONNX Runtime.

``q = clamp(round(x * scale), -127, 127)``, halves away from zero; a product of two such numbers is an integer, and
``x`` is ``q / scale`` again (``src/layer/convolution.cpp``). Weights have a scale for each output channel (for each
group where there are groups), an activation one for the whole tensor: ``127 / largest magnitude``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

from mobilekit.errors import ModelError
from mobilekit.graph import Node, Value

if TYPE_CHECKING:
    from typing import TypeAlias

    import numpy.typing as npt

    from mobilekit.graph import Graph
    from mobilekit.tensors import Array

    Floats: TypeAlias = "npt.NDArray[np.float32]"

__all__ = [
    "LARGEST",
    "add_costs",
    "add_twins",
    "fake_quantise",
    "quantised",
    "rows_of",
    "scale_of",
    "scales_of",
    "weighs",
]

LARGEST = 127

_WEIGHT = 1
"""Which input of :data:`_OPS` the weight is."""
_FLOAT32, _INT32 = 1, 6
_OPS = frozenset({"Conv", "Gemm", "MatMul"})


def weighs(node: Node) -> bool:
    """Whether ``node`` multiplies a computed float32 tensor with a constant: what :func:`fake_quantise` takes."""
    if node.op not in _OPS or node.domain or len(node.inputs) <= _WEIGHT:
        return False
    x, weight = node.inputs[0], node.inputs[_WEIGHT]
    if x is None or x.const is not None or weight is None or weight.const is None or weight.const.dtype != np.float32:
        return False
    if node.op == "Gemm":
        return bool(node.attrs.get("transA", 0) == 0 and node.attrs.get("alpha", 1.0) == 1.0)
    return node.op == "Conv" or weight.const.ndim == 2


def rows_of(node: Node) -> Array:
    """The weight of ``node`` with a row for each output: ``(outputs, products)`` float32."""
    weight = node.inputs[_WEIGHT]
    assert weight is not None
    assert weight.const is not None
    array = weight.const
    if node.op == "Conv" or (node.op == "Gemm" and node.attrs.get("transB", 0)):
        return array.reshape(array.shape[0], -1)
    return array.T


def scale_of(low: float, high: float) -> float:
    """That of an activation whose values lie between ``low`` and ``high``; 0 where they are all zero or not finite."""
    largest = max(abs(low), abs(high))
    # The inverse of the scale is a factor of the results: it must be a normal float32, too.
    return float(np.float32(LARGEST / largest)) if 1e-30 < largest < 1e30 else 0.0


def scales_of(rows: Array, groups: int = 0) -> Floats:
    """A float32 scale for each row, or, with ``groups``, one for each group of rows; 0 where all are zero."""
    blocks = rows.reshape(groups or rows.shape[0], -1)
    largest = np.abs(blocks).max(axis=1, initial=0.0).astype(np.float32)
    scales: Floats = np.divide(np.float32(LARGEST), largest, out=np.zeros_like(largest), where=largest > 1e-30)
    return scales


def quantised(rows: Array, scales: Floats) -> Array:
    """``rows`` as int8: ``scales`` as :func:`scales_of` gives them."""
    scaled: Floats = rows.reshape(scales.size, -1).astype(np.float32) * scales[:, None]
    rounded = np.trunc(scaled + np.copysign(np.float32(0.5), scaled))
    numbers: Array = np.clip(rounded, -LARGEST, LARGEST).astype(np.int8).reshape(rows.shape)
    return numbers


def _groups(node: Node) -> int:
    group = int(node.attrs.get("group", 1)) if node.op == "Conv" else 1
    return group if group > 1 else 0


def _rounded_weight(node: Node) -> Array:
    """The weight of ``node`` in its own layout, as its int8 numbers stand for it."""
    weight = node.inputs[_WEIGHT]
    assert weight is not None
    assert weight.const is not None
    rows = rows_of(node)
    scales = scales_of(rows, _groups(node))
    # A zero's scale is 0, and so are its numbers.
    steps: Floats = np.divide(np.float32(1), scales, out=np.zeros_like(scales), where=scales > 0)
    numbers: Floats = quantised(rows, scales).reshape(scales.size, -1).astype(np.float32) * steps[:, None]
    numbers = numbers.reshape(rows.shape)
    turned = node.op != "Conv" and not node.attrs.get("transB", 0)
    return np.ascontiguousarray(numbers.T if turned else numbers.reshape(weight.const.shape))


def fake_quantise(graph: Graph, scales: Mapping[str, float]) -> None:
    """Let the nodes that ``scales`` names (by label, each with the scale of what it reads) compute in int8, in place.

    Raises :class:`ModelError` where the graph lacks one of them.
    """
    nodes = _named(graph, scales)
    order: list[Node] = []
    for node in graph.nodes:
        if node.label in nodes:
            order += _rounding(graph, node, scales[node.label])
            graph.set_input(node, _WEIGHT, graph.constant(f"{node.label}/int8", _rounded_weight(node)))
        order.append(node)
    graph.rebuild(order)


def add_costs(graph: Graph, scales: Mapping[str, float]) -> dict[str, tuple[str, str]]:
    """Beside each node that ``scales`` names, one that computes the same in int8 from the same exact input, in place.

    The graph's outputs are then two numbers for each: how far its squares add up off the exact result's, and what those
    do; by label, their names.
    """
    nodes = _named(graph, scales)
    order: list[Node] = []
    outputs: list[Value] = []
    made: dict[str, tuple[str, str]] = {}
    for node in graph.nodes:
        order.append(node)
        exact = node.outputs[0]
        if node.label not in nodes or exact is None:
            continue
        weight = graph.constant(f"{node.label}/int8", _rounded_weight(node))
        result = Value(graph.fresh(f"{node.label}/twin"), "float32", exact.shape)
        twin = Node(result.name, node.op, [node.inputs[0], weight, *node.inputs[2:]], [result], dict(node.attrs))
        rounding = _rounding(graph, twin, scales[node.label], linked=False)
        off = Value(graph.fresh(f"{node.label}/off"), "float32", exact.shape)
        sums = [Value(graph.fresh(f"{node.label}/{kind}"), "float32", ()) for kind in ("error", "signal")]
        order += [
            *rounding,
            twin,
            Node(off.name, "Sub", [result, exact], [off]),
            Node(sums[0].name, "ReduceSumSquare", [off], [sums[0]], {"keepdims": 0}),
            Node(sums[1].name, "ReduceSumSquare", [exact], [sums[1]], {"keepdims": 0}),
        ]
        outputs += sums
        made[node.label] = (sums[0].name, sums[1].name)
    graph.outputs = outputs
    graph.rebuild(order)
    graph.prune()
    return made


def add_twins(graph: Graph, scales: Mapping[str, float], tensors: Mapping[str, Collection[str]]) -> dict[str, str]:
    """For each of ``tensors`` the nodes between it and those that it is computed from (all by name), once more, in
    place: as int8 computes it from exact values. By tensor, the name of its twin; tensors that are not there, or that
    no node of ``scales`` makes, have none.
    """
    producers = {value.name: value for node in graph.nodes for value in node.outputs if value is not None}
    after: dict[int, list[Node]] = {}
    made: dict[str, str] = {}
    for tensor, sources in tensors.items():
        last = producers.get(tensor)
        nodes = _between(last, sources) if last is not None else []
        if last is None or last.producer is None or not any(node.label in scales for node in nodes):
            continue
        copies: dict[str, Value] = {}
        order: list[Node] = []
        for node in nodes:
            inputs = [copies.get(value.name, value) if value is not None else None for value in node.inputs]
            outputs = [
                None if v is None else Value(graph.fresh(f"{v.name}/twin"), v.dtype, v.shape) for v in node.outputs
            ]
            copy = Node(outputs[0].name if outputs[0] else node.label, node.op, inputs, list(outputs), dict(node.attrs))
            if node.label in scales:
                order += _rounding(graph, copy, scales[node.label], linked=False)
                copy.inputs[_WEIGHT] = graph.constant(f"{node.label}/int8", _rounded_weight(node))
            order.append(copy)
            copies |= {value.name: twin for value, twin in zip(node.outputs, outputs, strict=True) if value and twin}
        after.setdefault(id(last.producer), []).extend(order)
        made[tensor] = copies[tensor].name
    graph.rebuild([each for node in graph.nodes for each in (node, *after.get(id(node), ()))])
    return made


def _between(last: Value, sources: Collection[str]) -> list[Node]:
    """The nodes that make ``last`` of ``sources`` and the graph's inputs, in the order of computing."""
    found: list[Node] = []
    seen: set[int] = set()
    pending: list[tuple[Node, bool]] = [(last.producer, False)] if last.producer is not None else []
    while pending:
        node, done = pending.pop()
        if done:
            found.append(node)
            continue
        if id(node) in seen:
            continue
        seen.add(id(node))
        pending.append((node, True))
        for value in node.inputs:
            if value is not None and value.producer is not None and value.name not in sources:
                pending.append((value.producer, False))
    return found


def _named(graph: Graph, scales: Mapping[str, float]) -> set[str]:
    there = {node.label for node in graph.nodes if weighs(node)}
    if missing := next((label for label in scales if label not in there), None):
        raise ModelError(
            f"the model, made again, has no node {missing!r} that could be int8", hint="export the model again"
        )
    return set(scales)


def _rounding(graph: Graph, node: Node, scale: float, *, linked: bool = True) -> list[Node]:
    """Nodes that round what ``node`` reads; it reads their result then. ``linked``: it is in the graph already."""
    value = node.inputs[0]
    assert value is not None

    def made(kind: str) -> Value:
        assert value is not None
        return Value(graph.fresh(f"{node.label}/{kind}"), "float32", value.shape)

    factor = graph.constant(f"{node.label}/scale", np.array(scale, np.float32))
    bounds = [graph.constant(f"{node.label}/bound", np.array(b, np.float32)) for b in (-LARGEST, LARGEST)]
    half = graph.constant(f"{node.label}/half", np.array(0.5, np.float32))
    scaled, clipped, sign, step, moved, back = map(made, ("scaled", "clipped", "sign", "step", "moved", "rounded"))
    cut, whole = Value(graph.fresh(f"{node.label}/cut"), "int32", value.shape), made("whole")
    # ONNX's Round takes halves to the even number; a Cast to integers cuts off.
    nodes = [
        Node(scaled.name, "Mul", [value, factor], [scaled]),
        Node(clipped.name, "Clip", [scaled, *bounds], [clipped]),
        Node(sign.name, "Sign", [clipped], [sign]),
        Node(step.name, "Mul", [sign, half], [step]),
        Node(moved.name, "Add", [clipped, step], [moved]),
        Node(cut.name, "Cast", [moved], [cut], {"to": _INT32}),
        Node(whole.name, "Cast", [cut], [whole], {"to": _FLOAT32}),
        Node(back.name, "Div", [whole, factor], [back]),
    ]
    if linked:
        graph.set_input(node, 0, back)
    else:
        node.inputs[0] = back
    return nodes
