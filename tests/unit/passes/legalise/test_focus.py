"""Strided slices side by side, and torch's pixel_unshuffle: SpaceToDepth, with the weights behind it put in order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.unit.passes.checks import Node, rewritten
from tests.unit.targets.ncnn.oracle import agrees

ROWS_FIRST = [(0, 0), (0, 1), (1, 0), (1, 1)]
COLUMNS_FIRST = [(0, 0), (1, 0), (0, 1), (1, 1)]
END = np.iinfo(np.int64).max


def rand(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def slices(order: list[tuple[int, int]], weights: dict[str, np.ndarray], style: str) -> list[onnx.NodeProto]:
    """x[..., i::2, j::2] of each (i, j): an axis after another as torch exports it, or both at once as Paddle does."""
    nodes = []
    weights |= {f"n{k}": np.array([k]) for k in (0, 1, 2, 3)} | {"end": np.array([END]), "two": np.array([2, 2])}
    for k, (i, j) in enumerate(order):
        if style == "torch":
            nodes.append(Node("Slice", ["x", f"n{i}", "end", "n2", "n2"], [f"r{k}"]))
            nodes.append(Node("Slice", [f"r{k}", f"n{j}", "end", "n3", "n2"], [f"p{k}"]))
        else:
            weights |= {f"s{k}": np.array([i, j]), "ends": np.array([8, 6]), "axes": np.array([-2, -1])}
            nodes.append(Node("Slice", ["x", f"s{k}", "ends", "axes", "two"], [f"p{k}"]))
    return [*nodes, Node("Concat", [f"p{k}" for k in range(len(order))], ["f"], axis=1)]


@pytest.mark.parametrize("style", ["torch", "paddle"])
@pytest.mark.parametrize("order", [ROWS_FIRST, COLUMNS_FIRST, [(1, 1), (0, 0), (1, 0), (0, 1)]])
def test_focus_and_its_convolutions(tmp_path: Path, style: str, order: list[tuple[int, int]]) -> None:
    weights = {"w": rand(5, 12, 3, 3), "v": rand(5, 12, 1, 1), "b": rand(5)}
    nodes = [
        *slices(order, weights, style),
        Node("Conv", ["f", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        Node("Conv", ["f", "v"], ["d"]),
        Node("Mul", ["c", "d"], ["y"]),
    ]
    found = rewritten(nodes, tmp_path, weights, x=(2, 3, 8, 6), y=(2, 5, 4, 3))
    assert found == {"SpaceToDepth": 1, "Conv": 2, "Mul": 1}
    agrees(nodes, {"x": rand(1, 3, 8, 6)}, weights)


def test_focus_in_its_order_needs_no_convolution(tmp_path: Path) -> None:
    weights: dict[str, np.ndarray] = {}
    nodes = [*slices(ROWS_FIRST, weights, "torch"), Node("Sin", ["f"], ["y"])]
    found = rewritten(nodes, tmp_path, weights, x=(1, 3, 8, 6), y=(1, 12, 4, 3))
    assert found == {"SpaceToDepth": 1, "Sin": 1}


def test_pixel_unshuffle(tmp_path: Path) -> None:
    weights = {"w": rand(5, 27, 3, 3), "apart": np.array([2, 3, 4, 3, 5, 3]), "whole": np.array([2, 27, 4, 5])}
    nodes = [
        Node("Reshape", ["x", "apart"], ["a"]),
        Node("Transpose", ["a"], ["t"], perm=[0, 1, 3, 5, 2, 4]),
        Node("Reshape", ["t", "whole"], ["f"]),
        Node("Conv", ["f", "w"], ["y"], pads=[1, 1, 1, 1]),
    ]
    found = rewritten(nodes, tmp_path, weights, x=(2, 3, 12, 15), y=(2, 5, 4, 5))
    assert found == {"SpaceToDepth": 1, "Conv": 1}


@pytest.mark.parametrize(
    "why", ["a pixel twice", "another reader", "groups", "rows of one kind", "other axis", "two sources"]
)
def test_what_is_no_focus_stays(tmp_path: Path, why: str) -> None:
    weights = {"w": rand(4, 12, 3, 3), "v": rand(12, 1, 1, 1)}
    order = [*COLUMNS_FIRST[:3], COLUMNS_FIRST[0] if why == "a pixel twice" else (1, 1)]
    nodes = slices(order, weights, "torch")
    x, others = (1, 3, 8, 6), {}
    if why == "rows of one kind":
        order = [(0, 0), (0, 1), (0, 0), (0, 1)]
        nodes, x = slices(order, weights, "torch"), (1, 3, 7, 6)
    if why == "other axis":
        nodes[-1] = Node("Concat", ["p0", "p1", "p2", "p3"], ["g"], axis=2)
        nodes.append(Node("Reshape", ["g", "shape"], ["f"]))
        weights["shape"] = np.array([1, 12, 4, 3])
    if why == "two sources":
        nodes[0] = Node("Slice", ["z", "n0", "end", "n2", "n2"], ["r0"])
        others = {"z": x}
    nodes.append(Node("Conv", ["f", "w"], ["c"], pads=[1, 1, 1, 1]))
    if why == "groups":
        nodes[-1] = Node("Conv", ["f", "v"], ["c"], group=12)
    if why == "another reader":
        nodes += [Node("ReduceMax", ["f"], ["m"], keepdims=0), Node("Add", ["c", "m"], ["y"])]
    else:
        nodes += [Node("Sin", ["c"], ["y"])]
    y = (1, 12 if why == "groups" else 4, 4, 3)
    found = rewritten(nodes, tmp_path, weights, x=x, y=y, others=others)
    assert "SpaceToDepth" not in found
    assert found["Slice"] >= 3
