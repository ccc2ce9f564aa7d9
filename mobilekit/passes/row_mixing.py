"""Operators that look at all rows of a tensor whose number of rows depends on data, written so that they see no others.

What stands behind the last real row is set to a number that changes nothing (the smallest one for a maximum, zero for
a sum), picked out by position and never by arithmetic, so that it may be anything. Rows of several such tensors one
after another are brought together by the positions of the real ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from mobilekit.graph import Graph, Node, Value
from mobilekit.passes.row_scatter import scatter
from mobilekit.passes.row_wise import Bound, Mixed, static_dims

__all__ = ["MIXING"]

_LOWEST = {"f": float(np.finfo(np.float32).min), "i": -(1 << 24), "u": 0, "b": 0}
_HIGHEST = {"f": float(np.finfo(np.float32).max), "i": 1 << 24, "u": 1 << 24, "b": 1}

# What is sorted may be infinite, and no real element may come after those that are none. (ncnn's reductions begin at
# the lowest finite number.)
_BELOW_ALL = {**_LOWEST, "f": -math.inf}
_ABOVE_ALL = {**_HIGHEST, "f": math.inf}

_NEUTRAL: Mapping[str, Mapping[str, float] | float] = MappingProxyType(
    {
        "ReduceL1": 0,
        "ReduceL2": 0,
        "ReduceLogSum": 0,
        "ReduceLogSumExp": _LOWEST,
        "ReduceMax": _LOWEST,
        "ReduceMean": 0,
        "ReduceMin": _HIGHEST,
        "ReduceProd": 1,
        "ReduceSum": 0,
        "ReduceSumSquare": 0,
        "ArgMax": _LOWEST,
        "ArgMin": _HIGHEST,
        "CumSum": 0,
        "LogSoftmax": _LOWEST,
        "Softmax": _LOWEST,
    }
)


class Rows(Protocol):
    """What the rules ask of the walk (:class:`mobilekit.passes.bounds.Bounds`)."""

    graph: Graph

    def bound(self, value: Value | None) -> Bound | None: ...

    def note(self, value: Value, bound: Bound) -> None: ...

    def whole(self, value: Value) -> tuple[Node, Value]: ...

    def places(self, parts: list[tuple[Value | None, int]]) -> tuple[list[Node], Value]: ...

    def inside(self, count: Value, size: int) -> tuple[list[Node], Value]: ...

    def most(self, value: Value | None) -> int | None: ...

    def never_negative(self, value: Value) -> bool: ...

    def value(self, stem: str, dtype: str | None, shape: tuple[int, ...]) -> Value: ...


def _masked(rows: Rows, value: Value, fill: Mapping[str, float] | float) -> tuple[list[Node], Value]:
    """``value`` with ``fill`` in its rows that are none."""
    bound = rows.bound(value)
    assert bound is not None
    assert value.dtype is not None
    shape, dtype = static_dims(value), np.dtype(value.dtype)
    number = fill.get(dtype.kind, 0) if isinstance(fill, Mapping) else fill
    row = tuple(1 if axis == bound.axis else size for axis, size in enumerate(shape))
    longer = tuple(size + (axis == bound.axis) for axis, size in enumerate(shape))
    places, place = rows.inside(bound.count, shape[bound.axis])
    copy, own = rows.whole(value)
    joined = rows.value(f"{value.name}_and", value.dtype, longer)
    made = rows.value(f"{value.name}_real", value.dtype, shape)
    other = rows.graph.constant("nothing", np.full(row, number, dtype))
    return [
        *places,
        copy,
        Node("", "Concat", [own, other], [joined], {"axis": bound.axis}),
        Node("", "Gather", [joined, place], [made], {"axis": bound.axis}),
    ], made


def _integers(node: Node, index: int) -> list[int] | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        return []
    return None if value.const is None else [int(item) for item in np.asarray(value.const).reshape(-1)]


def _axis(node: Node, default: int) -> int:
    return int(node.attrs.get("axis", default)) % max(1, len(static_dims(node.inputs[0])))


def _with(node: Node, *inputs: Value | None) -> Node:
    return Node(node.name, node.op, [*inputs, *node.inputs[len(inputs) :]], list(node.outputs), dict(node.attrs))


def _scalar_count(rows: Rows, count: Value, shape: list[int], dtype: str) -> tuple[list[Node], Value]:
    cast, made = rows.value("count", dtype, (1,)), rows.value("count", dtype, tuple(shape))
    code = {"float32": 1, "int64": 7}[dtype]
    const = rows.graph.constant("shape", np.array(shape, np.int64))
    return [Node("", "Cast", [count], [cast], {"to": code}), Node("", "Reshape", [cast, const], [made])], made


def _alone(rows: Rows, node: Node) -> Value | None:
    """The data of a node none of whose other inputs has rows of its own."""
    data = node.inputs[0]
    return data if rows.bound(data) is not None and not any(map(rows.bound, node.inputs[1:])) else None


def _reduce(rows: Rows, node: Node) -> list[Node] | None:
    data, axes = _alone(rows, node), _integers(node, 1)
    bound = rows.bound(data)
    if data is None or bound is None or axes is None or (not axes and node.attrs.get("noop_with_empty_axes", 0)):
        return None
    shape = static_dims(data)
    over = {axis % len(shape) for axis in axes or range(len(shape))}
    if bound.axis not in over or (node.op == "ReduceMean" and data.dtype != "float32"):
        return None
    nodes, real = _masked(rows, data, _NEUTRAL[node.op])
    if node.op != "ReduceMean":
        return [*nodes, _with(node, real)]
    rest = math.prod(shape[axis] for axis in over if axis != bound.axis)
    number, count = _scalar_count(rows, bound.count, [], "float32")
    share, total = rows.value("share", "float32", ()), Value(rows.graph.fresh("sum"))
    return [
        *nodes,
        *number,
        Node("", "Mul", [count, rows.graph.constant("size", np.array(rest, np.float32))], [share]),
        Node("", "ReduceSum", [real, *node.inputs[1:]], [total], dict(node.attrs)),
        Node(node.name, "Div", [total, share], list(node.outputs)),
    ]


def _arg(rows: Rows, node: Node) -> list[Node] | None:
    data = _alone(rows, node)
    bound = rows.bound(data)
    if data is None or bound is None or bound.axis != _axis(node, 0):
        return None
    if node.attrs.get("select_last_index", 0):
        return None
    nodes, real = _masked(rows, data, _NEUTRAL[node.op])
    return [*nodes, _with(node, real)]


def _spread(rows: Rows, node: Node) -> list[Node] | None:
    """Each row's result depends on all rows, and there are as many results."""
    data = _alone(rows, node)
    bound, out = rows.bound(data), node.outputs[0]
    axis = _axis(node, -1)
    if node.op == "CumSum":
        given = _integers(node, 1)
        if not given or not node.attrs.get("reverse", 0):
            return None
        axis = given[0] % len(static_dims(data))
    if data is None or bound is None or out is None or bound.axis != axis:
        return None
    nodes, real = _masked(rows, data, _NEUTRAL[node.op])
    out.dtype, out.shape = data.dtype, data.shape
    rows.note(out, bound)
    return [*nodes, _with(node, real)]


def _top_k(rows: Rows, node: Node) -> list[Node] | None:
    data, wanted = _alone(rows, node), node.inputs[1]
    bound = rows.bound(data)
    if data is None or bound is None or wanted is None or bound.axis != _axis(node, -1):
        return None
    shape = static_dims(data)
    most = min(shape[bound.axis], rows.most(wanted) or shape[bound.axis])
    if most < 1:
        return None
    count = rows.value(f"{node.label}_count", "float32", (1,))
    number, asked = (
        _scalar_count(rows, wanted, [1], "float32")
        if wanted.const is None
        else ([], rows.graph.constant("k", np.array([most], np.float32)))
    )
    nodes, real = _masked(rows, data, _BELOW_ALL if node.attrs.get("largest", 1) else _ABOVE_ALL)
    made = tuple(most if axis == bound.axis else size for axis, size in enumerate(shape))
    for value, dtype in zip(node.outputs, (data.dtype, "int64"), strict=False):
        if value is not None:
            value.dtype, value.shape = dtype, made
            rows.note(value, Bound(bound.axis, count))
    k = rows.graph.constant("k", np.array([most], np.int64))
    return [*nodes, *number, Node("", "Min", [bound.count, asked], [count]), _with(node, real, k)]


def _gather(rows: Rows, node: Node) -> list[Node] | None:
    """By position among the rows; one from the end counts from the last real one."""
    data, positions = node.inputs[:2]
    bound = rows.bound(data)
    if data is None or bound is None or positions is None:
        return None
    along = 0 if node.op == "GatherND" else _axis(node, 0)
    if bound.axis != along or node.attrs.get("batch_dims", 0):
        return None
    where = rows.bound(positions)
    copy, own = rows.whole(data)
    if where is not None and node.op == "GatherND" and where.axis == len(static_dims(positions)) - 1:
        return None
    if where is None and node.op == "GatherElements" and len(static_dims(data)) > 1:
        return None
    if rows.never_negative(positions):
        return [copy, _with(node, own)]
    if node.op != "Gather":
        raise Mixed("it picks some of them by positions that may count from the end")
    shape, dtype = static_dims(positions), positions.dtype
    nodes, count = _scalar_count(rows, bound.count, [], "int64")
    if dtype != "int64":
        narrow = rows.value("count", dtype, ())
        nodes.append(Node("", "Cast", [count], [narrow], {"to": 6}))
        count = narrow
    behind, moved = rows.value("behind", "bool", shape), rows.value("moved", dtype, shape)
    place = rows.value("place", dtype, shape)
    zero = rows.graph.constant("zero", np.zeros((), dtype))
    return [
        copy,
        *nodes,
        Node("", "Less", [positions, zero], [behind]),
        Node("", "Add", [positions, count], [moved]),
        Node("", "Where", [behind, moved, positions], [place]),
        _with(node, own, place),
    ]


def _non_zero(rows: Rows, node: Node) -> list[Node] | None:
    data = _alone(rows, node)
    if data is None:
        return None
    nodes, real = _masked(rows, data, 0)
    return [*nodes, _with(node, real)]


def _compress(rows: Rows, node: Node) -> list[Node] | None:
    data, condition = node.inputs[:2]
    bound = rows.bound(data)
    if data is None or condition is None or rows.bound(condition) is None or bound is None:
        return None
    if ("axis" not in node.attrs and len(static_dims(data)) > 1) or bound.axis != _axis(node, 0):
        return None
    nodes, real = _masked(rows, condition, 0)
    copy, own = rows.whole(data)
    return [*nodes, copy, _with(node, own, real)]


def _suppression(rows: Rows, node: Node) -> list[Node] | None:
    boxes, scores = node.inputs[:2]
    one, other = rows.bound(boxes), rows.bound(scores)
    if boxes is None or scores is None or one is None or other is None:
        return None
    if (one.axis, other.axis) != (1, 2) or one.count is not other.count:
        return None
    nodes, real = _masked(rows, scores, _LOWEST)
    copy, own = rows.whole(boxes)
    inputs: list[Value | None] = [*node.inputs[2:], None, None, None][:3]
    if inputs[2] is None:
        inputs[2] = rows.graph.constant("least", np.array([_LOWEST["f"] / 2], np.float32))
    return [*nodes, copy, Node(node.name, node.op, [own, real, *inputs], list(node.outputs), dict(node.attrs))]


def _concat(rows: Rows, node: Node) -> list[Node] | None:
    """Rows of one after those of another: the real ones come first."""
    values = [value for value in node.inputs if value is not None]
    axis, bounds = _axis(node, 0), [rows.bound(value) for value in values]
    if not any(bounds) or any(bound is not None and bound.axis != axis for bound in bounds):
        return None
    nodes: list[Node] = []
    parts: list[Value | None] = []
    for value, bound in zip(values, bounds, strict=True):
        if bound is None:
            parts.append(value)
            continue
        copy, own = rows.whole(value)
        nodes.append(copy)
        parts.append(own)
    shapes = [static_dims(value) for value in values]
    sizes = [shape[axis] for shape in shapes]
    found, place = rows.places([(b.count if b else None, size) for b, size in zip(bounds, sizes, strict=True)])
    joined = Value(rows.graph.fresh("joined"))
    return [
        *nodes,
        *found,
        Node("", "Concat", parts, [joined], {"axis": axis}),
        Node(node.name, "Gather", [joined, place], list(node.outputs), {"axis": axis}),
    ]


MIXING: Mapping[str, Callable[[Any, Node], list[Node] | None]] = MappingProxyType(
    {
        **{name: _reduce for name in _NEUTRAL if name.startswith("Reduce")},
        "ArgMax": _arg,
        "ArgMin": _arg,
        "Compress": _compress,
        "Concat": _concat,
        "CumSum": _spread,
        "Gather": _gather,
        "GatherElements": _gather,
        "GatherND": _gather,
        "LogSoftmax": _spread,
        "NonMaxSuppression": _suppression,
        "NonZero": _non_zero,
        "ScatterND": scatter,
        "Softmax": _spread,
        "TopK": _top_k,
    }
)
"""What stands in the place of such a node; ``None`` where its rule finds no rows that it would mix."""
