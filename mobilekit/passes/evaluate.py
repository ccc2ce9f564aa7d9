"""Compute a node whose inputs are all constant: in numpy for what shape arithmetic is made of, else onnx's reference.

Nodes are in the canonical form (:mod:`mobilekit.passes`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mobilekit.importers.tensors import elem_type

if TYPE_CHECKING:
    from mobilekit.graph import Node
    from mobilekit.tensors import Array

__all__ = ["RANDOM", "evaluate", "repeated_shape"]

RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
"""Operators whose result is not a function of their inputs."""

_NEVER = frozenset({"DeformConv", "RegexFullMatch"})
"""Operators that onnx's reference takes minutes for: 2 ms an element, and Python's own regular expressions."""

_RANGE_LIMIT = 1 << 23
_VIEW_LIMIT_BYTES = 1 << 31

Inputs = Sequence["np.ndarray[Any, Any] | None"]


def evaluate(node: Node, inputs: Inputs, opset: int) -> list[Array] | None:
    """The node's outputs, ``None`` where it cannot be computed here (random, a custom operator, a body, too much)."""
    if node.domain or node.op in RANDOM | _NEVER or node.bodies():
        return None
    rule = _TABLE.get(node.op)
    with np.errstate(all="ignore"):
        if rule is not None:
            try:
                result = rule(inputs, node.attrs)
            except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError):
                return None  # malformed: shape inference says how; or too large
            if result is not None:
                return [np.asarray(result)]
        return _reference(node, inputs, opset)


def _reference(node: Node, inputs: Inputs, opset: int) -> list[Array] | None:
    """Through ``onnx.reference`` (imported here: it costs 0.15 s)."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    from mobilekit.importers.convert import to_node

    feeds = {value.name: array for value, array in zip(node.inputs, inputs, strict=True) if value is not None}
    graph = helper.make_graph(
        [to_node(node)],
        "fold",
        [
            helper.make_tensor_value_info(name, elem_type(str(array.dtype)), array.shape)
            for name, array in feeds.items()
            if array is not None
        ],
        [helper.make_empty_tensor_value_info(value.name) for value in node.outputs if value is not None],
    )
    try:
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        made = ReferenceEvaluator(model).run(None, feeds)
    except Exception:  # the reference has gaps and raises what it likes; the node then stays as it is
        return None
    if not all(isinstance(array, np.ndarray | np.generic) for array in made):
        return None
    return [np.asarray(array) for array in made]


def _axes(array: Array | None, rank: int) -> list[int]:
    return [] if array is None else [int(axis) % rank for axis in array.reshape(-1)] if rank else []


def _cast(inputs: Inputs, attrs: Mapping[str, Any]) -> Any:
    from onnx import helper

    source, to = inputs[0], np.dtype(helper.tensor_dtype_to_np_dtype(attrs["to"]))
    if source is None or {source.dtype.kind, to.kind} & {"O", "V"}:
        return None
    if to.kind in "iu" and source.dtype.kind == "f" and not np.isfinite(source).all():
        return None
    return source.astype(to)


def _slice(inputs: Inputs, attrs: Mapping[str, Any]) -> Any:  # noqa: ARG001
    data, starts, ends, axes, steps = [*inputs, None, None][:5]
    assert data is not None
    assert starts is not None
    assert ends is not None
    picked = [slice(None)] * data.ndim
    where = range(len(starts)) if axes is None else _axes(axes, data.ndim)
    for index, axis in enumerate(where):
        step = 1 if steps is None else int(steps[index])
        picked[axis] = slice_of(int(starts[index]), int(ends[index]), step, data.shape[axis])
    return data[tuple(picked)]


def slice_of(start: int, end: int, step: int, size: int) -> slice:
    """ONNX's Slice on one axis of ``size`` elements as Python's: bounds clamp, the end may lie before element 0."""
    start += size if start < 0 else 0
    end += size if end < 0 else 0
    if step > 0:
        return slice(min(max(start, 0), size), min(max(end, 0), size), step)
    start, end = min(max(start, 0), size - 1), min(max(end, -1), size - 1)
    return slice(start, None if end < 0 else end, step)


def _reshape(inputs: Inputs, attrs: Mapping[str, Any]) -> Any:
    data, shape = inputs[0], inputs[1]
    assert data is not None
    assert shape is not None
    wanted = [int(axis) for axis in shape]
    if not attrs.get("allowzero", 0):
        wanted = [data.shape[i] if axis == 0 else axis for i, axis in enumerate(wanted)]
    return data.reshape(wanted)


def _unsqueeze(inputs: Inputs, attrs: Mapping[str, Any]) -> Any:  # noqa: ARG001
    data, axes = inputs[0], inputs[1]
    assert data is not None
    assert axes is not None
    return np.expand_dims(data, tuple(_axes(axes, data.ndim + axes.size)))


def _squeeze(inputs: Inputs, attrs: Mapping[str, Any]) -> Any:  # noqa: ARG001
    data = inputs[0]
    assert data is not None
    if len(inputs) < 2 or inputs[1] is None:
        return np.squeeze(data)
    return np.squeeze(data, tuple(_axes(inputs[1], data.ndim)))


def _divide(inputs: Inputs, attrs: Mapping[str, Any]) -> Any:  # noqa: ARG001
    a, b = inputs
    assert a is not None
    assert b is not None
    if a.dtype.kind not in "iu":
        return np.divide(a, b).astype(a.dtype)
    if not b.all():
        return None
    # Integer division truncates towards zero, as C's does.
    quotient = np.abs(a) // np.abs(b)
    return (np.sign(a) * np.sign(b) * quotient).astype(a.dtype)


def _constant_of_shape(inputs: Inputs, attrs: Mapping[str, Any]) -> Any:
    value = attrs.get("value", np.zeros(1, np.float32)).reshape(())
    assert inputs[0] is not None
    # A view of one element: a weight of 400 MB of the same number costs nothing until somebody writes it.
    return _repeat(value, tuple(int(axis) for axis in inputs[0]))


def _repeat(data: np.ndarray[Any, Any], shape: tuple[int, ...]) -> Any:
    if data.dtype.itemsize * math.prod(shape) > _VIEW_LIMIT_BYTES:
        raise ValueError(shape)
    return np.broadcast_to(data, shape)


def repeated_shape(node: Node) -> tuple[int, ...] | None:
    """The shape that ConstantOfShape or Expand makes of constants; ``None`` where that is no shape."""
    shape = node.inputs[-1].const if node.inputs and node.inputs[-1] is not None else None
    if shape is None or shape.dtype.kind not in "iu":
        return None
    sizes = [int(axis) for axis in shape.reshape(-1)]
    if node.op == "Expand":
        data = node.inputs[0].const if node.inputs[0] is not None else None
        own = [1] * len(sizes) if data is None else list(data.shape)
        rank = max(len(own), len(sizes))
        own, sizes = [1] * (rank - len(own)) + own, [1] * (rank - len(sizes)) + sizes
        sizes = [a if b == 1 else b for a, b in zip(own, sizes, strict=True)]
    return tuple(sizes) if min(sizes, default=0) >= 0 else None


def _expand(inputs: Inputs, attrs: Mapping[str, Any]) -> Any:  # noqa: ARG001
    data, shape = inputs
    assert data is not None
    assert shape is not None
    return _repeat(data, np.broadcast_shapes(data.shape, tuple(int(axis) for axis in shape)))


def _gather(inputs: Inputs, attrs: Mapping[str, Any]) -> Any:
    data, indices = inputs
    assert data is not None
    assert indices is not None
    return np.take(data, indices, axis=attrs.get("axis", 0))


def _range(inputs: Inputs, attrs: Mapping[str, Any]) -> Any:  # noqa: ARG001
    start, limit, delta = (array.reshape(()) for array in inputs if array is not None)
    count = max(0, int(np.ceil((limit - start) / delta)))
    if count > _RANGE_LIMIT:
        raise ValueError(count)
    return (start + np.arange(count, dtype=start.dtype) * delta).astype(start.dtype)


def _transpose(inputs: Inputs, attrs: Mapping[str, Any]) -> Any:
    assert inputs[0] is not None
    return np.transpose(inputs[0], attrs.get("perm"))


def _concat(inputs: Inputs, attrs: Mapping[str, Any]) -> Any:
    return np.concatenate([array for array in inputs if array is not None], axis=attrs["axis"])


def _dequantize(inputs: Inputs, attrs: Mapping[str, Any]) -> Any:
    data, scale, zero = [*inputs, None][:3]
    assert data is not None
    assert scale is not None
    if attrs.get("block_size", 0) or scale.ndim > 1 or scale.dtype.kind != "f" or attrs.get("output_dtype", 0):
        return None
    axis = attrs.get("axis", 1)
    if scale.size > 1:
        shape = [1] * data.ndim
        shape[axis] = -1
        scale, zero = scale.reshape(shape), None if zero is None else zero.reshape(shape)
    if data.dtype.kind not in "iu":
        return None
    integers = data.astype(np.int32) - (0 if zero is None else zero.astype(np.int32))
    return (integers.astype(np.float32) * scale).astype(scale.dtype)


def _elementwise(
    function: Callable[..., Any], *, same_dtype: bool = True
) -> Callable[[Inputs, Mapping[str, Any]], Any]:
    def run(inputs: Inputs, attrs: Mapping[str, Any]) -> Any:  # noqa: ARG001
        made = function(*inputs)
        first = inputs[0]
        assert first is not None
        return made.astype(first.dtype) if same_dtype else made

    return run


_TABLE: Mapping[str, Callable[[Inputs, Mapping[str, Any]], Any]] = {
    "Abs": _elementwise(np.abs),
    "Add": _elementwise(np.add),
    "And": _elementwise(np.logical_and),
    "Cast": _cast,
    "Ceil": _elementwise(np.ceil),
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Cos": _elementwise(np.cos),
    "DequantizeLinear": _dequantize,
    "Div": _divide,
    "Equal": _elementwise(np.equal, same_dtype=False),
    "Exp": _elementwise(np.exp),
    "Expand": _expand,
    "Floor": _elementwise(np.floor),
    "Gather": _gather,
    "Greater": _elementwise(np.greater, same_dtype=False),
    "GreaterOrEqual": _elementwise(np.greater_equal, same_dtype=False),
    "Identity": lambda inputs, _: inputs[0],
    "Less": _elementwise(np.less, same_dtype=False),
    "LessOrEqual": _elementwise(np.less_equal, same_dtype=False),
    "Mul": _elementwise(np.multiply),
    "Neg": _elementwise(np.negative),
    "Not": _elementwise(np.logical_not),
    "Or": _elementwise(np.logical_or),
    "Range": _range,
    "Reciprocal": _elementwise(lambda x: 1 / x),
    "Reshape": _reshape,
    "Sin": _elementwise(np.sin),
    "Slice": _slice,
    "Sqrt": _elementwise(np.sqrt),
    "Squeeze": _squeeze,
    "Sub": _elementwise(np.subtract),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": lambda inputs, _: np.where(inputs[0], inputs[1], inputs[2]),  # type: ignore[arg-type]
}
