"""How each operator carries a batch: where its outputs hold the samples, or why it mixes them.

A rule sees a node with at least one input that holds samples and answers with the place of its outputs. It raises
:class:`Mixed` wherever an element of the result could depend on more than one sample; an operator without a rule
does too. Constants that repeat themselves for each sample are cut to one. Operators have their newest form.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from mobilekit.passes.batch_tracker import Mixed, Place, Tracker, shape_of

if TYPE_CHECKING:
    from mobilekit.graph import Node, Value

__all__ = ["RULES", "Rule"]

Rule = Callable[[Tracker, "Node"], "Place | list[Place | None]"]
RULES: dict[str, Rule] = {}
"""Filled below, and not after."""


def _rule(*ops: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(ops, function))
        return function

    return register


def _rank(value: Value | None) -> int:
    assert value is not None
    return len(shape_of(value))


def _attr_axis(node: Node, default: int) -> int:
    return int(node.attrs.get("axis", default)) % max(_rank(node.inputs[0]), 1)


@_rule("Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitShift", "BitwiseAnd", "BitwiseNot")
@_rule("BitwiseOr", "BitwiseXor", "Cast", "Ceil", "Celu", "Clip", "Cos", "Cosh", "Div", "Elu", "Equal", "Erf", "Exp")
@_rule(
    "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu"
)
@_rule("Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow")
@_rule(
    "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt"
)
@_rule("Sub", "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor")
def _elementwise(t: Tracker, node: Node) -> Place:
    return t.broadcast(node, range(len(node.inputs)), _rank(node.outputs[0]))


@_rule("Dropout")
def _dropout(t: Tracker, node: Node) -> list[Place | None]:
    _, place = t.only(node)
    return [place, place]


_SAMPLES_IN: dict[str, tuple[int, ...]] = {"DeformConv": (0, 2, 4), "GridSample": (0, 1)}
"""Inputs beside the first that hold a part for each sample."""


@_rule("AveragePool", "Col2Im", "Conv", "ConvTranspose", "DeformConv", "DepthToSpace", "GlobalAveragePool")
@_rule("GlobalLpPool", "GlobalMaxPool", "GridSample", "GroupNormalization", "InstanceNormalization", "LRN", "LpPool")
@_rule("MaxPool", "SpaceToDepth")
def _image(t: Tracker, node: Node) -> Place:
    """Axis 0 counts images."""
    data = _SAMPLES_IN.get(node.op, (0,))
    t.weights(node, (i for i in range(len(node.inputs)) if i not in data))
    place = t.placed(node, data)[0][2]
    if place.axis != 0:
        raise Mixed("the batch is not its first axis")
    for index in data:
        t.data(node, index, place)
    if node.op == "MaxPool" and len(node.outputs) > 1 and node.outputs[1] is not None:
        raise Mixed("the indices that it gives count over the whole batch")
    return place


@_rule("BatchNormalization")
def _batch_norm(t: Tracker, node: Node) -> Place:
    if node.attrs.get("training_mode", 0):
        raise Mixed("it computes mean and variance over the whole batch (training_mode)")
    _, place = t.only(node)
    if place.axis == 1:
        raise Mixed("it scales along the batch")
    return place


@_rule("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin")
@_rule("ReduceProd", "ReduceSum", "ReduceSumSquare")
def _reduce(t: Tracker, node: Node) -> Place:
    value, place = t.only(node)
    rank = _rank(value)
    axes = t.ints(node, 1, "axes") or []
    if not axes:
        if node.attrs.get("noop_with_empty_axes", 0):
            return place
        axes = list(range(rank))
    return _without(place, {axis % rank for axis in axes}, keep=bool(node.attrs.get("keepdims", 1)))


@_rule("ArgMax", "ArgMin")
def _arg(t: Tracker, node: Node) -> Place:
    _, place = t.only(node)
    return _without(place, {_attr_axis(node, 0)}, keep=bool(node.attrs.get("keepdims", 1)))


def _without(place: Place, axes: set[int], *, keep: bool) -> Place:
    if place.axis in axes:
        raise Mixed("it reduces over the batch")
    return place if keep else Place(place.axis - sum(axis < place.axis for axis in axes), place.outer)


@_rule("Softmax", "LogSoftmax", "Hardmax", "LpNormalization")
def _along(t: Tracker, node: Node) -> Place:
    _, place = t.only(node)
    if place.axis == _attr_axis(node, -1):
        raise Mixed("it works along the batch")
    return place


@_rule("CumSum", "CumProd")
def _running(t: Tracker, node: Node) -> Place:
    value, place = t.only(node)
    if place.axis in [axis % _rank(value) for axis in t.ints(node, 1, "axis") or [0]]:
        raise Mixed("it runs along the batch")
    return place


@_rule("LayerNormalization", "RMSNormalization")
def _layer_norm(t: Tracker, node: Node) -> list[Place | None]:
    _, place = t.only(node)
    if place.axis >= _attr_axis(node, -1):
        raise Mixed("it normalises over the batch")
    return [place] * len(node.outputs)


@_rule("TopK")
def _topk(t: Tracker, node: Node) -> list[Place | None]:
    _, place = t.only(node)
    if place.axis == _attr_axis(node, -1):
        raise Mixed("it chooses among the samples")
    return [place, place]


@_rule("Det", "Trilu")
def _trilu(t: Tracker, node: Node) -> Place:
    value, place = t.only(node)
    if place.axis >= _rank(value) - 2:
        raise Mixed("the batch is an axis of its matrices")
    return place


@_rule("OneHot")
def _one_hot(t: Tracker, node: Node) -> Place:
    _, place = t.only(node)
    rank = _rank(node.outputs[0])
    return Place(place.axis + (int(node.attrs.get("axis", -1)) % rank <= place.axis), place.outer)


@_rule("Transpose")
def _transpose(t: Tracker, node: Node) -> Place:
    value, place = t.only(node)
    perm = node.attrs.get("perm") or list(reversed(range(_rank(value))))
    return Place(list(perm).index(place.axis), place.outer)


@_rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(t: Tracker, node: Node) -> Place:
    value, place = t.only(node)
    before, out = shape_of(value), node.outputs[0]
    assert out is not None
    ahead = math.prod(before[: place.axis]) * place.outer
    reached = 1
    for axis, size in enumerate(shape_of(out)):
        if ahead % reached == 0 and size % (ahead // reached * t.batch) == 0:
            t.reshapes.append(node)
            return Place(axis, ahead // reached)
        reached *= size
    raise Mixed("it splits the batch over several axes")


@_rule("Expand")
def _expand(t: Tracker, node: Node) -> Place:
    value, place = t.only(node)
    out = node.outputs[0]
    target = Place(_rank(out) - _rank(value) + place.axis, place.outer)
    assert out is not None
    shape = list(shape_of(out))
    shape[target.axis] //= t.batch
    t.constants.append((node, 1, np.array(shape, np.int64)))
    return target


@_rule("Tile")
def _tile(t: Tracker, node: Node) -> Place:
    _, place = t.only(node)
    repeats = t.ints(node, 1, "repeats") or []
    return Place(place.axis, place.outer * repeats[place.axis])


def _side_by_side(t: Tracker, node: Node, mixed: str) -> Place:
    """All inputs hold the batch in the same place, and the node works along another axis; else it is ``mixed``."""
    place = t.placed(node)[0][2]
    if place.axis == _attr_axis(node, 0):
        raise Mixed(mixed)
    for index in range(len(node.inputs)):
        t.data(node, index, place)
    return place


@_rule("Concat")
def _concat(t: Tracker, node: Node) -> Place:
    return _side_by_side(t, node, "it joins tensors along the batch")


@_rule("Split")
def _split(t: Tracker, node: Node) -> list[Place | None]:
    _, place = t.only(node)
    if place.axis == _attr_axis(node, 0):
        raise Mixed("it takes the batch apart")
    return [place] * len(node.outputs)


@_rule("Slice")
def _slice(t: Tracker, node: Node) -> Place:
    value, place = t.only(node)
    starts, ends = t.ints(node, 1, "starts") or [], t.ints(node, 2, "ends") or []
    axes = t.ints(node, 3, "axes") or list(range(len(starts)))
    steps = t.ints(node, 4, "steps") or [1] * len(starts)
    for number, axis in enumerate(axes):
        if axis % _rank(value) != place.axis:
            continue
        size = shape_of(value)[place.axis]
        if (starts[number] not in (0, -size)) or ends[number] < size or steps[number] != 1:
            raise Mixed("it picks some of the samples")
        assert node.inputs[1] is not None
        kind = np.dtype(node.inputs[1].dtype)
        ends[number], starts[number] = int(np.iinfo(kind).max), 0
        t.constants += [(node, 1, np.array(starts, kind)), (node, 2, np.array(ends, kind))]
    return place


@_rule("Pad")
def _pad(t: Tracker, node: Node) -> Place:
    value, place = t.only(node)
    pads = t.ints(node, 1, "pads") or []
    axes = [axis % _rank(value) for axis in t.ints(node, 3, "axes") or range(_rank(value))]
    if place.axis in axes:
        number = axes.index(place.axis)
        if pads[number] or pads[number + len(axes)]:
            raise Mixed("it pads the batch")
    return place


@_rule("Resize")
def _resize(t: Tracker, node: Node) -> Place:
    value, place = t.only(node)
    if node.attrs.get("coordinate_transformation_mode") in ("tf_crop_and_resize", b"tf_crop_and_resize"):
        raise Mixed("it crops")
    axes = [axis % _rank(value) for axis in node.attrs.get("axes") or range(_rank(value))]
    size = shape_of(value)[place.axis]
    if shape_of(node.outputs[0])[place.axis] != size:  # type: ignore[arg-type]
        raise Mixed("it resizes the batch")
    if place.axis in axes and (sizes := t.ints(node, 3, "sizes")):
        sizes[axes.index(place.axis)] //= t.batch
        t.constants.append((node, 3, np.array(sizes, np.int64)))
    return place


@_rule("Gather")
def _gather(t: Tracker, node: Node) -> Place:
    axis = _attr_axis(node, 0)
    data, indices = t.place(node.inputs[0]), t.place(node.inputs[1])
    if data is not None and indices is not None:
        raise Mixed("it picks from the batch by what comes from the batch")
    if indices is not None:
        return Place(axis + indices.axis, indices.outer)
    assert data is not None
    if data.axis == axis:
        raise Mixed("it picks some of the samples")
    return data if data.axis < axis else Place(data.axis + _rank(node.inputs[1]) - 1, data.outer)


@_rule("GatherElements", "ScatterElements")
def _elements(t: Tracker, node: Node) -> Place:
    return _side_by_side(t, node, "it picks among the samples")


@_rule("GatherND")
def _gather_nd(t: Tracker, node: Node) -> Place:
    data, indices = t.place(node.inputs[0]), t.place(node.inputs[1])
    shared = int(node.attrs.get("batch_dims", 0))
    rank = _rank(node.inputs[1])
    first = data or indices
    if first is not None and first.axis < shared:
        for index in range(2):
            t.data(node, index, first)
        return first
    if data is None and indices is not None and indices.axis < rank - 1:
        return indices
    picked = shared + shape_of(node.inputs[1])[-1]  # type: ignore[arg-type]
    if data is not None and indices is None and data.axis >= picked:
        return Place(rank - 1 + data.axis - picked, data.outer)
    raise Mixed("it picks among the samples")


@_rule("ScatterND")
def _scatter_nd(t: Tracker, node: Node) -> Place:
    place = t.place(node.inputs[0])
    t.weights(node, [1])
    picked = shape_of(node.inputs[1])[-1]  # type: ignore[arg-type]
    if place is None or place.axis < picked:
        raise Mixed("it writes to some of the samples")
    t.data(node, 2, Place(_rank(node.inputs[1]) - 1 + place.axis - picked, place.outer))
    return place


@_rule("MatMul")
def _matmul(t: Tracker, node: Node) -> Place:
    (a, b), rank = node.inputs[:2], _rank(node.outputs[0])
    assert a is not None
    assert b is not None
    backs = {}
    for index, value, place in t.placed(node):
        back = place.axis - _rank(value)
        if _rank(value) == 1 or back == (-1 if index == 0 else -2):
            raise Mixed("it sums over the batch")
        backs[index] = back
    if any(back >= -2 for back in backs.values()):  # rows of a, or columns of b
        if len(backs) == 2:
            raise Mixed("it pairs each sample with every other")
        index, _, held = t.placed(node)[0]
        return Place(rank + backs[index] + (index == 0 and _rank(b) == 1), held.outer)
    if min(_rank(a), _rank(b)) == 1:
        return t.placed(node)[0][2]
    return t.broadcast(node, (0, 1), rank)


@_rule("Gemm")
def _gemm(t: Tracker, node: Node) -> Place:
    rows, columns = int(node.attrs.get("transA", 0)), 1 - int(node.attrs.get("transB", 0))
    a, b = t.place(node.inputs[0]), t.place(node.inputs[1])
    if a is not None and b is not None:
        raise Mixed("it pairs each sample with every other, or sums over the batch")
    if a is None and b is None:
        raise Mixed("its bias comes from the batch, its factors do not")
    if (a is not None and a.axis != rows) or (b is not None and b.axis != columns):
        raise Mixed("it sums over the batch")
    target = Place(0 if a is not None else 1, (a or b).outer)  # type: ignore[union-attr]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        axis = _rank(bias) - 2 + target.axis
        if axis >= 0 and shape_of(bias)[axis] != 1:
            t.data(node, 2, Place(axis, target.outer))
        else:
            t.weights(node, [2])
    return target


@_rule("LSTM", "GRU", "RNN")
def _recurrent(t: Tracker, node: Node) -> list[Place | None]:
    place = t.place(node.inputs[0])
    axis = 0 if node.attrs.get("layout", 0) else 1
    t.weights(node, (1, 2, 3, 7))
    if place is None or place.axis != axis:
        raise Mixed("the batch stands where it counts steps")
    t.data(node, 4, Place(0, place.outer))
    for index in (5, 6):
        t.data(node, index, place)
    sequence = Place(0 if axis == 0 else 2, place.outer)
    return [sequence, place, place]


@_rule("Attention")
def _attention(t: Tracker, node: Node) -> list[Place | None]:
    found = t.placed(node)
    place = found[0][2]
    for index in (0, 1, 2, 4, 5, 6):
        t.data(node, index, place)
    if place.axis != 0:
        raise Mixed("the batch is not its first axis")
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    if mask is not None and (t.place(mask) is not None or (_rank(mask) == 4 and shape_of(mask)[0] != 1)):
        t.data(node, 3, place)
    return [place] * len(node.outputs)


@_rule("Einsum")
def _einsum(t: Tracker, node: Node) -> Place:
    equation = node.attrs["equation"]
    text = (equation.decode() if isinstance(equation, bytes) else str(equation)).replace(" ", "")
    terms, arrow, result = text.partition("->")
    if not arrow or "." in text:
        raise Mixed("its equation does not name every axis")
    labels = terms.split(",")
    _, _, first = t.placed(node)[0]
    letter = labels[t.placed(node)[0][0]][first.axis]
    if letter not in result:
        raise Mixed("it sums over the batch")
    for index, term in enumerate(labels):
        value = node.inputs[index]
        assert value is not None
        if letter in term:
            t.data(node, index, Place(term.index(letter), first.outer))
        else:
            t.weights(node, [index])
    return Place(result.index(letter), first.outer)


@_rule("QuantizeLinear", "DequantizeLinear")
def _quantize(t: Tracker, node: Node) -> Place:
    value, place = t.only(node)
    scale = node.inputs[1]
    if _rank(scale) and place.axis == int(node.attrs.get("axis", 1)) % _rank(value):
        raise Mixed("it has a scale for each sample")
    if _rank(scale) > 1:
        raise Mixed("it scales block by block")
    return place
