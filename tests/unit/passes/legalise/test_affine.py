"""BatchNormalization and channel-wise arithmetic folded into the layer before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilekit.passes.legalise import legalise
from tests.models import of_nodes
from tests.unit.passes.checks import Node, assert_same, ops, prepared, rewritten

RNG = np.random.default_rng(5)


def norm(channels: int) -> dict[str, np.ndarray]:
    names = ("g", "b", "m", "v")
    return {name: (RNG.random(channels) + 0.5).astype(np.float32) for name in names}


BN = Node("BatchNormalization", ["c", "g", "b", "m", "v"], ["y"], epsilon=1e-3)


def weight(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("group", [1, 3])
def test_batch_norm_into_conv(tmp_path: Path, bias: bool, group: int) -> None:
    conv = Node("Conv", ["x", "w", "cb"] if bias else ["x", "w"], ["c"], group=group, pads=[1, 1, 1, 1])
    weights = {"w": weight(6, 3 // group, 3, 3), **norm(6)} | ({"cb": weight(6)} if bias else {})
    assert rewritten([conv, BN], tmp_path, weights, y=(2, 6, 8, 8)) == {"Conv": 1}


@pytest.mark.parametrize("group", [1, 3])
def test_batch_norm_into_transposed_conv(tmp_path: Path, group: int) -> None:
    conv = Node("ConvTranspose", ["x", "w"], ["c"], group=group, strides=[2, 2])
    weights = {"w": weight(3, 6 // group, 2, 2), **norm(6)}
    assert rewritten([conv, BN], tmp_path, weights, y=(2, 6, 16, 16)) == {"ConvTranspose": 1}


@pytest.mark.parametrize("trans", [0, 1])
def test_batch_norm_into_gemm(tmp_path: Path, trans: int) -> None:
    gemm = Node("Gemm", ["x", "w", "cb"], ["c"], transB=trans, alpha=0.5, beta=2.0)
    weights = {"w": weight(4, 6).T.copy() if trans else weight(4, 6), "cb": weight(6), **norm(6)}
    assert rewritten([gemm, BN], tmp_path, weights, x=(2, 4), y=(2, 6)) == {"Gemm": 1}


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("shape", [(6, 1, 1), (1, 6, 1, 1), (1,), ()])
def test_channel_arithmetic_into_conv(tmp_path: Path, op: str, shape: tuple[int, ...]) -> None:
    nodes = [Node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), Node(op, ["c", "k"], ["y"])]
    weights = {"w": weight(6, 3, 3, 3), "k": weight(*shape)}
    assert rewritten(nodes, tmp_path, weights, y=(2, 6, 8, 8)) == {"Conv": 1}


@pytest.mark.parametrize(
    ("op", "inputs", "shape"),
    [("Sub", ["k", "c"], (6, 1, 1)), ("Div", ["k", "c"], (1,)), ("Add", ["c", "k"], (8,)), ("Mul", ["c", "k"], (8, 8))],
)
def test_what_is_not_an_affine_map_of_channels_stays(
    tmp_path: Path, op: str, inputs: list[str], shape: tuple[int, ...]
) -> None:
    nodes = [Node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), Node(op, inputs, ["y"])]
    found = rewritten(nodes, tmp_path, {"w": weight(6, 3, 3, 3), "k": weight(*shape) + 3}, y=(2, 6, 8, 8))
    assert found == {"Conv": 1, op: 1}


def test_an_addend_that_broadcasts_the_output_stays(tmp_path: Path) -> None:
    nodes = [Node("GlobalAveragePool", ["x"], ["p"]), Node("Conv", ["p", "w"], ["c"]), Node("Add", ["c", "k"], ["y"])]
    weights = {"w": weight(6, 3, 1, 1), "k": weight(1, 6, 4, 4)}
    assert "Add" in rewritten(nodes, tmp_path, weights, y=(2, 6, 4, 4))


def test_a_layer_with_two_readers_stays(tmp_path: Path) -> None:
    nodes = [
        Node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        Node("Mul", ["c", "k"], ["d"]),
        Node("Add", ["c", "d"], ["y"]),
    ]
    model = of_nodes(
        nodes, {"x": (1, 3, 8, 8)}, {"y": (1, 6, 8, 8)}, {"w": weight(6, 3, 3, 3), "k": np.float32(2) * np.ones(1, "f")}
    )
    graph = prepared(model, tmp_path)
    assert_same(model, graph)
    assert ops(graph) == {"Conv": 1, "Mul": 1, "Add": 1}
    refusals = legalise(graph).refusals
    assert [(r.rule, r.reason) for r in refusals if r.rule == "fold-affine"] != []


def test_a_batch_norm_alone_stays(tmp_path: Path) -> None:
    nodes: list[Any] = [Node("BatchNormalization", ["x", "g", "b", "m", "v"], ["y"])]
    assert rewritten(nodes, tmp_path, norm(3)) == {"BatchNormalization": 1}


def test_weights_shared_by_two_layers(tmp_path: Path) -> None:
    nodes = [
        Node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        Node("Mul", ["c", "k"], ["d"]),
        Node("Conv", ["d", "w"], ["y"], pads=[1, 1, 1, 1]),
    ]
    assert rewritten(nodes, tmp_path, {"w": weight(3, 3, 3, 3), "k": weight(3, 1, 1)}) == {"Conv": 2}
