"""The operators that make a number of rows which depends on data, as our own ones that give all there can be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from mobilekit.graph import Node
from mobilekit.passes.row_wise import static_dims

if TYPE_CHECKING:
    from mobilekit.passes.bounds import Bounds

__all__ = ["SOURCES", "number"]


def number(node: Node, index: int, default: float) -> float | None:
    """A constant scalar input, ``None`` where it is computed."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        return default
    return None if value.const is None or value.const.size != 1 else float(value.const.reshape(-1)[0])


def _suppression(bounds: Bounds, node: Node) -> list[Node] | None:
    most, overlap, least = number(node, 2, 0.0), number(node, 3, 0.0), number(node, 4, 0.0)
    (batch, boxes, _), (_, classes, _) = static_dims(node.inputs[0]), static_dims(node.inputs[1])
    if most is None or overlap is None or least is None or most < 1:
        return None
    limit = min(int(most), boxes)
    # TensorFlow asks for scores above -inf: for all of them.
    sifted = len(node.inputs) > 4 and node.inputs[4] is not None and least > -math.inf
    bound = batch * classes * limit
    out = node.outputs[0]
    assert out is not None
    out.dtype, out.shape = "int64", (bound, 3)
    made, _ = bounds.source(node, [out], [0], bound)
    made.attrs |= {
        "max_output_boxes_per_class": limit,
        "iou_threshold": overlap,
        "score_threshold": least if sifted else 0.0,
        "has_score_threshold": int(sifted),
    }
    made.inputs = list(node.inputs[:2])
    return [made]


def _non_zero(bounds: Bounds, node: Node) -> list[Node] | None:
    shape = static_dims(node.inputs[0])
    out = node.outputs[0]
    assert out is not None
    if not shape or not math.prod(shape):
        return None
    out.dtype, out.shape = "int64", (len(shape), math.prod(shape))
    return [bounds.source(node, [out], [1], math.prod(shape))[0]]


def _unique(bounds: Bounds, node: Node) -> list[Node] | None:
    shape = static_dims(node.inputs[0])
    axis = node.attrs.get("axis")
    if not math.prod(shape) or (axis is not None and not -len(shape) <= axis < len(shape)):
        return None
    size = math.prod(shape) if axis is None else shape[axis]
    values = [*node.outputs, None, None, None][:4]
    source = node.inputs[0]
    assert source is not None
    for index, value in enumerate(values):
        if value is None:
            values[index] = value = bounds.value(f"{node.label}_unread", None, ())
        value.dtype, value.shape = (
            ("int64", (size,)) if index else (source.dtype, shape if axis is not None else (size,))
        )
    rows = 0 if axis is None else axis % len(shape)
    return [bounds.source(node, values, [rows, 0, None, 0], size)[0]]


def _compress(bounds: Bounds, node: Node) -> list[Node] | None:
    """The positions where the condition holds, picked."""
    data, condition = node.inputs[:2]
    out = node.outputs[0]
    assert data is not None
    assert condition is not None
    assert out is not None
    shape, (length,) = static_dims(data), static_dims(condition)
    axis = node.attrs.get("axis")
    nodes: list[Node] = []
    if axis is None:
        shape = (math.prod(shape),)
        flat = bounds.value(f"{data.name}_flat", data.dtype, shape)
        nodes.append(Node("", "Reshape", [data, bounds.graph.constant("shape", np.array([-1]))], [flat]))
        data, axis = flat, 0
    axis %= len(shape)
    where = bounds.value(f"{node.label}_where", "int64", (1, length))
    find = Node(node.name, "NonZero", [condition], [where])
    row = bounds.value(f"{node.label}_rows", "int64", (length,))
    squeeze = Node("", "Squeeze", [where, bounds.graph.constant("axes", np.array([0]))], [row])
    return [*nodes, find, squeeze, Node("", "Gather", [data, row], [out], {"axis": axis})]


SOURCES: Mapping[str, Callable[[Bounds, Node], list[Node] | None]] = MappingProxyType(
    {
        "Compress": _compress,
        "NonMaxSuppression": _suppression,
        "NonZero": _non_zero,
        "Unique": _unique,
    }
)
