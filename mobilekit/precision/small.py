"""Nodes whose numbers are too small for half precision: ``log(max(x, 1e-10))``, ``x / sqrt(v + 1e-12)`` and their like.

Below 6.1e-5 float16 loses digits, below 6e-8 everything: the bound that was to keep a logarithm or a quotient finite is
zero there, and what stands on it is infinite or no number.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mobilekit.graph import Graph, Node, Value

__all__ = ["small_numbers"]

_SMALLEST_NORMAL = float(np.finfo(np.float16).tiny)
_VANISHING = 2.0**-20
"""Of numbers below it halves hold less than four bits. Roots of floors are used as they are down to here."""
_LARGEST = float(np.finfo(np.float16).max)
_MOVES = frozenset({"Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
_SUMS = _MOVES | {"Add", "Div", "Gemm", "MatMul", "Mul", "ReduceMean", "ReduceSum"}
"""What leads from squares to the energies of bands: all but one of their inputs constant, or sums."""

_Trail = tuple["Node", "_Trail | None"]


def small_numbers(graph: Graph) -> frozenset[int]:
    """The ``id`` of every node that float32 has to compute in a model of halves.

    Each way from a floor (``Clip``, ``Max`` or ``Add`` with a constant below 6.1e-5) to what is steep at zero
    (``Log``, ``Sqrt``, ``Reciprocal``, ``Pow``, a divisor), both ends included; and what reads a quotient that such a
    floor lets grow beyond 65504. Before a logarithm also the way from the squares whose sum it reads: the logarithm
    turns their relative errors into absolute ones, and a power spectrum spans more than halves do.
    """
    kept: set[int] = set()
    for node in graph.nodes:
        bound = _floor(node)
        if not bound:
            continue
        sinks = _ways(node, bound, kept)
        if any(sink.op == "Log" for sink in sinks):
            kept |= _squares(node)
    return frozenset(kept)


def _floor(node: Node) -> float:
    """The number below which ``node`` gives nothing (but where it adds to a negative one), if it is a small one."""
    first, *rest = [*node.inputs, None]
    if node.domain or node.op not in ("Clip", "Max", "Add"):
        return 0.0
    candidates = rest[:1] if node.op == "Clip" else [first, *rest]
    for value in candidates:
        if value is not None and value.const is not None and value.const.dtype.kind == "f" and value.const.size:
            bound = float(value.const.min())
            if bound > 0 and float(value.const.max()) < _SMALLEST_NORMAL:
                return bound
    return 0.0


def _ways(floor: Node, bound: float, kept: set[int]) -> list[Node]:
    """Add to ``kept`` all nodes on ways from ``floor`` to what is steep at zero; the ends of those ways."""
    found: list[Node] = []
    first = floor.outputs[0]
    pending: list[tuple[Value, float, float, _Trail]] = (
        [(first, bound, _SMALLEST_NORMAL, (floor, None))] if first is not None else []
    )
    while pending:
        value, bound, limit, trail = pending.pop()
        for node in value.consumers:
            out = node.outputs[0] if node.outputs else None
            if node.domain or out is None:
                continue
            here = (node, trail)
            if node.op in _MOVES and node.inputs[0] is value:
                pending.append((out, bound, limit, here))
            elif bound > _LARGEST:  # a quotient: what multiplies it by something small is the end of it
                if node.op in ("Mul", "Div"):
                    _mark(here, kept)
                    if _constant_but(node, value):
                        pending.append((out, bound, limit, here))
            elif (end := _steep(node, value, bound)) is not None and (bound < limit or end > _LARGEST):
                _mark(here, kept)
                found.append(node)
                if not _SMALLEST_NORMAL <= end <= _LARGEST:
                    pending.append((out, end, _VANISHING, here))
    return found


def _steep(node: Node, value: Value, bound: float) -> float | None:
    """How large the node's result is where ``value`` is ``bound``, if the node is steep at zero; else ``None``."""
    match node.op:
        case "Log":
            return 1.0
        case "Sqrt":
            return math.sqrt(bound)
        case "Reciprocal":
            return 1 / bound
        case "Div" if node.inputs[1] is value:
            return 1 / bound if _constant_but(node, value) else 1.0
        case "Pow" if node.inputs[0] is value:
            exponent = node.inputs[1].const if node.inputs[1] is not None else None
            if exponent is not None and exponent.size == 1 and (power := float(exponent.reshape(-1)[0])) < 1:
                return float(np.exp2(power * math.log2(bound)))
    return None


def _constant_but(node: Node, value: Value) -> bool:
    return all(each is value or each is None or each.const is not None for each in node.inputs)


def _mark(trail: _Trail, kept: set[int]) -> None:
    node, before = trail
    kept.add(id(node))  # two ways may meet in this one only
    while before is not None and id(before[0]) not in kept:
        kept.add(id(before[0]))
        before = before[1]


def _squares(floor: Node) -> set[int]:
    """From ``floor`` back to the squares that it bounds, those included; nothing where there are none."""
    seen: set[int] = set()
    squared = False
    pending = list(floor.inputs)
    while pending:
        value = pending.pop()
        node = None if value is None else value.producer
        if node is None or node.domain or id(node) in seen:
            continue
        if _is_square(node):
            seen.add(id(node))
            squared = True
        elif node.op in _SUMS and (node.op in _MOVES or node.op == "Add" or _one_computed(node)):
            seen.add(id(node))
            pending += node.inputs
    return seen if squared else set()


def _is_square(node: Node) -> bool:
    if node.op == "ReduceSumSquare":
        return True
    first, second = [*node.inputs, None][:2]
    if node.op == "Mul":
        return first is second
    return node.op == "Pow" and second is not None and second.const is not None and bool((second.const == 2).all())


def _one_computed(node: Node) -> bool:
    return sum(each is not None and each.const is None for each in node.inputs) == 1
