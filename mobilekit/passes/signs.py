"""What is known of a tensor's numbers from the operators that make it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mobilekit.graph import Node, Value

__all__ = ["magnitude", "may_be_infinite", "never_negative"]

_DEPTH = 64

_MOVES = frozenset(
    {
        "Cast", "Compress", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "ReduceMax",
        "ReduceMin", "Reshape", "Slice", "Split", "Squeeze", "Tile", "TopK", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
"""Elements of the first input, if maybe others than before."""

_KEEPS = frozenset({"Add", "Concat", "Div", "Max", "Min", "Mod", "Mul", "ReduceProd", "ReduceSum", "Sum"})
"""Not negative where no input is."""

_NEVER = frozenset({"Abs", "Exp", "HardSigmoid", "Relu", "Shape", "Sigmoid", "Size", "Softmax", "Softplus", "Sqrt"})


Maker = Callable[[Value], Node | None]


def _producer(value: Value) -> Node | None:
    return value.producer


def never_negative(value: Value | None, maker: Maker = _producer) -> bool:
    """Whether no element can be below zero, as far as the operators say that make it; ``maker`` finds them."""
    known: dict[int, bool] = {}

    def holds(value: Value | None, depth: int) -> bool:
        if value is None or depth == 0:
            return False
        if id(value) not in known:
            known[id(value)] = made_so(value, depth - 1)
        return known[id(value)]

    def made_so(value: Value, depth: int) -> bool:
        if value.const is not None:
            data: np.ndarray[Any, Any] = value.const
            return data.dtype.kind in "bu" or (data.dtype.kind in "if" and not bool((data < 0).any()))
        if value.dtype is not None and value.dtype.startswith(("bool", "uint")):
            return True
        node = maker(value)
        if node is None:
            return False
        if node.op in ("NonMaxSuppression", "NonZero"):
            return True
        if node.op in ("TopK", "MaxPool", "Unique") and value is not node.outputs[0]:
            return True
        if node.domain:
            return False
        if node.op in _NEVER or node.op in ("ArgMax", "ArgMin"):
            return True
        if node.op in _MOVES:
            return holds(node.inputs[0], depth)
        if node.op == "Where":
            return all(holds(each, depth) for each in node.inputs[1:])
        if node.op == "Clip":
            return (len(node.inputs) > 1 and holds(node.inputs[1], depth)) or holds(node.inputs[0], depth)
        return node.op in _KEEPS and all(holds(each, depth) for each in node.inputs)

    return holds(value, _DEPTH)


_WITHIN_ONE = frozenset({"Cos", "Erf", "Sigmoid", "Sin", "Softmax", "Tanh"})


def magnitude(value: Value | None) -> float:
    """What no element exceeds in size, as far as types and the operators that make it say; else infinity."""
    known: dict[int, float] = {}

    def largest(value: Value | None, depth: int) -> float:
        if value is None or depth == 0:
            return np.inf
        if id(value) not in known:
            known[id(value)] = made_of(value, depth - 1)
        return known[id(value)]

    def made_of(value: Value, depth: int) -> float:
        if value.const is not None:
            data: np.ndarray[Any, Any] = value.const
            most = float(np.abs(data.astype(np.float64)).max(initial=0)) if data.dtype.kind in "biuf" else np.inf
            return most if most == most else np.inf
        if value.dtype is not None and value.dtype.startswith(("bool", "int", "uint")):
            return 2.0**64
        node = value.producer
        if node is None or node.domain:
            return np.inf
        if node.op in _WITHIN_ONE:
            return 1.0
        if node.op in ("Abs", "Neg") or node.op in _MOVES:
            return largest(node.inputs[0], depth)
        if node.op in ("Add", "Mul", "Sub", "Where"):
            first, second = (largest(each, depth) for each in node.inputs[-2:])
            if np.inf in (first, second):
                return np.inf
            return max(first, second) if node.op == "Where" else first * second if node.op == "Mul" else first + second
        return np.inf

    return largest(value, _DEPTH)


_ARITHMETIC = frozenset({"Add", "Clip", "Div", "Max", "Min", "Mul", "Neg", "Pad", "Sub", "Sum", "Where"})
"""What passes an infinity on, beside what moves elements."""

_MOST_LOOKED_AT = 1 << 20


def may_be_infinite(value: Value) -> bool:
    """Whether a constant infinity may be among the elements, as far as the operators say that make them. What could
    overflow is taken not to."""
    seen: set[int] = set()
    pending: list[Value | None] = [value]
    while pending:
        one = pending.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if one.const is not None:
            data: np.ndarray[Any, Any] = one.const
            if data.dtype.kind == "f" and data.size <= _MOST_LOOKED_AT and bool(np.isinf(data).any()):
                return True
            continue
        node = one.producer
        if node is None or node.domain:
            continue
        if node.op in _MOVES or node.op == "Concat" or node.op in _ARITHMETIC or node.op.startswith("Scatter"):
            pending += node.inputs
    return False
