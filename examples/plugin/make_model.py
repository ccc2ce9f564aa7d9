"""Writes rolled.onnx: a model with the operator ``com.example.Roll``, which only the plugin beside this file knows."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto, helper

DOMAIN = "com.example"


def make() -> ModelProto:
    """``x (1, 4, 8, 8)`` -> Relu -> Roll by 3 -> ``y``."""
    nodes = [
        helper.make_node("Relu", ["x"], ["positive"], name="relu"),
        helper.make_node(
            "Roll", ["positive"], ["y"], name="roll", domain=DOMAIN, shift=3, plugin_version="1", plugin_namespace=""
        ),
    ]
    shape = [1, 4, 8, 8]
    graph = helper.make_graph(
        nodes,
        "rolled",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


if __name__ == "__main__":
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "rolled.onnx")
    onnx.save(make(), path)
    print(path)
