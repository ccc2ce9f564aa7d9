"""Branches of one tensor become one convolution: fires, refuses, numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.unit.passes.checks import Node, rewritten


def rand(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32) / 2


NORM = {"g": rand(4) + 1, "c": rand(4), "v": np.abs(rand(4)) + 1}


def conv(name: str, kernel: tuple[int, ...], group: int = 1, stride: int = 1, pads: list[int] | None = None) -> tuple:
    weights = {f"{name}_w": rand(4, 4 // group, *kernel), f"{name}_b": rand(4)}
    pads = pads if pads is not None else [size // 2 for size in kernel] * 2
    return Node("Conv", ["s", *weights], [name], pads=pads, group=group, strides=[stride] * len(kernel)), weights


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("identity", ["", "norm"])
def test_the_branches_of_repvgg_are_one_convolution(tmp_path: Path, group: int, identity: str) -> None:
    (a, first), (b, second) = conv("a", (3, 3), group), conv("b", (1, 1), group)
    nodes = [Node("Sin", ["x"], ["s"]), a, b, Node("Add", ["b", "a"], ["t"])]
    if identity == "norm":
        nodes.append(Node("BatchNormalization", ["s", "g", "c", "c", "v"], ["i"]))
    nodes.append(Node("Add", ["i" if identity else "t", "t"], ["u"]))
    nodes.append(Node("Relu", ["u"], ["y"]))
    found = rewritten(nodes, tmp_path, first | second | NORM, x=(1, 4, 6, 7))
    expected = {"Sin": 1, "Conv": 1, "Relu": 1}
    assert found == (expected if identity else {**expected, "Add": 1})


@pytest.mark.parametrize("kernels", [((5, 5), (3, 3)), ((3, 1), (3, 3)), ((5,), (1,)), ((3, 3, 3), (1, 1, 1))])
def test_a_strided_kernel_lies_in_the_larger_one(tmp_path: Path, kernels: tuple[tuple[int, ...], ...]) -> None:
    (a, first), (b, second) = (conv(name, kernel, stride=2) for name, kernel in zip("ab", kernels, strict=True))
    nodes = [Node("Sin", ["x"], ["s"]), a, b, Node("Add", ["a", "b"], ["t"]), Node("Cos", ["t"], ["y"])]
    rank = len(kernels[0])
    found = rewritten(nodes, tmp_path, first | second, x=(1, 4, *[7] * rank), y=(1, 4, *[4] * rank))
    assert found == {"Sin": 1, "Conv": 1, "Cos": 1}


@pytest.mark.parametrize("why", ["neither is larger", "other groups", "shifted", "read twice", "other stride"])
def test_other_branches_stay(tmp_path: Path, why: str) -> None:
    kernels = ((3, 1), (1, 3)) if why == "neither is larger" else ((3, 3), (1, 1))
    a, first = conv("a", kernels[0], pads=[0, 0, 2, 2] if why == "shifted" else None)
    shifted, striding = why == "shifted", why == "other stride"
    kernel, pads = ((3, 3), [2, 2, 0, 0]) if shifted else (kernels[1], None)
    b, second = conv("b", kernel, 2 if why == "other groups" else 1, 2 if striding else 1, pads)
    shape = (1, 4, 1, 1) if striding else (1, 4, 6, 6)
    nodes = [Node("Sin", ["x"], ["s"]), a, b, Node("Add", ["a", "b"], ["t"])]
    if why == "read twice":
        nodes += [Node("Cos", ["b"], ["z"]), Node("Mul", ["t", "z"], ["y"])]
    else:
        nodes.append(Node("Cos", ["t"], ["y"]))
    assert rewritten(nodes, tmp_path, first | second, x=shape, y=shape)["Conv"] == 2
