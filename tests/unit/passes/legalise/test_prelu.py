"""PRelu out of its parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.models import of_nodes
from tests.unit.passes.checks import Node, assert_same, ops, prepared

RNG = np.random.default_rng(8)


@pytest.mark.parametrize("root", ["Add", "Sub"])
@pytest.mark.parametrize("shape", [(4,), (1, 1, 4), (1, 5, 6, 4), ()])
def test_fires(root: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    slope = RNG.uniform(0.1, 0.5, shape).astype(np.float32)
    nodes = [
        Node("Relu", ["x"], ["above"]),
        Node("Neg", ["x"], ["n"]),
        Node("Relu", ["n"], ["below"]),
        Node("Mul", ["slope", "below"], ["scaled"]),
        Node(root, ["above", "scaled"], ["y"]),
    ]
    shapes = {"x": (1, 5, 6, 4)}, {"y": (1, 5, 6, 4)}
    model = of_nodes(nodes, *shapes, {"slope": slope if root == "Sub" else -slope})
    graph = prepared(model, tmp_path)
    assert ops(graph) == {"PRelu": 1}
    assert_same(model, graph)


@pytest.mark.parametrize("wrong", ["other source", "not negated", "wider"])
def test_refuses(wrong: str, tmp_path: Path) -> None:
    slope = RNG.uniform(0.1, 0.5, (3, 1, 4) if wrong == "wider" else (4,)).astype(np.float32)
    nodes = [
        Node("Relu", ["x"], ["above"]),
        Node("Exp" if wrong == "not negated" else "Neg", ["z" if wrong == "other source" else "x"], ["n"]),
        Node("Relu", ["n"], ["below"]),
        Node("Mul", ["slope", "below"], ["scaled"]),
        Node("Sub", ["above", "scaled"], ["y"]),
    ]
    size = (3, 5, 4) if wrong == "wider" else (1, 5, 4)
    inputs = {"x": (1, 5, 4), **({"z": (1, 5, 4)} if wrong == "other source" else {})}
    model = of_nodes(nodes, inputs, {"y": size}, {"slope": slope})
    graph = prepared(model, tmp_path)
    assert "PRelu" not in ops(graph)
    assert_same(model, graph)
