"""Positions and picks: where the largest elements are, and what stands at a position that was computed.

ncnn has no operator for these. They are worked out as float32 arithmetic that is exact: positions are integers below
2^24, "equal" is one minus the sign of a difference, and picking is a product with a matrix whose rows hold a single 1
(exact for finite elements).
"""

from __future__ import annotations

import math

import numpy as np

from mobilekit.targets.ncnn.emit import Blob, Emission
from mobilekit.targets.ncnn.layout import Dims
from mobilekit.targets.ncnn.node import NodeView, Refuse, static_shape
from mobilekit.targets.ncnn.ops.activation import apply
from mobilekit.targets.ncnn.ops.elementwise import ADD, MIN, MUL, RSUB, SUB, scalar
from mobilekit.targets.ncnn.ops.own import fits, picked
from mobilekit.targets.ncnn.ops.pick import gather_elements_constant
from mobilekit.targets.ncnn.ops.reduce import reduction
from mobilekit.targets.ncnn.ops.transpose import permute
from mobilekit.targets.ncnn.registry import emits


def _column(shape: tuple[int, ...], axis: int) -> tuple[Dims, int]:
    """Dims in as few as three that keep ``axis`` apart, and which of them it is."""
    before, size, after = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    if before == 1:
        return (size, after), 0
    return ((before, size), 1) if after == 1 else ((before, size, after), 1)


def _ramp(out: Emission, dims: Dims, where: int, numbers: range) -> Blob:
    """``numbers`` along dim ``where``, 1 in the others."""
    shape = tuple(len(numbers) if index == where else 1 for index in range(len(dims)))
    return out.memory(np.array(numbers, np.float32), shape)


def _pair(out: Emission, op: int, a: Blob, b: Blob) -> Blob:
    """``a op b`` for blobs with the same number of dims, broadcast."""
    dims = tuple(max(pair) for pair in zip(a.dims, b.dims, strict=True))
    return out.layer("BinaryOp", [a, b], dims, op_type=op)


def first_largest(out: Emission, x: Blob, where: int, last: bool = False) -> tuple[Blob, Blob]:
    """The largest element along dim ``where`` and its position; the first such one, or the last."""
    size = x.dims[where]
    top = reduction(out, "max", x, [where])
    here = scalar(out, ADD, apply(out, "Sign", _pair(out, SUB, x, top)), 1.0)
    # The largest of 1..n, counted from the end that wins a tie.
    scores = _pair(out, MUL, here, _ramp(out, x.dims, where, range(1, size + 1) if last else range(size, 0, -1)))
    best = reduction(out, "max", scores, [where])
    return top, scalar(out, SUB, best, 1.0) if last else scalar(out, RSUB, best, float(size))


@emits("ArgMax", "ArgMin", since=13, data="any")
def arg_extreme(node: NodeView, out: Emission) -> None:
    axis = node.axis(node.int("axis", 0))
    node.ignore("keepdims")
    last = node.int("select_last_index", 0) != 0
    dims, where = _column(node.shape(), axis)
    x = out.view(node.input(), dims)
    if node.op == "ArgMin":
        x = apply(out, "Neg", x)
    out.bind(node.output(), first_largest(out, x, where, last)[1])


@emits("Hardmax", since=13)
def hardmax(node: NodeView, out: Emission) -> None:
    dims, where = _column(node.shape(), node.axis(node.int("axis", -1)))
    _, position = first_largest(out, out.view(node.input(), dims), where)
    out.bind(node.output(), one_hot(out, position, _ramp(out, dims, where, range(dims[where]))))


def one_hot(out: Emission, positions: Blob, ramp: Blob) -> Blob:
    """1 where position and ramp are equal, 0 elsewhere, broadcast; both hold integers."""
    apart = apply(out, "Abs", _pair(out, SUB, positions, ramp))
    return scalar(out, RSUB, scalar(out, MIN, apart, 1.0), 1.0)


def _one_hot_signed(out: Emission, positions: Blob, ramp: Blob, size: int) -> Blob:
    """Like :func:`one_hot`, where a position of -1 means ``size - 1`` and so on."""
    apart = _pair(out, SUB, positions, ramp)
    both = _pair(out, MUL, apart, scalar(out, ADD, apart, float(size)))
    return scalar(out, RSUB, scalar(out, MIN, apply(out, "Abs", both), 1.0), 1.0)


@emits("OneHot", since=11, data="any")
def one_hot_op(node: NodeView, out: Emission) -> None:
    shape = node.shape(0)
    depth = node.const_ints(1, "depth")[0]
    off, on = (float(number) for number in np.asarray(node.const(2, "values")).reshape(-1))
    if not (math.isfinite(off) and math.isfinite(on)):
        raise Refuse("one of its values is not finite", "use finite values")
    rank = len(shape)
    axis = node.int("axis", -1)
    axis += rank + 1 if axis < 0 else 0
    before, after = math.prod(shape[:axis]), math.prod(shape[axis:])
    positions = out.view(node.input(0), (before, 1, after))
    blob = _one_hot_signed(out, positions, _ramp(out, (before, depth, after), 1, range(depth)), depth)
    if (off, on) != (0.0, 1.0):
        # Not off + (on - off) * x, which rounds.
        blob = _pair(out, ADD, scalar(out, MUL, blob, on), scalar(out, MUL, scalar(out, RSUB, blob, 1.0), off))
    out.bind(node.output(), blob)


@emits("TopK", since=11, data="any", own="MkTopK", stock=True)
def top_k(node: NodeView, out: Emission) -> None:
    """The rank of an element is how many beat it; each of the k first is then picked by its rank."""
    shape = node.shape()
    axis = node.axis(node.int("axis", -1))
    count = node.const_ints(1, "k")[0]
    if not node.int("sorted", 1):
        raise Refuse("it leaves the order of its results open", "use sorted=1")
    before, size, after = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    rows = before * after
    values, positions = node.optional_output(0), node.optional_output(1)
    largest = node.int("largest", 1) != 0
    if count == 1:
        dims, where = _column(shape, axis)
        x = out.view(node.input(), dims)
        best, position = first_largest(out, x if largest else apply(out, "Neg", x), where)
        if values is not None:
            out.bind(values, best if largest else apply(out, "Neg", best))
        if positions is not None:
            out.bind(positions, position)
        return
    if not fits(out, rows * size * size, node.input()):
        dims = (before * count * after,)
        made = out.own(
            "MkTopK",
            [out.native(node.input())],
            [dims] if positions is None else [dims, dims],
            outer=before,
            axis=size,
            inner=after,
            k=count,
            largest=int(largest),
        )
        for value, blob in zip((values, positions), made, strict=False):
            if value is not None:
                out.bind(value, blob)
        return
    x = out.view(node.input(), (before, size, after))
    if after > 1:
        x = permute(out, x, (0, 2, 1))
    row, column = out.reshape(x, (rows, 1, size)), out.reshape(x, (rows, size, 1))
    # ahead[i, j]: j stands before i. Twice the sign, plus 1 where j is the earlier one of two equals.
    sign = apply(out, "Sign", _pair(out, SUB, row, column) if largest else _pair(out, SUB, column, row))
    earlier = out.memory(np.tril(np.ones((size, size), np.float32), -1), (1, size, size))
    ahead = apply(out, "Sign", _pair(out, ADD, scalar(out, MUL, sign, 2.0), earlier))
    rank = reduction(out, "sum", out.layer("ReLU", [ahead], ahead.dims), [2])
    chosen = one_hot(out, out.reshape(rank, (rows, 1, size)), _ramp(out, (rows, count, size), 1, range(count)))
    for value, source in (
        (values, column),
        (positions, out.memory(np.arange(size, dtype=np.float32), (1, size, 1)) if positions is not None else column),
    ):
        if value is not None:
            picked = out.layer("MatMul", [chosen, source], (rows, count, 1))
            if after > 1:
                picked = permute(out, out.reshape(picked, (before, after, count)), (0, 2, 1))
            out.bind(value, picked)


def pick_rows(node: NodeView, out: Emission, axis: int) -> None:
    """Gather at positions that are computed: a product with a matrix of one 1 in each row."""
    data, indices = node.input(0), node.input(1)
    shape = node.shape(0)
    size, count = shape[axis], math.prod(static_shape(indices))
    before, after = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    if not fits(out, count * size, data):
        out.bind(node.output(), picked(out, out.native(data), out.native(indices), before, size, after))
        return
    chosen = _one_hot_signed(out, out.view(indices, (count, 1)), _ramp(out, (count, size), 1, range(size)), size)
    if before == 1:
        blob = out.layer("MatMul", [chosen, out.view(data, (size, after))], (count, after))
    else:
        blob = out.layer(
            "MatMul",
            [out.reshape(chosen, (1, count, size)), out.view(data, (before, size, after))],
            (before, count, after),
        )
    out.bind(node.output(), blob)


@emits("GatherElements", since=13, data="any", own="MkGatherElements", stock=True)
def gather_elements(node: NodeView, out: Emission) -> None:
    if node.input(1).const is not None:
        gather_elements_constant(node, out)
        return
    axis = node.axis(node.int("axis", 0))
    shape, wanted = node.shape(0), node.shape(1)
    smaller = any(a != b for i, (a, b) in enumerate(zip(shape, wanted, strict=True)) if i != axis)
    before, after = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    rows, size, count = before * after, shape[axis], wanted[axis]
    if smaller or not fits(out, rows * size * count, node.input(0)):
        operands = [out.native(node.input(0)), out.native(node.input(1))]
        sizes = {"data": list(shape), "positions": list(wanted)}
        dims = out.natural_dims(node.output())
        out.bind(node.output(), out.own("MkGatherElements", operands, [dims], axis=axis, **sizes)[0])
        return
    data = out.view(node.input(0), (before, size, after))
    positions = out.view(node.input(1), (before, count, after))
    if after > 1:
        data, positions = permute(out, data, (0, 2, 1)), permute(out, positions, (0, 2, 1))
    data, positions = out.reshape(data, (rows, size, 1)), out.reshape(positions, (rows, count, 1))
    chosen = _one_hot_signed(out, positions, _ramp(out, (rows, count, size), 2, range(size)), size)
    blob = out.layer("MatMul", [chosen, data], (rows, count, 1))
    if after > 1:
        blob = permute(out, out.reshape(blob, (before, after, count)), (0, 2, 1))
    out.bind(node.output(), blob)
