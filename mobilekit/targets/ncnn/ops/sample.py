"""Sampling an image at computed positions, and averaging over regions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mobilekit.targets.ncnn.emit import Blob, Emission
from mobilekit.targets.ncnn.node import NodeView, Refuse
from mobilekit.targets.ncnn.ops.activation import apply
from mobilekit.targets.ncnn.ops.batch import join_items, split_items
from mobilekit.targets.ncnn.ops.elementwise import ADD, DIV, MUL, RSUB, SUB, scalar
from mobilekit.targets.ncnn.ops.slicing import crop
from mobilekit.targets.ncnn.ops.transpose import permute
from mobilekit.targets.ncnn.registry import emits

if TYPE_CHECKING:
    from mobilekit.tensors import Array

_KINDS = {"linear": 1, "nearest": 1, "cubic": 3}
_MODES = {"linear": 0, "nearest": 1, "cubic": 2}
_PADDINGS = {"zeros": 1, "border": 2, "reflection": 3}


_MOST_ITEMS = 8
"""Images, or regions, that stock layers do one by one where ours do all at once."""


@emits("GridSample", since=20, own="MkGridSample", stock=True)
def grid_sample(node: NodeView, out: Emission) -> None:
    (batch, *image), grid = node.shape(0), node.shape(1)[1:]
    mode, padding = node.str("mode", "linear"), node.str("padding_mode", "zeros")
    corners = node.int("align_corners", 0)
    if mode not in _KINDS:
        raise Refuse(f"its mode {mode!r} is unknown", "use linear, nearest or cubic")
    if padding not in _PADDINGS:
        raise Refuse(f"its padding mode {padding!r} is unknown", "pad with zeros, border or reflection")
    if len(image) not in (3, 4) or (mode == "cubic" and len(image) == 4):
        raise Refuse(f"ncnn does not sample so in {len(image) - 1} axes", "sample planes, or volumes linearly")
    single = mode == "nearest" and min(image[1:]) == 1
    if not out.stock_only and (single or batch > (1 if out.takes_own else _MOST_ITEMS)):
        blob = out.own(
            "MkGridSample",
            [out.native(node.input(0)), out.native(node.input(1))],
            [out.natural_dims(node.output())],
            batch=batch,
            channels=image[0],
            mode=_MODES[mode],
            padding=_PADDINGS[padding] - 1,
            align_corners=corners,
            spatial=image[1:],
        )[0]
        out.bind(node.output(), blob)
        return
    if single:
        raise Refuse("it takes the nearest of a single element", "expand the image instead")
    places = math.prod(grid[:-1])
    positions = out.view(node.input(1), (batch, places, grid[-1]) if batch > 1 else grid)
    if padding == "reflection":
        positions = _folded(out, positions)
    if mode == "nearest":
        positions = _rounded(out, positions, tuple(image[:0:-1]), corners)
        corners = 1
    parts: list[Blob] = []
    for index, item in enumerate(split_items(out, node.input(0), tuple(image))):
        here = out.reshape(crop(out, positions, {0: (index, index + 1)}) if batch > 1 else positions, grid)
        # Each coordinate as a plane: with them innermost, ncnn's layer for ARM sets aside (places x rows) of scratch
        # memory, and for a single row of places writes beyond it.
        planes = permute(out, here, (len(grid) - 1, *range(len(grid) - 1)))
        found = out.layer(
            "GridSample",
            [item, planes],
            (image[0], *grid[:-1]),
            sample_type=_KINDS[mode],
            padding_mode=_PADDINGS[padding],
            align_corner=corners,
            permute_fusion=1,
        )
        parts.append(found)
    out.bind(node.output(), join_items(out, parts))


def _folded(out: Emission, grid: Blob) -> Blob:
    """Coordinates reflected into [-1, 1] as often as it takes (ncnn reflects once): ``1 - |(g + 1) mod 4 - 2|``."""
    moved = scalar(out, ADD, grid, 1.0)
    turns = apply(out, "Floor", scalar(out, MUL, moved, 0.25))
    rest = out.layer("BinaryOp", [moved, scalar(out, MUL, turns, 4.0)], grid.dims, op_type=SUB)
    return scalar(out, RSUB, apply(out, "Abs", scalar(out, SUB, rest, 2.0)), 1.0)


def _rounded(out: Emission, grid: Blob, sizes: tuple[int, ...], corners: int) -> Blob:
    """The grid moved to the nearest elements, in coordinates of ``align_corners=1``.

    ONNX rounds halves to even, ncnn's own nearest mode rounds them up; between whole elements linear sampling has
    nothing to mix. ``sizes`` are width, height, depth, in the order of the grid's last axis.
    """
    lead = (1,) * (len(grid.dims) - 1)
    extent = np.array(sizes, np.float32)

    def along(op: int, blob: Blob, numbers: Array) -> Blob:
        return out.layer("BinaryOp", [blob, out.memory(numbers, (*lead, len(sizes)))], blob.dims, op_type=op)

    where = scalar(out, ADD, grid, 1.0)
    where = along(MUL, where, (extent - 1) / 2 if corners else extent / 2)
    if not corners:
        where = scalar(out, SUB, where, 0.5)
    where = apply(out, "Round", where)
    return scalar(out, SUB, scalar(out, MUL, along(DIV, where, extent - 1), 2.0), 1.0)


@emits("RoiAlign", since=22, data="any", own="MkRoiAlign MkRoiAlignMax", stock=True)
def roi_align(node: NodeView, out: Emission) -> None:
    batch, channels, height, width = node.shape()
    count = node.shape(1)[0]
    rows, columns = node.int("output_height", 1), node.int("output_width", 1)
    aligned = node.str("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    ratio, scale = node.int("sampling_ratio", 0), node.float("spatial_scale", 1.0)
    largest = node.str("mode", "avg") != "avg"
    computed = node.input(2).const is None
    if largest or (not out.stock_only and (computed or count > (1 if out.takes_own else _MOST_ITEMS))):
        blob = out.own(
            "MkRoiAlignMax" if largest else "MkRoiAlign",
            [out.native(node.input(index)) for index in (0, 1, 2)],
            [(count * channels, rows, columns)],
            batch=batch,
            channels=channels,
            height=height,
            width=width,
            output_height=rows,
            output_width=columns,
            sampling_ratio=ratio,
            spatial_scale=scale,
            half_pixel=int(aligned),
        )[0]
        out.bind(node.output(), blob)
        return
    items = node.const_ints(2, "batch indices")
    images = split_items(out, node.input(), (channels, height, width))
    rois = out.view(node.input(1), (count, 4))
    parts: list[Blob] = []
    for index, item in enumerate(items):
        roi = out.reshape(crop(out, rois, {0: (index, index + 1)}), (4,))
        found = out.layer(
            "ROIAlign",
            [images[item], roi],
            (channels, rows, columns),
            pooled_width=columns,
            pooled_height=rows,
            spatial_scale=scale,
            sampling_ratio=ratio,
            aligned=int(aligned),
            version=1,
        )
        parts.append(found)
    out.bind(node.output(), join_items(out, parts))
