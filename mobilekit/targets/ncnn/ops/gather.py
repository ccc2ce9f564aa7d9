"""Gather: constant indices are cuts, ids into a constant table are an embedding, computed ones a product."""

from __future__ import annotations

import math

import numpy as np

from mobilekit.targets.ncnn.emit import Blob, Emission, is_table, tagged
from mobilekit.targets.ncnn.layout import dim_of_axis, dims_of
from mobilekit.targets.ncnn.node import NodeView, Refuse
from mobilekit.targets.ncnn.ops.select import pick_rows
from mobilekit.targets.ncnn.ops.slicing import crop
from mobilekit.targets.ncnn.registry import emits

_MOST_PIECES = 256


@emits("Gather", since=13, data="any", own="MkGather", stock=True)
def gather(node: NodeView, out: Emission) -> None:
    axis = node.axis(node.int("axis", 0))
    data, indices = node.input(0), node.input(1)
    if indices.const is None:
        ids = out.ids(indices) if data.const is not None and is_table(data.const, axis) else None
        if ids is None:
            pick_rows(node, out, axis)
        else:
            _embed(node, out, ids)
        return
    shape = node.shape()
    size = shape[axis]
    given = [int(index) for index in np.asarray(indices.const).reshape(-1)]
    if outside := [index for index in given if not -size <= index < size]:
        raise Refuse(f"its index {outside[0]} is outside of an axis of {size}", "export the model again")
    wanted = [index % size for index in given]
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


def _embed(node: NodeView, out: Emission, ids: Blob) -> None:
    table = node.const(0, "table")
    rows, width = table.shape[0], math.prod(table.shape[1:])
    blob = out.layer(
        "Embed",
        [ids],
        (ids.dims[0], width),
        [tagged(table)],
        num_output=width,
        input_dim=rows,
        weight_data_size=rows * width,
    )
    out.bind(node.output(), blob)
