"""Dense layers: which ncnn layer, and that what surrounds them needs no Reshape."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tests.unit.targets.ncnn.oracle import agrees

Node = helper.make_node


def rand(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def layers(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines()[2:]]


def test_one_row_takes_bias_and_activation_in() -> None:
    nodes = [Node("MatMul", ["x", "w"], ["p"]), Node("Add", ["p", "b"], ["s"]), Node("Relu", ["s"], ["y"])]
    text = agrees(nodes, {"x": rand(1, 4)}, {"w": rand(4, 5), "b": rand(5)})
    assert layers(text) == ["Input", "InnerProduct"]


@pytest.mark.parametrize("bias", [True, False])
def test_several_rows_are_a_gemm(bias: bool) -> None:
    nodes = [Node("MatMul", ["x", "w"], ["p"]), *([Node("Add", ["p", "b"], ["s"])] if bias else [])]
    nodes.append(Node("Relu", [nodes[-1].output[0]], ["y"]))
    text = agrees(nodes, {"x": rand(1, 7, 20)}, {"w": rand(20, 36), "b": rand(36)})
    assert layers(text) == ["Input", "Gemm", "ReLU"]


@pytest.mark.parametrize("pool", ["GlobalAveragePool", "ReduceMean"])
def test_squeeze_and_excite_needs_no_reshape(pool: str) -> None:
    squeeze = Node(pool, ["x"] if pool[0] == "G" else ["x", "axes"], ["p"])
    nodes = [
        squeeze,
        Node("Conv", ["p", "w1", "b1"], ["a"]),
        Node("Relu", ["a"], ["b"]),
        Node("Conv", ["b", "w2"], ["c"]),
        Node("HardSigmoid", ["c"], ["g"]),
        Node("Mul", ["x", "g"], ["y"]),
    ]
    consts = {"w1": rand(4, 16, 1, 1), "b1": rand(4), "w2": rand(16, 4, 1, 1), "axes": np.array([2, 3])}
    text = agrees(nodes, {"x": rand(1, 16, 16, 5)}, {k: v for k, v in consts.items() if k != "axes" or pool[0] == "R"})
    first = "Pooling" if pool[0] == "G" else "Reduction"
    assert layers(text) == ["Input", "Split", first, "InnerProduct", "InnerProduct", "HardSigmoid", "BinaryOp"]


@pytest.mark.parametrize("order", [("x", "g"), ("g", "x")])
def test_a_number_a_channel_in_either_place(order: tuple[str, str]) -> None:
    # As long as the width too: ncnn's rule for vectors has to pick the channels.
    nodes = [Node("GlobalMaxPool", ["x"], ["g"]), Node("Sub", list(order), ["y"])]
    text = agrees(nodes, {"x": rand(1, 6, 6, 6)})
    assert "Reshape" not in layers(text)


def test_slopes_of_a_vector() -> None:
    nodes = [Node("MatMul", ["x", "w"], ["p"]), Node("PRelu", ["p", "k"], ["y"])]
    text = agrees(nodes, {"x": rand(1, 9)}, {"w": rand(9, 12), "k": rand(12)})
    assert layers(text) == ["Input", "InnerProduct", "PReLU"]


def test_groups_as_exporters_write_them_are_one_layer() -> None:
    nodes = [
        Node("Reshape", ["x", "apart"], ["r"]),
        Node("InstanceNormalization", ["r", "s", "t"], ["i"]),
        Node("Reshape", ["i", "whole"], ["n"]),
        Node("Mul", ["n", "k"], ["m"]),
        Node("Add", ["m", "b"], ["y"]),
    ]
    consts = {"apart": np.array([0, 2, -1]), "whole": np.array([1, 6, 4, 5]), "s": np.ones(2, np.float32)}
    consts |= {"t": np.zeros(2, np.float32), "k": rand(6, 1, 1), "b": rand(6, 1, 1)}
    assert layers(agrees(nodes, {"x": rand(1, 6, 4, 5)}, consts)) == ["Input", "GroupNorm"]
