"""What constant folding may cost: a few bytes of a model can ask for gigabytes of constants, or for hours of work."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mobilekit.errors import Finding, UnsupportedModelError
from mobilekit.passes.cost import MAC_FORMULAS
from mobilekit.passes.evaluate import repeated_shape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mobilekit.graph import Graph, Node, Value
    from mobilekit.tensors import Array

__all__ = ["Allowance"]

_ONE_BYTES = 64 << 20
"""A constant result larger than this, and than what it is made of, is left to be computed at run time."""

_ALL_BYTES = 512 << 20
"""All results together, but for the smallest, beside what grows with the weights."""

_A_WEIGHT = 32
"""So many times its weights a model may make of them, in all steps together: 8 bits become floats in four or five."""

_COUNTED_BYTES = 1 << 14

_REPEATED_BYTES = 2 << 30
"""All that is one number many times: nothing in memory, but a file of that size where it is written."""

_MACS = 2_000_000_000

_MOST_ELEMENTS: Mapping[str, int] = {
    "Resize": 1 << 20,
    "Upsample": 1 << 20,
    **dict.fromkeys(
        {"AffineGrid", "Attention", "AveragePool", "Col2Im", "Conv", "ConvInteger", "ConvTranspose", "GRU"}
        | {"GridSample", "LSTM", "LinearAttention", "LpPool", "MaxPool", "MaxRoiPool", "MaxUnpool"}
        | {"NonMaxSuppression", "QLinearConv", "RNN", "RoiAlign", "STFT"},
        1 << 14,
    ),
}
"""Read and written, by what onnx's reference computes in Python's loops: up to 0.1 ms each."""

_OTHER_ELEMENTS = 1 << 25

_MOVING = frozenset({"Expand", "Identity", "Reshape", "Shape", "Size", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that numpy answers with a view."""

_QUICK = frozenset(
    {"Abs", "Add", "And", "Cast", "Ceil", "Concat", "Cos", "DequantizeLinear", "Div", "Equal", "Exp", "Floor", "Gather"}
    | {"Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Mul", "Neg", "Not", "Or", "Reciprocal"}
    | {"Reshape", "Sin", "Slice", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where"}
)
"""What :mod:`mobilekit.passes.evaluate` has in numpy."""

_SELECTING = frozenset({"Compress", "NonZero", "StringSplit", "Unique"})
"""Operators of which nobody knows how much they make, but that it is no more than a few times what they read."""

_KEEPING = (
    _QUICK
    | _SELECTING
    | {"Clip", "CumSum", "Flatten", "GatherElements", "GatherND", "IsInf", "IsNaN", "Max", "Mean", "Min", "Mod", "Pow"}
    | {"ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "Relu", "Round"}
    | {"ScatterElements", "ScatterND", "Sign", "Split", "Sum", "TopK", "Trilu", "Xor"}
)
"""Operators whose result is bounded by the product of their inputs' sizes, and by no number in them."""

_REPEATED = frozenset({"GRU", "If", "LSTM", "LinearAttention", "Loop", "RNN", "Scan", "SequenceMap", "SplitToSequence"})
"""Operators for which many nodes may stand."""

_MOST_NODES = 1 << 16
"""Written out of loops, branches and recurrences, in all; from level to level of nested ones, each time."""

_SMALL_PRODUCT = 1 << 24


class Allowance:
    """What is left of it for one model."""

    def __init__(self, graph: Graph) -> None:
        stored = sum(_held(value.const) for value in graph.values() if value.const is not None)
        self._left = _ALL_BYTES + _A_WEIGHT * stored
        self._repeated = self._written = 0

    def never_grows(self, node: Node, limit: int) -> bool:
        """Whether the inputs are constants of at most ``limit`` elements and the result cannot be much larger."""
        if node.domain or node.op not in _KEEPING or not node.inputs:
            return False
        sizes = [0 if v is None else v.const.size if v.const is not None else limit + 1 for v in node.inputs]
        return max(sizes) <= limit and (node.op == "Concat" or math.prod(filter(None, sizes)) <= _SMALL_PRODUCT)

    def permits(self, node: Node) -> bool:
        """Whether the outputs, whose shapes were inferred where they can be, may be computed now.

        Raises :class:`UnsupportedModelError` for one number repeated beyond all reason.
        """
        if node.op in ("ConstantOfShape", "Expand") and not node.domain:
            return self._may_repeat(node)
        constants = [value.const for value in node.inputs if value is not None and value.const is not None]
        if any(array.nbytes > max(_ALL_BYTES, 4 * _held(array)) for array in constants):
            return node.op in _MOVING and (node.op != "Reshape" or not any(constants[0].strides))
        read = sum(array.nbytes for array in constants)
        size, count = 0, sum(array.size for array in constants)
        for value in node.outputs:
            if value is None:
                continue
            elements = _elements(value)
            if elements is None:
                if node.op not in _KEEPING:
                    return False
                continue
            size, count = max(size, elements * _itemsize(value)), count + elements
        if size > _COUNTED_BYTES and (size > self._left or (size > _ONE_BYTES and size > 4 * read)):
            return False
        return not _takes_long(node, count)

    def spend(self, arrays: list[Array]) -> None:
        """Note what was computed."""
        self._left -= sum(held for array in arrays if (held := _held(array)) >= _COUNTED_BYTES)

    def write_out(self, node: Node, count: int) -> None:
        """Note that ``count`` nodes stand for ``node``; :class:`UnsupportedModelError` where that makes too many, with
        a finding for the first alone."""
        if node.domain or node.op not in _REPEATED:
            return
        before, self._written = self._written, self._written + count
        if count and self._written > _MOST_NODES:
            reason = f"written out, loops and branches up to here are more than {_MOST_NODES} nodes"
            refusal = _refusal(node, reason, "fix fewer rounds with --input or --input-shape, or split the model")
            if before > _MOST_NODES:
                refusal.findings = ()
            raise refusal

    def _may_repeat(self, node: Node) -> bool:
        shape = repeated_shape(node)
        if shape is None:
            return True  # malformed: whoever computes it says how
        data = node.inputs[0].const if node.op == "Expand" and node.inputs[0] is not None else node.attrs.get("value")
        size = math.prod(shape) * (4 if data is None else data.dtype.itemsize)
        if size >= _COUNTED_BYTES:
            self._repeated += size
        if self._repeated <= _REPEATED_BYTES:
            return True
        reason = f"with it the model makes {_gigabytes(self._repeated)} out of a few numbers"
        raise _refusal(node, reason, "give smaller input shapes; else the model is damaged")


def _refusal(node: Node, reason: str, remedy: str) -> UnsupportedModelError:
    finding = Finding(node.label, node.op, reason, remedy)
    return UnsupportedModelError(f"{node.op} at {node.label!r}: {reason}", findings=[finding])


def _takes_long(node: Node, elements: int) -> bool:
    if node.op not in _QUICK and elements > _MOST_ELEMENTS.get(node.op, _OTHER_ELEMENTS):
        return True
    formula = None if node.domain else MAC_FORMULAS.get(node.op)
    try:
        return formula is not None and formula(node) > _MACS
    except (IndexError, KeyError, TypeError, ValueError):
        return False  # malformed: computing it fails at once


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size < 1e15 else f"{size:.0e} bytes"


def _held(array: Array) -> int:
    """Bytes in memory: axes along which one number is repeated do not count."""
    axes = zip(array.shape, array.strides, strict=True)
    return array.dtype.itemsize * math.prod(size for size, stride in axes if stride) if array.size else 0


def _elements(value: Value) -> int | None:
    """How many the value has; ``None`` where that is not known."""
    if value.shape is None or not all(isinstance(axis, int) for axis in value.shape):
        return None
    return math.prod(axis for axis in value.shape if isinstance(axis, int))


def _itemsize(value: Value) -> int:
    try:
        return np.dtype(value.dtype).itemsize if value.dtype is not None else 8
    except TypeError:
        return 1  # of ml_dtypes: bfloat16 has two, all others one or less
