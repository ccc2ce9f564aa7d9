from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.passes.checks import Node, rewritten


def f32(number: float) -> np.ndarray:
    return np.array(number, np.float32)


def _erf_gelu(form: int) -> tuple[list[Any], dict[str, Any]]:
    nodes = [
        Node("Div", ["x", "root2"], ["a"]) if form != 2 else Node("Mul", ["x", "iroot2"], ["a"]),
        Node("Erf", ["a"], ["b"]),
        Node("Add", ["b", "one"] if form else ["one", "b"], ["c"]),
    ]
    nodes += {
        0: [Node("Mul", ["x", "c"], ["d"]), Node("Mul", ["d", "half"], ["y"])],
        1: [Node("Mul", ["x", "half"], ["d"]), Node("Mul", ["d", "c"], ["y"])],
        2: [Node("Mul", ["c", "half"], ["d"]), Node("Mul", ["d", "x"], ["y"])],
    }[form]
    weights = {"root2": math.sqrt(2), "iroot2": math.sqrt(0.5), "one": 1, "half": 0.5}
    used = {name for node in nodes for name in node.input}
    return nodes, {name: f32(value) for name, value in weights.items() if name in used}


@pytest.mark.parametrize("form", [0, 1, 2])
def test_erf_chain_is_gelu(tmp_path: Path, form: int) -> None:
    nodes, weights = _erf_gelu(form)
    assert rewritten(nodes, tmp_path, weights) == {"Gelu": 1}


def test_erf_chain_with_another_number_is_left(tmp_path: Path) -> None:
    nodes, weights = _erf_gelu(0)
    weights["root2"] = f32(1.702)
    assert "Erf" in rewritten(nodes, tmp_path, weights)


@pytest.mark.parametrize("cube", ["Pow", "Mul"])
def test_tanh_chain_is_gelu(tmp_path: Path, cube: str) -> None:
    power = [Node("Pow", ["x", "three"], ["p"])]
    if cube == "Mul":
        power = [Node("Mul", ["x", "x"], ["s"]), Node("Mul", ["s", "x"], ["p"])]
    nodes = [
        *power,
        Node("Mul", ["p", "k"], ["a"]),
        Node("Add", ["x", "a"], ["b"]),
        Node("Mul", ["b", "r"], ["c"]),
        Node("Tanh", ["c"], ["d"]),
        Node("Add", ["d", "one"], ["e"]),
        Node("Mul", ["x", "e"], ["f"]),
        Node("Mul", ["f", "half"], ["y"]),
    ]
    weights = {"k": f32(0.044715), "r": f32(math.sqrt(2 / math.pi)), "one": f32(1), "half": f32(0.5)}
    if cube == "Pow":
        weights["three"] = f32(3)
    assert rewritten(nodes, tmp_path, weights) == {"Gelu": 1}
    weights["k"] = f32(0.04472)  # one part in 9,000 off is another function
    assert "Tanh" in rewritten(nodes, tmp_path, weights)


def test_x_sigmoid_x_is_swish(tmp_path: Path) -> None:
    nodes = [Node("Sigmoid", ["x"], ["s"]), Node("Mul", ["s", "x"], ["y"])]
    assert rewritten(nodes, tmp_path) == {"Swish": 1}


def test_scaled_swish(tmp_path: Path) -> None:
    nodes = [Node("Mul", ["x", "k"], ["a"]), Node("Sigmoid", ["a"], ["s"]), Node("Mul", ["x", "s"], ["y"])]
    assert rewritten(nodes, tmp_path, {"k": f32(1.702)}) == {"Swish": 1}


def test_gate_of_another_tensor_is_no_swish(tmp_path: Path) -> None:
    nodes = [Node("Sigmoid", ["z"], ["s"]), Node("Mul", ["s", "x"], ["y"])]
    assert rewritten(nodes, tmp_path, others={"z": (2, 3, 8, 8)}) == {"Sigmoid": 1, "Mul": 1}


@pytest.mark.parametrize("form", ["divide", "multiply", "hard-sigmoid", "clip01"])
def test_hard_swish(tmp_path: Path, form: str) -> None:
    gate = [Node("Add", ["x", "three"], ["a"]), Node("Clip", ["a", "zero", "six"], ["c"])]
    weights = {"three": f32(3), "zero": f32(0), "six": f32(6)}
    if form == "divide":
        nodes = [*gate, Node("Mul", ["x", "c"], ["m"]), Node("Div", ["m", "six"], ["y"])]
    elif form == "multiply":
        nodes = [*gate, Node("Mul", ["c", "sixth"], ["m"]), Node("Mul", ["m", "x"], ["y"])]
        weights["sixth"] = f32(1 / 6)
    elif form == "hard-sigmoid":
        nodes = [Node("HardSigmoid", ["x"], ["h"], alpha=1 / 6, beta=0.5), Node("Mul", ["h", "x"], ["y"])]
        weights = {}
    else:
        nodes = [
            Node("Mul", ["x", "sixth"], ["a"]),
            Node("Add", ["a", "half"], ["b"]),
            Node("Clip", ["b", "zero", "one"], ["c"]),
            Node("Mul", ["c", "x"], ["y"]),
        ]
        weights = {"sixth": f32(1 / 6), "half": f32(0.5), "zero": f32(0), "one": f32(1)}
    assert rewritten(nodes, tmp_path, weights) == {"HardSwish": 1}


def test_hard_sigmoid_of_another_slope_is_no_hard_swish(tmp_path: Path) -> None:
    nodes = [Node("HardSigmoid", ["x"], ["h"], alpha=0.2, beta=0.5), Node("Mul", ["h", "x"], ["y"])]
    assert rewritten(nodes, tmp_path) == {"HardSigmoid": 1, "Mul": 1}


def test_clip_of_x_plus_3_over_6_is_hard_sigmoid(tmp_path: Path) -> None:
    nodes = [
        Node("Add", ["x", "three"], ["a"]),
        Node("Clip", ["a", "zero", "six"], ["c"]),
        Node("Div", ["c", "six"], ["y"]),
    ]
    assert rewritten(nodes, tmp_path, {"three": f32(3), "zero": f32(0), "six": f32(6)}) == {"HardSigmoid": 1}


def test_mish(tmp_path: Path) -> None:
    nodes = [Node("Softplus", ["x"], ["a"]), Node("Tanh", ["a"], ["b"]), Node("Mul", ["x", "b"], ["y"])]
    assert rewritten(nodes, tmp_path) == {"Mish": 1}


@pytest.mark.parametrize(
    ("nodes", "weights", "wanted"),
    [
        ([Node("Clip", ["x", "zero"], ["y"])], {"zero": 0}, "Relu"),
        ([Node("Max", ["x", "zero"], ["y"])], {"zero": 0}, "Relu"),
        ([Node("Min", ["six", "x"], ["y"])], {"six": 6}, "Clip"),
        ([Node("Relu", ["x"], ["a"]), Node("Min", ["a", "six"], ["y"])], {"six": 6}, "Clip"),
        ([Node("Clip", ["x", "", "six"], ["a"]), Node("Clip", ["a", "one"], ["y"])], {"six": 6, "one": 1}, "Clip"),
        ([Node("Relu", ["x"], ["a"]), Node("Relu", ["a"], ["y"])], {}, "Relu"),
    ],
)
def test_one_clip(tmp_path: Path, nodes: list[Any], weights: dict[str, float], wanted: str) -> None:
    assert rewritten(nodes, tmp_path, {name: f32(value) for name, value in weights.items()}) == {wanted: 1}


def test_clips_with_no_common_range_are_left(tmp_path: Path) -> None:
    nodes = [Node("Clip", ["x", "", "one"], ["a"]), Node("Clip", ["a", "six"], ["y"])]
    assert rewritten(nodes, tmp_path, {"one": f32(1), "six": f32(6)}) == {"Clip": 2}


def test_an_output_in_the_middle_stays(tmp_path: Path) -> None:
    from tests.models import of_nodes
    from tests.unit.passes.checks import assert_same, ops, prepared

    nodes = [Node("Sigmoid", ["x"], ["s"]), Node("Mul", ["s", "x"], ["y"])]
    model = of_nodes(nodes, {"x": (4,)}, {"s": (4,), "y": (4,)})
    graph = prepared(model, tmp_path)
    assert_same(model, graph)
    assert ops(graph) == {"Sigmoid": 1, "Swish": 1}
