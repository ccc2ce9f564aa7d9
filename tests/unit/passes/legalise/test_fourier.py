"""Fourier transforms as products with a constant matrix, held against ONNX Runtime's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from mobilekit.graph import Graph
from mobilekit.importers.convert import to_proto
from mobilekit.importers.onnx import load
from mobilekit.passes.base import apply_rules
from mobilekit.passes.legalise.fourier import LowerDft, LowerStft
from mobilekit.targets.tensorrt.prepare import Profile, prepare
from tests.models import of_nodes, save
from tests.unit.passes.checks import Node, assert_same, ops, run


def lowered(model: ModelProto, folder: Path, profiles: dict[str, Profile] | None = None) -> Graph:
    graph = prepare(load(save(model, folder / "m.onnx")), {}, profiles or {})
    apply_rules(graph, [LowerDft(), LowerStft()])
    return graph


@pytest.mark.parametrize(
    ("shape", "result", "axis", "length", "attributes"),
    [
        ((2, 16, 1), (2, 16, 2), 1, None, {}),
        ((2, 15, 1), (2, 8, 2), 1, None, {"onesided": 1}),
        ((2, 16, 2), (2, 16, 2), -2, None, {}),
        ((2, 16, 2), (2, 16, 2), 1, None, {"inverse": 1}),
        ((2, 12, 3, 1), (2, 12, 3, 2), 1, None, {}),
        ((2, 12, 3, 2), (2, 12, 3, 2), 1, None, {"inverse": 1}),
        ((1, 10, 1), (1, 9, 2), 1, 16, {"onesided": 1}),
        ((1, 20, 1), (1, 16, 2), 1, 16, {}),
        ((8, 6, 2), (8, 6, 2), 0, None, {}),
    ],
)
def test_dft(
    shape: tuple[int, ...],
    result: tuple[int, ...],
    axis: int,
    length: int | None,
    attributes: dict[str, int],
    tmp_path: Path,
) -> None:
    constants = {"axis": np.array(axis, np.int64)}
    if length is not None:
        constants["length"] = np.array(length, np.int64)
    node = Node("DFT", ["x", "length" if length is not None else "", "axis"], ["y"], **attributes)
    model = of_nodes([node], {"x": shape}, {"y": result}, constants, opset=20)
    graph = lowered(model, tmp_path)
    assert_same(model, graph, rtol=1e-4)
    assert "DFT" not in ops(graph)
    assert ops(graph)["MatMul"] == 1


def test_the_axis_was_an_attribute_before(tmp_path: Path) -> None:
    node = Node("DFT", ["x"], ["y"], axis=1, onesided=1)
    model = of_nodes([node], {"x": (2, 16, 1)}, {"y": (2, 9, 2)}, opset=17)
    graph = lowered(model, tmp_path)
    assert_same(model, graph, rtol=1e-4)
    assert "DFT" not in ops(graph)


@pytest.mark.parametrize(
    ("shape", "frames", "bins", "inputs", "onesided"),
    [
        ((2, 64, 1), 7, 9, ["step", "window"], 1),
        ((2, 64), 7, 9, ["step", "window"], 1),
        ((1, 64, 1), 7, 9, ["step", "", "length"], 1),
        ((1, 64, 1), 7, 16, ["step", "window", "length"], 0),
        ((1, 64, 2), 7, 16, ["step", "window"], 0),
    ],
)
def test_stft(shape: tuple[int, ...], frames: int, bins: int, inputs: list[str], onesided: int, tmp_path: Path) -> None:
    window = np.hanning(16).astype(np.float32)
    every = {"step": np.array(8, np.int64), "window": window, "length": np.array(16, np.int64)}
    constants = {name: every[name] for name in inputs if name}
    node = Node("STFT", ["x", *inputs], ["y"], onesided=onesided)
    model = of_nodes([node], {"x": shape}, {"y": (shape[0], frames, bins, 2)}, constants, opset=17)
    graph = lowered(model, tmp_path)
    assert_same(model, graph, rtol=1e-4, atol=1e-5)
    assert ops(graph)["Conv"] == 1
    assert "STFT" not in ops(graph)


def test_other_axes_may_vary(tmp_path: Path) -> None:
    constants = {"axis": np.array(2, np.int64)}
    nodes = [Node("DFT", ["x", "", "axis"], ["y"], onesided=1)]
    model = of_nodes(nodes, {"x": ("n", 3, 16, 1)}, {"y": ("n", 3, 9, 2)}, constants, opset=20)
    graph = lowered(model, tmp_path, {"x": Profile((1, 3, 16, 1), (2, 3, 16, 1), (4, 3, 16, 1))})
    assert ops(graph) == {"Reshape": 2, "MatMul": 1}
    for count in (1, 3):
        feeds = {"x": np.random.default_rng(count).standard_normal((count, 3, 16, 1)).astype(np.float32)}
        np.testing.assert_allclose(run(to_proto(graph), feeds)[0], run(model, feeds)[0], rtol=1e-4, atol=1e-5)


def test_a_matrix_that_is_too_large_is_not_made(tmp_path: Path) -> None:
    constants = {"axis": np.array(1, np.int64)}
    nodes = [Node("DFT", ["x", "", "axis"], ["y"])]
    model = of_nodes(nodes, {"x": (1, 8192, 1)}, {"y": (1, 8192, 2)}, constants, opset=20)
    assert ops(lowered(model, tmp_path)) == {"DFT": 1}
