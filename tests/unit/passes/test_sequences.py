"""Sequences of tensors, taken apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mobilekit.errors import UnsupportedModelError
from tests.models import of_nodes
from tests.unit.passes.checks import Node, assert_same, ops, prepared

WEIGHTS = {"one": np.int64(1), "last": np.int64(-1), "sizes": np.array([1, 3]), "two": np.int64(2)}


@pytest.mark.parametrize(
    ("nodes", "shape"),
    [
        pytest.param(
            [Node("SplitToSequence", ["x", "two"], ["s"], axis=0), Node("SequenceAt", ["s", "one"], ["y"])],
            (2, 3),
            id="equal parts",
        ),
        pytest.param(
            [Node("SplitToSequence", ["x", "sizes"], ["s"], axis=0), Node("SequenceAt", ["s", "last"], ["y"])],
            (3, 3),
            id="sizes, from the end",
        ),
        pytest.param(
            [
                Node("SplitToSequence", ["x"], ["s"], axis=-1, keepdims=0),
                Node("SequenceErase", ["s", "one"], ["t"]),
                Node("ConcatFromSequence", ["t"], ["y"], axis=1, new_axis=1),
            ],
            (4, 2),
            id="rows without one",
        ),
        pytest.param(
            [
                Node("SequenceEmpty", [], ["e"]),
                Node("SequenceInsert", ["e", "x"], ["a"]),
                Node("Relu", ["x"], ["r"]),
                Node("SequenceInsert", ["a", "r", "zero"], ["b"]),
                Node("SequenceLength", ["b"], ["n"]),
                Node("CastLike", ["n", "x"], ["count"]),
                Node("ConcatFromSequence", ["b"], ["c"], axis=0),
                Node("Mul", ["c", "count"], ["y"]),
            ],
            (8, 3),
            id="built one by one",
        ),
        pytest.param(
            [Node("SequenceConstruct", ["x", "x"], ["s"]), Node("ConcatFromSequence", ["s"], ["y"], axis=1)],
            (4, 6),
            id="constructed",
        ),
    ],
)
def test_nothing_is_left_of_a_sequence(nodes: list[onnx.NodeProto], shape: tuple[int, ...], tmp_path: Path) -> None:
    model = of_nodes(nodes, {"x": (4, 3)}, {"y": shape}, WEIGHTS | {"zero": np.int64(0)})
    graph = prepared(model, tmp_path, verify=False)
    assert not [op for op in ops(graph) if "Sequence" in op]
    assert_same(model, graph)


def test_a_loop_that_collects_tensors(tmp_path: Path) -> None:
    """As ``torch.jit.script`` writes a list that a for loop fills."""
    sequence = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    grown = helper.make_tensor_sequence_value_info("s_out", TensorProto.FLOAT, None)
    body = helper.make_graph(
        [
            Node("Gather", ["x", "i"], ["row"]),
            Node("SequenceInsert", ["s", "row"], ["s_out"]),
            Node("Identity", ["c"], ["go"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            sequence,
        ],
        [helper.make_tensor_value_info("go", TensorProto.BOOL, []), grown],
    )
    nodes = [
        Node("SequenceEmpty", [], ["empty"]),
        Node("Loop", ["three", "true", "empty"], ["all"], body=body),
        Node("SequenceAt", ["all", "two"], ["third"]),
        Node("ConcatFromSequence", ["all"], ["stack"], axis=0, new_axis=1),
        Node("Add", ["stack", "third"], ["y"]),
    ]
    weights = {"three": np.int64(3), "true": np.array(True), "two": np.int64(2)}
    model = of_nodes(nodes, {"x": (4, 3)}, {"y": (3, 3)}, weights)
    graph = prepared(model, tmp_path, verify=False)
    assert not {"Loop", "SequenceInsert"} & set(ops(graph))
    assert_same(model, graph)


def test_a_position_that_data_says_is_refused(tmp_path: Path) -> None:
    nodes = [
        Node("SplitToSequence", ["x", "one"], ["s"], axis=0),
        Node("ReduceSum", ["x"], ["sum"], keepdims=0),
        Node("Cast", ["sum"], ["where"], to=TensorProto.INT64),
        Node("SequenceAt", ["s", "where"], ["y"]),
    ]
    with pytest.raises(UnsupportedModelError) as caught:
        prepared(of_nodes(nodes, {"x": (4, 3)}, {"y": (1, 3)}, WEIGHTS), tmp_path, verify=False)
    assert [(finding.op, finding.reason) for finding in caught.value.findings] == [
        ("SequenceAt", "its position in the sequence depends on data")
    ]


def test_a_position_outside_is_refused(tmp_path: Path) -> None:
    nodes = [Node("SequenceConstruct", ["x", "x"], ["s"]), Node("SequenceAt", ["s", "two"], ["y"])]
    with pytest.raises(UnsupportedModelError) as caught:
        prepared(of_nodes(nodes, {"x": (4, 3)}, {"y": (4, 3)}, WEIGHTS), tmp_path, verify=False)
    assert "outside of the sequence, which has 2" in caught.value.findings[0].reason
