"""Reductions over any axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mobilekit.targets.ncnn.emit import Blob, Emission
from mobilekit.targets.ncnn.layout import MAX_DIMS, Groups, dims_of, match, natural, unique
from mobilekit.targets.ncnn.node import NodeView, Refuse
from mobilekit.targets.ncnn.ops.activation import apply
from mobilekit.targets.ncnn.ops.elementwise import ADD, SUB
from mobilekit.targets.ncnn.ops.slicing import crop
from mobilekit.targets.ncnn.registry import emits

OPERATIONS = {
    "sum": 0,
    "asum": 1,
    "sumsq": 2,
    "mean": 3,
    "max": 4,
    "min": 5,
    "prod": 6,
    "l1": 7,
    "l2": 8,
    "logsum": 9,
}
"""ncnn's Reduction operations (``src/layer/reduction.h``)."""

_OPS = {
    "ReduceSum": "sum",
    "ReduceMean": "mean",
    "ReduceMax": "max",
    "ReduceMin": "min",
    "ReduceProd": "prod",
    "ReduceL1": "l1",
    "ReduceL2": "l2",
    "ReduceLogSum": "logsum",
    "ReduceSumSquare": "sumsq",
}


def reduction(out: Emission, operation: str, blob: Blob, dims: Sequence[int], keep: bool = True) -> Blob:
    """Reduce ``blob`` over the Mat dims ``dims`` (outermost is 0), which become 1, or go away without ``keep``."""
    kept = tuple(1 if index in dims else size for index, size in enumerate(blob.dims))
    left = tuple(size for index, size in enumerate(blob.dims) if index not in dims) or (1,)
    return out.layer(
        "Reduction",
        [blob],
        kept if keep else left,
        operation=OPERATIONS[operation],
        reduce_all=0,
        axes=list(dims),
        keepdims=int(keep),
        fixbug0=1,
    )


LONG = 1 << 20
"""More terms than that are added in stages: ncnn adds one after another in float32."""

_LOST = 1 << 24
"""From so many terms of one size on, each further one is less than half of the sum's last digit."""

_STAGES = {
    "sum": ("sum", "sum"),
    "mean": ("mean", "mean"),
    "l1": ("l1", "sum"),
    "l2": ("sumsq", "sum"),
    "sumsq": ("sumsq", "sum"),
    "logsum": ("sum", "sum"),
}
"""The operation of the first stage and of those after it; :data:`_FINISH` is applied to what they come to."""

_FINISH = {"l2": "Sqrt", "logsum": "Log"}


def _halves(size: int) -> tuple[int, int]:
    """Two factors of ``size``, as near to each other as it has any."""
    low = next(low for low in range(math.isqrt(size), 0, -1) if size % low == 0)
    return low, size // low


def reduction_of_many(out: Emission, operation: str, blob: Blob, dims: Sequence[int], keep: bool = True) -> Blob:
    """:func:`reduction`, by a dim at a time where there are many terms, and long dims in two halves."""
    if operation not in _STAGES or math.prod(blob.dims[index] for index in dims) <= LONG:
        return reduction(out, operation, blob, dims, keep)
    first, others = _STAGES[operation]
    result = blob
    for stage, index in enumerate(sorted(dims, reverse=True)):
        size, now = blob.dims[index], result.dims
        one = (*now[:index], 1, *now[index + 1 :])
        operation_now = others if stage else first
        if size <= LONG:
            result = reduction(out, operation_now, result, [index])
            continue
        low, high = _halves(size)
        if high > _LOST:
            raise Refuse(
                f"ncnn adds its {size} terms one after another in float32, where more than 2^24 get lost, and they do "
                "not divide into shorter sums of one length",
                "reduce an even number of them, or parts of them first",
            )
        result = out.reshape(result, (math.prod(now[:index]), low, high, math.prod(now[index + 1 :])))
        result = reduction(out, others, reduction(out, operation_now, result, [2]), [1])
        result = out.reshape(result, one)
    if operation in _FINISH:
        result = apply(out, _FINISH[operation], result)
    left = tuple(size for index, size in enumerate(blob.dims) if index not in dims) or (1,)
    return result if keep else out.reshape(result, left)


def reduced_groups(node: NodeView, out: Emission, axes: set[int]) -> Groups:
    """A grouping whose groups are wholly reduced or wholly kept (axes of size 1 may be either)."""
    value, shape = node.input(), node.shape()

    def valid(groups: Groups) -> bool:
        return all(len({axis in axes for axis in group if shape[axis] > 1}) <= 1 for group in groups)

    candidates = [] if out.is_const(value) else [match(shape, dims) for dims in out.storage(value).views]
    runs: list[list[int]] = []
    for axis, size in enumerate(shape):
        kinds = {a in axes for a in runs[-1] if shape[a] > 1} if runs else set()
        if runs and (size == 1 or not kinds or kinds == {axis in axes}):
            runs[-1].append(axis)
        else:
            runs.append([axis])
    candidates += [natural(shape), tuple(map(tuple, runs)) or ((),)]
    fitting = [groups for groups in unique(candidates) if len(groups) <= MAX_DIMS and valid(groups)]
    if not fitting:
        raise Refuse("its axes alternate more often than ncnn's four dims allow", "reduce one axis after another")
    have = {} if out.is_const(value) else out.storage(value).views
    return min(fitting, key=lambda groups: dims_of(shape, groups) not in have)


def reduced_axes(node: NodeView) -> set[int] | None:
    """The axes to reduce, ``None`` where nothing is to be done."""
    given = node.optional_const(1, "axes")
    noop = node.int("noop_with_empty_axes", 0) != 0
    rank = node.rank()
    if given is None or given.size == 0:
        return None if noop else set(range(rank))
    return {node.axis(int(axis)) for axis in np.asarray(given).reshape(-1)}


@emits("ReduceMax", "ReduceMin", since=20, data="any")
@emits("ReduceSum", since=13, data="exact")
@emits("ReduceMean", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceSumSquare", since=18)
@emits("ReduceLogSumExp", since=18)
def reduce(node: NodeView, out: Emission) -> None:
    keep = node.int("keepdims", 1) != 0
    axes = reduced_axes(node)
    value, shape = node.input(), node.shape()
    if axes is None:
        if node.op not in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"):
            raise Refuse("it reduces no axes but still applies its function", "write that function out")
        out.alias(node.output(), value)
        return
    groups = reduced_groups(node, out, axes)
    dims = dims_of(shape, groups)
    where = [
        index
        for index, group in enumerate(groups)
        if any(axis in axes and shape[axis] > 1 for axis in group) or (group and all(axis in axes for axis in group))
    ]
    if not where:
        # Only axes of size 1: the function still applies, to one element at a time.
        dims, where = (math.prod(shape), 1), [1]
    x = out.view(value, dims)
    if node.op == "ReduceLogSumExp":
        # ncnn's own does not take the maximum off first and overflows.
        top = reduction(out, "max", x, where)
        shifted = out.layer("BinaryOp", [x, top], x.dims, op_type=SUB)
        total = apply(out, "Log", reduction_of_many(out, "sum", apply(out, "Exp", shifted), where))
        result = out.layer("BinaryOp", [total, top], top.dims, op_type=ADD)
    else:
        # A number for each channel is a vector: what reads it (a dense layer, a product by channels) wants one.
        channels = len(dims) == 3 and where == [1, 2]
        result = reduction_of_many(out, _OPS[node.op], x, where, keep and not channels)
    out.bind(node.output(), result)


@emits("CumSum", since=14, data="exact")
def cumulative_sum(node: NodeView, out: Emission) -> None:
    (given,) = node.const_ints(1, "axis")
    axis, shape = node.axis(given), node.shape()
    exclusive = node.int("exclusive", 0) != 0
    dims = (math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))
    blob = out.view(node.input(), dims)
    backwards = node.int("reverse", 0) != 0
    if backwards:
        blob = out.layer("Flip", [blob], dims, axes=[1])
    if exclusive and shape[axis] == 1:
        out.alias(node.output(), out.graph.constant("zeros", np.zeros(shape, np.float32)))
        return
    if exclusive:
        # Each sum moved on by one, a zero before the first.
        blob = out.layer("Padding", [crop(out, blob, {1: (0, shape[axis] - 1)})], dims, top=1)
    blob = out.layer("CumulativeSum", [blob], dims, axis=1)
    if backwards:
        blob = out.layer("Flip", [blob], dims, axes=[1])
    out.bind(node.output(), blob)
