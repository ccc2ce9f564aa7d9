"""Operators that only move elements or change how they are counted: most cost no layer at all."""

from __future__ import annotations

import math

import numpy as np

from mobilekit.graph import Value
from mobilekit.targets.ncnn.emit import Blob, Emission
from mobilekit.targets.ncnn.layout import MAX_DIMS, Dims, dim_of_axis, dims_of
from mobilekit.targets.ncnn.node import NodeView, Refuse, static_shape
from mobilekit.targets.ncnn.ops.activation import UNARY, apply
from mobilekit.targets.ncnn.ops.batch import per_item
from mobilekit.targets.ncnn.ops.transpose import permute, permute_runs, runs_of
from mobilekit.targets.ncnn.registry import emits


@emits("Reshape", since=21, data="any")
@emits("Squeeze", "Unsqueeze", since=21, data="any")
@emits("Flatten", since=21, data="any")
@emits("Identity", since=21, data="any")
@emits("OptionalGetElement", since=18, data="any")
def same_elements(node: NodeView, out: Emission) -> None:
    # Shape inference has worked out the result; what the other inputs and attributes say is in it already.
    node.ignore("axis", "allowzero", "axes")
    node.ignore_input(1)
    if math.prod(node.shape()) != math.prod(node.out_shape()):
        # ONNX's shape inference takes the shape's word for it.
        raise Refuse(
            f"it makes {list(node.out_shape())} of {list(node.shape())}, which has another number of elements",
            "export the model for this input size",
        )
    out.alias(node.output(), node.input(0))


@emits("Dropout", since=22, data="any")
def dropout(node: NodeView, out: Emission) -> None:
    training = node.optional_const(2, "training mode")
    if training is not None and bool(np.any(training)):
        raise Refuse("it is in training mode", "export the model for inference")
    node.ignore("seed")
    node.ignore_input(1)
    out.alias(node.output(), node.input(0))
    if (mask := node.optional_output(1)) is not None:
        out.alias(mask, out.graph.constant(f"{mask.name}_kept", np.ones(node.shape(), np.bool_)))


_FLOATS = frozenset({"float16", "float32", "float64"})
_RANGES = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-(1 << 15), (1 << 15) - 1), "uint16": (0, (1 << 16) - 1)}
_WIDE = frozenset({"int32", "int64"})


@emits("Cast", since=24, data="any")
def cast(node: NodeView, out: Emission) -> None:
    node.ignore("to", "saturate", "round_mode")
    value = node.input()
    source, target = str(value.dtype), str(node.output().dtype)
    if source == target or target in _FLOATS:
        # What is computed is float32 anyway; 16-bit and 64-bit floats are left only at inputs and outputs.
        out.alias(node.output(), value)
    elif target == "bool":
        x = out.native(value)
        out.bind(node.output(), apply(out, "Abs", apply(out, "Sign", x)))
    elif target in _WIDE or _within(value, *_RANGES.get(target, (1, 0))):
        if source in _FLOATS:
            out.unary("UnaryOp", node, op_type=UNARY["Trunc"])
        else:
            out.alias(node.output(), value)
    else:
        raise Refuse(f"ncnn cannot cast {source} to {target} exactly", "clip the values to its range first, or keep "
                     "them in float32")  # fmt: skip


def _within(value: Value | None, low: int, high: int) -> bool:
    """Whether the operators that make ``value`` keep it between ``low`` and ``high``."""
    while value is not None:
        own = _RANGES.get(str(value.dtype), (0, 1) if value.dtype == "bool" else None)
        if own is not None and low <= own[0] and own[1] <= high:
            return True
        node = value.producer
        if node is None or node.domain:
            return False
        if node.op == "Clip" and len(node.inputs) == 3:
            bounds = [None if end is None or end.const is None else float(end.const.reshape(-1)[0])
                      for end in node.inputs[1:]]  # fmt: skip
            return bounds[0] is not None and bounds[1] is not None and low <= bounds[0] and bounds[1] <= high
        if node.op in ("ArgMax", "ArgMin"):
            first = node.inputs[0]
            return first is not None and low <= 0 and max(static_shape(first), default=1) <= high + 1
        if node.op not in ("Round", "Floor", "Ceil", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Slice"):
            return False
        value = node.inputs[0]
    return False


@emits("Transpose", since=21, data="any")
def transpose(node: NodeView, out: Emission) -> None:
    shape = node.shape()
    rank = len(shape)
    given = node.ints("perm") or list(range(rank))[::-1]
    # Axes that stay neighbours travel as one dim.
    runs = runs_of(shape, given)
    alive = [axis for axis in range(rank) if shape[axis] > 1]
    if len(runs) <= 1:
        out.alias(node.output(), node.input(0))
        return
    sizes = [math.prod(shape[axis] for axis in run) for run in runs]
    native = out.dims(node.input())
    if [runs.index(run) for run in sorted(runs)] == [1, 0, 2] and native[0] == sizes[0] * sizes[1] and len(native) == 3:
        x = out.view(node.input(), native)
        out.bind(node.output(), out.layer("ShuffleChannel", [x], native, group=sizes[1]))
        return
    # Keep axes apart while they fit: what follows mostly wants them one by one.
    while len(runs) < min(MAX_DIMS, len(alive)) and any(len(run) > 1 for run in runs):
        index = next(i for i, run in enumerate(runs) if len(run) > 1)
        runs[index : index + 1] = [runs[index][:1], runs[index][1:]]
    if len(runs) > MAX_DIMS:
        out.bind(node.output(), permute_runs(out, node, runs))
        return
    source = sorted(runs)
    dims = tuple(math.prod(shape[axis] for axis in run) for run in source)
    order = tuple(source.index(run) for run in runs)
    out.bind(node.output(), permute(out, out.view(node.input(), dims), order))


@emits("Concat", since=13, data="any")
def concat(node: NodeView, out: Emission) -> None:
    values = node.inputs()
    axis = node.axis(node.int("axis", 0))
    values = [value for value in values if math.prod(static_shape(value))]
    if len(values) == 1:
        out.alias(node.output(), values[0])
        return
    groups = out.groups(values, [axis])
    blobs = [out.view(value, dims_of(static_shape(value), groups)) for value in values]
    dims = dims_of(node.out_shape(), groups)
    out.bind(node.output(), out.layer("Concat", blobs, dims, axis=dim_of_axis(groups, axis)))


@emits("Split", since=18, data="any")
def split(node: NodeView, out: Emission) -> None:
    axis = node.axis(node.int("axis", 0))
    node.ignore("num_outputs")
    node.ignore_input(1)
    outputs = [value for value in node.node.outputs if value is not None]
    if len(outputs) != len(node.node.outputs):
        raise Refuse("one of its outputs has no name", "name every output")
    if len(outputs) == 1:
        out.alias(outputs[0], node.input(0))
        return
    groups = out.groups([node.input()], [axis])
    x = out.view(node.input(), dims_of(node.shape(), groups))
    outputs = [value for value in outputs if math.prod(static_shape(value))]  # nobody can read an empty one
    sizes = [static_shape(value)[axis] for value in outputs]
    if len(outputs) == 1:
        out.alias(outputs[0], node.input(0))
        return
    dims = [dims_of(static_shape(value), groups) for value in outputs]
    blobs = out.layers("Slice", [x], dims, slices=sizes, axis=dim_of_axis(groups, axis))
    for value, blob in zip(outputs, blobs, strict=True):
        out.bind(value, blob)


def tile(out: Emission, blob: Blob, where: int, times: int) -> Blob:
    """``blob`` repeated along dim ``where``."""
    dims = tuple(size * times if index == where else size for index, size in enumerate(blob.dims))
    return out.layer("Tile", [blob], dims, axis=where, tiles=times)


def _repeat(node: NodeView, out: Emission, repeats: list[int], shape: tuple[int, ...]) -> None:
    """Repeat input 0, seen as ``shape``, ``repeats`` times along each axis."""
    axes = [axis for axis, times in enumerate(repeats) if times > 1]
    if not axes:
        out.alias(node.output(), node.input(0))
        return
    dims: Dims = ()
    blob: Blob | None = None
    current = list(shape)
    for axis in axes:
        dims = (math.prod(current[:axis]), current[axis], math.prod(current[axis + 1 :]))
        blob = out.view(node.input(), dims) if blob is None else out.reshape(blob, dims)
        blob = tile(out, blob, 1, repeats[axis])
        current[axis] *= repeats[axis]
    assert blob is not None
    out.bind(node.output(), blob)


@emits("Tile", since=13, data="any")
def tile_op(node: NodeView, out: Emission) -> None:
    repeats = node.const_ints(1, "repeats")
    if min(repeats, default=1) < 1:
        raise Refuse("it repeats zero times", "remove it")
    _repeat(node, out, repeats, node.shape())


@emits("Expand", since=13, data="any")
def expand(node: NodeView, out: Emission) -> None:
    node.ignore_input(1)
    result = node.out_shape()
    shape = (1,) * (len(result) - node.rank()) + node.shape()
    _repeat(node, out, [r // s for r, s in zip(result, shape, strict=True)], shape)


@emits("DepthToSpace", since=13, data="any")
def depth_to_space(node: NodeView, out: Emission) -> None:
    mode = 0 if node.str("mode", "DCR") == "CRD" else 1
    result, block = node.out_shape()[1:], node.int("blocksize", 1)

    def shuffle(x: Blob) -> Blob:
        return out.layer("PixelShuffle", [x], result, upscale_factor=block, mode=mode)

    out.bind(node.output(), per_item(out, node.input(), node.shape()[1:], shuffle))


@emits("SpaceToDepth", since=13, data="any")
def space_to_depth(node: NodeView, out: Emission) -> None:
    mode = 0 if node.str("mode", "DCR") == "CRD" else 1
    result, block = node.out_shape()[1:], node.int("blocksize", 1)
    if any(size % block for size in node.shape()[2:]):
        raise Refuse(f"its input of {list(node.shape())} cannot be cut into blocks of {block}", "pad it before")

    def reorganise(x: Blob) -> Blob:
        return out.layer("Reorg", [x], result, stride=block, mode=mode)

    out.bind(node.output(), per_item(out, node.input(), node.shape()[1:], reorganise))
