"""Normalisations and softmax."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mobilekit.targets.ncnn.emit import Blob, Emission, as_float, raw
from mobilekit.targets.ncnn.layout import Dims, dim_of_axis, dims_of
from mobilekit.targets.ncnn.node import NodeView, Refuse
from mobilekit.targets.ncnn.ops.activation import apply
from mobilekit.targets.ncnn.ops.batch import per_item
from mobilekit.targets.ncnn.ops.elementwise import ADD, SUB, scalar
from mobilekit.targets.ncnn.ops.reduce import reduction
from mobilekit.targets.ncnn.registry import emits

if TYPE_CHECKING:
    from mobilekit.tensors import Array


def _planes(node: NodeView, out: Emission, rank: int) -> Dims:
    """Mat dims of ``rank`` whose first is batch times channels."""
    batch, channels, *spatial = node.shape()
    planes = batch * channels
    dims = out.dims(node.input())
    if dims[0] == planes and len(dims) == rank:
        return dims
    flat = math.prod(spatial)
    return (planes, *([1] * (rank - 2)), flat) if rank > 1 else (planes,)


@emits("BatchNormalization", since=15)
def batch_norm(node: NodeView, out: Emission) -> None:
    shape = node.shape()
    if node.int("training_mode", 0):
        raise Refuse("it is in training mode", "export the model for inference")
    node.ignore("momentum")
    batch, channels = (shape[0], shape[1]) if len(shape) > 1 else (1, 1)
    arrays = [
        np.tile(as_float(node.const(index, what), what).reshape(-1), batch)
        for index, what in ((1, "scale"), (3, "mean"), (4, "variance"), (2, "bias"))
    ]
    dims = _planes(node, out, 3) if len(shape) > 2 else (batch * channels,)
    blob = out.layer(
        "BatchNorm",
        [out.view(node.input(), dims)],
        dims,
        [raw(array) for array in arrays],
        channels=batch * channels,
        eps=node.float("epsilon", 1e-5),
    )
    out.bind(node.output(), blob)


@emits("InstanceNormalization", since=22)
def instance_norm(node: NodeView, out: Emission) -> None:
    batch, channels = node.shape()[:2]
    dims = _planes(node, out, 3)
    blob = out.layer(
        "InstanceNorm",
        [out.view(node.input(), dims)],
        dims,
        [raw(np.tile(node.const(index, what), batch)) for index, what in ((1, "scale"), (2, "bias"))],
        channels=batch * channels,
        eps=node.float("epsilon", 1e-5),
    )
    out.bind(node.output(), blob)


@emits("GroupNormalization", since=21)
def group_norm(node: NodeView, out: Emission) -> None:
    batch, channels = node.shape()[:2]
    groups = node.int("num_groups", 1)
    node.ignore("stash_type")
    dims = _planes(node, out, 3)
    blob = out.layer(
        "GroupNorm",
        [out.view(node.input(), dims)],
        dims,
        [raw(np.tile(node.const(index, what), batch)) for index, what in ((1, "scale"), (2, "bias"))],
        group=groups * batch,
        channels=channels * batch,
        eps=node.float("epsilon", 1e-5),
    )
    out.bind(node.output(), blob)


def _rows(node: NodeView, out: Emission) -> tuple[Dims, int]:
    """Dims whose last is everything from ``axis`` on, and its size."""
    shape = node.shape()
    size = math.prod(shape[node.axis(node.int("axis", -1)) :])
    rows = math.prod(shape) // size
    dims = out.dims(node.input())
    if dims[-1] != size:
        dims = (size,) if rows == 1 else (rows, size)
    return dims, size


def _affine(node: NodeView, index: int, what: str, size: int) -> Array | None:
    data = node.optional_const(index, what)
    if data is None:
        return None
    if data.size not in (1, size):
        raise Refuse(f"its {what} does not have one value for each normalised element", "give it that shape")
    return np.broadcast_to(as_float(data, what).reshape(-1), (size,))


@emits("LayerNormalization", since=17)
def layer_norm(node: NodeView, out: Emission) -> None:
    dims, size = _rows(node, out)
    node.ignore("stash_type")
    x = out.view(node.input(), dims)
    eps = node.float("epsilon", 1e-5)
    mean, deviation = node.optional_output(1), node.optional_output(2)
    if mean is not None or deviation is not None:
        x = out.reshape(x, (math.prod(dims) // size, size))
        centre = reduction(out, "mean", x, [1])
        if mean is not None:
            out.bind(mean, centre)
        if deviation is not None:
            shifted = out.layer("BinaryOp", [x, centre], x.dims, op_type=SUB)
            square = out.layer("UnaryOp", [shifted], x.dims, op_type=4)
            variance = scalar(out, ADD, reduction(out, "mean", square, [1]), eps)
            out.bind(deviation, apply(out, "Reciprocal", apply(out, "Sqrt", variance)))
        dims = x.dims
    gamma = _affine(node, 1, "scale", size)
    beta = _affine(node, 2, "bias", size)
    affine = gamma is not None or beta is not None
    weights = []
    if affine:
        weights = [
            raw(np.ones(size, np.float32) if gamma is None else gamma),
            raw(np.zeros(size, np.float32) if beta is None else beta),
        ]
    blob = out.layer(
        "LayerNorm",
        [x],
        dims,
        weights,
        affine_size=size,
        eps=eps,
        affine=int(affine),
    )
    out.bind(node.output(), blob)


@emits("RMSNormalization", since=23)
def rms_norm(node: NodeView, out: Emission) -> None:
    dims, size = _rows(node, out)
    node.ignore("stash_type")
    gamma = _affine(node, 1, "scale", size)
    blob = out.layer(
        "RMSNorm",
        [out.view(node.input(), dims)],
        dims,
        [] if gamma is None else [raw(gamma)],
        affine_size=size,
        eps=node.float("epsilon", 1e-5),
        affine=int(gamma is not None),
    )
    out.bind(node.output(), blob)


@emits("LRN", since=13)
def lrn(node: NodeView, out: Emission) -> None:
    inner = node.shape()[1:]
    size = node.int("size", 1)
    if size % 2 == 0:
        raise Refuse("its window is of even size, ncnn's is symmetric", "use an odd size")
    dims = inner if len(inner) == 3 else (inner[0], 1, math.prod(inner[1:]))
    alpha, beta, bias = node.float("alpha", 0.0001), node.float("beta", 0.75), node.float("bias", 1.0)

    def normalise(x: Blob) -> Blob:
        return out.layer("LRN", [x], dims, local_size=size, alpha=alpha, beta=beta, bias=bias)

    out.bind(node.output(), per_item(out, node.input(), dims, normalise))


@emits("Softmax", "LogSoftmax", since=13)
def softmax(node: NodeView, out: Emission) -> None:
    axis = node.axis(node.int("axis", -1))
    value = node.input()
    if node.rank() == 0:
        raise Refuse("its input is a scalar", "remove it: the result is constant")
    groups = out.groups([value], [axis])
    dims = dims_of(node.shape(), groups)
    x = out.view(value, dims)
    where = dim_of_axis(groups, axis)
    if node.op == "Softmax":
        out.bind(node.output(), out.layer("Softmax", [x], dims, axis=where, fixbug0=1))
        return
    # log(softmax(x)) underflows; x - max - log(sum(exp(x - max))) does not.
    shifted = out.layer("BinaryOp", [x, reduction(out, "max", x, [where])], dims, op_type=SUB)
    total = apply(out, "Log", reduction(out, "sum", apply(out, "Exp", shifted), [where]))
    out.bind(node.output(), out.layer("BinaryOp", [shifted, total], dims, op_type=SUB))
