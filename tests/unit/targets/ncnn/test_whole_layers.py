"""Recurrences that ncnn's own layers lack, as one layer of ours, and many images or regions at a time: against ONNX
Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.unit.targets.ncnn.oracle import agrees, findings, model, needs_own

RNG = np.random.default_rng(29)
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def rand(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) * 0.5).astype(np.float32)


def weights(op: str, ways: int = 1, hidden: int = 5, inputs: int = 3) -> dict[str, np.ndarray]:
    rows = GATES[op] * hidden
    return {"w": rand(ways, rows, inputs), "r": rand(ways, rows, hidden), "b": rand(ways, 2 * rows)}


def layers(text: str, kind: str) -> int:
    return sum(line.startswith(f"{kind} ") for line in text.splitlines())


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_long_sequences_of_a_batch(op: str, direction: str) -> None:
    ways = 2 if direction == "bidirectional" else 1
    states = {"h": rand(ways, 4, 5), **({"c": rand(ways, 4, 5)} if op == "LSTM" else {})}
    outputs = ["y", "yh", "yc"][: 1 + len(states)]
    node = helper.make_node(op, ["x", "w", "r", "b", "", *states], outputs, hidden_size=5, direction=direction)
    text = agrees(node, {"x": rand(60, 4, 3), **states}, weights(op, ways), outputs=outputs)
    assert layers(text, "MkRecurrent") == 1
    assert len(text.splitlines()) < 12


def test_a_long_gru_that_resets_before_its_product() -> None:
    """What Keras calls ``reset_after=False``, and ONNX's default."""
    node = helper.make_node("GRU", ["x", "w", "r", "b"], ["y"], hidden_size=5)
    text = agrees(node, {"x": rand(600, 1, 3)}, weights("GRU"))
    assert layers(text, "MkRecurrent") == 1
    proto = model([node], {"x": rand(600, 1, 3)}, ["y"], weights("GRU"))
    assert "MkRecurrent" in findings(proto, stock_only=True)[0].reason


@pytest.mark.parametrize(
    "attributes",
    [
        {"clip": 0.3},
        {"input_forget": 1},
        {"activations": ["HardSigmoid", "Elu", "Softsign"], "activation_alpha": [0.3, 0.5], "activation_beta": [0.4]},
        {
            "activations": ["Affine", "LeakyRelu", "ScaledTanh"],
            "activation_alpha": [0.4, 0.1, 0.9],
            "activation_beta": [0.2, 0.8],
        },
        {"activations": ["HardSigmoid", "Softplus", "Elu"]},
        {"activations": ["Sigmoid", "relu", "ThresholdedRelu"], "activation_alpha": [0.2]},
    ],
)
def test_what_else_onnx_allows(attributes: dict[str, Any]) -> None:
    node = helper.make_node("LSTM", ["x", "w", "r", "b"], ["y", "", "c"], hidden_size=5, **attributes)
    text = agrees(node, {"x": rand(20, 1, 3)}, weights("LSTM"), outputs=("y", "c"))
    assert layers(text, "MkRecurrent") == 1


def test_peepholes_over_a_long_sequence() -> None:
    node = helper.make_node("LSTM", ["x", "w", "r", "b", "", "", "", "p"], ["", "y"], hidden_size=5)
    agrees(node, {"x": rand(50, 2, 3)}, weights("LSTM") | {"p": rand(1, 15)})


@pytest.mark.parametrize("computed", [False, True])
@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_sequences_of_several_lengths(op: str, computed: bool) -> None:
    """Packed sequences, both ways: what is behind the end of one is zero, and its states are those at its end."""
    node = helper.make_node(op, ["x", "w", "r", "b", "lengths"], ["y", "h"], hidden_size=5, direction="bidirectional")
    lengths = np.array([9, 1, 4], np.int32)
    inputs, consts = {"x": rand(9, 3, 3)}, weights(op, 2)
    (inputs if computed else consts)["lengths"] = lengths
    agrees(node, inputs, consts, outputs=("y", "h"))


@pytest.mark.parametrize(("name", "reason"), [("Gelu", "Gelu"), ("ScaledTanh", "no default")])
def test_activations_that_mean_nothing_are_refused(name: str, reason: str) -> None:
    node = helper.make_node("RNN", ["x", "w", "r"], ["y"], hidden_size=5, activations=[name])
    proto = model([node], {"x": rand(4, 1, 3)}, ["y"], {"w": rand(1, 5, 3), "r": rand(1, 5, 5)})
    assert reason in findings(proto)[0].reason


def test_a_path_along_each_axis() -> None:
    """Speech enhancement: a GRU along frequency, one along time, the other axis as the batch."""
    later = {"linear_before_reset": 1}
    nodes = [
        helper.make_node("GRU", ["x", "w", "r", "b"], ["a"], hidden_size=8, direction="bidirectional", **later),
        helper.make_node("Transpose", ["a"], ["along"], perm=[2, 0, 1, 3]),
        helper.make_node("Reshape", ["along", "shape"], ["time"]),
        helper.make_node("GRU", ["time", "w2", "r2", "b2"], ["b2_out"], hidden_size=16, **later),
        helper.make_node("Relu", ["b2_out"], ["y"]),
    ]
    second = {f"{name}2": array for name, array in weights("GRU", 1, 16, 16).items()}
    consts = weights("GRU", 2, 8, 16) | second | {"shape": np.array([20, 33, 16])}
    text = agrees(nodes, {"x": rand(33, 20, 16)}, consts)
    assert layers(text, "MkRecurrent") == 2


@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_sampling_many_images_is_one_layer(mode: str, padding: str) -> None:
    """RAFT looks up a small image of correlations for each of its pixels."""
    grid = RNG.uniform(-1.3, 1.3, (100, 3, 3, 2)).astype(np.float32)
    node = helper.make_node("GridSample", ["x", "g"], ["y"], mode=mode, padding_mode=padding, align_corners=1)
    text = agrees(node, {"x": rand(100, 1, 6, 8), "g": grid})
    assert layers(text, "MkGridSample") == 1
    assert len(text.splitlines()) == 5


def test_sampling_volumes_is_one_layer() -> None:
    grid = RNG.uniform(-1.3, 1.3, (12, 2, 3, 4, 3)).astype(np.float32)
    node = helper.make_node("GridSample", ["x", "g"], ["y"])
    text = agrees(node, {"x": rand(12, 2, 3, 4, 5), "g": grid})
    assert layers(text, "MkGridSample") == 1


def test_few_images_are_sampled_by_stock_layers() -> None:
    grid = RNG.uniform(-1.3, 1.3, (2, 3, 3, 2)).astype(np.float32)
    node = helper.make_node("GridSample", ["x", "g"], ["y"])
    assert layers(agrees(node, {"x": rand(2, 3, 6, 8), "g": grid}), "MkGridSample") == 0


@pytest.mark.parametrize("computed", [False, True])
def test_many_regions_are_one_layer(computed: bool) -> None:
    corner = RNG.uniform(0, 20, (30, 2))
    rois = np.concatenate([corner, corner + RNG.uniform(1, 15, (30, 2))], 1).astype(np.float32)
    items = RNG.integers(0, 2, 30)
    node = helper.make_node(
        "RoiAlign", ["x", "rois", "items"], ["y"], output_height=3, output_width=3, spatial_scale=0.5
    )
    inputs, consts = {"x": rand(2, 4, 16, 16), "rois": rois}, {}
    (inputs if computed else consts)["items"] = items
    text = agrees(node, inputs, consts)
    assert layers(text, "MkRoiAlign") == 1
    if computed:
        assert needs_own(model([node], inputs, ["y"], consts)) == ("MkRoiAlign",)
