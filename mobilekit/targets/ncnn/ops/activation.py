"""Element-by-element functions of one tensor."""

from __future__ import annotations

import math

from mobilekit.targets.ncnn.emit import Blob, Emission, raw
from mobilekit.targets.ncnn.fuse import clip_bounds
from mobilekit.targets.ncnn.layout import dims_of, match, natural
from mobilekit.targets.ncnn.node import NodeView, Refuse, static_shape
from mobilekit.targets.ncnn.ops.elementwise import ADD, DIV, MIN, MUL, binary, scalar
from mobilekit.targets.ncnn.registry import emits

UNARY = {
    "Abs": 0,
    "Neg": 1,
    "Floor": 2,
    "Ceil": 3,
    "Square": 4,
    "Sqrt": 5,
    "Exp": 7,
    "Log": 8,
    "Sin": 9,
    "Cos": 10,
    "Tan": 11,
    "Asin": 12,
    "Acos": 13,
    "Atan": 14,
    "Reciprocal": 15,
    "Tanh": 16,
    "Round": 18,
    "Trunc": 19,
    "Sign": 20,
    "Expm1": 21,
    "Sinh": 22,
    "Asinh": 23,
    "Cosh": 24,
    "Acosh": 25,
    "Atanh": 26,
    "Log1p": 27,
}
"""ncnn's UnaryOp types (``src/layer/unaryop.h``); Trunc, Expm1 and Log1p serve as parts of others."""


def apply(out: Emission, name: str, blob: Blob) -> Blob:
    return out.layer("UnaryOp", [blob], blob.dims, op_type=UNARY[name])


@emits("Abs", "Neg", since=13, data="exact")
@emits("Floor", "Ceil", "Sqrt", "Exp", "Log", "Reciprocal", "Tanh", since=13)
@emits("Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh", since=7)
@emits("Round", since=11)
@emits("Sign", since=9, data="exact")
def unary(node: NodeView, out: Emission) -> None:
    out.unary("UnaryOp", node, op_type=UNARY[node.op])


@emits("Relu", since=6)
def relu(node: NodeView, out: Emission) -> None:
    out.unary("ReLU", node)


@emits("LeakyRelu", since=6)
def leaky_relu(node: NodeView, out: Emission) -> None:
    out.unary("ReLU", node, slope=node.float("alpha", 0.01))


@emits("Sigmoid", since=6)
def sigmoid(node: NodeView, out: Emission) -> None:
    out.unary("Sigmoid", node)


@emits("Erf", since=9)
def erf(node: NodeView, out: Emission) -> None:
    out.unary("Erf", node)


@emits("Elu", since=6)
def elu(node: NodeView, out: Emission) -> None:
    out.unary("ELU", node, alpha=node.float("alpha", 1.0))


@emits("Selu", since=6)
def selu(node: NodeView, out: Emission) -> None:
    alpha, gamma = node.float("alpha", 1.67326319217681884765625), node.float("gamma", 1.05070102214813232421875)
    out.unary("SELU", node, alpha=alpha, lambda_=gamma)


@emits("Celu", since=12)
def celu(node: NodeView, out: Emission) -> None:
    out.unary("CELU", node, alpha=node.float("alpha", 1.0))


@emits("HardSigmoid", since=6)
def hard_sigmoid(node: NodeView, out: Emission) -> None:
    alpha, beta = node.float("alpha", 0.2), node.float("beta", 0.5)
    if alpha <= 0:
        raise Refuse("its alpha is not positive", "write it as Mul, Add and Clip")
    out.unary("HardSigmoid", node, alpha=alpha, beta=beta)


@emits("HardSwish", since=14)
def hard_swish(node: NodeView, out: Emission) -> None:
    out.unary("HardSwish", node, alpha=1 / 6, beta=0.5)


@emits("Mish", since=18)
def mish(node: NodeView, out: Emission) -> None:
    out.unary("Mish", node)


@emits("Gelu", since=20)
def gelu(node: NodeView, out: Emission) -> None:
    out.unary("GELU", node, fast_gelu=int(node.str("approximate", "none") == "tanh"))


@emits("Swish", since=24)
def swish(node: NodeView, out: Emission) -> None:
    alpha = node.float("alpha", 1.0)
    if alpha == 1.0:
        out.unary("Swish", node)
        return
    x = out.native(node.input(0))
    gate = out.layer("Sigmoid", [scalar(out, MUL, x, alpha)], x.dims)
    out.bind(node.output(), out.layer("BinaryOp", [x, gate], x.dims, op_type=MUL))


@emits("Softplus", since=1)
def softplus(node: NodeView, out: Emission) -> None:
    # ncnn's own is log(exp(x) + 1), which overflows from 88 on; this is max(x, 0) + log1p(exp(-|x|)).
    x = out.native(node.input(0))
    tail = apply(out, "Log1p", apply(out, "Exp", apply(out, "Neg", apply(out, "Abs", x))))
    out.bind(node.output(), out.layer("BinaryOp", [out.layer("ReLU", [x], x.dims), tail], x.dims, op_type=ADD))


@emits("Softsign", since=1)
def softsign(node: NodeView, out: Emission) -> None:
    x = out.native(node.input(0))
    bottom = scalar(out, ADD, apply(out, "Abs", x), 1.0)
    out.bind(node.output(), out.layer("BinaryOp", [x, bottom], x.dims, op_type=DIV))


@emits("Clip", since=13, data="any")
def clip(node: NodeView, out: Emission) -> None:
    bounds = clip_bounds(node)
    if bounds is None:
        raise Refuse("its bounds are computed while running, or NaN", "make them constants in the model")
    low, high = bounds
    if low > high:
        # ONNX: min(max(x, low), high), which is high everywhere.
        low = high
    out.unary("Clip", node, min=low, max=high)


@emits("PRelu", since=16)
def prelu(node: NodeView, out: Emission) -> None:
    value, shape = node.input(0), node.shape(0)
    slope = node.input(1)
    slopes = static_shape(slope)
    padded = (1,) * (len(shape) - len(slopes)) + slopes
    if slope.const is not None and math.prod(slopes) == 1:
        dims = out.dims(value)
        blob = out.layer("PReLU", [out.view(value, dims)], dims, [raw(slope.const)], num_slope=1)
    elif slope.const is not None and _first_axis_only(shape, padded):
        channels = max(padded)
        groups = next(
            (g for g in [match(shape, out.dims(value), [padded.index(channels)]), natural(shape)] if g is not None),
            ((0,),),
        )
        dims = dims_of(shape, groups)
        if dims[0] != channels:
            dims = (channels, math.prod(shape) // channels)
        blob = out.layer("PReLU", [out.view(value, dims)], dims, [raw(slope.const)], num_slope=channels)
    else:
        x = out.native(value)
        low = scalar(out, MIN, x, 0.0)
        high = out.layer("ReLU", [x], x.dims)
        scaled = binary(out, MUL, [(low, shape), (slope, slopes)], shape)
        blob = out.layer("BinaryOp", [high, out.reshape(scaled, x.dims)], x.dims, op_type=ADD)
    out.bind(node.output(), blob)


def _first_axis_only(shape: tuple[int, ...], slope: tuple[int, ...]) -> bool:
    """The slope varies along one axis only, and all axes before it are of size 1."""
    varying = [axis for axis, size in enumerate(slope) if size > 1]
    return len(varying) == 1 and all(size == 1 for size in shape[: varying[0]])
