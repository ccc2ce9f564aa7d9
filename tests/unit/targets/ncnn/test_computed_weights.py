"""Convolutions whose weight is computed: trackers' templates, modulated filters."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tests.unit.targets.ncnn.oracle import agrees, findings, model

RNG = np.random.default_rng(11)
Node = helper.make_node


def arrays(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("filters", [3, 8, 16])
@pytest.mark.parametrize("bias", [False, True])
def test_convolution(filters: int, bias: bool) -> None:
    given = arrays(x=(1, 8, 9, 7), w=(filters, 8, 3, 2), **({"b": (filters,)} if bias else {}))
    nodes = [
        Node("Mul", ["w", "half"], ["v"]),
        Node("Conv", ["x", "v", *(["b"] if bias else [])], ["c"], pads=[1, 0, 1, 2], strides=[2, 1]),
        Node("Relu", ["c"], ["y"]),
    ]
    agrees(nodes, given, {"half": np.float32(0.5)})


@pytest.mark.parametrize("channels", [3, 8])
def test_depthwise_correlation_with_a_template(channels: int) -> None:
    """The heart of Siamese trackers: the features of the template are the filters."""
    given = arrays(search=(1, channels, 12, 12), template=(1, channels, 5, 5))
    nodes = [
        Node("Reshape", ["template", "shape"], ["w"]),
        Node("Conv", ["search", "w"], ["y"], group=channels),
    ]
    agrees(nodes, given, {"shape": np.array([channels, 1, 5, 5])})


@pytest.mark.parametrize("group", [1, 4])
def test_one_dimension(group: int) -> None:
    given = arrays(x=(1, 4, 20), w=(8, 4 // group, 3))
    agrees(Node("Conv", ["x", "w"], ["y"], dilations=[2], group=group), given)


def test_what_ncnn_cannot() -> None:
    given = arrays(x=(1, 2, 5, 5, 5), w=(3, 2, 2, 2, 2))
    found = findings(model([Node("Conv", ["x", "w"], ["y"])], given, ["y"]))
    assert "weight fixed" in found[0].reason


def test_whole_numbers_have_a_size() -> None:
    given = {"x": RNG.integers(-9, 9, (3, 4))}
    agrees([Node("Abs", ["x"], ["a"]), Node("Neg", ["a"], ["y"])], given)
    agrees(Node("Sign", ["x"], ["y"]), given)


@pytest.mark.parametrize("power", [9.0, 16.0, -11.0])
def test_high_powers_of_any_number(power: float) -> None:
    given = {"x": (RNG.uniform(0.5, 2, (3, 50)) * RNG.choice([-1, 1], (3, 50))).astype(np.float32)}
    agrees(Node("Pow", ["x", "n"], ["y"]), given, {"n": np.float32(power)})


def test_nearest_as_tensorflow_once_did() -> None:
    given = arrays(x=(1, 3, 5, 7))
    node = Node(
        "Resize",
        ["x", "none", "none", "sizes"],
        ["y"],
        mode="nearest",
        coordinate_transformation_mode="tf_half_pixel_for_nn",
        nearest_mode="floor",
    )
    consts = {"none": np.zeros(0, np.float32), "sizes": np.array([1, 3, 9, 13])}
    agrees(node, given, consts, opset=11)
