"""Multiply-accumulates and peak memory, against numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilekit.importers.convert import from_proto
from mobilekit.passes.cost import macs, peak_activation_bytes
from mobilekit.passes.infer import infer
from tests.models import of_nodes
from tests.unit.passes.checks import Node

ANY = ("a", "b", "c", "d")


def graph(node: Any, x: tuple[int, ...], weights: dict[str, tuple[int, ...]], rank: int) -> Any:
    arrays = {name: np.ones(shape, np.float32) for name, shape in weights.items()}
    made = from_proto(of_nodes([node], {"x": x}, {"y": ANY[:rank]}, arrays), Path())
    infer(made, target_opset=24)
    return made


@pytest.mark.parametrize(
    ("node", "x", "weights", "wanted"),
    [
        (Node("Conv", ["x", "w"], ["y"], pads=[1] * 4), (1, 3, 8, 8), {"w": (16, 3, 3, 3)}, 16 * 64 * 27),
        (Node("Conv", ["x", "w"], ["y"], group=4, strides=[2, 2]), (2, 4, 5, 5), {"w": (4, 1, 3, 3)}, 2 * 4 * 4 * 9),
        (Node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2]), (1, 3, 8, 8), {"w": (3, 5, 2, 2)}, 192 * 5 * 4),
        (Node("Gemm", ["x", "w"], ["y"], transB=1), (2, 7), {"w": (5, 7)}, 2 * 7 * 5),
        (Node("Gemm", ["x", "w"], ["y"], transA=1), (7, 2), {"w": (7, 5)}, 2 * 7 * 5),
        (Node("MatMul", ["x", "w"], ["y"]), (2, 3, 4, 6), {"w": (6, 5)}, 24 * 6 * 5),
        (Node("Einsum", ["x", "w"], ["y"], equation="bij,jk->bik"), (2, 3, 4), {"w": (4, 5)}, 2 * 3 * 4 * 5),
        (Node("Einsum", ["x", "w"], ["y"], equation="...j,jk->...k"), (2, 3, 4), {"w": (4, 5)}, 2 * 3 * 4 * 5),
        (Node("Relu", ["x"], ["y"]), (2, 3), {}, 0),
    ],
)
def test_macs(node: Any, x: tuple[int, ...], weights: dict[str, tuple[int, ...]], wanted: int) -> None:
    rank = 2 if node.op_type == "Gemm" else len(x)
    assert sum(macs(graph(node, x, weights, rank)).values()) == wanted


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_macs_of_recurrent_layers(op: str, gates: int) -> None:
    # A batch, or a GRU that resets before its product, would be written out step by step.
    form = {"linear_before_reset": 1} if op == "GRU" else {}
    node = Node(op, ["x", "w", "r"], ["y"], hidden_size=5, direction="bidirectional", **form)
    made = graph(node, (10, 1, 3), {"w": (2, gates * 5, 3), "r": (2, gates * 5, 5)}, 4)
    assert macs(made) == {op: 2 * 10 * gates * 5 * (3 + 5)}


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("RNN", 1)])
def test_macs_of_recurrent_layers_written_out(op: str, gates: int) -> None:
    node = Node(op, ["x", "w", "r"], ["y"], hidden_size=5)
    made = graph(node, (10, 2, 3), {"w": (1, gates * 5, 3), "r": (1, gates * 5, 5)}, 4)
    # The first state is zero, and so is what the weights make of it.
    assert macs(made) == {"MatMul": 2 * gates * 5 * (10 * 3 + 9 * 5)}


def _peak(nodes: list[Any], outputs: dict[str, tuple[int, ...]], weights: dict[str, Any] | None = None) -> int:
    made = from_proto(of_nodes(nodes, {"x": (256,)}, outputs, weights), Path())
    infer(made, target_opset=24)
    return peak_activation_bytes(made)


def test_peak_of_a_chain_is_two_tensors() -> None:
    nodes = [Node("Relu", ["x"], ["a"]), Node("Neg", ["a"], ["b"]), Node("Exp", ["b"], ["y"])]
    assert _peak(nodes, {"y": (256,)}) == 2 * 1024


def test_peak_with_a_skip_connection_is_three() -> None:
    nodes = [Node("Relu", ["x"], ["a"]), Node("Neg", ["a"], ["b"]), Node("Add", ["a", "b"], ["y"])]
    assert _peak(nodes, {"y": (256,)}) == 3 * 1024


def test_outputs_live_to_the_end_and_constants_do_not_count() -> None:
    nodes = [Node("Relu", ["x"], ["y"]), Node("Add", ["x", "k"], ["a"]), Node("Neg", ["a"], ["z"])]
    outputs = {"y": (256,), "z": (256,)}
    assert _peak(nodes, outputs, {"k": np.ones(256, np.float32)}) == 3 * 1024


def test_element_sizes_count() -> None:
    nodes = [Node("Cast", ["x"], ["a"], to=11), Node("Neg", ["a"], ["b"]), Node("Cast", ["b"], ["y"], to=1)]
    assert _peak(nodes, {"y": (256,)}) == 2 * 2048
