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


def never_negative(value: Value | None, maker: Maker = _producer, depth: int = _DEPTH) -> bool:
    """Whether no element can be below zero, as far as the operators say that make it; ``maker`` finds them."""
    if value is None or depth == 0:
        return False
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
    return _made(node, maker, depth - 1)


def _made(node: Node, maker: Maker, depth: int) -> bool:
    if node.op in _MOVES:
        return never_negative(node.inputs[0], maker, depth)
    if node.op == "Where":
        return all(never_negative(value, maker, depth) for value in node.inputs[1:])
    if node.op == "Clip":
        low = len(node.inputs) > 1 and never_negative(node.inputs[1], maker, depth)
        return low or never_negative(node.inputs[0], maker, depth)
    return node.op in _KEEPS and all(never_negative(value, maker, depth) for value in node.inputs)


_WITHIN_ONE = frozenset({"Cos", "Erf", "Sigmoid", "Sin", "Softmax", "Tanh"})


def magnitude(value: Value | None, depth: int = _DEPTH) -> float:
    """What no element exceeds in size, as far as types and the operators that make it say; else infinity."""
    if value is None or depth == 0:
        return np.inf
    if value.const is not None:
        data: np.ndarray[Any, Any] = value.const
        largest = float(np.abs(data.astype(np.float64)).max(initial=0)) if data.dtype.kind in "biuf" else np.inf
        return largest if largest == largest else np.inf
    if value.dtype is not None and value.dtype.startswith(("bool", "int", "uint")):
        return 2.0**64
    node = value.producer
    if node is None or node.domain:
        return np.inf
    if node.op in _WITHIN_ONE:
        return 1.0
    if node.op in ("Abs", "Neg") or node.op in _MOVES:
        return magnitude(node.inputs[0], depth - 1)
    if node.op in ("Add", "Mul", "Sub", "Where"):
        first, second = (magnitude(value, depth - 1) for value in node.inputs[-2:])
        if np.inf in (first, second):
            return np.inf
        return max(first, second) if node.op == "Where" else first * second if node.op == "Mul" else first + second
    return np.inf


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
