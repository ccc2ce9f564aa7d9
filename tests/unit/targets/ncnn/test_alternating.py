"""Operands that broadcast against one another in turns, over more axes than ncnn has dims."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tests.unit.targets.ncnn.oracle import agrees

RNG = np.random.default_rng(5)


def normal(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) * 2).astype(np.float32)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Less"])
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((1, 6, 1, 3, 1, 2), (1, 6, 2, 3, 4, 2)),
        ((1, 6, 2, 3, 4, 2), (1, 6, 1, 3, 1, 2)),
        ((2, 1, 3, 1, 2, 1), (1, 4, 1, 2, 1, 5)),
        ((3, 1, 2, 1, 3), (1, 2, 1, 4, 1)),
    ],
)
def test_both_ways(op: str, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    nodes = [helper.make_node(op, ["a", "b"], ["c"]), helper.make_node("Cast", ["c"], ["d"], to=1)]
    shape = np.broadcast_shapes(a, b)
    # The inputs and the output have four dims at most.
    nodes = [
        helper.make_node("Reshape", ["x", "a_shape"], ["a"]),
        helper.make_node("Reshape", ["z", "b_shape"], ["b"]),
        *nodes,
        helper.make_node("Flatten", ["d"], ["y"], axis=1),
    ]
    feeds = {"x": normal(1, int(np.prod(a))), "z": normal(1, int(np.prod(b)))}
    assert len(shape) > 4
    agrees(nodes, feeds, {"a_shape": np.array(a), "b_shape": np.array(b)})


def test_one_of_them_is_a_constant() -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["a"]),
        helper.make_node("Mul", ["a", "k"], ["c"]),
        helper.make_node("Flatten", ["c"], ["y"], axis=1),
    ]
    consts = {"shape": np.array([6, 2, 3, 4, 2]), "k": normal(6, 1, 3, 1, 2)}
    agrees(nodes, {"x": normal(1, 288)}, consts)
