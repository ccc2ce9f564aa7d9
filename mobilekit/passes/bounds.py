"""Lengths that depend on data but have an upper bound: how many boxes are left, how many elements are not zero.

The node that makes such a tensor becomes one of our own (domain :data:`DOMAIN`), which gives as many rows as there
can be, the real ones first, and their count. From there on shapes are fixed. It is exact as long as every row of what
follows comes from the same row of what came before: :class:`Bounds` walks along and refuses, by name, what does not.
Graph outputs of such a length are trimmed to their count by whoever runs the model (``graph.rows``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from mobilekit.errors import Finding, UnsupportedModelError
from mobilekit.graph import Graph, Node, Value
from mobilekit.passes.evaluate import evaluate
from mobilekit.passes.row_wise import ROW_WISE, Bound, Mixed, static_dims

__all__ = ["DOMAIN", "Bounds"]

DOMAIN = "mobilekit"
"""Of ``NonMaxSuppression``, ``NonZero`` and ``Unique`` that give all rows there can be, and last of all their count."""

_COUNT = -(1 << 62)
_MOVES = frozenset({"Cast", "Concat", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Unsqueeze"})
_REMEDY = "cut the model before it, and do this step in the application"


class Bounds:
    """Follows data-dependent lengths through one walk in topological order."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._pending: list[Node] = []
        self._lengths: dict[Value, np.ndarray[Any, np.dtype[np.int64]]] = {}
        """Shapes, and parts of them, in which :data:`_COUNT` stands for a computed number of rows."""
        self._known: dict[Value, Bound] = {}
        self._findings: list[Finding] = []

    def opened(self, node: Node) -> list[Node] | None:
        """What stands in the place of a node that makes a data-dependent length, or asks for one."""
        if node.domain or any(value is not None and not _static(value) for value in node.inputs):
            return None
        if node.op == "Shape" and (bound := self._bound(node.inputs[0])) is not None:
            return self._shape(node, bound)
        if node.op in _MOVES and self._moved(node):
            return []
        if node.op in ("Expand", "Reshape") and node.inputs[1] in self._lengths:
            return self._shaped(node)
        make = _SOURCES.get(node.op)
        if make is None or any(self._bound(value) is not None for value in node.inputs):
            return None
        return make(self, node)

    def follow(self, node: Node) -> list[Node]:
        """Note of what length the outputs of ``node`` are, whose inputs and shapes are known; what computes it."""
        bounds = [self._bound(value) for value in node.inputs]
        if not any(bounds):
            return []
        try:
            rule = ROW_WISE.get(node.op) if not node.domain else None
            if rule is None:
                raise Mixed("it may mix rows, or make others of them")
            axis, count = rule(self, node, bounds)
        except Mixed as mixed:
            reason = f"the number of rows of {_name(node, bounds)!r} depends on data, and {mixed}"
            self._findings.append(Finding(node.label, node.type_name, reason, _REMEDY))
            return []
        for value in node.outputs:
            if value is not None:
                self._known[value] = Bound(axis, count)
        made, self._pending = self._pending, []
        return made

    def finish(self) -> None:
        """Make the counts of the outputs graph outputs of their own; raise where a node cannot follow."""
        if self._findings:
            raise UnsupportedModelError(
                "some steps cannot follow a number of rows that depends on data", findings=tuple(self._findings)
            )
        wanted = [(value, bound) for value in self.graph.outputs if (bound := self._bound(value)) is not None]
        for value, bound in wanted:
            if not self.graph.is_output(bound.count):
                self.graph.outputs.append(bound.count)
            self.graph.rows[value.name] = (bound.axis, bound.count.name)

    def _bound(self, value: Value | None) -> Bound | None:
        return None if value is None else self._known.get(value)

    def source(self, node: Node, values: list[Value | None], axes: list[int | None], bound: int) -> tuple[Node, Value]:
        """One of our own nodes, its outputs ``values`` bounded along ``axes``, and the count behind them."""
        count = Value(self.graph.fresh(f"{node.label}_count"), "float32", (1,))
        for value, axis in zip(values, axes, strict=True):
            if value is not None and axis is not None:
                self._known[value] = Bound(axis, count)
        self.graph.opsets[DOMAIN] = 1
        attrs = {**node.attrs, "bound": bound}
        return Node(node.name, node.op, list(node.inputs), [*values, count], attrs, DOMAIN), count

    def value(self, stem: str, dtype: str | None, shape: tuple[int, ...]) -> Value:
        return Value(self.graph.fresh(stem), dtype, shape)

    def _shape(self, node: Node, bound: Bound) -> list[Node]:
        """The one length that is computed between the fixed ones."""
        source, out = node.inputs[0], node.outputs[0]
        assert source is not None
        assert out is not None
        axes = list(range(len(static_dims(source))))[slice(node.attrs.get("start", 0), node.attrs.get("end"))]
        whole = self.value(f"{out.name}_count", "int64", (1,))
        cast = Node("", "Cast", [bound.count], [whole], {"to": 7})
        fixed = [self.graph.constant("length", np.array([static_dims(source)[axis]], np.int64)) for axis in axes]
        parts: list[Value | None] = [
            whole if axis == bound.axis else const for axis, const in zip(axes, fixed, strict=True)
        ]
        out.dtype, out.shape = "int64", (len(axes),)
        self._lengths[out] = np.array([_COUNT if a == bound.axis else static_dims(source)[a] for a in axes], np.int64)
        return [cast, Node(node.name, "Concat", parts, [out], {"axis": 0})]

    def _moved(self, node: Node) -> bool:
        """Follow a part of a shape; whether it is a constant, as the number of features is."""
        arrays = [None if v is None else self._lengths.get(v, v.const) for v in node.inputs]
        out = node.outputs[0]
        if out is None or not any(v in self._lengths for v in node.inputs) or any(
            array is None for array, v in zip(arrays, node.inputs, strict=True) if v is not None
        ):  # fmt: skip
            return False
        made = evaluate(node, arrays, self.graph.opset)
        if made is None or made[0].dtype != np.int64:
            return False
        self._lengths[out] = made[0].astype(np.int64)
        if (made[0] == _COUNT).any() or self.graph.is_output(out):
            return False
        out.const, out.dtype, out.shape = made[0], "int64", made[0].shape
        return True

    def _shaped(self, node: Node) -> list[Node] | None:
        """With the shape, in which the number of rows is computed, as one that leaves it to the data."""
        data, wanted = node.inputs[:2]
        assert data is not None
        assert wanted is not None
        numbers, bound = self._lengths[wanted], self._bound(data)
        places = np.flatnonzero(numbers == _COUNT)
        if bound is None or len(places) != 1 or numbers.ndim != 1 or node.attrs.get("allowzero", 0):
            return None
        place, shape = int(places[0]), static_dims(data)
        if node.op == "Expand":
            same = [n in (1, size) or i == place for i, (n, size) in enumerate(zip(numbers, shape, strict=False))]
            if len(numbers) != len(shape) or place != bound.axis or not all(same):
                return None
            return [Node(node.name, "Identity", [data], node.outputs)]
        copied = (numbers == -1).any()  # one axis may be open: the rows are those of the data, at the same place
        if copied and place != bound.axis:
            return None
        known = self.graph.constant(f"{wanted.name}_rows", np.where(numbers == _COUNT, 0 if copied else -1, numbers))
        return [Node(node.name, "Reshape", [data, known], node.outputs)]

    def counted(self, node: Node, count: Value, *, low: int = 0, high: int = 0, factor: int = 1) -> Value:
        """``clip(count - low, 0, high)``, or ``count * factor``."""
        nodes: list[Node] = []
        steps: list[tuple[str, list[int]]] = [("Sub", [low])] if low else []
        steps += [("Clip", [0, high])] if factor == 1 else [("Mul", [factor])]
        for op, numbers in steps:
            consts = [self.graph.constant("rows", np.array(n, np.float32)) for n in numbers]
            made = self.value(f"{node.label}_count", "float32", (1,))
            nodes.append(Node("", op, [count, *consts], [made]))
            count = made
        self._pending += nodes
        return count


def _static(value: Value) -> bool:
    return value.dtype is not None and value.shape is not None and all(isinstance(axis, int) for axis in value.shape)


def _name(node: Node, bounds: list[Bound | None]) -> str:
    return next(v.name for v, bound in zip(node.inputs, bounds, strict=True) if v is not None and bound is not None)


def _number(node: Node, index: int, default: float) -> float | None:
    """A constant scalar input, ``None`` where it is computed."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        return default
    return None if value.const is None or value.const.size != 1 else float(value.const.reshape(-1)[0])


# what makes a data-dependent length


def _suppression(bounds: Bounds, node: Node) -> list[Node] | None:
    most, overlap, least = _number(node, 2, 0.0), _number(node, 3, 0.0), _number(node, 4, 0.0)
    (batch, boxes, _), (_, classes, _) = static_dims(node.inputs[0]), static_dims(node.inputs[1])
    if most is None or overlap is None or least is None or most < 1:
        return None
    limit = min(int(most), boxes)
    bound = batch * classes * limit
    out = node.outputs[0]
    assert out is not None
    out.dtype, out.shape = "int64", (bound, 3)
    made, _ = bounds.source(node, [out], [0], bound)
    made.attrs |= {
        "max_output_boxes_per_class": limit,
        "iou_threshold": overlap,
        "score_threshold": least,
        "has_score_threshold": int(len(node.inputs) > 4 and node.inputs[4] is not None),
    }
    made.inputs = list(node.inputs[:2])
    return [made]


def _non_zero(bounds: Bounds, node: Node) -> list[Node] | None:
    shape = static_dims(node.inputs[0])
    out = node.outputs[0]
    assert out is not None
    if not shape or not math.prod(shape):
        return None
    out.dtype, out.shape = "int64", (len(shape), math.prod(shape))
    return [bounds.source(node, [out], [1], math.prod(shape))[0]]


def _unique(bounds: Bounds, node: Node) -> list[Node] | None:
    shape = static_dims(node.inputs[0])
    axis = node.attrs.get("axis")
    if not math.prod(shape) or (axis is not None and not -len(shape) <= axis < len(shape)):
        return None
    size = math.prod(shape) if axis is None else shape[axis]
    values = [*node.outputs, None, None, None][:4]
    source = node.inputs[0]
    assert source is not None
    for index, value in enumerate(values):
        if value is None:
            values[index] = value = bounds.value(f"{node.label}_unread", None, ())
        value.dtype, value.shape = (
            ("int64", (size,)) if index else (source.dtype, shape if axis is not None else (size,))
        )
    rows = 0 if axis is None else axis % len(shape)
    return [bounds.source(node, values, [rows, 0, None, 0], size)[0]]


def _compress(bounds: Bounds, node: Node) -> list[Node] | None:
    """The positions where the condition holds, picked."""
    data, condition = node.inputs[:2]
    out = node.outputs[0]
    assert data is not None
    assert condition is not None
    assert out is not None
    shape, (length,) = static_dims(data), static_dims(condition)
    axis = node.attrs.get("axis")
    nodes: list[Node] = []
    if axis is None:
        shape = (math.prod(shape),)
        flat = bounds.value(f"{data.name}_flat", data.dtype, shape)
        nodes.append(Node("", "Reshape", [data, bounds.graph.constant("shape", np.array([-1]))], [flat]))
        data, axis = flat, 0
    axis %= len(shape)
    where = bounds.value(f"{node.label}_where", "int64", (1, length))
    find = Node(node.name, "NonZero", [condition], [where])
    made, _ = bounds.source(find, [where], [1], length)
    row = bounds.value(f"{node.label}_rows", "int64", (length,))
    squeeze = Node("", "Squeeze", [where, bounds.graph.constant("axes", np.array([0]))], [row])
    return [*nodes, made, squeeze, Node("", "Gather", [data, row], [out], {"axis": axis})]


_SOURCES: dict[str, Callable[[Bounds, Node], list[Node] | None]] = {
    "Compress": _compress,
    "NonMaxSuppression": _suppression,
    "NonZero": _non_zero,
    "Unique": _unique,
}
