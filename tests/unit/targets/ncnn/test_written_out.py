"""Functions that are inlined and recurrences that are unrolled, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.unit.targets.ncnn.oracle import agrees, model, run_ncnn

RNG = np.random.default_rng(13)
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def rand(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("op", "attrs"), [("LSTM", {}), ("GRU", {}), ("GRU", {"linear_before_reset": 1}), ("RNN", {})])
def test_recurrences_of_a_batch(op: str, attrs: dict[str, int], direction: str) -> None:
    count, hidden = (2 if direction == "bidirectional" else 1), 5
    rows = GATES[op] * hidden
    weights = {"w": rand(count, rows, 3), "r": rand(count, rows, hidden), "b": rand(count, 2 * rows)}
    states = {"h": rand(count, 3, hidden), **({"c": rand(count, 3, hidden)} if op == "LSTM" else {})}
    outputs = ["y", "yh", "yc"][: 1 + len(states)]
    node = helper.make_node(
        op, ["x", "w", "r", "b", "", *states], outputs, hidden_size=hidden, direction=direction, **attrs
    )
    agrees(node, {"x": rand(4, 3, 3), **states}, weights, outputs=outputs)


def test_peepholes() -> None:
    weights = {"w": rand(1, 20, 3), "r": rand(1, 20, 5), "p": rand(1, 15)}
    node = helper.make_node("LSTM", ["x", "w", "r", "", "", "", "", "p"], ["y"], hidden_size=5)
    agrees(node, {"x": rand(4, 1, 3)}, weights)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_with_a_row_that_is_masked_as_a_whole(masked: bool) -> None:
    inputs: dict[str, Any] = {"q": rand(1, 2, 4, 8), "k": rand(1, 2, 6, 8), "v": rand(1, 2, 6, 8)}
    mask = RNG.random((4, 6)) < 0.6
    mask[1] = not masked
    node = helper.make_node("Attention", ["q", "k", "v", "m"], ["y"])
    inputs["m"] = mask
    proto = model([node], inputs, ["y"], opset=24)
    found, _ = run_ncnn(proto, inputs)
    scores = np.where(mask, inputs["q"] @ inputs["k"].swapaxes(2, 3) / np.sqrt(8), -np.inf)
    weights = np.exp(scores - np.where(np.isinf(m := scores.max(-1, keepdims=True)), 0, m))
    weights = weights / np.maximum(weights.sum(-1, keepdims=True), 1e-30)
    np.testing.assert_allclose(found["y"], weights @ inputs["v"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_a_loss_with_computed_targets(reduction: str) -> None:
    node = helper.make_node("SoftmaxCrossEntropyLoss", ["x", "t", "w"], ["y"], reduction=reduction, ignore_index=2)
    agrees(node, {"x": rand(3, 5, 4), "t": RNG.integers(0, 5, (3, 4))}, {"w": RNG.random(5).astype(np.float32)})


def test_layer_normalization_with_its_mean() -> None:
    node = helper.make_node("LayerNormalization", ["x", "g", "b"], ["y", "m", "s"], axis=1)
    agrees(node, {"x": rand(2, 3, 4)}, {"g": rand(3, 4), "b": rand(3, 4)}, outputs=["y", "m", "s"])


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("attrs", [{}, {"onesided": 1}, {"inverse": 1}])
def test_fourier(axis: int, attrs: dict[str, int]) -> None:
    parts = 1 if attrs.get("onesided") else 2
    node = helper.make_node("DFT", ["x", "", "a"], ["y"], **attrs)
    agrees(node, {"x": rand(1, 6, 7, parts)}, {"a": np.array(axis)})


def test_short_time_fourier() -> None:
    node = helper.make_node("STFT", ["x", "s", "w"], ["y"])
    agrees(node, {"x": rand(2, 40, 1)}, {"s": np.array(5), "w": np.hanning(16).astype(np.float32)})


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize("rank", [1, 2])
def test_windows_with_holes(op: str, rank: int) -> None:
    attrs: dict[str, Any] = {"kernel_shape": [3] * rank, "dilations": [2] * rank, "strides": [2] * rank}
    attrs["pads"] = [1, 0] * rank
    agrees(helper.make_node(op, ["x"], ["y"], **attrs), {"x": rand(2, 3, *[11, 12][:rank])})


def test_determinants() -> None:
    for size in (2, 3):
        agrees(helper.make_node("Det", ["x"], ["y"]), {"x": rand(4, size, size)})


@pytest.mark.parametrize("groups", [1, 2])
def test_deformable_convolution(groups: int) -> None:
    node = helper.make_node("DeformConv", ["x", "w", "o", "b", "m"], ["y"], offset_group=groups, pads=[1, 1, 1, 1])
    inputs = {"x": rand(1, 4, 5, 6), "o": rand(1, groups * 18, 5, 6), "m": rand(1, groups * 9, 5, 6)}
    agrees(node, inputs, {"w": rand(3, 4, 3, 3), "b": rand(3)})
