"""Floats of other widths are computed as float32, the one type that mobile runtimes compute in.

float64 loses digits that float32 does not have; float16 and bfloat16 gain some. Inputs and outputs keep their types:
a Cast stands beside each.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from mobilekit.graph import Node, Value

if TYPE_CHECKING:
    from onnx import ModelProto

    from mobilekit.graph import Graph

__all__ = ["allowance", "computes_in_half", "single_precision"]

_OTHERS = frozenset({"float16", "bfloat16", "float64"})
_FLOAT = 1
_TYPES = {"float16": 10, "float64": 11, "bfloat16": 16}
"""Numbers of ``onnx.TensorProto``."""


def single_precision(graph: Graph) -> frozenset[str]:
    """Make every float in the graph float32; the types that were there instead.

    Attributes that name a type (``to``, ``dtype``) are changed with them. Graphs with bodies (If, Loop, Scan) are
    left alone, types inside them would have to agree.
    """
    if any(node.bodies() for node in graph.nodes):
        return frozenset()
    found = {str(value.dtype) for value in graph.values() if value.dtype in _OTHERS}
    if not found:
        return frozenset()
    outer_types = [(value, value.dtype) for value in graph.outputs]
    for node in graph.nodes:
        made = node.outputs[0]
        for name in ("to", "dtype"):
            if name in node.attrs and made is not None and made.dtype in _OTHERS:
                node.attrs[name] = _FLOAT
        if isinstance(value := node.attrs.get("value"), np.ndarray) and str(value.dtype) in _OTHERS:
            node.attrs["value"] = value.astype(np.float32)
    order: list[Node] = []
    inputs = {id(value) for value in graph.inputs}
    for value in graph.inputs:
        if value.dtype in _OTHERS and value.consumers:
            inner = Value(graph.fresh(f"{value.name}_float32"), "float32", value.shape)
            for node in list(value.consumers):
                for index, read in enumerate(node.inputs):
                    if read is value:
                        graph.set_input(node, index, inner)
            order.append(Node("", "Cast", [value], [inner], {"to": _FLOAT}))
    for value in graph.values():
        if value.dtype in _OTHERS and id(value) not in inputs:
            value.dtype = "float32"
            if value.const is not None:
                value.const = value.const.astype(np.float32)
    order += graph.nodes
    # A graph output keeps name and type: its producer makes another value, which is cast.
    for value, dtype in outer_types:
        producer = value.producer
        if dtype not in _OTHERS or producer is None:
            continue
        inner = Value(graph.fresh(f"{value.name}_float32"), "float32", value.shape)
        for node in list(value.consumers):
            for index, read in enumerate(node.inputs):
                if read is value:
                    graph.set_input(node, index, inner)
        producer.outputs = [inner if made is value else made for made in producer.outputs]
        inner.producer, value.producer = producer, None
        value.dtype = dtype
        order.append(Node("", "Cast", [inner], [value], {"to": _TYPES[dtype]}))
    graph.rebuild(order)
    return frozenset(found)


def computes_in_half(model: ModelProto) -> bool:
    """Whether the model as written rounds to 16 bits on its way: its results are no closer than that to float32's."""
    half = {_TYPES["float16"], _TYPES["bfloat16"]}
    if any(tensor.data_type in half for tensor in model.graph.initializer):
        return True
    return any(
        node.op_type == "Cast" and any(item.name == "to" and item.i in half for item in node.attribute)
        for node in model.graph.node
    )


_MEASURED = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "QAttention"})
_STEPPED = frozenset({"QGemm", "QLinearMatMul", "QuantizeLinear"})
_STEP = 0.02
"""What rounding to 8 bits costs one tensor, relative to its norm: a step is 1/255 of the range, its error is uniform
(a factor of 0.29), and a range is up to 17 times the root of the mean square."""

_FEW_STEPS = 0.1
"""At least so much: what the rounding of a few tensors costs is multiplied by a softmax that cannot decide (measured:
0.042 on the probabilities of a classifier with 4 quantised tensors)."""

_ONE_STEP = 5e-2


def allowance(model: ModelProto, *, fake_quant: bool = True) -> tuple[float, str]:
    """``(relative L2, reason)`` that a right conversion to floats may lie off the model as written; ``(0, "")`` else.

    Independent roundings of ``n`` tensors add up to ``0.02 * sqrt(n)``; of that at least 0.1 and at most 0.25.
    ``fake_quant=False``: static roundings were left out of the conversion as well.
    """
    ops = Counter(node.op_type for node in model.graph.node)
    left_out = sum(count for op, count in ops.items() if op in _MEASURED or (not fake_quant and _is_stepped(op)))
    if left_out:
        what = f"a float model of a quantised original: {left_out} tensors keep the digits that the original rounds"
        return min(0.25, max(_FEW_STEPS, math.ceil(100 * _STEP * math.sqrt(left_out)) / 100)), what
    if any(map(_is_stepped, ops)):
        return _ONE_STEP, "a quantised original: a value between two steps may be rounded to either"
    if computes_in_half(model):
        return _ONE_STEP, "the original computes in 16 bits"
    return 0.0, ""


def _is_stepped(op: str) -> bool:
    return op in _STEPPED or op.startswith("QLinear")
