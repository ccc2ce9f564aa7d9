"""Comparisons, logic and selection, as arithmetic on 0 and 1.

Exact for finite numbers whose difference is no denormal (ncnn flushes those to zero); NaN and infinity do not compare.
"""

from __future__ import annotations

import numpy as np

from mobilekit.graph import Value
from mobilekit.targets.ncnn.emit import Blob, Emission, as_float
from mobilekit.targets.ncnn.layers import FLT_MAX
from mobilekit.targets.ncnn.node import NodeView, Refuse, static_shape
from mobilekit.targets.ncnn.ops.activation import apply
from mobilekit.targets.ncnn.ops.elementwise import ADD, MAX, MIN, MUL, RSUB, SUB, binary, scalar
from mobilekit.targets.ncnn.registry import emits

Shape = tuple[int, ...]


def _finite(node: NodeView) -> None:
    for value in node.node.inputs:
        const = None if value is None else value.const
        if value is not None and const is not None and const.dtype.kind == "f" and not bool(np.isfinite(const).all()):
            raise Refuse(
                f"{value.name!r} holds NaN or infinity, which ncnn's arithmetic cannot select or compare",
                "use a large finite number, such as -1e9 in a mask",
            )


def _sign(node: NodeView, out: Emission, swap: bool) -> Blob:
    """-1, 0 or 1: the sign of a - b, or of b - a with ``swap``."""
    operands = [(value, static_shape(value)) for value in node.inputs()]
    difference = binary(out, SUB, operands[::-1] if swap else operands, node.out_shape())
    return apply(out, "Sign", difference)


def negation(out: Emission, blob: Blob) -> Blob:
    return scalar(out, RSUB, blob, 1.0)


@emits("Equal", since=19, data="any")
def equal(node: NodeView, out: Emission) -> None:
    _finite(node)
    out.bind(node.output(), negation(out, apply(out, "Abs", _sign(node, out, swap=False))))


@emits("Greater", "Less", since=13, data="any")
@emits("GreaterOrEqual", "LessOrEqual", since=16, data="any")
def compare(node: NodeView, out: Emission) -> None:
    _finite(node)
    or_equal = node.op.endswith("OrEqual")
    # a >= b is not (b > a).
    greater = node.op.startswith("Greater") != or_equal
    sign = _sign(node, out, swap=not greater)
    result = out.layer("ReLU", [sign], sign.dims)
    out.bind(node.output(), negation(out, result) if or_equal else result)


@emits("And", "Or", since=7, data="any")
def logic(node: NodeView, out: Emission) -> None:
    operands = [(value, static_shape(value)) for value in node.inputs()]
    out.bind(node.output(), binary(out, MUL if node.op == "And" else MAX, operands, node.out_shape()))


@emits("Xor", since=7, data="any")
def exclusive(node: NodeView, out: Emission) -> None:
    out.bind(node.output(), apply(out, "Abs", _sign(node, out, swap=False)))


@emits("Not", since=1, data="any")
def invert(node: NodeView, out: Emission) -> None:
    out.bind(node.output(), negation(out, out.native(node.input(0))))


@emits("Where", since=16, data="any")
def where(node: NodeView, out: Emission) -> None:
    condition, chosen, other = node.inputs()
    if _where_constant(node, out, condition, chosen, other):
        return
    _finite(node)
    mask = out.native(condition)
    shape = static_shape(condition)
    left, left_shape = _masked(out, mask, shape, chosen)
    right, right_shape = _masked(out, negation(out, mask), shape, other)
    out.bind(node.output(), binary(out, ADD, [(left, left_shape), (right, right_shape)], node.out_shape()))


def _where_constant(node: NodeView, out: Emission, condition: Value, chosen: Value, other: Value) -> bool:
    """A constant in place of some elements, as bounds: where the condition is constant too, or it is infinite."""
    swap = chosen.const is not None and (other.const is None or bool(np.isinf(chosen.const).all()))
    value, constant = (other, chosen) if swap else (chosen, other)
    if constant.const is None:
        return False
    fill = np.asarray(as_float(constant.const, constant.name), np.float64)
    infinite = not bool(np.isfinite(fill).any()) and np.unique(fill).size == 1 and not bool(np.isnan(fill).any())
    shape, value_shape = node.out_shape(), static_shape(value)
    if condition.const is not None and value.const is None and not bool(np.isnan(fill).any()):
        kept = condition.const.astype(np.bool_) != swap
        bounds_shape = tuple(np.broadcast_shapes(kept.shape, fill.shape))
        left: tuple[Value | Blob, Shape] = (value, value_shape)
        for op, free, idle in ((MIN, np.inf, np.inf), (MAX, -np.inf, -np.inf)):
            bound = np.where(kept, free, fill).astype(np.float32)
            if not bool((bound == idle).all()):
                shape_now = tuple(np.broadcast_shapes(left[1], bounds_shape))
                limits = Value(f"{condition.name} as bounds", "float32", bounds_shape, const=bound)
                left = (binary(out, op, [left, (limits, bounds_shape)], shape_now), shape_now)
        if isinstance(left[0], Blob) and left[1] == shape:
            out.bind(node.output(), left[0])
            return True
        return False
    if not infinite or condition.const is not None:
        return False
    # The bound overflows to infinity on purpose: +-0.5 * 3.4e38 * 3.4e38, of the sign that leaves kept elements be.
    mask = out.native(condition)
    low = fill.reshape(-1)[0] < 0
    half = scalar(out, SUB if low != swap else RSUB, mask, 0.5)
    bound_blob = scalar(out, MUL, scalar(out, MUL, half, FLT_MAX), FLT_MAX)
    operands: list[tuple[Value | Blob, Shape]] = [(value, value_shape), (bound_blob, static_shape(condition))]
    reach = tuple(np.broadcast_shapes(value_shape, static_shape(condition)))
    if reach != shape:
        return False
    out.bind(node.output(), binary(out, MIN if low else MAX, operands, shape))
    return True


def _masked(out: Emission, mask: Blob, mask_shape: Shape, value: Value) -> tuple[Blob, Shape]:
    """``value`` where the mask is 1, 0 where it is 0, whatever finite or infinite number stands there."""
    shape = tuple(np.broadcast_shapes(mask_shape, static_shape(value)))
    if out.is_const(value):
        return binary(out, MUL, [(mask, mask_shape), (value, static_shape(value))], shape), shape
    # Clamp between -limit and limit, which are 0 or the largest number: 0 * infinity would be NaN.
    limit = scalar(out, MUL, mask, FLT_MAX)
    high = binary(out, MIN, [(value, static_shape(value)), (limit, mask_shape)], shape)
    low = apply(out, "Neg", limit)
    return binary(out, MAX, [(high, shape), (low, mask_shape)], shape), shape


@emits("ThresholdedRelu", since=22)
def thresholded_relu(node: NodeView, out: Emission) -> None:
    x = out.native(node.input(0))
    above = apply(out, "Sign", scalar(out, SUB, x, node.float("alpha", 1.0)))
    gate = out.layer("ReLU", [above], x.dims)
    out.bind(node.output(), out.layer("BinaryOp", [x, gate], x.dims, op_type=MUL))
