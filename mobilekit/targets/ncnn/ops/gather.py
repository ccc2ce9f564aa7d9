"""Gather: constant indices are cuts, ids into a constant table are an embedding."""

from __future__ import annotations

import math

import numpy as np

from mobilekit.targets.ncnn.emit import Blob, Emission, tagged
from mobilekit.targets.ncnn.layout import dim_of_axis, dims_of
from mobilekit.targets.ncnn.node import NodeView, Refuse
from mobilekit.targets.ncnn.ops.slicing import crop
from mobilekit.targets.ncnn.registry import emits

_MOST_PIECES = 256


@emits("Gather", since=13, data="any")
def gather(node: NodeView, out: Emission) -> None:
    axis = node.axis(node.int("axis", 0))
    data, indices = node.input(0), node.input(1)
    if indices.const is None:
        _embed(node, out, axis)
        return
    shape = node.shape()
    size = shape[axis]
    wanted = [int(index) % size for index in np.asarray(indices.const).reshape(-1)]
    pieces: list[tuple[int, int]] = []
    for index in wanted:
        if pieces and pieces[-1][1] == index:
            pieces[-1] = (pieces[-1][0], index + 1)
        else:
            pieces.append((index, index + 1))
    if len(pieces) > _MOST_PIECES:
        raise Refuse(f"its indices make {len(pieces)} separate pieces", "order the weights instead of gathering")
    groups = out.groups([data], [axis])
    x = out.view(data, dims_of(shape, groups))
    dim = dim_of_axis(groups, axis)
    parts = [crop(out, x, {dim: piece}) for piece in pieces]
    if len(parts) > 1:
        dims = tuple(len(wanted) if index == dim else n for index, n in enumerate(x.dims))
        parts = [out.layer("Concat", parts, dims, axis=dim)]
    result: Blob = parts[0]
    out.bind(node.output(), result)


def _embed(node: NodeView, out: Emission, axis: int) -> None:
    table = node.const(0, "table (with computed indices)")
    if axis != 0 or table.ndim < 2:
        raise Refuse(
            "its indices are computed and it does not pick rows of a table", "pick along the first axis of a matrix"
        )
    if node.output().dtype != "float32":
        raise Refuse(f"its table is {node.output().dtype}", "make it float32")
    rows, width = table.shape[0], math.prod(table.shape[1:])
    ids = out.ids(node.input(1))
    count = ids.dims[0]
    blob = out.layer(
        "Embed",
        [ids],
        (count, width),
        [tagged(table)],
        num_output=width,
        input_dim=rows,
        weight_data_size=rows * width,
    )
    out.bind(node.output(), blob)
