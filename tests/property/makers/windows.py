"""Makers of convolutions and pooling."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.property.graphs import Builder, Tensor

__all__ = ["MAKERS", "affine"]


def _window(b: Builder, x: Tensor, kernel: list[int], *, pool: bool) -> dict[str, Any]:
    spatial = x.rank - 2
    attrs: dict[str, Any] = {}
    if b.maybe():
        attrs["strides"] = [b.int(1, 3) for _ in range(spatial)]
    if b.int(0, 2) == 0:
        attrs["auto_pad"] = b.one(("SAME_UPPER", "SAME_LOWER", "VALID"))
    elif b.maybe():
        most = [min(kernel[i % spatial] - 1, 2) if pool else 2 for i in range(2 * spatial)]
        attrs["pads"] = [b.int(0, high) for high in most]
    return attrs


def conv(b: Builder) -> None:
    x = b.pick(ranks=(3, 4, 4, 4, 5))
    kernel = [b.one((1, 2, 3)) for _ in range(x.rank - 2)]
    group = b.one([g for g in range(1, x.shape[1] + 1) if x.shape[1] % g == 0])
    made = group * b.int(1, 3)
    attrs = _window(b, x, kernel, pool=False)
    if b.int(0, 2) == 0:
        attrs["dilations"] = [b.int(1, 2) for _ in kernel]
    if b.maybe():
        attrs["kernel_shape"] = kernel
    bias = [b.weights(made)] if b.maybe() else []
    y = b.add("Conv", [x, b.weights(made, x.shape[1] // group, *kernel), *bias], group=group, **attrs)
    if b.int(0, 2) == 0:
        affine(b, y)
    if b.int(0, 2) == 0:
        b.add(b.one(("Relu", "LeakyRelu", "Sigmoid", "HardSigmoid")), [b.values[-1]])


def affine(b: Builder, y: Tensor) -> None:
    channels = y.shape[1]
    if b.maybe():
        stats = [b.weights(channels) for _ in range(3)]
        b.add("BatchNormalization", [y, *stats, b.const(np.abs(b.data((channels,))) + np.float32(0.5))])
    else:
        b.add(b.one(("Add", "Mul", "Sub")), [y, b.weights(channels, *([1] * (y.rank - 2)))])


def conv_transpose(b: Builder) -> None:
    x = b.pick(ranks=(3, 4, 4, 5))
    kernel = [b.one((1, 2, 3)) for _ in range(x.rank - 2)]
    group = b.one([g for g in range(1, x.shape[1] + 1) if x.shape[1] % g == 0])
    attrs: dict[str, Any] = {"strides": [b.int(1, 3) for _ in kernel]}
    way = b.int(0, 3)
    if way == 0:
        attrs["pads"] = [b.int(0, 1) for _ in range(2 * len(kernel))]
    elif way == 1:
        attrs["auto_pad"] = b.one(("SAME_UPPER", "SAME_LOWER", "VALID"))
    elif way == 2:
        attrs["output_padding"] = [b.int(0, stride - 1) for stride in attrs["strides"]]
    if b.int(0, 3) == 0:
        attrs["dilations"] = [b.int(1, 2) for _ in kernel]
    made = b.int(1, 3)
    bias = [b.weights(made * group)] if b.maybe() else []
    y = b.add("ConvTranspose", [x, b.weights(x.shape[1], made, *kernel), *bias], group=group, **attrs)
    if b.int(0, 2) == 0:
        affine(b, y)


def pool(b: Builder) -> None:
    op = b.one(("MaxPool", "AveragePool", "LpPool"))
    x = b.pick(ranks=(3, 4, 4, 4, 5))
    kernel = [b.one((1, 2, 3)) for _ in range(x.rank - 2)]
    attrs = _window(b, x, kernel, pool=True)
    if op != "LpPool" or b.opset >= 18:
        attrs["ceil_mode"] = b.int(0, 1)
    if op == "AveragePool":
        attrs["count_include_pad"] = b.int(0, 1)
    if op == "LpPool":
        attrs["p"] = b.int(1, 2)
    if b.int(0, 3) == 0 and (op == "MaxPool" or b.opset >= 19):
        attrs["dilations"] = [b.int(1, 2) for _ in kernel]
    b.add(op, [x], kernel_shape=kernel, exact=op == "MaxPool", **attrs)


def global_pool(b: Builder) -> None:
    b.add(b.one(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")), [b.pick(ranks=(3, 4, 4, 5))])


MAKERS = (conv, conv_transpose, pool, global_pool)
