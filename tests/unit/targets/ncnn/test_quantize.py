"""Quantised models in float32 arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tests.unit.targets.ncnn.oracle import agrees, findings, model

RNG = np.random.default_rng(31)


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("channels", [False, True])
def test_back_from_integers(kind: type, channels: bool) -> None:
    scale = np.asarray(RNG.random(3) * 0.02 + 0.005 if channels else 0.02, np.float32)
    zero = RNG.integers(0, 100, scale.shape).astype(kind)
    limits = np.iinfo(kind)
    x = RNG.integers(limits.min, limits.max, (1, 3, 4, 5)).astype(kind)
    agrees(helper.make_node("DequantizeLinear", ["x", "s", "z"], ["y"], axis=1), {"x": x}, {"s": scale, "z": zero})


def test_a_convolution_of_bytes_with_quantised_weights() -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "sx", "zx"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["wf"], axis=0),
        helper.make_node("Conv", ["d", "wf"], ["y"], pads=[1, 1, 1, 1]),
    ]
    consts = {
        "sx": np.float32(0.03),
        "zx": np.uint8(128),
        "w": RNG.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8),
        "sw": np.asarray(RNG.random(4) * 0.01, np.float32),
        "zw": np.zeros(4, np.int8),
    }
    agrees(nodes, {"x": RNG.integers(0, 256, (1, 3, 6, 6)).astype(np.uint8)}, consts)


def test_quantising_is_refused() -> None:
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])
    consts = {"s": np.float32(0.1), "z": np.uint8(3)}
    assert findings(model([node], {"x": np.ones((2, 3), np.float32)}, ["y"], consts))[0].op == "QuantizeLinear"


def test_a_scale_for_each_block_is_refused() -> None:
    node = helper.make_node("DequantizeLinear", ["x", "s"], ["y"], axis=1, block_size=2)
    found = findings(model([node], {"x": np.ones((2, 4), np.int8)}, ["y"], {"s": np.ones((2, 2), np.float32)}))
    assert "block" in found[0].reason
