"""Small ONNX models that tests build: real operators, random weights, awkward names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["coarse_convolutions", "conv_classifier", "of_nodes", "save"]


def save(model: onnx.ModelProto, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def of_nodes(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, Sequence[int | str]],
    outputs: dict[str, Sequence[int | str]],
    weights: dict[str, np.ndarray] | None = None,
    *,
    opset: int = 17,
) -> onnx.ModelProto:
    """A float32 model of these nodes."""
    graph = helper.make_graph(
        list(nodes),
        "tests",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def conv_classifier(
    *, classes: int = 4, side: int | str = 8, input_name: str = "serving_default_input:0", output_name: str = "scores"
) -> onnx.ModelProto:
    """``(1, 3, side, side)`` -> Conv, Relu, GlobalAveragePool, Gemm, Softmax -> ``(1, classes)``."""
    rng = np.random.default_rng(7)
    weights = {
        "conv.weight": rng.standard_normal((8, 3, 3, 3)).astype(np.float32),
        "conv.bias": rng.standard_normal(8).astype(np.float32),
        "fc.weight": rng.standard_normal((classes, 8)).astype(np.float32),
        "fc.bias": rng.standard_normal(classes).astype(np.float32),
    }
    nodes = [
        helper.make_node(
            "Conv", [input_name, "conv.weight", "conv.bias"], ["/conv/out"], pads=[1, 1, 1, 1], name="/conv"
        ),
        helper.make_node("Relu", ["/conv/out"], ["a name with spaces"], name="/relu"),
        helper.make_node("GlobalAveragePool", ["a name with spaces"], ["pooled"], name="/pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="/flat"),
        helper.make_node("Gemm", ["flat", "fc.weight", "fc.bias"], ["logits"], transB=1, name="/fc"),
        helper.make_node("Softmax", ["logits"], [output_name], axis=-1, name="/softmax"),
    ]
    return of_nodes(nodes, {input_name: (1, 3, side, side)}, {output_name: (1, classes)}, weights)


def coarse_convolutions(count: int, offset: float, seed: int) -> onnx.ModelProto:
    """``(1, 3, 14, 14)`` -> ``count`` convolutions -> ``(1, 8, 14, 14)``; right in a fine arithmetic alone.

    The second convolution, ``conv1``, adds ``offset``, and ``minus`` takes it off again: what is left of the signal is
    what the arithmetic resolves beside ``offset``. An activation in between keeps a converter from folding both.
    """
    rng = np.random.default_rng(seed)

    def rand(*shape: int) -> np.ndarray:
        return np.asarray(rng.standard_normal(shape) * 0.3, np.float32)

    weights = {f"w{i}": rand(8, 8 if i else 3, 3, 3) for i in range(count)} | {f"b{i}": rand(8) for i in range(count)}
    weights["b1"] += np.float32(offset)
    weights["off"] = np.asarray([offset], np.float32)

    def conv(index: int, source: str, made: str) -> onnx.NodeProto:
        inputs = [source, f"w{index}", f"b{index}"]
        return helper.make_node("Conv", inputs, [made], name=f"conv{index}", pads=[1, 1, 1, 1])

    nodes = [
        conv(0, "x", "c0"),
        conv(1, "c0", "large"),
        helper.make_node("Relu", ["large"], ["cut"], name="relu1"),
        helper.make_node("Sub", ["cut", "off"], ["small"], name="minus"),
        conv(2, "small", "c2"),
        helper.make_node("Relu", ["c2"], ["r2"], name="relu2"),
        *(conv(i, "r2" if i == 3 else f"c{i - 1}", "y" if i == count - 1 else f"c{i}") for i in range(3, count)),
    ]
    return of_nodes(nodes, {"x": (1, 3, 14, 14)}, {"y": (1, 8, 14, 14)}, weights)
