"""Lengths that depend on data but have an upper bound: how many boxes are left, how many elements are not zero.

The node that makes such a tensor becomes one of our own (domain :data:`DOMAIN`), which gives as many rows as there
can be, the real ones first, and their count. From there on shapes are fixed. It is exact as long as every row of what
follows comes from the same row of what came before (:mod:`~mobilekit.passes.row_wise`); what looks at all rows at once
is shown the real ones only (:mod:`~mobilekit.passes.row_mixing`). :class:`Bounds` walks along and refuses the rest.
Graph outputs of such a length are trimmed to their count by whoever runs the model (``graph.rows``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from mobilekit.errors import Finding, UnsupportedModelError
from mobilekit.graph import Graph, Node, Value
from mobilekit.passes.evaluate import evaluate
from mobilekit.passes.row_mixing import MIXING
from mobilekit.passes.row_scatter import masked_assignment
from mobilekit.passes.row_sources import SOURCES, number
from mobilekit.passes.row_wise import ROW_WISE, Bound, Mixed, static_dims
from mobilekit.passes.signs import never_negative

__all__ = ["DOMAIN", "Bounds"]

DOMAIN = "mobilekit"
"""Of ``NonMaxSuppression``, ``NonZero`` and ``Unique`` that give all rows there can be, and last of all their count."""

_COUNT = -(1 << 62)
_MOST_FILLED = 1 << 23
"""Elements of a constant that is as long as the bound."""

_MOVES = frozenset({"Cast", "Concat", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Unsqueeze", "Where"})
_SAME = frozenset({"Cast", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Unsqueeze"})
_OF_MANY = frozenset({"Concat", "Max", "Min", "ReduceMin"})
"""Operators through which the most that a number can be is looked for."""
_REMEDY = "cut the model before it, and do this step in the application"
_DEPTH = 64


class Bounds:
    """Follows data-dependent lengths through one walk in topological order."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._pending: list[Node] = []
        self._lengths: dict[Value, np.ndarray[Any, np.dtype[np.int64]]] = {}
        """Shapes, and parts of them, in which :data:`_COUNT` stands for a computed number of rows."""
        self._owner: dict[Value, Value] = {}
        """Of such a shape, which count it is."""
        self._known: dict[Value, Bound] = {}
        self._limits: dict[Value, int] = {}
        """What a count is at most."""
        self._whole: set[Value] = set()
        """Copies of tensors all of whose rows count as real, for what takes care of the others itself."""
        self._gates: dict[Value, Value] = {}
        """Values that have no rows where this count is zero."""
        self._makers: dict[Value, Node] = {}
        self._made: dict[Any, tuple[Value, ...]] = {}
        """What was made before, by what it is made of."""
        self._findings: list[Finding] = []

    def opened(self, node: Node) -> list[Node] | None:
        """What stands in the place of a node that makes a data-dependent length, or asks for one."""
        if node.op == "ScatterND" and not node.domain:
            assigned = masked_assignment(self.graph, node, self._makers.get)
            if assigned is not None:
                return assigned
        if node.domain or any(value is not None and not _static(value) for value in node.inputs):
            return None
        if node.op == "Shape" and (bound := self.bound(node.inputs[0])) is not None:
            return self._shape(node, bound)
        if node.op == "Size" and self.bound(node.inputs[0]) is not None:
            sizes = Value(self.graph.fresh("sizes"))
            product = Node(node.name, "ReduceProd", [sizes], list(node.outputs), {"keepdims": 0})
            return [Node("", "Shape", [node.inputs[0]], [sizes]), product]
        if node.op in _MOVES and self._moved(node):
            return []
        if node.op == "Equal" and self._compared(node):
            return []
        if node.op in ("Expand", "Reshape") and node.inputs[1] in self._lengths:
            return self._shaped(node)
        if node.op == "ConstantOfShape" and node.inputs[0] in self._lengths:
            return self._filled(node, node.attrs.get("value", np.zeros(1, np.float32)))
        if node.op == "Range":
            return self._counting(node)
        if any(self.bound(value) is not None for value in node.inputs):
            return self._mixed(node)
        make = SOURCES.get(node.op)
        return None if make is None else self._once(node, make)

    def _once(self, node: Node, make: Callable[[Bounds, Node], list[Node] | None]) -> list[Node] | None:
        """What ``make`` makes, or the same as an equal node made before: of two counts no one knows that they agree."""
        attrs = tuple(sorted((name, repr(value)) for name, value in node.attrs.items()))
        key = (node.op, attrs, *(_identity(value) for value in node.inputs))
        before = self._made.get(key)
        if before is None:
            made = make(self, node)
            if made is not None and all(value is not None for value in node.outputs):
                self._made[key] = tuple(value for value in node.outputs if value is not None)
            return made
        if len(before) != len(node.outputs):
            return make(self, node)
        return [Node("", "Identity", [old], [out]) for old, out in zip(before, node.outputs, strict=True) if out]

    def _mixed(self, node: Node) -> list[Node] | None:
        rule = MIXING.get(node.op)
        try:
            return None if rule is None else rule(self, node)
        except Mixed:
            return None  # said by `follow`

    def branch(self, node: Node) -> Graph | None:
        """The branch of an If that asks whether there are any rows: the other one, which makes none, is needless."""
        found = self._emptiness(node.inputs[0])
        if found is None or len(node.outputs) != 1 or node.outputs[0] is None:
            return None
        count, empty = found
        names = ("then_branch", "else_branch") if empty else ("else_branch", "then_branch")
        nothing, taken = (node.attrs.get(name) for name in names)
        if not isinstance(nothing, Graph) or not isinstance(taken, Graph) or len(nothing.outputs) != 1:
            return None
        shape = nothing.outputs[0].shape
        if shape is None or 0 not in shape:
            return None
        self._gates[node.outputs[0]] = count
        return taken

    def _emptiness(self, value: Value | None) -> tuple[Value, bool] | None:
        """The count that a condition asks for, and whether it holds where the count is zero."""
        node = None if value is None else self._makers.get(value)
        if node is None or node.domain:
            return None
        if node.op in ("Cast", "Identity", "Not", "Reshape", "Squeeze"):
            inner = self._emptiness(node.inputs[0])
            return inner if inner is None or node.op != "Not" else (inner[0], not inner[1])
        asked = {"Equal": 0, "Greater": 0, "Less": 1}.get(node.op)
        count = self._factor(node.inputs[0])
        if asked is None or count is None or number(node, 1, -1) != asked:
            return None
        return count, node.op != "Greater"

    def _factor(self, value: Value | None) -> Value | None:
        """The count of which ``value`` is a positive multiple."""
        node = None if value is None else self._makers.get(value)
        if value is None or node is None or node.domain:
            return None
        if value in self._lengths:
            numbers = self._lengths[value].reshape(-1)
            return self._owner[value] if numbers.tolist() == [_COUNT] else None
        if node.op == "ReduceProd" and node.inputs[0] in self._lengths:
            numbers = self._lengths[node.inputs[0]]
            positive = (numbers == _COUNT).sum() == 1 and ((numbers > 0) | (numbers == _COUNT)).all()
            whole = len(node.inputs) < 2 or node.inputs[1] is None
            return self._owner[node.inputs[0]] if positive and whole and numbers.ndim == 1 else None
        if node.op in ("Cast", "Identity", "Reshape", "Squeeze"):
            return self._factor(node.inputs[0])
        return None

    def follow(self, node: Node) -> list[Node]:
        """Note of what length the outputs of ``node`` are, whose inputs and shapes are known; what computes it."""
        self._remember(node)
        bounds = [self.bound(value) for value in node.inputs]
        if not any(bounds) or any(value in self._whole for value in node.outputs):
            return []
        if node.op == "Identity" and node.outputs[0] in self._gates:
            return self._remember(*self._gated(node, bounds[0]))
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
                self.note(value, Bound(axis, count))
        made, self._pending = self._pending, []
        return self._remember(*made)

    def _remember(self, *nodes: Node) -> list[Node]:
        self._makers |= {value: node for node in nodes for value in node.outputs if value is not None}
        return list(nodes)

    def _gated(self, node: Node, bound: Bound | None) -> list[Node]:
        """No rows where the count that the If asked for is zero, whatever the branch makes of nothing."""
        out, data = node.outputs[0], node.inputs[0]
        assert out is not None
        assert bound is not None
        size = self.graph.constant("rows", np.array([static_dims(data)[bound.axis]], np.float32))
        most, count = (self.value(f"{node.label}_count", "float32", (1,)) for _ in range(2))
        self.note(out, Bound(bound.axis, count))
        return [
            Node("", "Mul", [self._gates[out], size], [most]),
            Node("", "Min", [bound.count, most], [count]),
        ]

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """While bodies are looked at: their numbers of rows are not the upper bounds."""
        shapes = {value: value.shape for value in self._known}
        for value, bound in self._known.items():
            value.shape = tuple(None if axis == bound.axis else size for axis, size in enumerate(value.shape or ()))
        try:
            yield
        finally:
            for value, shape in shapes.items():
                value.shape = shape

    def holds(self, node: Node) -> bool:
        """Whether an input, constant or not, has rows that are none."""
        return any(self.bound(value) is not None for value in node.inputs)

    def finish(self) -> None:
        """Make the counts of the outputs graph outputs of their own; raise where a node cannot follow."""
        if self._findings:
            raise UnsupportedModelError(
                "some steps cannot follow a number of rows that depends on data", findings=tuple(self._findings)
            )
        wanted = [(value, bound) for value in self.graph.outputs if (bound := self.bound(value)) is not None]
        for value, bound in wanted:
            if not self.graph.is_output(bound.count):
                self.graph.outputs.append(bound.count)
            self.graph.rows[value.name] = (bound.axis, bound.count.name)

    def bound(self, value: Value | None) -> Bound | None:
        return None if value is None else self._known.get(value)

    def note(self, value: Value, bound: Bound) -> None:
        """``value``, whose shape is known, has such rows."""
        self._known[value] = bound
        size = static_dims(value)[bound.axis]
        self._limits[bound.count] = min(size, self._limits.get(bound.count, size))

    def whole(self, value: Value) -> tuple[Node, Value]:
        """A copy all of whose rows count as real, and the node that makes it."""
        copy = Value(self.graph.fresh(f"{value.name}_all"))
        self._whole.add(copy)
        return Node("", "Identity", [value], [copy]), copy

    def inside(self, count: Value, size: int) -> tuple[list[Node], Value]:
        """``[0, 1, ..., count - 1, size, ..., size]``: the real ones' places, and ``size`` in place of the others."""
        key = ("inside", count, size)
        if key in self._made:
            return [], self._made[key][0]
        mask, place = self.value("inside", "bool", (size,)), self.value("places", "int64", (size,))
        numbers = self.graph.constant("numbers", np.arange(size, dtype=np.int64))
        nodes = [
            Node("", "Less", [self.graph.constant("numbers", np.arange(size, dtype=np.float32)), count], [mask]),
            Node("", "Where", [mask, numbers, self.graph.constant("none", np.array(size, np.int64))], [place]),
        ]
        self._made[key] = (place,)
        return nodes, place

    def places(self, parts: list[tuple[Value | None, int]]) -> tuple[list[Node], Value]:
        """Where, of parts one after another of which some have a computed number of rows, the real rows are."""
        key = ("places", *parts)
        if key in self._made:
            return [], self._made[key][0]
        nodes: list[Node] = []
        masks: list[Value | None] = []
        for count, size in parts:
            if count is None:
                masks.append(self.graph.constant("all", np.ones(size, bool)))
                continue
            mask = self.value("inside", "bool", (size,))
            numbers = self.graph.constant("numbers", np.arange(size, dtype=np.float32))
            nodes.append(Node("", "Less", [numbers, count], [mask]))
            masks.append(mask)
        total = sum(size for _, size in parts)
        joined, place = self.value("inside", "bool", (total,)), self.value("places", "int64", (total,))
        where = self.value("places", "int64", (1, total))
        found, _ = self.source(Node("places", "NonZero", [joined], [where]), [where], [1], total)
        axes = self.graph.constant("axes", np.array([0]))
        self._made[key] = (place,)
        return [
            *nodes,
            Node("", "Concat", masks, [joined], {"axis": 0}),
            found,
            Node("", "Squeeze", [where, axes], [place]),
        ], place

    def most(self, value: Value | None) -> int | None:
        """What an integer made of counts is at most; ``None`` where that is not known."""
        known: dict[Value, int | None] = {}

        def of(value: Value | None, depth: int) -> int | None:
            if value is None:
                return None
            if value not in known:
                known[value] = None if depth == 0 else made(value, depth - 1)
            return known[value]

        def made(value: Value, depth: int) -> int | None:
            if value.const is not None:
                return int(value.const.max()) if value.const.size and value.const.dtype.kind in "iuf" else None
            if value in self._limits:
                return self._limits[value]
            node = self._makers.get(value)
            # Only what is looked through is followed: behind the others lies the rest of the model.
            if node is None or node.domain or node.op not in _SAME | _OF_MANY:
                return None
            if node.op in _SAME:
                return of(node.inputs[0], depth)
            sources = node.inputs
            if node.op == "ReduceMin" and sources[0] is not None:
                joined = self._makers.get(sources[0])
                sources = joined.inputs if joined is not None and joined.op == "Concat" else [sources[0]]
            found = [of(source, depth) for source in sources]
            numbers = [number for number in found if number is not None]
            if node.op in ("Min", "ReduceMin"):
                return min(numbers, default=None)
            return max(numbers) if len(numbers) == len(found) else None

        return of(value, _DEPTH)

    def never_negative(self, value: Value) -> bool:
        return never_negative(value, self._makers.get)

    def source(self, node: Node, values: list[Value | None], axes: list[int | None], bound: int) -> tuple[Node, Value]:
        """One of our own nodes, its outputs ``values`` bounded along ``axes``, and the count behind them."""
        count = Value(self.graph.fresh(f"{node.label}_count"), "float32", (1,))
        for value, axis in zip(values, axes, strict=True):
            if value is not None and axis is not None:
                self.note(value, Bound(axis, count))
        self.graph.opsets[DOMAIN] = 1
        attrs = {**node.attrs, "bound": bound}
        made = Node(node.name, node.op, list(node.inputs), [*values, count], attrs, DOMAIN)
        return self._remember(made)[0], count

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
        self._owner[out] = bound.count
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
        owners = {self._owner[v] for v in node.inputs if v is not None and v in self._owner}
        if made is None or made[0].dtype != np.int64 or len(owners) != 1:
            return False
        self._lengths[out] = made[0].astype(np.int64)
        self._owner[out] = owners.pop()
        if (made[0] == _COUNT).any() or self.graph.is_output(out):
            return False
        out.const, out.dtype, out.shape = made[0], "int64", made[0].shape
        return True

    def _compared(self, node: Node) -> bool:
        """A shape held against constants (exporters look for -1 in it): known where no length could be equal."""
        out, known = node.outputs[0], [value for value in node.inputs if value is not None and value.const is not None]
        asked = [value for value in node.inputs if value in self._lengths]
        if out is None or len(known) != 1 or len(asked) != 1 or self.graph.is_output(out):
            return False
        constant = known[0].const
        assert constant is not None
        lengths, numbers = np.broadcast_arrays(self._lengths[asked[0]], constant)
        if ((lengths == _COUNT) & (numbers >= 0)).any():
            return False
        out.const = (lengths == numbers) & (lengths != _COUNT)
        out.dtype, out.shape = "bool", out.const.shape
        return True

    def _shaped(self, node: Node) -> list[Node] | None:
        """With the shape, in which the number of rows is computed, as one that leaves it to the data."""
        data, wanted = node.inputs[:2]
        assert data is not None
        assert wanted is not None
        numbers, bound = self._lengths[wanted], self.bound(data)
        places = np.flatnonzero(numbers == _COUNT)
        if bound is None and node.op == "Expand":
            return self._filled(node, data)
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

    def _filled(self, node: Node, content: Any) -> list[Node] | None:
        """ConstantOfShape, or Expand of data without such rows, to a computed number of rows."""
        wanted, out = node.inputs[int(node.op == "Expand")], node.outputs[0]
        assert wanted is not None
        assert out is not None
        numbers, count = self._lengths[wanted], self._owner[wanted]
        places = np.flatnonzero(numbers == _COUNT)
        limit = self._limits.get(count)
        if limit is None or len(places) != 1 or numbers.ndim != 1 or any(numbers[numbers != _COUNT] < 0):
            return None
        place, shape = int(places[0]), [limit if n == _COUNT else int(n) for n in numbers]
        made = self.value(f"{out.name}_rows", None, tuple(int(n) for n in shape))
        self.note(made, Bound(place, count))
        if not isinstance(content, Value):
            if math.prod(shape) > _MOST_FILLED:
                return None
            made.const = np.full(shape, content.reshape(-1)[0])
            made.dtype = str(made.const.dtype)
            return [Node(node.name, "Identity", [made], [out])]
        own = static_dims(content)
        back = place - len(shape)
        if len(own) > len(shape) or (-back <= len(own) and own[back] != 1):
            return None
        made.dtype, sizes = content.dtype, self.graph.constant("sizes", np.array(shape, np.int64))
        self._whole.add(made)
        return [Node(node.name, "Expand", [content, sizes], [made]), Node("", "Identity", [made], [out])]

    def _counting(self, node: Node) -> list[Node] | None:
        """0, 1, ... up to a computed number of rows."""
        limit, out = node.inputs[1], node.outputs[0]
        most = self.most(limit) if limit is not None and limit.const is None else None
        first, step = number(node, 0, 0), number(node, 2, 1)
        if out is None or limit is None or most is None or not 1 <= most <= _MOST_FILLED or (first, step) != (0, 1):
            return None
        if limit.dtype != "int64" or not self.never_negative(limit):
            return None
        cast, count = Value(self.graph.fresh("count")), self.value(f"{out.name}_count", "float32", (1,))
        shape = self.graph.constant("shape", np.array([1]))
        made = self.graph.constant(f"{out.name}_rows", np.arange(most))
        self.note(made, Bound(0, count))
        return [
            Node("", "Cast", [limit], [cast], {"to": 1}),
            Node("", "Reshape", [cast, shape], [count]),
            Node(node.name, "Identity", [made], [out]),
        ]

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


def _identity(value: Value | None) -> Any:
    """What two equal inputs have in common: one value, or constants of the same numbers."""
    if value is None or value.const is None or value.const.size > 64:
        return value
    return (str(value.const.dtype), value.const.shape, value.const.tobytes())


def _name(node: Node, bounds: list[Bound | None]) -> str:
    return next(v.name for v, bound in zip(node.inputs, bounds, strict=True) if v is not None and bound is not None)
