from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.models import of_nodes
from tests.unit.passes.checks import Node, assert_same, ops, prepared, rewritten

TO_FIRST, TO_LAST = [0, 3, 1, 2], [0, 2, 3, 1]


def test_opposite_transposes_vanish(tmp_path: Path) -> None:
    nodes = [
        Node("Transpose", ["x"], ["a"], perm=TO_FIRST),
        Node("Transpose", ["a"], ["b"], perm=TO_LAST),
        Node("Relu", ["b"], ["y"]),
    ]
    assert rewritten(nodes, tmp_path) == {"Relu": 1}


def test_two_transposes_are_one(tmp_path: Path) -> None:
    nodes = [Node("Transpose", ["x"], ["a"], perm=TO_FIRST), Node("Transpose", ["a"], ["y"], perm=[0, 1, 3, 2])]
    assert rewritten(nodes, tmp_path, y=(2, 8, 8, 3)) == {"Transpose": 1}


def test_transposes_meet_through_elementwise_operators(tmp_path: Path) -> None:
    nodes = [
        Node("Transpose", ["x"], ["a"], perm=TO_FIRST),
        Node("Relu", ["a"], ["b"]),
        Node("PRelu", ["b", "slope"], ["c"]),
        Node("Mul", ["c", "k"], ["d"]),
        Node("Sub", ["one", "d"], ["e"]),
        Node("Transpose", ["e"], ["y"], perm=TO_LAST),
    ]
    rng = np.random.default_rng(0)
    weights = {"slope": rng.random((8, 1, 1)), "k": rng.random((3, 8)), "one": np.ones(())}
    found = rewritten(nodes, tmp_path, {name: w.astype(np.float32) for name, w in weights.items()}, y=(2, 3, 8, 8))
    assert found == {"Relu": 1, "PRelu": 1, "Mul": 1, "Sub": 1}


def test_both_sides_transposed(tmp_path: Path) -> None:
    nodes = [
        Node("Transpose", ["x"], ["a"], perm=TO_FIRST),
        Node("Transpose", ["z"], ["b"], perm=TO_FIRST),
        Node("Add", ["a", "b"], ["y"]),
    ]
    found = rewritten(nodes, tmp_path, y=(2, 8, 3, 8), others={"z": (2, 3, 8, 8)})
    assert found == {"Add": 1, "Transpose": 1}


@pytest.mark.parametrize("perm", [[0, 2, 1, 3], [0, 3, 2, 1]])
def test_sides_transposed_differently_stay(tmp_path: Path, perm: list[int]) -> None:
    nodes = [
        Node("Transpose", ["x"], ["a"], perm=[0, 1, 3, 2]),
        Node("Transpose", ["z"], ["b"], perm=perm),
        Node("Add", ["a", "b"], ["y"]),
    ]
    found = rewritten(nodes, tmp_path, x=(2, 4, 4, 4), others={"z": (2, 4, 4, 4)})
    assert found == {"Transpose": 2, "Add": 1}


def test_a_transpose_that_others_read_is_not_pushed(tmp_path: Path) -> None:
    nodes = [
        Node("Transpose", ["x"], ["a"], perm=TO_FIRST),
        Node("Relu", ["a"], ["y"]),
        Node("Softmax", ["a"], ["z"], axis=-1),
    ]
    model = of_nodes(nodes, {"x": (2, 3, 8, 8)}, {"y": (2, 8, 3, 8), "z": (2, 8, 3, 8)})
    graph = prepared(model, tmp_path)
    assert_same(model, graph)
    assert ops(graph)["Transpose"] == 1


def test_a_transpose_of_ones_is_a_reshape(tmp_path: Path) -> None:
    nodes = [Node("Transpose", ["x"], ["a"], perm=TO_LAST), Node("Softmax", ["a"], ["y"], axis=1)]
    assert rewritten(nodes, tmp_path, x=(2, 1, 8, 4), y=(2, 8, 4, 1)) == {"Reshape": 1, "Softmax": 1}


def test_reshapes_are_one(tmp_path: Path) -> None:
    nodes = [
        Node("Flatten", ["x"], ["a"]),
        Node("Unsqueeze", ["a", "axes"], ["b"]),
        Node("Reshape", ["b", "shape"], ["c"]),
        Node("Squeeze", ["c", "axes"], ["y"]),
    ]
    weights = {"axes": np.array([0]), "shape": np.array([1, 4, -1])}
    assert rewritten(nodes, tmp_path, weights, y=(4, 96)) == {"Reshape": 1}


def test_reshapes_that_undo_each_other_vanish(tmp_path: Path) -> None:
    nodes = [
        Node("Flatten", ["x"], ["a"]),
        Node("Reshape", ["a", "shape"], ["b"]),
        Node("Relu", ["b"], ["y"]),
    ]
    assert rewritten(nodes, tmp_path, {"shape": np.array([2, 3, 8, 8])}) == {"Relu": 1}


def test_an_output_that_is_an_input_keeps_an_identity(tmp_path: Path) -> None:
    assert rewritten([Node("Identity", ["x"], ["y"])], tmp_path) == {"Identity": 1}
    nodes = [Node("Transpose", ["x"], ["a"], perm=TO_FIRST), Node("Transpose", ["a"], ["y"], perm=TO_LAST)]
    assert sum(rewritten(nodes, tmp_path).values()) == 1
