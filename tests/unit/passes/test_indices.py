"""How far integer inputs may point."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from mobilekit.importers.convert import from_proto
from mobilekit.passes.indices import index_limit
from mobilekit.passes.infer import infer
from tests.unit.passes.checks import Node


def limited(nodes: list[onnx.NodeProto], folder: Path, i: tuple[int, ...]) -> int:
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", TensorProto.FLOAT, (7, 4)), info("i", TensorProto.INT64, i)],
        [helper.make_empty_tensor_value_info("y")],
        [helper.make_tensor("n", TensorProto.INT64, (), [1])],
    )
    graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    known = from_proto(model, folder)
    infer(known, target_opset=24)
    return index_limit(next(value for value in known.inputs if value.name == "i"))


CASES = {
    "gather": ([Node("Gather", ["x", "i"], ["y"])], (5,), 7),
    "second axis": ([Node("Gather", ["x", "i"], ["y"], axis=1)], (5,), 4),
    "a row of edges": ([Node("Gather", ["i", "n"], ["r"]), Node("Gather", ["x", "r"], ["y"])], (2, 5), 7),
    "elements": ([Node("GatherElements", ["x", "i"], ["y"], axis=-1)], (7, 2), 4),
    "numbers": ([Node("Cast", ["i"], ["f"], to=1), Node("Add", ["f", "x"], ["y"])], (7, 4), 0),
}


@pytest.mark.parametrize("name", CASES)
def test_limits(name: str, tmp_path: Path) -> None:
    nodes, shape, limit = CASES[name]
    assert limited(nodes, tmp_path, shape) == limit
