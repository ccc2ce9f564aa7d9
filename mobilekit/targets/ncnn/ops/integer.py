"""Whole numbers in float32: exact while they, and the sum of their magnitudes in a division, stay below 2^24."""

from __future__ import annotations

import math

import numpy as np

from mobilekit.targets.ncnn.emit import Blob, Emission
from mobilekit.targets.ncnn.node import NodeView, static_shape
from mobilekit.targets.ncnn.ops.activation import apply
from mobilekit.targets.ncnn.ops.elementwise import ADD, DIV, MAX, MIN, MUL, RSUB, SUB, Operand, binary, scalar
from mobilekit.targets.ncnn.ops.own import broadcast
from mobilekit.targets.ncnn.ops.reduce import reduction
from mobilekit.targets.ncnn.ops.slicing import crop
from mobilekit.targets.ncnn.registry import emits

__all__ = ["divided"]

_BITS = 25


def _both(out: Emission, op: int, a: Blob, b: Blob) -> Blob:
    dims = tuple(max(pair) for pair in zip(a.dims, b.dims, strict=True))
    return out.layer("BinaryOp", [a, b], dims, op_type=op)


def _positive(out: Emission, blob: Blob) -> Blob:
    return out.layer("ReLU", [apply(out, "Sign", blob)], blob.dims)


def _aligned(node: NodeView, out: Emission) -> tuple[Blob, Blob]:
    """Both operands at the output's full shape, flat."""
    shape = node.out_shape()
    size = math.prod(shape)
    zero = out.graph.constant("zero", np.zeros(shape, np.float32))
    operands: list[Operand] = [(value, static_shape(value)) for value in node.inputs()]
    full = [
        out.view(value, (size,))  # type: ignore[arg-type]
        if have == shape
        else out.reshape(binary(out, ADD, [(value, have), (zero, shape)], shape), (size,))
        for value, have in operands
    ]
    return full[0], full[1]


def divided(out: Emission, x: Blob, y: Blob) -> tuple[Blob, Blob]:
    """``floor(x / y)`` and the rest, for x not negative and y positive; ncnn's quotient may be a step off."""
    rough = apply(out, "Floor", _both(out, DIV, x, y))
    rest = _both(out, SUB, x, _both(out, MUL, rough, y))
    above = _positive(out, apply(out, "Neg", rest))  # the quotient was one too large
    below = scalar(out, RSUB, _positive(out, _both(out, SUB, y, rest)), 1.0)  # or one too small
    shift = _both(out, SUB, below, above)
    return _both(out, ADD, rough, shift), _both(out, SUB, rest, _both(out, MUL, shift, y))


def integer_division(node: NodeView, out: Emission) -> None:
    """Towards zero, as ONNX has it."""
    x, y = _aligned(node, out)
    quotient, _ = divided(out, apply(out, "Abs", x), apply(out, "Abs", y))
    sign = _both(out, MUL, apply(out, "Sign", x), apply(out, "Sign", y))
    out.bind(node.output(), _both(out, MUL, quotient, sign))


@emits("Mod", since=13, data="exact", own="MkMod", stock=True)
def mod(node: NodeView, out: Emission) -> None:
    endless = node.output().dtype == "float32" and node.input(1).const is None and not node.int("fmod", 0)
    if out.takes_own or endless:
        # A computed divisor may be infinite, which stock arithmetic does not survive.
        out.bind(node.output(), broadcast(node, out, "MkMod", fmod=node.int("fmod", 0)))
        return
    x, y = _aligned(node, out)
    size = apply(out, "Abs", y)
    _, rest = divided(out, apply(out, "Abs", x), size)
    if node.int("fmod", 0):
        out.bind(node.output(), _both(out, MUL, rest, apply(out, "Sign", x)))
        return
    # The result has the divisor's sign: where the signs differ, what is missing to a whole divisor.
    sign = apply(out, "Sign", y)
    differ = _positive(out, apply(out, "Neg", _both(out, MUL, apply(out, "Sign", x), sign)))
    turned = _both(out, MUL, differ, apply(out, "Sign", rest))
    # rest, or size - rest: rest + turned * (size - 2 rest)
    swing = _both(out, SUB, size, scalar(out, MUL, rest, 2.0))
    out.bind(node.output(), _both(out, MUL, _both(out, ADD, rest, _both(out, MUL, turned, swing)), sign))


def _bits(out: Emission, x: Blob) -> Blob:
    """(bits, elements): the two's complement, lowest bit first; floor takes care of the sign."""
    size = x.dims[0]
    weights = (0.5 ** np.arange(_BITS)).astype(np.float32)
    row = out.reshape(x, (1, size))
    this = apply(out, "Floor", _both(out, MUL, row, out.memory(weights, (_BITS, 1))))
    above = apply(out, "Floor", _both(out, MUL, row, out.memory(weights / 2, (_BITS, 1))))
    return _both(out, SUB, this, scalar(out, MUL, above, 2.0))


@emits("BitwiseAnd", "BitwiseOr", "BitwiseXor", since=18, data="exact")
def bitwise(node: NodeView, out: Emission) -> None:
    x, y = _aligned(node, out)
    a, b = _bits(out, x), _bits(out, y)
    if node.op == "BitwiseXor":
        both = apply(out, "Abs", _both(out, SUB, a, b))
    else:
        both = _both(out, MIN if node.op == "BitwiseAnd" else MAX, a, b)
    weights = 2.0 ** np.arange(_BITS)
    weights[-1] = -weights[-1]
    weighed = _both(out, MUL, both, out.memory(weights.astype(np.float32), (_BITS, 1)))
    out.bind(node.output(), reduction(out, "sum", weighed, [0]))


@emits("BitwiseNot", since=18, data="exact")
def bitwise_not(node: NodeView, out: Emission) -> None:
    out.bind(node.output(), scalar(out, RSUB, out.native(node.input()), -1.0))


@emits("BitShift", since=11, data="exact")
def bit_shift(node: NodeView, out: Emission) -> None:
    x, y = _aligned(node, out)
    size = x.dims[0]
    left = node.str("direction", "LEFT").upper() == "LEFT"
    # A shift of the width or more, or a negative one, leaves nothing but the sign, and that only to the right.
    count = (64 if node.output().dtype == "int64" else 32) if left else _BITS
    powers = (2.0 if left else 0.5) ** np.arange(count)
    column = (count, 1)
    apart = _both(out, SUB, out.reshape(y, (1, size)), out.memory(np.arange(count, dtype=np.float32), column))
    hot = scalar(out, RSUB, apply(out, "Abs", apply(out, "Sign", apart)), 1.0)
    factor = reduction(out, "sum", _both(out, MUL, hot, out.memory(powers.astype(np.float32), column)), [0])
    if not left:
        factor = scalar(out, MAX, factor, 0.5**_BITS)
    product = _both(out, MUL, x, out.reshape(factor, (size,)))
    out.bind(node.output(), product if left else apply(out, "Floor", product))


@emits("CumProd", since=26, data="exact")
def cumulative_product(node: NodeView, out: Emission) -> None:
    """Every element times the one 1, 2, 4, ... before it, with ones before the first."""
    (given,) = node.const_ints(1, "axis")
    axis, shape = node.axis(given), node.shape()
    dims = (math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))
    count = dims[1]
    backwards, exclusive = node.int("reverse", 0) != 0, node.int("exclusive", 0) != 0
    blob = out.view(node.input(), dims)
    if backwards:
        blob = out.layer("Flip", [blob], dims, axes=[1])

    def behind(x: Blob, step: int) -> Blob:
        kept = crop(out, x, {1: (0, count - step)})
        return out.layer("Padding", [kept], dims, top=step, value=1.0)

    if exclusive and count > 1:
        blob = behind(blob, 1)
    elif exclusive:
        blob = out.memory(np.ones(dims, np.float32), dims)
    step = 1
    while step < count:
        blob = _both(out, MUL, blob, behind(blob, step))
        step *= 2
    if backwards:
        blob = out.layer("Flip", [blob], dims, axes=[1])
    out.bind(node.output(), blob)
