"""Loops written out, bounds that are computed, pads that cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mobilekit.errors import UnsupportedModelError
from mobilekit.pipeline.export import export_model
from tests.models import of_nodes, save
from tests.unit.passes.checks import Node, assert_same, ops, prepared


def info(name: str, kind: int = TensorProto.FLOAT, shape: list[int] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def loop_model(*, limit: int | None, condition: bool, data: bool = False) -> onnx.ModelProto:
    """``h = tanh(h + x[i])`` for four rows, by a trip count or by a counter that the body compares."""
    body = helper.make_graph(
        [
            Node("Gather", ["x", "n"], ["row"]),
            Node("Add", ["h", "row"], ["sum"]),
            Node("Tanh", ["sum"], ["h_out"]),
            Node("Add", ["n", "one"], ["n_out"]),
            Node("ReduceMax", ["h_out"], ["top"], keepdims=0) if data else Node("Cast", ["n_out"], ["top"], to=1),
            Node("Less", ["top", "four"], ["go"]),
            Node("Mul", ["h_out", "two"], ["twice"]),
        ],
        "body",
        [info("i", TensorProto.INT64, []), info("c", TensorProto.BOOL, []), info("h"), info("n", TensorProto.INT64)],
        [info("go", TensorProto.BOOL), info("h_out"), info("n_out", TensorProto.INT64), info("twice")],
        [numpy_helper.from_array(np.float32(2), "two")],
    )
    start = "true" if condition else ""
    nodes = [Node("Loop", ["limit" if limit else "", start, "h0", "zero"], ["h1", "count", "all"], body=body)]
    weights = {
        "one": np.int64(1), "zero": np.int64(0), "four": np.float32(4), "true": np.array(True),
        "limit": np.int64(limit or 0), "h0": np.float32([[0.1, 0.2, 0.3]]).reshape(3),
    }  # fmt: skip
    return of_nodes(nodes, {"x": (4, 3)}, {"h1": (3,), "all": ("n", 3)}, weights)


@pytest.mark.parametrize(("limit", "condition"), [(4, False), (4, True), (3, True), (None, True), (9, True)])
def test_a_loop_of_known_length_is_written_out(limit: int | None, condition: bool, tmp_path: Path) -> None:
    model = loop_model(limit=limit, condition=condition)
    graph = prepared(model, tmp_path, verify=False)
    assert "Loop" not in ops(graph)
    assert_same(model, graph)


def test_a_loop_that_data_ends_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        prepared(loop_model(limit=4, condition=True, data=True), tmp_path, verify=False)
    assert "depends on data" in caught.value.findings[0].reason


def test_a_loop_without_end_is_refused(tmp_path: Path) -> None:
    body = helper.make_graph(
        [Node("Identity", ["c"], ["go"]), Node("Tanh", ["h"], ["h_out"])],
        "body",
        [info("i", TensorProto.INT64, []), info("c", TensorProto.BOOL, []), info("h")],
        [info("go", TensorProto.BOOL), info("h_out")],
    )
    model = of_nodes([Node("Loop", ["", "true", "x"], ["y"], body=body)], {"x": (3,)}, {"y": (3,)},
                     {"true": np.array(True)})  # fmt: skip
    with pytest.raises(UnsupportedModelError) as caught:
        prepared(model, tmp_path, verify=False)
    assert "too much" in caught.value.findings[0].reason


@pytest.mark.parametrize("backward", [0, 1])
def test_a_scan_is_written_out(backward: int, tmp_path: Path) -> None:
    body = helper.make_graph(
        [Node("Concat", ["h", "x"], ["both"], axis=0), Node("Slice", ["both", "s", "e"], ["h_out"])],
        "body",
        [info("h", shape=[2]), info("x", shape=[3])],
        [info("h_out", shape=[2]), info("both", shape=[5])],
    )
    node = Node(
        "Scan", ["h0", "x"], ["h1", "y"], body=body, num_scan_inputs=1, scan_input_axes=[1], scan_output_axes=[1],
        scan_input_directions=[backward], scan_output_directions=[backward],
    )  # fmt: skip
    weights = {"h0": np.float32([1, 2]), "s": np.int64([3]), "e": np.int64([5])}
    model = of_nodes([node], {"x": (3, 6)}, {"h1": (2,), "y": (5, 6)}, weights)
    graph = prepared(model, tmp_path, verify=False)
    assert "Scan" not in ops(graph)
    assert_same(model, graph)


def test_a_loop_is_exported(tmp_path: Path) -> None:
    report = export_model(save(loop_model(limit=4, condition=True), tmp_path / "m.onnx"), tmp_path / "out")
    assert report.manifest.verified


def test_bounds_that_are_computed(tmp_path: Path) -> None:
    nodes = [
        Node("ReduceMax", ["x"], ["top"], keepdims=0),
        Node("Sub", ["top", "range"], ["low"]),
        Node("Clip", ["x", "low", "top"], ["y"]),
    ]
    model = of_nodes(nodes, {"x": (2, 30)}, {"y": (2, 30)}, {"range": np.float32(1.5)})
    graph = prepared(model, tmp_path)
    assert "Clip" not in ops(graph)
    assert_same(model, graph)


@pytest.mark.parametrize(
    ("mode", "pads"), [("edge", [0, 1, 0, -1]), ("edge", [-1, 2, 0, -2]), ("reflect", [0, -2, 2, 0])]
)
def test_a_pad_that_cuts(mode: str, pads: list[int], tmp_path: Path) -> None:
    nodes = [Node("Pad", ["x", "p"], ["y"], mode=mode)]
    rows, columns = 4 + pads[0] + pads[2], 7 + pads[1] + pads[3]
    model = of_nodes(nodes, {"x": (4, 7)}, {"y": (rows, columns)}, {"p": np.int64(pads)})
    graph = prepared(model, tmp_path)
    assert "Slice" in ops(graph)
    assert_same(model, graph)
