"""Slice: cuts, reversals and strides."""

from __future__ import annotations

import math

import numpy as np

from mobilekit.targets.ncnn.emit import Blob, Emission, tagged
from mobilekit.targets.ncnn.layout import dim_of_axis, dims_of
from mobilekit.targets.ncnn.node import NodeView
from mobilekit.targets.ncnn.registry import emits

_MOST_PLANES = 1 << 16


def crop(out: Emission, blob: Blob, ranges: dict[int, tuple[int, int]]) -> Blob:
    """``blob`` cut to ``[start, end)`` in the Mat dims given (outermost is 0)."""
    ranges = {dim: (s, e) for dim, (s, e) in ranges.items() if (s, e) != (0, blob.dims[dim])}
    if not ranges:
        return blob
    dims = tuple(
        ranges[index][1] - ranges[index][0] if index in ranges else size for index, size in enumerate(blob.dims)
    )
    return out.layer(
        "Crop",
        [blob],
        dims,
        starts=[start for start, _ in ranges.values()],
        ends=[end for _, end in ranges.values()],
        axes=list(ranges),
    )


@emits("Slice", since=13, data="any")
def slice_op(node: NodeView, out: Emission) -> None:
    shape = node.shape()
    starts, ends = node.const_ints(1, "starts"), node.const_ints(2, "ends")
    given_axes = node.optional_const(3, "axes")
    given_steps = node.optional_const(4, "steps")
    axes = list(range(len(starts))) if given_axes is None else [int(a) for a in given_axes.reshape(-1)]
    steps = [1] * len(starts) if given_steps is None else [int(s) for s in given_steps.reshape(-1)]
    plain: dict[int, tuple[int, int]] = {}
    strided: list[tuple[int, range]] = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = node.axis(axis)
        chosen = range(shape[axis])[slice(start, None if end < -shape[axis] and step < 0 else end, step)]
        if step == 1 or len(chosen) == 1:
            if (chosen[0], chosen[-1] + 1) != (0, shape[axis]):
                plain[axis] = (chosen[0], chosen[-1] + 1)
        else:
            strided.append((axis, chosen))
    if not plain and not strided:
        out.alias(node.output(), node.input(0))
        return
    blob: Blob | None = None
    current = list(shape)
    if plain:
        groups = out.groups([node.input()], list(plain))
        blob = out.view(node.input(), dims_of(shape, groups))
        blob = crop(out, blob, {dim_of_axis(groups, axis): span for axis, span in plain.items()})
        for axis, (start, end) in plain.items():
            current[axis] = end - start
    if _on_planes(strided, len(shape), math.prod(current[:-2])):
        dims = (math.prod(current[:-2]), *current[-2:])
        blob = out.view(node.input(), dims) if blob is None else out.reshape(blob, dims)
        out.bind(node.output(), _subsample(out, blob, {axis - len(shape): chosen for axis, chosen in strided}))
        return
    for axis, chosen in strided:
        dims = (math.prod(current[:axis]), current[axis], math.prod(current[axis + 1 :]))
        blob = out.view(node.input(), dims) if blob is None else out.reshape(blob, dims)
        blob = _stride(out, blob, chosen)
        current[axis] = len(chosen)
    assert blob is not None
    out.bind(node.output(), blob)


def _on_planes(strided: list[tuple[int, range]], rank: int, planes: int) -> bool:
    return (
        bool(strided)
        and planes <= _MOST_PLANES
        and rank > 1
        and all(axis >= rank - 2 and chosen.step > 0 for axis, chosen in strided)
    )


def _subsample(out: Emission, blob: Blob, chosen: dict[int, range]) -> Blob:
    """Keep rows (-2) and columns (-1) of (planes, h, w): a depthwise convolution with a kernel of one 1."""
    planes, height, width = blob.dims
    rows, columns = chosen.get(-2, range(height)), chosen.get(-1, range(width))
    blob = crop(out, blob, {1: (rows.start, rows[-1] + 1), 2: (columns.start, columns[-1] + 1)})
    return out.layer(
        "ConvolutionDepthWise",
        [blob],
        (planes, len(rows), len(columns)),
        [tagged(np.ones(planes, np.float32))],
        num_output=planes,
        group=planes,
        kernel_w=1,
        kernel_h=1,
        stride_w=columns.step,
        stride_h=rows.step,
        weight_data_size=planes,
    )


def _stride(out: Emission, blob: Blob, chosen: range) -> Blob:
    """Keep the rows ``chosen`` of ``blob``, (before, n, after): whole periods of |step| rows, the first of each."""
    if chosen.step < 0:
        blob = _backwards(out, blob)
        size = blob.dims[1]
        chosen = range(size - 1 - chosen.start, size - chosen[-1], -chosen.step)
        if chosen.step == 1:
            return crop(out, blob, {1: (chosen.start, chosen[-1] + 1)})
    before, size, after = blob.dims
    step, count = chosen.step, len(chosen)
    missing = max(0, count * step - size)
    if missing:
        blob = out.layer("Padding", [blob], (before, size + missing, after), bottom=missing)
        size += missing
    # Which row of a period is wanted: the period may begin up to `first` rows before the first chosen one.
    first = max(0, chosen.start + count * step - size)
    begin = chosen.start - first
    blob = crop(out, blob, {1: (begin, begin + count * step)})
    blob = out.reshape(blob, (before, count, step * after))
    return crop(out, blob, {2: (first * after, (first + 1) * after)})


def _backwards(out: Emission, blob: Blob) -> Blob:
    return out.layer("Flip", [blob], blob.dims, axes=[1])
