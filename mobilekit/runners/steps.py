"""A quantised ONNX model whose values fall to other sides of the edges between steps: what hangs on its rounding."""

from __future__ import annotations

from typing import Any

__all__ = ["change_scales", "move_within_steps"]

_MEASURE = frozenset({"DynamicQuantizeLSTM", "DynamicQuantizeLinear", "DynamicQuantizeMatMul"})
"""Operators that measure the range of their first input, a float32 tensor, and round it to 8 bits."""


def change_scales(graph: Any, seed: int) -> None:
    """Each stored float32 number that an operator on quantised tensors reads moves by up to 1e-6 of itself, as much as
    a sum in float32 is off, in an ``onnx.GraphProto``, in place."""
    import numpy as np
    from onnx import TensorProto, numpy_helper

    reading = [node for node in graph.node if "Quantize" in node.op_type or node.op_type.startswith("Q")]
    read = {name for node in reading for name in node.input}
    rng = np.random.default_rng(seed)
    for tensor in graph.initializer:
        inside = tensor.data_location != TensorProto.EXTERNAL
        if tensor.name in read and tensor.data_type == TensorProto.FLOAT and inside:
            numbers = numpy_helper.to_array(tensor)
            changed = numbers * (1 + rng.integers(-2, 3, numbers.shape) * 2.0**-21)
            tensor.CopyFrom(numpy_helper.from_array(changed.astype(np.float32), tensor.name))


def move_within_steps(graph: Any, seed: int) -> None:
    """What an ``onnx.GraphProto`` quantises while it runs moves by up to half a step first, in place: a value that
    its conversion does not round lies anywhere there."""
    import onnx

    nodes: list[Any] = []
    for index, node in enumerate(graph.node):
        if node.op_type in _MEASURE and node.input:
            read = node.input[0]
            made = [f"{read}/{index}/{part}" for part in ("rounded", "scale", "zero", "noise", "offset", "moved")]
            rounded, scale, zero, noise, offset, moved = made
            draw: dict[str, Any] = {"low": -0.5, "high": 0.5, "seed": float(seed * 65536 + index)}
            nodes += [
                onnx.helper.make_node("DynamicQuantizeLinear", [read], [rounded, scale, zero]),
                onnx.helper.make_node("RandomUniformLike", [read], [noise], **draw),
                onnx.helper.make_node("Mul", [noise, scale], [offset]),
                onnx.helper.make_node("Add", [read, offset], [moved]),
            ]
            node.input[0] = moved
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
