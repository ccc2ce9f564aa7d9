"""Group normalisation and pixel shuffles as exporters write them: each rule fires, refuses, and keeps the numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.unit.passes.checks import Node, rewritten


def rand(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("affine", [True, False])
def test_group_norm(tmp_path: Path, batch: int, affine: bool) -> None:
    nodes = [
        Node("Reshape", ["x", "apart"], ["r"]),
        Node("InstanceNormalization", ["r", "s", "t"], ["i"], epsilon=1e-3),
        Node("Reshape", ["i", "whole"], ["n"]),
        *([Node("Mul", ["n", "k"], ["m"]), Node("Add", ["b", "m"], ["a"])] if affine else []),
        Node("Sin", ["a" if affine else "n"], ["y"]),
    ]
    weights = {
        "apart": np.array([0, 3, -1]),
        "whole": np.array([batch, 6, 4, 5]),
        "s": rand(3) + 2,
        "t": rand(3),
        **({"k": rand(6, 1, 1), "b": rand(1, 6, 1, 1)} if affine else {}),
    }
    shape = (batch, 6, 4, 5)
    assert rewritten(nodes, tmp_path, weights, x=shape, y=shape) == {"GroupNormalization": 1, "Sin": 1}


@pytest.mark.parametrize("why", ["other shape", "batch mixed", "read twice"])
def test_what_is_no_group_norm_stays(tmp_path: Path, why: str) -> None:
    shape, apart, whole = (2, 6, 4, 5), [2, 3, 40], [2, 6, 4, 5]
    if why == "other shape":
        whole = [2, 6, 5, 4]
    if why == "batch mixed":
        apart = [4, 3, 20]
    nodes = [
        Node("Reshape", ["x", "apart"], ["r"]),
        Node("InstanceNormalization", ["r", "s", "t"], ["i"]),
        Node("Reshape", ["i", "whole"], ["n"]),
        Node("Sin", ["n"], ["y"]),
    ]
    if why == "read twice":
        nodes[-1:] = [Node("ReduceMax", ["i"], ["z"], keepdims=0), Node("Add", ["n", "z"], ["y"])]
    weights = {"apart": np.array(apart), "whole": np.array(whole), "s": rand(3), "t": rand(3)}
    found = rewritten(nodes, tmp_path, weights, x=shape, y=tuple(whole))
    assert found["InstanceNormalization"] == 1


def test_a_norm_takes_scale_and_bias_of_its_channels_only(tmp_path: Path) -> None:
    nodes = [
        Node("InstanceNormalization", ["x", "s", "t"], ["i"]),
        Node("Div", ["i", "k"], ["d"]),
        Node("Sub", ["d", "w"], ["y"]),
    ]
    weights = {"s": rand(3), "t": rand(3), "k": abs(rand(3, 1, 1)) + 1, "w": rand(8)}
    assert rewritten(nodes, tmp_path, weights) == {"InstanceNormalization": 1, "Sub": 1}


@pytest.mark.parametrize(
    ("op", "apart", "perm", "whole"),
    [
        ("DepthToSpace", (2, 3, 2, 2, 4, 5), [0, 1, 4, 2, 5, 3], (2, 3, 8, 10)),
        ("DepthToSpace", (2, 2, 2, 3, 4, 5), [0, 3, 4, 1, 5, 2], (2, 3, 8, 10)),
        ("SpaceToDepth", (2, 3, 4, 2, 5, 2), [0, 3, 5, 1, 2, 4], (2, 12, 4, 5)),
    ],
)
def test_pixel_shuffles(
    tmp_path: Path, op: str, apart: tuple[int, ...], perm: list[int], whole: tuple[int, ...]
) -> None:
    nodes = [
        Node("Reshape", ["x", "apart"], ["a"]),
        Node("Transpose", ["a"], ["t"], perm=perm),
        Node("Reshape", ["t", "whole"], ["y"]),
    ]
    shape = (2, 3, 8, 10) if op == "SpaceToDepth" else (2, 12, 4, 5)
    found = rewritten(nodes, tmp_path, {"apart": np.array(apart), "whole": np.array(whole)}, x=shape, y=whole)
    assert found == {op: 1}


@pytest.mark.parametrize(
    ("apart", "perm", "whole"),
    [
        ((1, 3, 2, 2, 4, 4), [0, 1, 4, 3, 5, 2], (1, 3, 8, 8)),
        ((1, 3, 2, 2, 4, 4), [0, 1, 4, 2, 5, 3], (1, 3, 4, 16)),
        ((1, 3, 4, 1, 4, 4), [0, 1, 4, 2, 5, 3], (1, 3, 16, 4)),
        ((1, 3, 2, 2, 4, 4), [0, 3, 5, 1, 2, 4], (1, 12, 4, 4)),
    ],
)
def test_other_rearrangements_stay(
    tmp_path: Path, apart: tuple[int, ...], perm: list[int], whole: tuple[int, ...]
) -> None:
    nodes = [
        Node("Reshape", ["x", "apart"], ["a"]),
        Node("Transpose", ["a"], ["t"], perm=perm),
        Node("Reshape", ["t", "whole"], ["y"]),
    ]
    found = rewritten(nodes, tmp_path, {"apart": np.array(apart), "whole": np.array(whole)}, x=(1, 12, 4, 4), y=whole)
    assert found["Transpose"] == 1
