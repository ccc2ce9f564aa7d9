"""Matrix products: Gemm and MatMul, with constant or computed operands."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np

from mobilekit.graph import Value
from mobilekit.targets.ncnn.emit import Blob, Emission, Weights, as_float, raw, tagged
from mobilekit.targets.ncnn.fuse import take_activation
from mobilekit.targets.ncnn.node import NodeView, Refuse, static_shape
from mobilekit.targets.ncnn.ops.elementwise import ADD, MUL, SUB, binary, scalar
from mobilekit.targets.ncnn.registry import emits

if TYPE_CHECKING:
    from mobilekit.tensors import Array

_NO_BIAS, _BIAS_A_COLUMN = -1, 4
"""Gemm's ``constant_broadcast_type_C`` (``src/layer/gemm.h``)."""


def dense(out: Emission, x: Value, weight: Array, bias: Array | None, output: Value) -> None:
    """``output = x @ weight.T + bias`` with ``weight`` of shape (N, K) and ``x`` of any rank ending in K.

    One row is ncnn's InnerProduct, which takes an activation in. Several are its Gemm, which packs the rows:
    2 to 5 times fewer arm64 instructions than an InnerProduct that goes row by row.
    """
    count, depth = weight.shape
    rows = math.prod(static_shape(x)) // depth
    if rows == 1:
        fused, output = take_activation(output, out)
        blob = out.layer(
            "InnerProduct",
            [out.view(x, (depth,))],
            (count,),
            [tagged(weight), *([raw(bias)] if bias is not None else [])],
            num_output=count,
            bias_term=int(bias is not None),
            weight_data_size=count * depth,
            **fused.as_params(),
        )
    else:
        blob = out.layer(
            "Gemm",
            [out.view(x, (rows, depth))],
            (rows, count),
            [tagged(weight), *([Weights((bias,), tagged=True, exact=True)] if bias is not None else [])],
            transB=1,
            constantB=1,
            constantC=1,
            constantN=count,
            constantK=depth,
            constant_broadcast_type_C=_NO_BIAS if bias is None else _BIAS_A_COLUMN,
        )
    out.bind(output, blob)


@emits("Gemm", since=13)
def gemm(node: NodeView, out: Emission) -> None:
    a, b = node.input(0), node.input(1)
    alpha, beta = node.float("alpha", 1.0), node.float("beta", 1.0)
    trans_a, trans_b = node.int("transA", 0) != 0, node.int("transB", 0) != 0
    c = node.optional(2)
    rows, columns = node.out_shape()
    bias = None if c is None else c.const
    per_column = bias is not None and bias.size in (1, columns) and bias.shape[-1:] in ((), (1,), (columns,))
    if bias is not None and bias.ndim == 2 and bias.shape[0] != 1:
        per_column = False
    if b.const is not None and not trans_a and (c is None or per_column):
        weight = as_float(b.const, b.name)
        weight = weight if trans_b else weight.T
        if alpha != 1.0:
            weight = np.multiply(weight, np.float32(alpha))
        if bias is not None:
            assert c is not None
            bias = np.broadcast_to(np.multiply(as_float(bias, c.name).reshape(-1), np.float32(beta)), (columns,))
        dense(out, a, weight, bias, node.output())
        return
    left = out.view(a, static_shape(a))
    right = out.view(b, static_shape(b))
    if trans_a:
        left = out.layer("Permute", [left], left.dims[::-1], order_type=1)
    result = out.layer("MatMul", [left, right], (rows, columns), transB=int(trans_b))
    if alpha != 1.0:
        result = scalar(out, MUL, result, alpha)
    if c is not None:
        addend: Value | Blob = c
        if beta != 1.0:
            addend = scalar(out, MUL, out.native(c), beta)
        result = binary(out, ADD, [(result, (rows, columns)), (addend, static_shape(c))], (rows, columns))
    out.bind(node.output(), result)


@emits("MatMul", since=13)
def matmul(node: NodeView, out: Emission) -> None:
    a, b = node.input(0), node.input(1)
    a_shape, b_shape = node.shape(0), node.shape(1)
    if b.const is not None and len(b_shape) >= 1 and math.prod(b_shape[:-2]) == 1:
        weight = as_float(b.const, b.name).reshape(b_shape[-2:] if len(b_shape) > 1 else (b_shape[0], 1)).T
        output, bias = _take_bias(node.output(), out, weight.shape[0])
        dense(out, a, weight, bias, output)
        return
    a_full = (1, *a_shape) if len(a_shape) == 1 else a_shape
    b_full = (*b_shape, 1) if len(b_shape) == 1 else b_shape
    batch = tuple(np.broadcast_shapes(a_full[:-2], b_full[:-2]))
    a_batch, b_batch = _batch_dims(batch, a_full[:-2], b_full[:-2])
    left, right = out.view(a, (*a_batch, *a_full[-2:])), out.view(b, (*b_batch, *b_full[-2:]))
    both = tuple(max(pair) for pair in zip(a_batch, b_batch, strict=True))
    out.bind(node.output(), out.layer("MatMul", [left, right], (*both, a_full[-2], b_full[-1])))


@emits("Det", since=22)
def det(node: NodeView, out: Emission) -> None:
    """Of 2 x 2 and 3 x 3 matrices, by products of their elements."""
    shape = node.shape()
    size, count = shape[-1], math.prod(shape[:-2])
    if size > 3:
        raise Refuse(f"its matrices are {size} x {size}", "do this step in the application")
    rows = out.view(node.input(), (count, size * size))

    def element(i: int, j: int) -> Blob:
        where = i * size + j
        return out.layer("Crop", [rows], (count, 1), starts=[where], ends=[where + 1], axes=[1])

    def product(*places: tuple[int, int]) -> Blob:
        result = element(*places[0])
        for place in places[1:]:
            result = out.layer("BinaryOp", [result, element(*place)], (count, 1), op_type=MUL)
        return result

    total: Blob | None = None
    for order in itertools.permutations(range(size)):
        term = product(*enumerate(order))
        odd = sum(a > b for a, b in itertools.combinations(order, 2)) % 2
        kind = SUB if odd else ADD  # the identity comes first, and is even
        total = term if total is None else out.layer("BinaryOp", [total, term], (count, 1), op_type=kind)
    assert total is not None
    out.bind(node.output(), total)


def _take_bias(value: Value, out: Emission, columns: int) -> tuple[Value, Array | None]:
    """The constant that alone is added to ``value`` along its last axis, and the tensor that makes."""
    reader = out.only_reader(value)
    shape = static_shape(value)
    if reader is None or reader.domain or reader.op != "Add" or not out.may_absorb(reader):
        return value, None
    if not shape or shape[-1] != columns:
        return value, None
    other = next((i for i in reader.inputs if i is not value), None)
    result = reader.outputs[0]
    if other is None or other.const is None or result is None or reader.attrs or static_shape(result) != shape:
        return value, None
    const = other.const
    if const.dtype != np.float32 or const.size != columns or (const.ndim and const.shape[-1] != columns):
        return value, None
    out.absorb(reader)
    return result, const.reshape(-1)


def _batch_dims(
    batch: tuple[int, ...], a: tuple[int, ...], b: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The batch axes of both operands in at most two dims, each whole or 1 in either operand."""
    a, b = (1,) * (len(batch) - len(a)) + a, (1,) * (len(batch) - len(b)) + b
    runs: list[tuple[tuple[bool, bool], int]] = []
    for size, in_a, in_b in zip(batch, a, b, strict=True):
        if size == 1:
            continue
        kind = (in_a == size, in_b == size)
        if runs and runs[-1][0] == kind:
            runs[-1] = (kind, runs[-1][1] * size)
        else:
            runs.append((kind, size))
    if len(runs) > 2:
        raise Refuse("its batch axes broadcast in more ways than ncnn's dims hold", "expand one operand first")
    return tuple(s if k[0] else 1 for k, s in runs), tuple(s if k[1] else 1 for k, s in runs)
