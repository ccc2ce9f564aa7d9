"""Which operators work row by row, so that a number of rows which depends on data passes through them.

Each rule gives the axis of the output's rows and their count, or raises :class:`Mixed` with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np

from mobilekit.graph import Node, Value

__all__ = ["ROW_WISE", "Bound", "Mixed", "static_dims"]

_Rows = list["Bound | None"]
_Found = tuple[int, Value]


class Walk(Protocol):
    def counted(self, node: Node, count: Value, *, low: int = 0, high: int = 0, factor: int = 1) -> Value: ...


class Mixed(Exception):  # noqa: N818 - caught by who asks
    """A node whose rows do not each come from one row."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A tensor has ``count`` (a float32 tensor of one element) real elements along ``axis``, the first ones."""

    axis: int
    count: Value


def static_dims(value: Value | None) -> tuple[int, ...]:
    assert value is not None
    if value.shape is None or not all(isinstance(axis, int) for axis in value.shape):
        raise Mixed("its shape is not known")
    return tuple(axis for axis in value.shape if isinstance(axis, int))


def _ints(node: Node, index: int) -> list[int] | None:
    """A constant input; ``None`` where it is left out."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        return None
    if value.const is None:
        raise Mixed(f"{value.name!r} is computed")
    return [int(item) for item in np.asarray(value.const).reshape(-1)]


def _only_first(bounds: _Rows) -> Bound:
    first = bounds[0]
    if first is None or any(bound is not None for bound in bounds[1:]):
        raise Mixed("it is no data but a parameter here")
    return first


def _elementwise(walk: Walk, node: Node, bounds: _Rows) -> _Found:  # noqa: ARG001
    rank = len(static_dims(node.outputs[0]))
    found = [
        (rank - len(static_dims(value)) + bound.axis, bound.count)
        for value, bound in zip(node.inputs, bounds, strict=True)
        if bound is not None
    ]
    axis, count = found[0]
    if any(other != axis or number is not count for other, number in found[1:]):
        raise Mixed("it meets another number of rows")
    for value, bound in zip(node.inputs, bounds, strict=True):
        if value is None or bound is not None:
            continue
        own = axis - (rank - len(static_dims(value)))
        if own >= 0 and static_dims(value)[own] != 1:
            raise Mixed(f"{value.name!r} has a fixed number of them")
    return axis, count


def _along(default: int) -> Callable[[Walk, Node, _Rows], _Found]:
    """Works along one other axis, and keeps it."""

    def rule(walk: Walk, node: Node, bounds: _Rows) -> _Found:  # noqa: ARG001
        bound = _only_first(bounds)
        rank = len(static_dims(node.inputs[0]))
        axis = node.attrs.get("axis", default) % rank
        every = node.op in ("LayerNormalization", "RMSNormalization")  # they work along all axes from that one on
        if bound.axis == axis or (every and bound.axis > axis):
            raise Mixed("it works along them")
        return bound.axis, bound.count

    return rule


def _arg(walk: Walk, node: Node, bounds: _Rows) -> _Found:
    axis, count = _along(0)(walk, node, bounds)
    gone = not node.attrs.get("keepdims", 1) and node.attrs.get("axis", 0) % len(static_dims(node.inputs[0])) < axis
    return axis - int(gone), count


def _reduce(walk: Walk, node: Node, bounds: _Rows) -> _Found:  # noqa: ARG001
    bound = _only_first(bounds)
    rank = len(static_dims(node.inputs[0]))
    axes = _ints(node, 1)
    if not axes and node.attrs.get("noop_with_empty_axes", 0):
        return bound.axis, bound.count
    where = {axis % rank for axis in axes or range(rank)}
    if bound.axis in where:
        raise Mixed("it works along them")
    gone = 0 if node.attrs.get("keepdims", 1) else sum(axis < bound.axis for axis in where)
    return bound.axis - gone, bound.count


def _gather(walk: Walk, node: Node, bounds: _Rows) -> _Found:  # noqa: ARG001
    data, positions = bounds
    axis = node.attrs.get("axis", 0) % len(static_dims(node.inputs[0]))
    if data is None:
        assert positions is not None
        return axis + positions.axis, positions.count
    if positions is not None or axis == data.axis:
        raise Mixed("it picks some of them by their position")
    return data.axis if data.axis < axis else data.axis - 1 + len(static_dims(node.inputs[1])), data.count


def _gather_elements(walk: Walk, node: Node, bounds: _Rows) -> _Found:  # noqa: ARG001
    data, positions = bounds
    axis = node.attrs.get("axis", 0) % len(static_dims(node.inputs[0]))
    if positions is None:
        raise Mixed("it picks a fixed number of them")
    if data is not None and (data != positions or data.axis == axis):
        raise Mixed("it picks some of them by their position")
    return positions.axis, positions.count


def _gather_nd(walk: Walk, node: Node, bounds: _Rows) -> _Found:  # noqa: ARG001
    data, positions = bounds
    if data is not None or positions is None:
        raise Mixed("it picks some of them by their position")
    if positions.axis == len(static_dims(node.inputs[1])) - 1 or node.attrs.get("batch_dims", 0):
        raise Mixed("they are coordinates here")
    return positions.axis, positions.count


def _slice(walk: Walk, node: Node, bounds: _Rows) -> _Found:
    bound = _only_first(bounds)
    shape = static_dims(node.inputs[0])
    starts, ends = _ints(node, 1), _ints(node, 2)
    assert starts is not None
    assert ends is not None
    axes, steps = _ints(node, 3) or list(range(len(starts))), _ints(node, 4) or [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if axis % len(shape) != bound.axis:
            continue
        if step != 1 or start < 0 or end < 0:
            raise Mixed("it counts them from the end, or takes only some")
        length = max(0, min(end, shape[bound.axis]) - start)
        if length == shape[bound.axis]:
            continue
        if not length:
            raise Mixed("none is left")
        return bound.axis, walk.counted(node, bound.count, low=start, high=length)
    return bound.axis, bound.count


def _concat(walk: Walk, node: Node, bounds: _Rows) -> _Found:  # noqa: ARG001
    first = bounds[0]
    if first is None or any(bound != first for bound in bounds):
        raise Mixed("it is joined with another number of them")
    if node.attrs["axis"] % len(static_dims(node.inputs[0])) == first.axis:
        raise Mixed("others are to follow them")
    return first.axis, first.count


def _squeeze(walk: Walk, node: Node, bounds: _Rows) -> _Found:  # noqa: ARG001
    bound = _only_first(bounds)
    rank = len(static_dims(node.inputs[0]))
    axes = _ints(node, 1)
    if axes is None or bound.axis in [axis % rank for axis in axes]:
        raise Mixed("it drops their axis, as if there were one")
    return bound.axis - sum(axis % rank < bound.axis for axis in axes), bound.count


def _unsqueeze(walk: Walk, node: Node, bounds: _Rows) -> _Found:  # noqa: ARG001
    bound = _only_first(bounds)
    rank = len(static_dims(node.outputs[0]))
    new = {axis % rank for axis in _ints(node, 1) or ()}
    kept = [axis for axis in range(rank) if axis not in new]
    return kept[bound.axis], bound.count


def _transpose(walk: Walk, node: Node, bounds: _Rows) -> _Found:  # noqa: ARG001
    bound = _only_first(bounds)
    rank = len(static_dims(node.inputs[0]))
    order = node.attrs.get("perm") or list(range(rank))[::-1]
    return list(order).index(bound.axis), bound.count


def _reshape(walk: Walk, node: Node, bounds: _Rows) -> _Found:
    bound = _only_first(bounds)
    shape, result = static_dims(node.inputs[0]), static_dims(node.outputs[0])
    wanted = [-1, -1] if node.op == "Flatten" else _ints(node, 1) or []
    rows, before = shape[bound.axis], math.prod(shape[: bound.axis])
    for axis, (size, asked) in enumerate(zip(result, wanted, strict=True)):
        if math.prod(result[:axis]) != before or size % rows or asked > 0:
            continue
        factor = size // rows
        if factor * math.prod(result[axis + 1 :]) != math.prod(shape[bound.axis + 1 :]):
            continue
        if factor == 1:
            return axis, bound.count
        return axis, walk.counted(node, bound.count, factor=factor)
    raise Mixed("its shape fixes their number, or does not keep them apart")


def _product(walk: Walk, node: Node, bounds: _Rows) -> _Found:  # noqa: ARG001
    a, b = bounds[:2]
    rank = len(static_dims(node.outputs[0]))
    if a is not None and b is None and len(static_dims(node.inputs[1])) <= len(static_dims(node.inputs[0])):
        inner = len(static_dims(node.inputs[0])) - 1
        if a.axis == inner - 1 and len(static_dims(node.inputs[1])) > 1:
            return rank - 2, a.count
    raise Mixed("it may sum over them")


def _gemm(walk: Walk, node: Node, bounds: _Rows) -> _Found:  # noqa: ARG001
    bound = _only_first(bounds)
    added = static_dims(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else ()
    if bound.axis == int(node.attrs.get("transA", 0)) and (len(added) < 2 or added[0] == 1):
        return 0, bound.count
    raise Mixed("it may sum over them")


def _regions(walk: Walk, node: Node, bounds: _Rows) -> _Found:  # noqa: ARG001
    data, boxes, images = bounds
    if data is not None or boxes is None or boxes.axis != 0 or (images is not None and images != boxes):
        raise Mixed("its boxes are others")
    return 0, boxes.count


def _running(walk: Walk, node: Node, bounds: _Rows) -> _Found:  # noqa: ARG001
    bound = _only_first(bounds)
    return bound.axis, bound.count


def _one_hot(walk: Walk, node: Node, bounds: _Rows) -> _Found:  # noqa: ARG001
    bound = _only_first(bounds)
    axis = node.attrs.get("axis", -1) % len(static_dims(node.outputs[0]))
    return bound.axis + int(axis <= bound.axis), bound.count


def _tile(walk: Walk, node: Node, bounds: _Rows) -> _Found:  # noqa: ARG001
    bound = _only_first(bounds)
    repeats = _ints(node, 1)
    if repeats is None or repeats[bound.axis] != 1:
        raise Mixed("it repeats them")
    return bound.axis, bound.count


# fmt: off
_ELEMENTWISE = [
    "Abs",
    "Acos",
    "Acosh",
    "Add",
    "And",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "BitShift",
    "BitwiseAnd",
    "BitwiseNot",
    "BitwiseOr",
    "BitwiseXor",
    "Cast",
    "Ceil",
    "Celu",
    "Clip",
    "Cos",
    "Cosh",
    "Div",
    "Dropout",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "Greater",
    "GreaterOrEqual",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "IsInf",
    "IsNaN",
    "LeakyRelu",
    "Less",
    "LessOrEqual",
    "Log",
    "Max",
    "Mean",
    "Min",
    "Mish",
    "Mod",
    "Mul",
    "Neg",
    "Not",
    "Or",
    "PRelu",
    "Pow",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Sub",
    "Sum",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
    "Where",
    "Xor",
]
# fmt: on

ROW_WISE: Mapping[str, Callable[[Walk, Node, _Rows], _Found]] = MappingProxyType(
    {
        **dict.fromkeys(_ELEMENTWISE, _elementwise),
        **{
            f"Reduce{name}": _reduce
            for name in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
        },
        "ArgMax": _arg,
        "ArgMin": _arg,
        "Concat": _concat,
        "CumSum": _running,
        "Flatten": _reshape,
        "Gather": _gather,
        "GatherElements": _gather_elements,
        "GatherND": _gather_nd,
        "Gemm": _gemm,
        "Hardmax": _along(-1),
        "LayerNormalization": _along(-1),
        "LogSoftmax": _along(-1),
        "MatMul": _product,
        "OneHot": _one_hot,
        "RMSNormalization": _along(-1),
        "Reshape": _reshape,
        "RoiAlign": _regions,
        "Slice": _slice,
        "Softmax": _along(-1),
        "Split": _along(0),
        "Squeeze": _squeeze,
        "Tile": _tile,
        "TopK": _along(-1),
        "Transpose": _transpose,
        "Unsqueeze": _unsqueeze,
    }
)
