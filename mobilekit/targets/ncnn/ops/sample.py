"""Sampling an image at computed positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mobilekit.targets.ncnn.emit import Blob, Emission
from mobilekit.targets.ncnn.node import NodeView, Refuse
from mobilekit.targets.ncnn.ops.activation import apply
from mobilekit.targets.ncnn.ops.conv import one_batch
from mobilekit.targets.ncnn.ops.elementwise import ADD, DIV, MUL, SUB, scalar
from mobilekit.targets.ncnn.registry import emits

if TYPE_CHECKING:
    from mobilekit.tensors import Array

_KINDS = {"linear": 1, "nearest": 1, "cubic": 3}
_PADDINGS = {"zeros": 1, "border": 2}


@emits("GridSample", since=20)
def grid_sample(node: NodeView, out: Emission) -> None:
    image, grid = one_batch(node, 0), one_batch(node, 1)
    mode, padding = node.str("mode", "linear"), node.str("padding_mode", "zeros")
    corners = node.int("align_corners", 0)
    if mode not in _KINDS:
        raise Refuse(f"its mode {mode!r} is unknown", "use linear, nearest or cubic")
    if padding not in _PADDINGS:
        raise Refuse("ncnn reflects once at the border, ONNX as often as it takes", "pad with zeros or border")
    if len(image) not in (3, 4) or (mode == "cubic" and len(image) == 4):
        raise Refuse(f"ncnn does not sample so in {len(image) - 1} axes", "sample planes, or volumes linearly")
    if mode == "nearest" and min(image[1:]) == 1:
        raise Refuse("it takes the nearest of a single element", "expand the image instead")
    positions = out.view(node.input(1), grid)
    if mode == "nearest":
        positions = _rounded(out, positions, image[:0:-1], corners)
        corners = 1
    blob = out.layer(
        "GridSample",
        [out.view(node.input(0), image), positions],
        (image[0], *grid[:-1]),
        sample_type=_KINDS[mode],
        padding_mode=_PADDINGS[padding],
        align_corner=corners,
    )
    out.bind(node.output(), blob)


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
