"""Elements picked by constant indices: Gather's and Scatter's relatives are all one permutation with repetitions."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mobilekit.graph import Value
from mobilekit.targets.ncnn.emit import EXACT_INTEGER, Blob, Emission
from mobilekit.targets.ncnn.node import NodeView, Refuse, static_shape
from mobilekit.targets.ncnn.ops.elementwise import ADD, MAX, MIN, MUL
from mobilekit.targets.ncnn.ops.own import picked
from mobilekit.targets.ncnn.ops.slicing import crop
from mobilekit.targets.ncnn.registry import Emitter, emits

__all__ = ["pick"]

_MOST_RUNS = 48
_ROW = 256
_MOST_SAMPLED = _ROW * 256
"""So far coordinates are exact enough to name a pixel, in half precision too."""

Indices = npt.NDArray[np.int64]
Source = Value | Blob | float


def pick(out: Emission, sources: Sequence[Source], indices: npt.NDArray[Any]) -> Blob:
    """A 1-dim blob: for each of ``indices`` (flat) that element of the flat, concatenated ``sources``.

    A source is a tensor, a blob, or one number. Few contiguous runs are cut and joined; many scattered elements are
    sampled from a picture of the source, nearest pixel. Both copy and never compute: exact for infinities too.
    """
    wanted = np.asarray(indices, np.int64).reshape(-1)
    blobs: list[Blob] = []
    for source in sources:
        if isinstance(source, float):
            blobs.append(out.memory(np.array([source], np.float32), (1,)))
        elif isinstance(source, Blob):
            blobs.append(out.reshape(source, (math.prod(source.dims),)))
        else:
            blobs.append(out.view(source, (math.prod(static_shape(source)),)))
    total = sum(blob.dims[0] for blob in blobs)
    flat = blobs[0] if len(blobs) == 1 else out.layer("Concat", blobs, (total,), axis=0)
    starts = np.flatnonzero(np.diff(wanted) != 1) + 1
    if len(starts) < _MOST_RUNS:
        parts = [crop(out, flat, {0: (int(run[0]), int(run[-1]) + 1)}) for run in np.split(wanted, starts)]
        return parts[0] if len(parts) == 1 else out.layer("Concat", parts, (wanted.size,), axis=0)
    if total > _MOST_SAMPLED or (out.takes_own and total <= EXACT_INTEGER):
        if total > EXACT_INTEGER:
            raise Refuse(f"it picks from {total} elements, whose positions float32 cannot hold", "pick in the app")
        return picked(out, flat, out.memory(wanted, (wanted.size,)), 1, total, 1)
    return _sample(out, flat, wanted)


def _sample(out: Emission, flat: Blob, wanted: Indices) -> Blob:
    total = flat.dims[0]
    rows = -(-total // _ROW)
    if rows * _ROW > total:
        flat = out.layer("Padding", [flat], (rows * _ROW,), right=rows * _ROW - total)
    image = out.reshape(flat, (1, rows, _ROW))
    # Pixel centres, align_corners off: x = ((g + 1) * width - 1) / 2.
    grid = np.stack([(2 * (wanted % _ROW) + 1) / _ROW - 1, (2 * (wanted // _ROW) + 1) / rows - 1])
    where = out.memory(grid.astype(np.float32), (2, 1, wanted.size))
    found = out.layer(
        "GridSample",
        [image, where],
        (1, 1, wanted.size),
        sample_type=2,
        padding_mode=1,
        align_corner=0,
        permute_fusion=1,  # the positions' columns and rows as planes: see GridSample in sample.py
    )
    return out.reshape(found, (wanted.size,))


def _fitting(emit: Emitter) -> Emitter:
    """Indices that do not fit the data are a refusal, not numpy's exception."""

    @functools.wraps(emit)
    def guarded(node: NodeView, out: Emission) -> None:
        try:
            emit(node, out)
        except (IndexError, ValueError) as error:
            raise Refuse(f"its indices do not fit its data ({error})", "repair the model") from None

    return guarded


def _flat(shape: Sequence[int]) -> Indices:
    return np.arange(math.prod(shape), dtype=np.int64).reshape(shape)


def _indices(node: NodeView, index: int = 1) -> Indices:
    return np.asarray(node.const(index, "indices"), np.int64)


def _wrapped(indices: Indices, size: int) -> Indices:
    if indices.size and not (-size <= int(indices.min()) and int(indices.max()) < size):
        raise Refuse(f"one of its indices lies outside an axis of {size}", "repair the model")
    return indices % size


@_fitting
def gather_elements_constant(node: NodeView, out: Emission) -> None:
    shape = node.shape()
    axis = node.axis(node.int("axis", 0))
    indices = _wrapped(_indices(node), shape[axis])
    where: list[Indices] = list(np.indices(indices.shape))
    where[axis] = indices
    out.bind(node.output(), pick(out, [node.input()], _flat(shape)[tuple(where)]))


@emits("GatherND", since=13, data="any", own="MkGatherND", stock=True)
@_fitting
def gather_nd(node: NodeView, out: Emission) -> None:
    shape, batch_dims = node.shape(), node.int("batch_dims", 0)
    if node.input(1).const is None:
        depth = node.shape(1)[-1]
        sizes = list(shape[batch_dims : batch_dims + depth])
        blob = out.own(
            "MkGatherND",
            [out.native(node.input(0)), out.native(node.input(1))],
            [out.natural_dims(node.output())],
            batch=math.prod(shape[:batch_dims]),
            inner=math.prod(shape[batch_dims + depth :]),
            sizes=sizes,
        )[0]
        out.bind(node.output(), blob)
        return
    indices = _indices(node)
    found = _flat(shape)
    batch = math.prod(shape[:batch_dims])
    found = found.reshape(batch, *shape[batch_dims:])
    indices = indices.reshape(batch, -1, indices.shape[-1])
    chosen = [
        found[item][tuple(_wrapped(indices[item, :, k], found.shape[1 + k]) for k in range(indices.shape[-1]))]
        for item in range(batch)
    ]
    out.bind(node.output(), pick(out, [node.input()], np.stack(chosen)))


@emits("ReverseSequence", since=10, data="any")
@_fitting
def reverse_sequence(node: NodeView, out: Emission) -> None:
    found = _flat(node.shape())
    batch_axis, time_axis = node.int("batch_axis", 1), node.int("time_axis", 0)
    if {batch_axis, time_axis} != {0, 1}:
        raise Refuse("its axes are not 0 and 1", "export the model again")
    lengths = np.asarray(node.const(1, "sequence lengths"), np.int64).reshape(-1)
    moved = np.moveaxis(found, (batch_axis, time_axis), (0, 1)).copy()
    for row, length in zip(moved, lengths, strict=True):
        row[:length] = row[:length][::-1].copy()
    out.bind(node.output(), pick(out, [node.input()], np.moveaxis(moved, (0, 1), (batch_axis, time_axis))))


_REDUCTIONS = {"add": (ADD, 0.0), "mul": (MUL, 1.0), "max": (MAX, -np.inf), "min": (MIN, np.inf)}


def scatter(node: NodeView, out: Emission, targets: Indices, updates: Value, reduction: str) -> None:
    """``targets``: for each element of ``updates``, flat, which element of input 0 it goes to."""
    data, size = node.input(), math.prod(node.shape())
    targets = targets.reshape(-1)
    if reduction == "none":
        chosen = np.arange(size)
        chosen[targets] = size + np.arange(targets.size)  # of several for one element the last stays, as in ONNX
        out.bind(node.output(), pick(out, [data, updates], chosen))
        return
    if reduction not in _REDUCTIONS:
        raise Refuse(f"its reduction {reduction!r} is unknown", "use add, mul, max or min")
    kind, neutral = _REDUCTIONS[reduction]
    result = out.view(data, (size,))
    left = np.arange(targets.size)
    for _ in range(16):
        here, first = np.unique(targets[left], return_index=True)
        chosen = np.full(size, targets.size)
        chosen[here] = left[first]
        addend = pick(out, [updates, neutral], chosen)
        result = out.layer("BinaryOp", [result, addend], (size,), op_type=kind)
        left = np.delete(left, first)
        if not left.size:
            break
    else:
        raise Refuse("more than 16 updates go to one element", "add them up before the scatter")
    out.bind(node.output(), result)


def _check_reduction(node: NodeView) -> None:
    """Without a reduction elements only move; with one they are counted with, in floats."""
    mode, dtype = node.str("reduction", "none"), node.input().dtype
    if mode != "none" and dtype not in ("float32", "int32", "int64"):
        raise Refuse(f"its reduction {mode!r} is of {dtype}; ncnn computes with float32, int32 and int64", "cast it")


_MODES = {"none": 0, "add": 1, "mul": 2, "max": 3, "min": 4}


def _scattered(node: NodeView, out: Emission, kind: str, **params: int | list[int]) -> None:
    """By our own layer: positions that are computed, or so many updates that stock layers would take too long."""
    mode = node.str("reduction", "none")
    if mode not in _MODES:
        raise Refuse(f"its reduction {mode!r} is unknown", "use add, mul, max or min")
    operands = [out.native(node.input(index)) for index in (0, 1, 2)]
    dims = out.natural_dims(node.output())
    out.bind(node.output(), out.own(kind, operands, [dims], reduction=_MODES[mode], **params)[0])


@emits("ScatterElements", "Scatter", since=11, data="any", own="MkScatterElements", stock=True)
@_fitting
def scatter_elements(node: NodeView, out: Emission) -> None:
    _check_reduction(node)
    shape = node.shape()
    axis = node.axis(node.int("axis", 0))
    if node.input(1).const is None:
        _scattered(node, out, "MkScatterElements", data=list(shape), positions=list(node.shape(1)), axis=axis)
        return
    indices = _wrapped(_indices(node), shape[axis])
    where: list[Indices] = list(np.indices(indices.shape))
    where[axis] = indices
    scatter(node, out, _flat(shape)[tuple(where)], node.input(2), node.str("reduction", "none"))


@emits("ScatterND", since=18, data="any", own="MkScatterND", stock=True)
@_fitting
def scatter_nd(node: NodeView, out: Emission) -> None:
    _check_reduction(node)
    shape = node.shape()
    depth = node.shape(1)[-1]
    if node.input(1).const is None:
        _scattered(node, out, "MkScatterND", sizes=list(shape[:depth]), inner=math.prod(shape[depth:]))
        return
    indices = _indices(node)
    rows = tuple(_wrapped(indices[..., k], shape[k]) for k in range(depth))
    scatter(node, out, _flat(shape)[rows], node.input(2), node.str("reduction", "none"))


@emits("TensorScatter", since=24, data="any")
@_fitting
def tensor_scatter(node: NodeView, out: Emission) -> None:
    shape, new = node.shape(), node.shape(1)
    axis = node.axis(node.int("axis", -2))
    given = node.optional_const(2, "write indices")
    starts = np.zeros(shape[0], np.int64) if given is None else np.asarray(given, np.int64).reshape(-1)
    circular = node.str("mode", "linear") == "circular"
    where: list[Indices] = list(np.indices(new))
    where[axis] = where[axis] + starts.reshape(-1, *[1] * (len(new) - 1))
    if circular:
        where[axis] %= shape[axis]
    elif int(where[axis].max()) >= shape[axis]:
        raise Refuse("it writes past the end of its cache", "use a longer cache, or the circular mode")
    scatter(node, out, _flat(shape)[tuple(where)], node.input(1), "none")


@emits("MaxUnpool", since=22)
@_fitting
def max_unpool(node: NodeView, out: Emission) -> None:
    indices = _indices(node).reshape(-1)
    node.ignore("kernel_shape", "pads", "strides")
    node.ignore_input(2)
    result = node.out_shape()
    plain = node.optional(2) is None
    size = math.prod(result)
    # The indices count in the tensor that the pads and strides alone would give.
    targets = indices if plain else _recount(node, indices, result)
    chosen = np.full(size, math.prod(node.shape()))
    chosen[targets] = np.arange(indices.size)
    out.bind(node.output(), pick(out, [node.input(), 0.0], chosen))


def _recount(node: NodeView, indices: Indices, result: tuple[int, ...]) -> Indices:
    kernel = node.ints("kernel_shape") or []
    rank = len(kernel)
    strides = node.ints("strides") or [1] * rank
    pads = node.ints("pads") or [0] * (2 * rank)
    inner = [
        (n - 1) * s - (pads[i] + pads[i + rank]) + k
        for i, (n, s, k) in enumerate(zip(node.shape()[2:], strides, kernel, strict=True))
    ]
    return np.ravel_multi_index(np.unravel_index(indices, (*result[:2], *inner)), result).astype(np.int64)


@emits("Col2Im", since=18)
@_fitting
def col2im(node: NodeView, out: Emission) -> None:
    image = node.const_ints(1, "image shape")
    block = node.const_ints(2, "block shape")
    rank = len(image)
    strides = node.ints("strides") or [1] * rank
    dilations = node.ints("dilations") or [1] * rank
    pads = node.ints("pads") or [0] * (2 * rank)
    batch, columns, places = node.shape()
    channels = columns // math.prod(block)
    counts = [
        (n + pads[i] + pads[i + rank] - d * (k - 1) - 1) // s + 1
        for i, (n, k, s, d) in enumerate(zip(image, block, strides, dilations, strict=True))
    ]
    # For each column and place, the pixel it is added to; pads fall away.
    inside = np.ones((*block, *counts), bool)
    pixel = np.zeros((*block, *counts), np.int64)
    grids = np.indices((*block, *counts))
    for axis in range(rank):
        where = grids[axis] * dilations[axis] + grids[rank + axis] * strides[axis] - pads[axis]
        inside &= (where >= 0) & (where < image[axis])
        pixel = pixel * image[axis] + where
    area = math.prod(image)
    planes = batch * channels
    elements = np.arange(batch * columns * places).reshape(planes, -1)[:, inside.reshape(-1)]
    targets = (np.arange(planes)[:, None] * area + pixel.reshape(-1)[inside.reshape(-1)]).reshape(-1)
    elements = elements.reshape(-1)
    size, total = planes * area, batch * columns * places
    result: Blob | None = None
    while elements.size:
        here, first = np.unique(targets, return_index=True)
        chosen = np.full(size, total)
        chosen[here] = elements[first]
        layer = pick(out, [node.input(), 0.0], chosen)
        result = layer if result is None else out.layer("BinaryOp", [result, layer], (size,), op_type=ADD)
        elements, targets = np.delete(elements, first), np.delete(targets, first)
    assert result is not None
    out.bind(node.output(), result)
