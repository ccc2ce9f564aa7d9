"""Makers of normalisations, resizing, recurrent layers, and chains of nodes as exporters write them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.property.graphs import Builder, Tensor, Unfit
from tests.property.makers.windows import affine

__all__ = ["MAKERS"]


def normalisation(b: Builder) -> None:
    op = b.one(("BatchNormalization", "InstanceNormalization", "LRN", "LayerNormalization", "GroupNormalization",
                "RMSNormalization", "MeanVarianceNormalization"))  # fmt: skip
    x = b.pick(ranks=(3, 4, 5) if op in ("LRN", "InstanceNormalization", "GroupNormalization") else range(2, 6))
    if op == "LRN":
        b.add(op, [x], size=b.one((1, 3, 5)), alpha=b.float(0.0001, 0.5), beta=b.float(0.5, 1.0), bias=b.float(1, 2))
    elif op == "BatchNormalization":
        affine(b, x)
    elif op == "MeanVarianceNormalization":
        if x.rank != 4:
            raise Unfit
        b.add(op, [x])
    elif op in ("LayerNormalization", "RMSNormalization"):
        axis = b.axis(x)
        shape = x.shape[axis % x.rank :]
        bias = [b.weights(*shape)] if b.maybe() and op[0] == "L" else []
        b.add(op, [x, b.weights(*shape), *bias], axis=axis, epsilon=b.one((1e-5, 1e-2)))
    elif op == "GroupNormalization":
        if b.opset < 21:
            raise Unfit
        groups = b.one([g for g in range(1, x.shape[1] + 1) if x.shape[1] % g == 0])
        b.add(op, [x, b.weights(x.shape[1]), b.weights(x.shape[1])], num_groups=groups, epsilon=1e-2)
    else:
        b.add(op, [x, b.weights(x.shape[1]), b.weights(x.shape[1])], epsilon=1e-2)


def layer_norm_chain(b: Builder) -> None:
    if b.opset >= 18:
        raise Unfit
    x = b.pick(ranks=range(2, 5))
    mean = b.add("ReduceMean", [x], axes=[-1])
    off = b.add("Sub", [x, mean])
    square = b.add("Pow", [off, b.const(np.float32(2))]) if b.maybe() else b.add("Mul", [off, off])
    variance = b.add("ReduceMean", [square], axes=[-1])
    y = b.add("Div", [off, b.add("Sqrt", [b.add("Add", [variance, b.const(np.float32(1e-2))])])])
    if b.maybe():
        b.add("Add", [b.add("Mul", [y, b.weights(x.shape[-1])]), b.weights(x.shape[-1])])


def activation_chain(b: Builder) -> None:
    x = b.pick()
    way = b.int(0, 4)
    if way == 0:
        b.add("Mul", [x, b.add("Sigmoid", [x])])
    elif way == 1:
        half = b.add("Erf", [b.add("Div", [x, b.const(np.float32(math.sqrt(2)))])])
        b.add("Mul", [b.add("Mul", [x, b.add("Add", [half, b.const(np.float32(1))])]), b.const(np.float32(0.5))])
    elif way == 2:
        k = [b.const(np.float32(v)) for v in (3.0, 0.0, 6.0)]
        y = b.add("Clip", [b.add("Add", [x, k[0]]), k[1], k[2]])
        y = b.add("Div", [y, k[2]]) if b.maybe() else b.add("Mul", [x, b.add("Div", [y, k[2]])])
    elif way == 3:
        b.add("Mul", [x, b.add("HardSigmoid", [x], alpha=b.one((1 / 6, 0.2)), beta=0.5)])
    else:
        b.add("Mul", [x, b.add("Tanh", [b.add("Softplus", [x])])])


def attention_chain(b: Builder) -> None:
    heads, steps, depth = b.int(1, 3), b.int(2, 5), b.int(1, 4)
    x = b.input((1, steps, heads * depth))
    parts = []
    for _ in range(3):
        y = b.add("MatMul", [x, b.weights(heads * depth, heads * depth)])
        y = b.add("Reshape", [y, b.ints(1, steps, heads, depth)])
        parts.append(b.add("Transpose", [y], perm=[0, 2, 1, 3]))
    scores = b.add("MatMul", [parts[0], b.add("Transpose", [parts[1]], perm=[0, 1, 3, 2])])
    scores = b.add("Mul", [scores, b.const(np.float32(depth**-0.5))])
    if b.maybe():
        scores = b.add("Add", [scores, b.const(b.data((1, 1, steps, steps)))])
    y = b.add("MatMul", [b.add("Softmax", [scores], axis=-1), parts[2]])
    b.add("Reshape", [b.add("Transpose", [y], perm=[0, 2, 1, 3]), b.ints(1, steps, heads * depth)])


def resize(b: Builder) -> None:
    x = b.pick(ranks=(3, 4, 4))
    mode = b.one(("nearest", "linear", "cubic") if x.rank == 4 else ("nearest", "linear"))
    attrs: dict[str, Any] = {
        "mode": mode,
        "coordinate_transformation_mode": b.one(("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")),
    }
    if mode == "nearest":
        attrs["nearest_mode"] = b.one(("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"))
    if mode == "cubic" and b.maybe():
        attrs["cubic_coeff_a"] = -0.5
    lead = x.rank - 2 if x.rank == 4 else 2
    if b.maybe():
        sizes = [*x.shape[:lead], *[b.int(1, 9) for _ in x.shape[lead:]]]
        b.add("Resize", [x, None, None, b.ints(*sizes)] if b.opset > 12 else _old_resize(b, x, sizes), **attrs)
    else:
        scales = np.array([*([1.0] * lead), *[b.one((0.5, 1.5, 2.0, 3.0)) for _ in x.shape[lead:]]], np.float32)
        b.add("Resize", [x, b.const(np.zeros(0, np.float32)) if b.opset < 13 else None, b.const(scales)], **attrs)


def _old_resize(b: Builder, x: Tensor, sizes: list[int]) -> list[Tensor | None]:
    return [x, b.const(np.zeros(0, np.float32)), b.const(np.zeros(0, np.float32)), b.ints(*sizes)]


def recurrent(b: Builder) -> None:
    op, gates = b.one((("LSTM", 4), ("GRU", 3), ("RNN", 1)))
    direction = b.one(("forward", "reverse", "bidirectional"))
    count = 2 if direction == "bidirectional" else 1
    steps, batch, width, hidden = b.int(1, 4), b.one((1, 1, 2)), b.int(1, 4), b.int(1, 4)
    x = b.input((steps, batch, width))
    inputs: list[Tensor | None] = [x, b.weights(count, gates * hidden, width), b.weights(count, gates * hidden, hidden)]
    inputs.append(b.weights(count, 2 * gates * hidden) if b.maybe() else None)
    if b.maybe():
        inputs += [None, b.weights(count, batch, hidden) if b.maybe() else b.input((count, batch, hidden))]
        inputs += [b.weights(count, batch, hidden)] if op == "LSTM" else []
    while inputs[-1] is None:
        inputs.pop()
    attrs = {"linear_before_reset": b.int(0, 1)} if op == "GRU" else {}
    b.add(op, inputs, b.int(2, 3 if op == "LSTM" else 2), hidden_size=hidden, direction=direction, **attrs)


def grid_sample(b: Builder) -> None:
    if b.opset < 20:
        raise Unfit
    x = b.pick(ranks=(4,))
    grid = b.input((x.shape[0], b.int(1, 3), b.int(1, 3), 2))
    grid.array = (grid.array * 0.5).astype(np.float32)
    mode = b.one(("linear", "cubic"))
    padding = b.one(("zeros", "border", "reflection"))
    b.add("GridSample", [x, grid], mode=mode, padding_mode=padding, align_corners=b.int(0, 1))


MAKERS = (normalisation, layer_norm_chain, activation_chain, attention_chain, resize, recurrent, grid_sample)
