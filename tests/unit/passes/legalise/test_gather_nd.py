"""GatherND with one index for each pick."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models import of_nodes
from tests.unit.passes.checks import Node, assert_same, ops, prepared


@pytest.mark.parametrize("shape", [(5,), (2, 3), ()])
def test_one_index_is_gather(shape: tuple[int, ...], tmp_path: Path) -> None:
    nodes = [Node("ArgMax", ["i"], ["n"], axis=-1), Node("GatherND", ["x", "n"], ["y"])]
    model = of_nodes(nodes, {"x": (3, 4), "i": (*shape, 3)}, {"y": (*shape, 4)})
    graph = prepared(model, tmp_path)
    assert ops(graph)["Gather"] == 1
    assert "GatherND" not in ops(graph)
    assert_same(model, graph)


def test_negative_indices(tmp_path: Path) -> None:
    nodes = [
        Node("ArgMax", ["i"], ["a"], axis=-1),
        Node("Neg", ["a"], ["n"]),
        Node("GatherND", ["x", "n"], ["y"]),
    ]
    model = of_nodes(nodes, {"x": (3, 4), "i": (5, 3)}, {"y": (5, 4)})
    graph = prepared(model, tmp_path)
    assert ops(graph)["Gather"] == 1
    assert_same(model, graph)


@pytest.mark.parametrize(("width", "batch_dims"), [(2, 0), (1, 1)])
def test_others_stay(width: int, batch_dims: int, tmp_path: Path) -> None:
    nodes = [
        Node("Concat", ["i"] * width, ["c"], axis=2),
        Node("ArgMax", ["c"], ["n"], axis=1, keepdims=0),
        Node("GatherND", ["x", "n"], ["y"], batch_dims=batch_dims),
    ]
    model = of_nodes(nodes, {"x": (3, 4, 2), "i": (3, 3, 1)}, {"y": (3, 2)})
    graph = prepared(model, tmp_path)
    assert ops(graph)["GatherND"] == 1
    assert_same(model, graph)
