"""Pad, in the three modes that ncnn has."""

from __future__ import annotations

import math

import numpy as np

from mobilekit.targets.ncnn.emit import Blob, Emission
from mobilekit.targets.ncnn.layout import Groups, dim_of_axis, dims_of
from mobilekit.targets.ncnn.node import NodeView, Refuse
from mobilekit.targets.ncnn.ops.pick import pick
from mobilekit.targets.ncnn.ops.slicing import crop
from mobilekit.targets.ncnn.registry import emits

_MODES = {"constant": 0, "edge": 1, "reflect": 2}
_SIDES = {1: (("left", "right"),), 2: (("top", "bottom"), ("left", "right"))}
_SIDES[3] = (("front", "behind"), *_SIDES[2])


@emits("Pad", since=24, data="any")
def pad(node: NodeView, out: Emission) -> None:
    shape = node.shape()
    amounts = node.const_ints(1, "pads")
    value = node.const_float(2, "constant value") or 0.0
    given = node.optional_const(3, "axes")
    mode = node.str("mode", "constant")
    axes = list(range(len(shape))) if given is None else [node.axis(int(axis)) for axis in given.reshape(-1)]
    if mode == "wrap" or (mode == "constant" and not math.isfinite(value)):
        _picked(node, out, amounts, axes, mode, value)
        return
    if mode not in _MODES:
        raise Refuse(f"ncnn has no padding mode {mode!r}", "use constant, edge or reflect")
    count = len(axes)
    pads = {a: (amounts[i], amounts[i + count]) for i, a in enumerate(axes) if amounts[i] or amounts[i + count]}
    if mode == "reflect" and any(max(pair) >= shape[axis] for axis, pair in pads.items()):
        raise Refuse("it reflects more than the tensor holds", "use smaller pads")
    if not pads:
        out.alias(node.output(), node.input(0))
        return
    if any(min(pair) < 0 for pair in pads.values()) and mode != "constant":
        raise Refuse(f"it has negative pads in mode {mode!r}", "crop with Slice instead")
    options = {"type": _MODES[mode], "value": value}
    groups = _fitting(node, out, list(pads))
    if groups is not None:
        blob = out.view(node.input(), dims_of(shape, groups))
        amounts_by_dim = {dim_of_axis(groups, axis): pair for axis, pair in pads.items()}
        out.bind(node.output(), _pad(out, blob, amounts_by_dim, options))
        return
    current = list(shape)
    result: Blob | None = None
    for axis, pair in pads.items():
        dims = (math.prod(current[:axis]), current[axis], math.prod(current[axis + 1 :]))
        result = out.view(node.input(), dims) if result is None else out.reshape(result, dims)
        result = _pad(out, result, {1: pair}, options)
        current[axis] += sum(pair)
    assert result is not None
    out.bind(node.output(), result)


def _picked(node: NodeView, out: Emission, amounts: list[int], axes: list[int], mode: str, value: float) -> None:
    """What Padding cannot express: an element of the input, or the one number, for each of the output."""
    shape = node.shape()
    pads = [(0, 0)] * len(shape)
    for index, axis in enumerate(axes):
        pads[axis] = (amounts[index], amounts[index + len(axes)])
    if min(map(min, pads), default=0) < 0:
        raise Refuse(f"it has negative pads in mode {mode!r}", "crop with Slice instead")
    size = math.prod(shape)
    indices = np.arange(size).reshape(shape)
    if mode == "wrap":
        out.bind(node.output(), pick(out, [node.input()], np.pad(indices, pads, mode="wrap")))
    else:
        picked = np.pad(indices, pads, constant_values=size)
        out.bind(node.output(), pick(out, [node.input(), value], picked))


def _fitting(node: NodeView, out: Emission, axes: list[int]) -> Groups | None:
    """A grouping under which one Padding layer does it all: at most three dims, or the first of four left alone."""
    if len(axes) > 3:
        return None
    try:
        groups = out.groups([node.input()], axes)
    except Refuse:
        return None
    if len(groups) == 4 and 0 in {dim_of_axis(groups, axis) for axis in axes}:
        return None
    return groups


def _pad(out: Emission, blob: Blob, pads: dict[int, tuple[int, int]], options: dict[str, int | float]) -> Blob:
    cut = {
        dim: (max(0, -begin), blob.dims[dim] - max(0, -end))
        for dim, (begin, end) in pads.items()
        if min(begin, end) < 0
    }
    blob = crop(out, blob, cut)
    sides = _SIDES[min(len(blob.dims), 3)]
    offset = len(blob.dims) - len(sides)
    params: dict[str, int | float] = {}
    dims = list(blob.dims)
    for dim, pair in pads.items():
        for name, amount in zip(sides[dim - offset], pair, strict=True):
            if amount > 0:
                params[name] = amount
                dims[dim] += amount
    return out.layer("Padding", [blob], tuple(dims), **params, **options) if params else blob
