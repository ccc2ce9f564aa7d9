"""Lengths that depend on data: what follows row by row passes, what mixes rows is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from mobilekit.errors import UnsupportedModelError
from mobilekit.graph import Graph
from mobilekit.importers.onnx import load
from mobilekit.passes import prepare

SHAPES = {"x": (6, 4)}
CONSTS = {
    "zero": np.array([0]),
    "one": np.array([1]),
    "two": np.array([2]),
    "big": np.array([2**31 - 1]),
    "minus": np.array([-1]),
    "back": np.array([-1, 4]),
    "plain": np.array([6, 4]),
    "line": np.array([-1]),
    "column": np.array([0, 1]),
    "row": np.ones((6, 4), np.float32),
    "six": np.ones((2, 6), np.float32),
    "four": np.ones((4, 3), np.float32),
    "none": np.array(0),
    "each": np.array(1),
}
START = [
    helper.make_node("ReduceSum", ["x", "one"], ["s"], keepdims=0),
    helper.make_node("Greater", ["s", "edge"], ["keep"]),
    helper.make_node("Compress", ["x", "keep"], ["r"], axis=0),
]
"""``r``: some of the six rows of ``x``."""


def prepared(folder: Path, *nodes: onnx.NodeProto) -> Graph:
    output = nodes[-1].output[0]
    consts = CONSTS | {"edge": np.float32(0)}
    graph = helper.make_graph(
        [*START, *nodes],
        "bounds",
        [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n, shape in SHAPES.items()],
        [helper.make_empty_tensor_value_info(output)],
        [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in consts.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    typed = onnx.shape_inference.infer_shapes(proto)
    if typed.graph.output[0].type.tensor_type.elem_type:
        proto = typed
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return prepare(load(path), {}, simplify=False)


@pytest.mark.parametrize(
    ("node", "axis", "shape"),
    [
        (helper.make_node("Relu", ["r"], ["y"]), 0, (6, 4)),
        (helper.make_node("Transpose", ["r"], ["y"]), 1, (4, 6)),
        (helper.make_node("Unsqueeze", ["r", "zero"], ["y"]), 1, (1, 6, 4)),
        (helper.make_node("ReduceMax", ["r", "one"], ["y"], keepdims=0), 0, (6,)),
        (helper.make_node("Softmax", ["r"], ["y"], axis=1), 0, (6, 4)),
        (helper.make_node("Slice", ["r", "zero", "two", "zero"], ["y"]), 0, (2, 4)),
        (helper.make_node("Slice", ["r", "one", "big", "zero"], ["y"]), 0, (5, 4)),
        (helper.make_node("Reshape", ["r", "back"], ["y"]), 0, (6, 4)),
        (helper.make_node("Reshape", ["r", "line"], ["y"]), 0, (24,)),
        (helper.make_node("Flatten", ["r"], ["y"], axis=1), 0, (6, 4)),
        (helper.make_node("Gather", ["r", "column"], ["y"], axis=1), 0, (6, 2)),
        (helper.make_node("Concat", ["r", "r"], ["y"], axis=1), 0, (6, 8)),
        (helper.make_node("MatMul", ["r", "four"], ["y"]), 0, (6, 3)),
        (helper.make_node("ArgMax", ["r"], ["y"], axis=1, keepdims=0), 0, (6,)),
    ],
)
def test_rows_pass(tmp_path: Path, node: onnx.NodeProto, axis: int, shape: tuple[int, ...]) -> None:
    graph = prepared(tmp_path, node)
    (result,) = graph.results
    assert result.shape == shape
    where, count = graph.rows[result.name]
    assert where == axis
    assert graph.outputs[-1].name == count
    assert graph.outputs[-1].shape == (1,)


@pytest.mark.parametrize(
    ("tail", "shape"),
    [
        (["view", "minus"], (6, 4)),
        (["view", "features"], (6, 4)),
        (["one", "view", "features"], (1, 6, 4)),
    ],
)
def test_a_shape_made_of_the_rows_own(tmp_path: Path, tail: list[str], shape: tuple[int, ...]) -> None:
    """``x.view(x.shape[0], -1)`` and its kin."""
    nodes = [
        helper.make_node("Shape", ["r"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["view"]),
        helper.make_node("Slice", ["shape", "one", "two"], ["features"]),
        helper.make_node("Concat", tail, ["wanted"], axis=0),
        helper.make_node("Reshape", ["r", "wanted"], ["y"]),
    ]
    graph = prepared(tmp_path, *nodes)
    assert graph.results[0].shape == shape
    assert graph.rows[graph.results[0].name][0] == shape.index(6)


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (helper.make_node("Hardmax", ["r"], ["y"], axis=0), "works along them"),
        (helper.make_node("Einsum", ["r"], ["y"], equation="ij->ji"), "may mix rows"),
        (helper.make_node("Concat", ["r", "row"], ["y"], axis=1), "another number"),
        (helper.make_node("Add", ["r", "row"], ["y"]), "fixed number"),
        (helper.make_node("Slice", ["r", "minus", "big", "zero"], ["y"]), "from the end"),
        (helper.make_node("Reshape", ["r", "plain"], ["y"]), "fixes their number"),
        (helper.make_node("Unique", ["r"], ["y"]), "may mix rows"),
        (helper.make_node("MatMul", ["six", "r"], ["y"]), "may sum over them"),
    ],
)
def test_what_mixes_rows_is_refused(tmp_path: Path, node: onnx.NodeProto, reason: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        prepared(tmp_path, node)
    (finding,) = caught.value.findings
    assert finding.op == node.op_type
    assert reason in finding.reason


def test_what_a_length_is_computed_from_is_not_walked_again_and_again(tmp_path: Path) -> None:
    """A speech synthesiser sums the durations that its network gives: behind the sum lies all of the network, in which
    every residual connection doubles the paths."""
    doubled = [helper.make_node("Add", [f"d{i}", f"d{i}"], [f"d{i + 1}"]) for i in range(120)]
    with pytest.raises(UnsupportedModelError) as caught:
        prepared(
            tmp_path,
            helper.make_node("ReduceMean", ["x", "column"], ["d0"], keepdims=0),
            *doubled,
            helper.make_node("Cast", ["d120"], ["length"], to=onnx.TensorProto.INT64),
            helper.make_node("Range", ["none", "length", "each"], ["y"]),
        )
    (finding,) = caught.value.findings
    assert (finding.op, finding.reason) == ("Range", "the shape of its output depends on data")
