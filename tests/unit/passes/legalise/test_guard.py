"""Attention's masked softmax with its guard against rows of NaN."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mobilekit.importers.convert import to_proto
from tests.models import of_nodes
from tests.unit.passes.checks import Node, ops, prepared, run


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 4, 5), (1, 1, 1, 5), (5,), (4, 1)])
def test_rows_of_which_all_is_masked_become_zero(
    shape: tuple[int, ...], added: bool, swap: bool, tmp_path: Path
) -> None:
    names = ["c", "low", "kept"] if swap else ["c", "kept", "low"]
    nodes = [
        Node("Greater", ["m", "zero"], ["c"]),
        Node("Where", [name if name != "kept" or added else "x" for name in names], ["w"]),
        *([Node("Add", ["x", "w"], ["a"])] if added else []),
        Node("Softmax", ["a" if added else "w"], ["s"], axis=-1),
        Node("IsNaN", ["s"], ["n"]),
        Node("Where", ["n", "zero", "s"], ["y"]),
    ]
    weights = {"zero": np.float32(0), "kept": np.array([0], np.float32), "low": np.array([-np.inf], np.float32)}
    full = (1, 2, 4, 5)
    model = of_nodes(nodes, {"x": full, "m": shape}, {"y": full}, weights)
    graph = prepared(model, tmp_path)
    assert "IsNaN" not in ops(graph)
    rng = np.random.default_rng(1)
    for mask in (rng.standard_normal(shape), np.ones(shape), -np.ones(shape)):
        feeds = {"x": rng.standard_normal(full).astype(np.float32), "m": mask.astype(np.float32)}
        np.testing.assert_allclose(run(to_proto(graph), feeds)[0], run(model, feeds)[0], rtol=1e-5, atol=1e-7)


def test_a_guard_of_something_else_stays(tmp_path: Path) -> None:
    nodes = [
        Node("Softmax", ["x"], ["s"], axis=-1),
        Node("IsNaN", ["s"], ["n"]),
        Node("Where", ["n", "zero", "s"], ["y"]),
    ]
    model = of_nodes(nodes, {"x": (2, 3)}, {"y": (2, 3)}, {"zero": np.float32(0)})
    assert ops(prepared(model, tmp_path))["IsNaN"] == 1
