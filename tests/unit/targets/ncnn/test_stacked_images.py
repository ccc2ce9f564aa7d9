"""Several images through one 2-D convolution: frames of a video, two pictures that are compared."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tests.unit.targets.ncnn.oracle import agrees

RNG = np.random.default_rng(12)


@pytest.mark.parametrize("size", [(9, 7), (8, 12)])
@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize(
    "window",
    [
        {},
        {"pads": [1, 1, 1, 1]},
        {"pads": [1, 0, 2, 3], "strides": [2, 1]},
        {"pads": [0, 0, 1, 1], "strides": [2, 2]},
        {"pads": [2, 2, 2, 2], "dilations": [2, 2]},
        {"strides": [4, 3]},
        {"pads": [3, 0, 0, 0], "strides": [3, 3], "dilations": [3, 1]},
    ],
)
def test_each_image_is_its_own(size: tuple[int, int], group: int, window: dict[str, list[int]]) -> None:
    x = RNG.standard_normal((3, 4, *size)).astype(np.float32)
    w = RNG.standard_normal((8, 4 // group, 3, 3)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], group=group, **window), helper.make_node("Relu", ["c"], ["y"])]
    param = agrees(nodes, {"x": x}, {"w": w})
    assert "3D" not in param


def test_a_chain_of_them() -> None:
    x = RNG.standard_normal((2, 3, 8, 8)).astype(np.float32)
    consts = {
        f"w{i}": RNG.standard_normal((3, 3, 1 + 2 * (i % 2), 1 + 2 * (i % 2))).astype(np.float32) for i in range(3)
    }
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"]),
        helper.make_node("Conv", ["a", "w1"], ["b"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["b", "w2"], ["y"]),
    ]
    agrees(nodes, {"x": x}, consts)


@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize(
    "window",
    [
        {"pads": [1] * 6},
        {"pads": [1, 1, 1, 1, 1, 1], "strides": [1, 2, 2]},
        {"pads": [1, 0, 1, 0, 1, 2], "strides": [2, 1, 1]},
        {"pads": [2, 0, 0, 2, 0, 0], "dilations": [2, 1, 1]},
    ],
)
def test_volumes_too(group: int, window: dict[str, list[int]]) -> None:
    x = RNG.standard_normal((3, 4, 5, 6, 7)).astype(np.float32)
    w = RNG.standard_normal((8, 4 // group, 3, 3, 3)).astype(np.float32)
    agrees([helper.make_node("Conv", ["x", "w"], ["y"], group=group, **window)], {"x": x}, {"w": w})
