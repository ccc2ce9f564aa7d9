"""Dynamically quantised sections back to float: from DynamicQuantizeLinear to where its scale is multiplied back.

In such a section every integer, and every float on its way back, stands for a real number times powers of scales that
are measured while running. Each tensor is followed as ``real * scale^k``; where all powers are gone the section ends
and the real number stands in its place. What is lost is the rounding, at most half a step of each quantised tensor;
a scale that is used in any other way keeps its section as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mobilekit.graph import Graph, Node, Value
from mobilekit.passes.evaluate import evaluate
from mobilekit.passes.schemas import Schemas, infer_node

__all__ = ["dequantise"]

Powers = Counter[int]
"""Exponents of scales, by the identity of the DynamicQuantizeLinear that measures them; zeros are left out."""


@dataclass(frozen=True, slots=True)
class _Scaled:
    """``real * scale^powers`` (and, for a quantised tensor itself, plus ``zero``). ``real`` is ``None`` for 1."""

    real: Value | None
    powers: Powers
    zero: Value | None = None


class _LeftError(Exception):
    """Something here is read as the integer that it is."""


def dequantise(graph: Graph) -> int:
    """Rewrite every section that can be; how many DynamicQuantizeLinear went. Shapes and dtypes must be known."""
    blocked: set[int] = set()
    starts = {id(node) for node in graph.nodes if node.op == "DynamicQuantizeLinear" and not node.domain}
    while starts - blocked:
        walk = _Walk(graph, blocked)
        failed = walk.run()
        if not failed:
            graph.rebuild(walk.order)
            graph.prune()
            return len(starts - blocked)
        blocked |= failed
    return 0


@dataclass
class _Walk:
    """One attempt: nothing in the graph changes until ``order`` is taken for its nodes."""

    graph: Graph
    blocked: set[int]
    order: list[Node] = field(default_factory=list)
    known: dict[int, _Scaled] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._schemas = Schemas(self.graph.opset)

    def run(self) -> set[int]:
        """The sections that must be left, by their start; none where ``order`` is complete."""
        for node in self.graph.nodes:
            if node.op == "DynamicQuantizeLinear" and not node.domain and id(node) not in self.blocked:
                self._start(node)
                continue
            read = [self.known[id(value)] for value in node.inputs if id(value) in self.known]
            if not read and not any(id(v) in self.known for body in node.bodies() for v in body.values()):
                self.order.append(node)
                continue
            try:
                self._follow(node)
            except _LeftError:
                return {symbol for scaled in read for symbol in scaled.powers} or {
                    symbol
                    for body in node.bodies()
                    for value in body.values()
                    for symbol in self.known.get(id(value), _Scaled(None, Counter())).powers
                }
        for value in self.graph.outputs:
            if id(value) in self.known:
                return set(self.known[id(value)].powers)
        return set()

    def _start(self, node: Node) -> None:
        quantised, scale, zero = node.outputs
        if quantised is not None:
            self.known[id(quantised)] = _Scaled(node.inputs[0], Counter({id(node): -1}), zero)
        if scale is not None:
            self.known[id(scale)] = _Scaled(None, Counter({id(node): 1}))
        if zero is not None:
            # Read only beside its tensor; the mark makes every other reader fail.
            self.known[id(zero)] = _Scaled(zero, Counter({id(node): -1}), zero)

    def _follow(self, node: Node) -> None:
        rule = _RULES.get(node.op) if not node.domain else None
        out = node.outputs[0]
        if rule is None or out is None or len(node.outputs) > 1:
            raise _LeftError
        made = rule(self, node)
        powers = Counter({symbol: power for symbol, power in made.powers.items() if power})
        if powers:
            self.known[id(out)] = _Scaled(made.real, powers)
            return
        if made.real is None or made.real.shape != out.shape or made.real.dtype != out.dtype:
            raise _LeftError
        self.order.append(Node(node.name, "Identity", [made.real], [out]))

    # what rules build with

    def operand(self, value: Value | None) -> _Scaled:
        """What ``value`` stands for; a quantised tensor itself only through :meth:`centred`."""
        assert value is not None
        scaled = self.known.get(id(value), _Scaled(value, Counter()))
        if scaled.zero is not None:
            raise _LeftError
        return scaled

    def centred(self, value: Value | None, zero: Value | None) -> _Scaled:
        """``value - zero`` as a float."""
        assert value is not None
        scaled = self.known.get(id(value))
        if scaled is not None:
            if scaled.zero is None or scaled.zero is not zero or scaled.real is zero:
                raise _LeftError
            return _Scaled(scaled.real, scaled.powers)
        if zero is not None and id(zero) in self.known:
            raise _LeftError
        real = self.build("Cast", [value], to=1)
        if zero is not None:
            real = self.build("Sub", [real, self.build("Cast", [zero], to=1)])
        return _Scaled(real, Counter())

    def build(self, op: str, inputs: Sequence[Value | None], **attrs: Any) -> Value:
        out = Value(self.graph.fresh(f"{op}_float"))
        node = Node("", op, list(inputs), [out], attrs)
        infer_node(node, self._schemas)
        if all(value is None or value.const is not None for value in inputs):
            arrays = evaluate(node, [None if v is None else v.const for v in inputs], self.graph.opset)
            if arrays is not None:
                out.const, out.dtype, out.shape = arrays[0], str(arrays[0].dtype), arrays[0].shape
                return out
        self.order.append(node)
        return out


def _product(walk: _Walk, node: Node) -> _Scaled:
    a, b = (walk.operand(value) for value in node.inputs[:2])
    divides = node.op == "Div"
    powers = Counter(a.powers)
    for symbol, power in b.powers.items():
        powers[symbol] += -power if divides else power
    if b.real is None:
        return _Scaled(a.real, powers)
    if a.real is None and not divides:
        return _Scaled(b.real, powers)
    one = a.real if a.real is not None else walk.graph.constant("one", np.ones((), np.float32))
    return _Scaled(walk.build(node.op, [one, b.real]), powers)


def _sum(walk: _Walk, node: Node) -> _Scaled:
    a, b = (walk.operand(value) for value in node.inputs[:2])
    if a.powers != b.powers or a.real is None or b.real is None:
        raise _LeftError
    return _Scaled(walk.build(node.op, [a.real, b.real]), a.powers)


def _same(walk: _Walk, node: Node) -> _Scaled:
    """A Cast between integers and floats, or a rounding to integers, of what is in units of a step."""
    scaled = walk.operand(node.inputs[0])
    if sum(scaled.powers.values()) >= 0:
        raise _LeftError
    return scaled


def _moved(walk: _Walk, node: Node) -> _Scaled:
    if any(id(value) in walk.known for value in node.inputs[1:]):
        raise _LeftError
    scaled = walk.operand(node.inputs[0])
    if scaled.real is None:
        raise _LeftError
    return _Scaled(walk.build(node.op, [scaled.real, *node.inputs[1:]], **node.attrs), scaled.powers)


def _multiplied(walk: _Walk, node: Node) -> _Scaled:
    a, b, zero_a, zero_b = [*node.inputs, None, None][:4]
    if node.op == "MatMulInteger":
        zero_a = zero_a if zero_a is None or id(zero_a) in walk.known else _column(walk, zero_a)
    left, right = walk.centred(a, zero_a), walk.centred(b, zero_b)
    op = "Conv" if node.op == "ConvInteger" else "MatMul"
    return _Scaled(walk.build(op, [left.real, right.real], **node.attrs), _added(left.powers, right.powers))


def _column(walk: _Walk, zero: Value) -> Value:
    """A zero point for each row of a matrix stands as a column."""
    if zero.shape is None or len(zero.shape) != 1 or zero.shape[0] == 1:
        return zero
    return walk.build("Unsqueeze", [zero, walk.graph.constant("axes", np.array([-1]))])


def _added(a: Powers, b: Powers) -> Powers:
    total = Counter(a)
    for symbol, power in b.items():
        total[symbol] += power
    return total


def _restored(walk: _Walk, node: Node) -> _Scaled:
    """DequantizeLinear by the very scale and zero point: the tensor as it was."""
    quantised, scale, zero = [*node.inputs, None][:3]
    inner = walk.centred(quantised, zero)
    factor = walk.operand(scale)
    if factor.real is not None or not inner.powers:
        raise _LeftError
    return _Scaled(inner.real, _added(inner.powers, factor.powers))


_RULES: dict[str, Callable[[_Walk, Node], _Scaled]] = {
    "Add": _sum,
    "Cast": _same,
    "Ceil": _same,
    "ConvInteger": _multiplied,
    "DequantizeLinear": _restored,
    "Div": _product,
    "Flatten": _moved,
    "Floor": _same,
    "MatMulInteger": _multiplied,
    "Mul": _product,
    "Reshape": _moved,
    "Round": _same,
    "Squeeze": _moved,
    "Sub": _sum,
    "Transpose": _moved,
    "Unsqueeze": _moved,
}
