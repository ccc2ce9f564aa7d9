"""Writes gated.onnx: a model with an operator of its own, given as ONNX local functions.

``Gated`` is no ONNX operator. The model brings its meaning with it: a function of the domain ``com.example``, made of
standard operators, with an attribute that has a default, and calling another function. ONNX Runtime, TensorRT and
ncnn (through mobilekit) all run it without a line of native code.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, FunctionProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

DOMAIN = "com.example"
OPSET = 18


def leaky(slope: str) -> NodeProto:
    """LeakyRelu whose alpha is the attribute ``slope`` of the function that it stands in."""
    node = helper.make_node("LeakyRelu", ["x"], ["bent"])
    node.attribute.append(AttributeProto(name="alpha", ref_attr_name=slope, type=AttributeProto.FLOAT))
    return node


def functions() -> list[FunctionProto]:
    onnx_opset, own = helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)
    gate = helper.make_function(
        DOMAIN,
        "Gate",
        ["x"],
        ["y"],
        [
            helper.make_node("HardSigmoid", ["x"], ["open"], alpha=0.2, beta=0.5),
            helper.make_node("Mul", ["x", "open"], ["y"]),
        ],
        [onnx_opset],
    )
    gated = helper.make_function(
        DOMAIN,
        "Gated",
        ["x"],
        ["y"],
        [leaky("slope"), helper.make_node("Gate", ["bent"], ["y"], domain=DOMAIN)],
        [onnx_opset, own],
        attribute_protos=[helper.make_attribute("slope", 0.1)],
    )
    return [gate, gated]


def make() -> ModelProto:
    """``image (1, 3, 32, 32)`` -> Conv -> Gated -> Conv -> Gated -> mean -> ``scores (1, 8)``."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> TensorProto:
        scale = np.sqrt(2 / np.prod(shape[1:]))
        return numpy_helper.from_array((rng.standard_normal(shape) * scale).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["c1"], pads=[1, 1, 1, 1], strides=[2, 2], name="conv1"),
        helper.make_node("Gated", ["c1"], ["g1"], domain=DOMAIN, name="gated1"),
        helper.make_node("Conv", ["g1", "w2"], ["c2"], pads=[1, 1, 1, 1], strides=[2, 2], name="conv2"),
        helper.make_node("Gated", ["c2"], ["g2"], domain=DOMAIN, name="gated2", slope=0.3),
        helper.make_node("GlobalAveragePool", ["g2"], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["scores"], name="flat"),
    ]
    graph = helper.make_graph(
        nodes,
        "gated",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 8])],
        [weight("w1", 16, 3, 3, 3), weight("w2", 8, 16, 3, 3)],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, functions=functions(), opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    return model


if __name__ == "__main__":
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "gated.onnx")
    onnx.save(make(), path)
    print(path)
