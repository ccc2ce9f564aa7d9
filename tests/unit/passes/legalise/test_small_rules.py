"""No-ops, variadic operators, Gemm, common subexpressions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models import of_nodes
from tests.unit.passes.checks import Node, assert_same, ops, prepared, rewritten


def f32(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)


@pytest.mark.parametrize(
    ("node", "weights"),
    [
        (Node("Identity", ["x"], ["a"]), {}),
        (Node("Dropout", ["x"], ["a"]), {}),
        (Node("Cast", ["x"], ["a"], to=1), {}),
        (Node("Mul", ["k", "x"], ["a"]), {"k": f32(1)}),
        (Node("Add", ["x", "k"], ["a"]), {"k": f32(0, 0, 0, 0, 0, 0, 0, 0)}),
        (Node("Div", ["x", "k"], ["a"]), {"k": f32(1)}),
        (Node("Sub", ["x", "k"], ["a"]), {"k": f32(0)}),
        (Node("Pow", ["x", "k"], ["a"]), {"k": f32(1)}),
        (Node("Transpose", ["x"], ["a"], perm=[0, 1, 2, 3]), {}),
        (Node("Concat", ["x"], ["a"], axis=1), {}),
        (Node("Sum", ["x"], ["a"]), {}),
        (Node("Pad", ["x", "p"], ["a"]), {"p": np.zeros(8, np.int64)}),
        (Node("Slice", ["x", "s", "e"], ["a"]), {"s": np.array([0]), "e": np.array([99])}),
        (Node("Reshape", ["x", "s"], ["a"]), {"s": np.array([0, 0, -1, 8])}),
        (Node("Expand", ["x", "s"], ["a"]), {"s": np.array([3, 1, 1])}),
        (Node("Tile", ["x", "s"], ["a"]), {"s": np.array([1, 1, 1, 1])}),
        (Node("Resize", ["x", "", "s"], ["a"], mode="linear"), {"s": f32(1, 1, 1, 1)}),
        (Node("AveragePool", ["x"], ["a"], kernel_shape=[1, 1]), {}),
        (Node("Split", ["x"], ["a"], axis=1), {}),
    ],
    ids=lambda item: item.op_type if hasattr(item, "op_type") else "",
)
def test_what_does_nothing_goes(tmp_path: Path, node: Any, weights: dict[str, Any]) -> None:
    assert rewritten([node, Node("Relu", ["a"], ["y"])], tmp_path, weights) == {"Relu": 1}


@pytest.mark.parametrize(
    ("node", "weights"),
    [
        (Node("Sub", ["k", "x"], ["a"]), {"k": f32(0)}),
        (Node("Div", ["k", "x"], ["a"]), {"k": f32(1)}),
        (Node("Slice", ["x", "s", "e", "ax", "st"], ["a"]), {"s": [-1], "e": [-99], "ax": [3], "st": [-1]}),
        (Node("Mul", ["x", "k"], ["a"]), {"k": f32(1, 1, 1, 1, 1, 1, 1, 2)}),
    ],
    ids=["0-x", "1/x", "reversed", "not all ones"],
)
def test_what_looks_like_nothing_stays(tmp_path: Path, node: Any, weights: dict[str, Any]) -> None:
    assert rewritten([node, Node("Elu", ["a"], ["y"])], tmp_path, weights) == {node.op_type: 1, "Elu": 1}


def test_a_one_that_broadcasts_stays(tmp_path: Path) -> None:
    nodes = [Node("Mul", ["x", "k"], ["a"]), Node("Elu", ["a"], ["y"])]
    found = rewritten(nodes, tmp_path, {"k": np.ones((4, 1, 1, 1, 1), np.float32)}, y=(4, 2, 3, 8, 8))
    assert found == {"Mul": 1, "Elu": 1}


@pytest.mark.parametrize("op", ["Sum", "Max", "Min", "Mean"])
@pytest.mark.parametrize("count", [2, 4])
def test_variadic_operators_in_pairs(tmp_path: Path, op: str, count: int) -> None:
    names = ["x", "a", "b", "c"][:count]
    others = dict.fromkeys(names[1:], (8,))
    found = rewritten([Node(op, names, ["y"])], tmp_path, others=others)
    pair = {"Sum": "Add", "Mean": "Add"}.get(op, op)
    assert found == {pair: count - 1} | ({"Mul": 1} if op == "Mean" else {})


def test_matmul_and_bias_is_gemm(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    nodes = [Node("MatMul", ["x", "w"], ["m"]), Node("Add", ["b", "m"], ["y"])]
    for bias in ((5,), (1, 5), (1,)):
        weights = {"w": rng.random((4, 5)).astype(np.float32), "b": rng.random(bias).astype(np.float32)}
        assert rewritten(nodes, tmp_path, weights, x=(3, 4), y=(3, 5)) == {"Gemm": 1}


def test_matmul_with_another_addend_stays(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    nodes = [Node("MatMul", ["x", "w"], ["m"]), Node("Add", ["b", "m"], ["y"])]
    weights = {"w": rng.random((4, 5)).astype(np.float32), "b": rng.random((3, 5)).astype(np.float32)}
    assert rewritten(nodes, tmp_path, weights, x=(3, 4), y=(3, 5)) == {"MatMul": 1, "Add": 1}
    weights["b"] = rng.random(5).astype(np.float32)
    assert rewritten(nodes, tmp_path, weights, x=(2, 3, 4), y=(2, 3, 5)) == {"MatMul": 1, "Add": 1}


def test_common_subexpressions(tmp_path: Path) -> None:
    nodes = [
        Node("Elu", ["x"], ["a"], alpha=0.5),
        Node("Elu", ["x"], ["b"], alpha=0.5),
        Node("Elu", ["x"], ["c"], alpha=0.25),
        Node("Sub", ["a", "c"], ["d"]),
        Node("Sub", ["b", "c"], ["e"]),
        Node("Mul", ["d", "e"], ["y"]),
    ]
    assert rewritten(nodes, tmp_path) == {"Elu": 2, "Sub": 1, "Mul": 1}


def test_equal_outputs_keep_a_node_each(tmp_path: Path) -> None:
    model = of_nodes([Node("Elu", ["x"], ["y"]), Node("Elu", ["x"], ["z"])], {"x": (4,)}, {"y": (4,), "z": (4,)})
    graph = prepared(model, tmp_path)
    assert_same(model, graph)
    assert ops(graph) == {"Elu": 2}


def test_random_operators_are_not_merged(tmp_path: Path) -> None:
    nodes = [
        Node("RandomNormal", [], ["a"], shape=[4]),
        Node("RandomNormal", [], ["b"], shape=[4]),
        Node("Sub", ["a", "b"], ["c"]),
        Node("Add", ["x", "c"], ["y"]),
    ]
    graph = prepared(of_nodes(nodes, {"x": (4,)}, {"y": (4,)}), tmp_path)
    assert ops(graph) == {"RandomNormal": 2, "Sub": 1, "Add": 1}


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd"])
@pytest.mark.parametrize("keep", [0, 1])
def test_reductions_of_one_element_move_no_data(tmp_path: Path, op: str, keep: int) -> None:
    axes = np.array([1, 2])
    by_attribute = op != "ReduceSum"
    inputs, attrs = (["x"], {"axes": [1, 2]}) if by_attribute else (["x", "axes"], {})
    nodes = [Node(op, inputs, ["a"], keepdims=keep, **attrs), Node("Elu", ["a"], ["y"])]
    weights = {} if by_attribute else {"axes": axes}
    found = rewritten(nodes, tmp_path, weights, x=(2, 1, 1, 8), y=(2, 1, 1, 8) if keep else (2, 8))
    assert found == ({"Elu": 1} if keep else {"Reshape": 1, "Elu": 1})


def test_a_reduction_that_changes_one_element_stays(tmp_path: Path) -> None:
    nodes = [Node("ReduceSumSquare", ["x"], ["a"], axes=[1]), Node("Elu", ["a"], ["y"])]
    assert rewritten(nodes, tmp_path, x=(2, 1, 8, 8)) == {"ReduceSumSquare": 1, "Elu": 1}
    nodes = [Node("ReduceMean", ["x"], ["a"], axes=[1]), Node("Elu", ["a"], ["y"])]
    assert rewritten(nodes, tmp_path, y=(2, 1, 8, 8)) == {"ReduceMean": 1, "Elu": 1}
