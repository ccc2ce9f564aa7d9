from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.passes.checks import Node, rewritten

RNG = np.random.default_rng(6)


def f32(number: float) -> np.ndarray:
    return np.array(number, np.float32)


def layer_norm(
    axes: list[int], *, square: str = "Pow", divide: str = "Div", affine: bool = True, twice: bool = False
) -> list[Any]:
    nodes = [
        Node("ReduceMean", ["x"], ["m"], axes=axes),
        Node("Sub", ["x", "m"], ["d"]),
        Node("Sub", ["x", "m"], ["d2"]),
    ]
    base = "d2" if twice else "d"
    nodes.append(Node("Pow", [base, "two"], ["s"]) if square == "Pow" else Node("Mul", [base, base], ["s"]))
    nodes += [Node("ReduceMean", ["s"], ["v"], axes=axes), Node("Add", ["v", "eps"], ["ve"])]
    if divide == "Div":
        nodes += [Node("Sqrt", ["ve"], ["r"]), Node("Div", ["d", "r"], ["n"])]
    elif divide == "Reciprocal":
        nodes += [Node("Sqrt", ["ve"], ["q"]), Node("Reciprocal", ["q"], ["r"]), Node("Mul", ["d", "r"], ["n"])]
    else:
        nodes += [Node("Pow", ["ve", "mhalf"], ["r"]), Node("Mul", ["r", "d"], ["n"])]
    if affine:
        return [*nodes, Node("Mul", ["n", "g"], ["p"]), Node("Add", ["p", "b"], ["y"])]
    return [*nodes, Node("Identity", ["n"], ["y"])]


def weights(nodes: list[Any], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    used = {name for node in nodes for name in node.input}
    known = {"two": f32(2), "eps": f32(1e-5), "mhalf": f32(-0.5)}
    known |= {name: RNG.standard_normal(shape).astype(np.float32) for name in ("g", "b")}
    return {name: value for name, value in known.items() if name in used}


@pytest.mark.parametrize("square", ["Pow", "Mul"])
@pytest.mark.parametrize("divide", ["Div", "Reciprocal", "Pow"])
@pytest.mark.parametrize("twice", [True, False])
def test_the_chain_is_layer_normalization(tmp_path: Path, square: str, divide: str, twice: bool) -> None:
    nodes = layer_norm([-1], square=square, divide=divide, twice=twice)
    assert rewritten(nodes, tmp_path, weights(nodes, (8,))) == {"LayerNormalization": 1}


@pytest.mark.parametrize(
    ("axes", "shape"), [([2, 3], (8, 8)), ([-1], (1, 1, 1, 8)), ([1, 2, 3], (3, 8, 8)), ([-1], ())]
)
def test_axes_and_shapes_of_scale(tmp_path: Path, axes: list[int], shape: tuple[int, ...]) -> None:
    nodes = layer_norm(axes)
    assert rewritten(nodes, tmp_path, weights(nodes, shape)) == {"LayerNormalization": 1}


def test_without_scale_and_bias(tmp_path: Path) -> None:
    nodes = layer_norm([-1], affine=False)
    assert rewritten(nodes, tmp_path, weights(nodes, (8,))) == {"LayerNormalization": 1}


def test_axes_that_are_not_last_are_left(tmp_path: Path) -> None:
    nodes = layer_norm([1])
    assert "ReduceMean" in rewritten(nodes, tmp_path, weights(nodes, (3, 1, 1)))


def test_a_scale_over_other_axes_stays_outside(tmp_path: Path) -> None:
    nodes = layer_norm([-1])
    found = rewritten(nodes, tmp_path, weights(nodes, (3, 1, 1)))
    assert found == {"LayerNormalization": 1, "Mul": 1, "Add": 1}


def rms(*, scale: bool = True) -> list[Any]:
    nodes = [
        Node("Mul", ["x", "x"], ["s"]),
        Node("ReduceMean", ["s"], ["v"], axes=[-1]),
        Node("Add", ["v", "eps"], ["ve"]),
        Node("Sqrt", ["ve"], ["r"]),
        Node("Div", ["x", "r"], ["n"]),
    ]
    return [*nodes, Node("Mul", ["n", "g"], ["y"])] if scale else [*nodes, Node("Relu", ["n"], ["y"])]


def test_rms_normalization(tmp_path: Path) -> None:
    assert rewritten(rms(), tmp_path, weights(rms(), (8,))) == {"RMSNormalization": 1}


def test_a_mean_of_another_tensor_is_left(tmp_path: Path) -> None:
    nodes = rms(scale=False)
    nodes[4] = Node("Div", ["z", "r"], ["n"])
    found = rewritten(nodes, tmp_path, weights(nodes, (8,)), others={"z": (2, 3, 8, 8)})
    assert "ReduceMean" in found


def test_a_sub_of_another_mean_is_no_layer_norm(tmp_path: Path) -> None:
    nodes = layer_norm([-1])
    nodes[0] = Node("ReduceMean", ["z"], ["m"], axes=[-1])
    found = rewritten(nodes, tmp_path, weights(nodes, (8,)), others={"z": (2, 3, 8, 8)})
    assert "LayerNormalization" not in found
