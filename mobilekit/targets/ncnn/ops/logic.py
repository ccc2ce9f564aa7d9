"""Comparisons, booleans and choices: 1.0 is true, 0.0 is false.

Everything is made of subtraction, sign, minimum and maximum, which are exact for all numbers and infinities (the
difference of two equal infinities is NaN, whose sign ncnn takes to be 0: equal). NaN compares equal to everything.
"""

from __future__ import annotations

import numpy as np

from mobilekit.targets.ncnn.emit import Blob, Emission
from mobilekit.targets.ncnn.node import NodeView, Refuse, static_shape
from mobilekit.targets.ncnn.ops.activation import apply
from mobilekit.targets.ncnn.ops.choose import choose
from mobilekit.targets.ncnn.ops.elementwise import ADD, MAX, MIN, MUL, RSUB, SUB, Operand, binary, scalar
from mobilekit.targets.ncnn.registry import emits

__all__ = ["equal", "negate", "positive"]


def positive(out: Emission, blob: Blob) -> Blob:
    """1 where ``blob`` is above 0, else 0."""
    return out.layer("ReLU", [apply(out, "Sign", blob)], blob.dims)


def negate(out: Emission, blob: Blob) -> Blob:
    """1 for 0 and 0 for 1."""
    return scalar(out, RSUB, blob, 1.0)


def equal(out: Emission, a: Operand, b: Operand, shape: tuple[int, ...]) -> Blob:
    """1 where ``a`` equals ``b``, else 0."""
    return negate(out, apply(out, "Abs", apply(out, "Sign", binary(out, SUB, [a, b], shape))))


def _operands(node: NodeView) -> list[Operand]:
    return [(value, static_shape(value)) for value in node.inputs()]


@emits("Greater", "Less", since=13, data="any")
@emits("GreaterOrEqual", "LessOrEqual", since=16, data="any")
def compare(node: NodeView, out: Emission) -> None:
    a, b = _operands(node)
    if node.op in ("Less", "GreaterOrEqual"):
        a, b = b, a
    result = positive(out, binary(out, SUB, [a, b], node.out_shape()))
    out.bind(node.output(), result if node.op in ("Greater", "Less") else negate(out, result))


@emits("Equal", since=19, data="any")
def equal_op(node: NodeView, out: Emission) -> None:
    a, b = _operands(node)
    out.bind(node.output(), equal(out, a, b, node.out_shape()))


@emits("And", "Or", "Xor", since=7, data="any")
def boolean(node: NodeView, out: Emission) -> None:
    operands, shape = _operands(node), node.out_shape()
    if node.op == "Xor":
        result = apply(out, "Abs", binary(out, SUB, operands, shape))
    else:
        result = binary(out, MUL if node.op == "And" else MAX, operands, shape)
    out.bind(node.output(), result)


@emits("Not", since=1, data="any")
def not_op(node: NodeView, out: Emission) -> None:
    out.bind(node.output(), negate(out, out.native(node.input())))


@emits("IsNaN", since=20, data="any")
def is_nan(node: NodeView, out: Emission) -> None:
    # |x| + 1 is above 0 whatever x is, unless it is NaN.
    above = scalar(out, ADD, apply(out, "Abs", out.native(node.input())), 1.0)
    out.bind(node.output(), negate(out, apply(out, "Sign", above)))


@emits("IsInf", since=20, data="any")
def is_inf(node: NodeView, out: Emission) -> None:
    x = out.native(node.input())
    up, down = node.int("detect_positive", 1) != 0, node.int("detect_negative", 1) != 0
    if not up and not down:
        raise Refuse("it detects neither infinity", "remove it: the result is false everywhere")
    if up and down:
        x = apply(out, "Abs", x)
    elif up:
        x = out.layer("ReLU", [x], x.dims)
    else:
        x = out.layer("ReLU", [apply(out, "Neg", x)], x.dims)
    # Only 0 and infinity equal their half; infinity less infinity is NaN, whose sign is 0.
    same = negate(out, apply(out, "Sign", out.layer("BinaryOp", [x, scalar(out, MUL, x, 0.5)], x.dims, op_type=SUB)))
    out.bind(node.output(), out.layer("BinaryOp", [apply(out, "Sign", x), same], x.dims, op_type=MUL))


@emits("Where", since=16, data="any")
def where(node: NodeView, out: Emission) -> None:
    condition, a, b = _operands(node)
    if _is_nan(a) != _is_nan(b):
        out.bind(node.output(), _marked(out, condition, b if _is_nan(a) else a, _is_nan(b), node.out_shape()))
    else:
        out.bind(node.output(), choose(out, condition, a, b, node.out_shape()))


def _is_nan(operand: Operand) -> bool:
    value, _ = operand
    array = None if isinstance(value, Blob) else value.const
    return array is not None and array.dtype.kind == "f" and bool(np.isnan(array).all())


def _marked(out: Emission, condition: Operand, value: Operand, where: bool, shape: tuple[int, ...]) -> Blob:
    """``value`` where ``condition`` is ``where``, elsewhere NaN, which no minimum or maximum passes on surely."""
    chosen, c_shape = condition
    if isinstance(chosen, Blob) or chosen.const is None:
        c = chosen if isinstance(chosen, Blob) else out.native(chosen)
        endless = out.graph.constant("infinity", np.array(np.inf, np.float32))
        signed = scalar(out, SUB if where else RSUB, c, 0.5)
        low = scalar(out, MIN, binary(out, MUL, [(signed, c_shape), (endless, ())], c_shape), 0.0)
        mark: Operand = (scalar(out, MUL, low, 0.0), c_shape)  # 0 stays 0, -inf becomes NaN
    else:
        mask = np.where(chosen.const.astype(bool) == where, np.float32(0), np.float32(np.nan))
        mark = (out.graph.constant("marked", mask), c_shape)
    reach = tuple(np.broadcast_shapes(value[1], c_shape))
    marked = binary(out, ADD, [value, mark], reach)
    if reach == shape:
        return marked
    return binary(out, ADD, [(marked, reach), (out.graph.constant("wide", np.zeros(shape, np.float32)), shape)], shape)


@emits("Trilu", since=14, data="any")
def trilu(node: NodeView, out: Emission) -> None:
    shape = node.shape()
    given = node.optional_const(1, "k")
    k = 0 if given is None else int(given.reshape(-1)[0])
    ones = np.ones(shape[-2:], bool)
    kept = np.triu(ones, k) if node.int("upper", 1) else np.tril(ones, k)
    zero = out.graph.constant("zero", np.zeros((), np.float32))
    mask = out.graph.constant("kept", kept)
    out.bind(node.output(), choose(out, (mask, kept.shape), (node.input(), shape), (zero, ()), node.out_shape()))
