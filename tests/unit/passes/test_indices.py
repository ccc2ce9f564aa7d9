"""How far integer inputs may point."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from mobilekit.graph import Value
from mobilekit.importers.convert import from_proto
from mobilekit.passes.indices import index_limit, is_mask
from mobilekit.passes.infer import infer
from mobilekit.pipeline.export import export_model
from tests.unit.passes.checks import Node


def integer_input(nodes: list[onnx.NodeProto], folder: Path, i: tuple[int, ...], **consts: float) -> Value:
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", TensorProto.FLOAT, (7, 4)), info("i", TensorProto.INT64, i)],
        [helper.make_empty_tensor_value_info("y")],
        [
            helper.make_tensor("n", TensorProto.INT64, (), [1]),
            *(helper.make_tensor(name, TensorProto.FLOAT, (), [number]) for name, number in consts.items()),
        ],
    )
    graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    known = from_proto(model, folder)
    infer(known, target_opset=24)
    return next(value for value in known.inputs if value.name == "i")


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
    assert index_limit(integer_input(nodes, tmp_path, shape)) == limit


FLOAT = Node("Cast", ["i"], ["f"], to=1)
KEPT_ONES = [FLOAT, Node("Sub", ["one", "f"], ["s"]), Node("Mul", ["s", "low"], ["m"]), Node("Add", ["x", "m"], ["y"])]
KEPT_ZEROS = [FLOAT, Node("Mul", ["f", "low"], ["m"]), Node("Add", ["x", "m"], ["y"])]


@pytest.mark.parametrize("low", [-1e4, -3.4028235e38])
@pytest.mark.parametrize("nodes", [KEPT_ONES, KEPT_ZEROS], ids=["ones count", "zeros count"])
def test_what_silences_others_is_a_mask(nodes: list[onnx.NodeProto], low: float, tmp_path: Path) -> None:
    assert is_mask(integer_input(nodes, tmp_path, (7, 4), one=1, low=low))


def test_numbers_are_no_mask(tmp_path: Path) -> None:
    assert not is_mask(integer_input(KEPT_ONES, tmp_path, (7, 4), one=1, low=-2))
    assert not is_mask(integer_input(KEPT_ONES, tmp_path, (7, 4), one=128, low=-1e4))
    doubled = [FLOAT, Node("Mul", ["f", "f"], ["y"])]
    assert not is_mask(integer_input(doubled, tmp_path, (7, 4)))


def test_the_seeded_inputs_of_a_mask_without_a_name_leave_the_softmax_a_choice(tmp_path: Path) -> None:
    nodes = [
        *KEPT_ONES[:3],
        Node("Add", ["x", "m"], ["a"]),
        Node("Softmax", ["a"], ["p"]),
        Node("ArgMax", ["p"], ["y"], axis=1),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", TensorProto.FLOAT, (7, 4)), info("i", TensorProto.INT64, (7, 4))],
        [info("y", TensorProto.INT64, (7, 1))],
        [helper.make_tensor(n, TensorProto.FLOAT, (), [v]) for n, v in (("one", 1.0), ("low", -3.4028235e38))],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    report = export_model(path, tmp_path / "out")
    assert report.manifest.verified
    assert [one.limit for one in report.manifest.inputs] == [None, 2]
