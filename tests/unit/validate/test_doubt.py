"""How sure ONNX Runtime is of a quantised model, where nothing about its inputs can be disturbed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mobilekit.runners.base import RunOptions
from mobilekit.runners.ort import OrtRunner
from mobilekit.validate.doubt import Doubt


def rounded_rows(path: Path, row: list[float]) -> Path:
    """Token ids in, rows of a table out, rounded to steps of 1 as integers of 8 bits are."""
    weights = {"table": np.array([row], np.float32), "scale": np.float32(1), "zero": np.uint8(0)}
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["row"]),
        helper.make_node("QuantizeLinear", ["row", "scale", "zero"], ["steps"]),
        helper.make_node("DequantizeLinear", ["steps", "scale", "zero"], ["y"]),
    ]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, len(row)])
    stored = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "rows", [ids], [y], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def doubt_of(path: Path) -> float:
    inputs = {"ids": np.array([0], np.int64)}
    with OrtRunner(path) as runner:
        expected = runner.run(inputs, RunOptions()).outputs
    with Doubt(lambda: OrtRunner(path, optimise=False), rescaled=lambda seed: OrtRunner(path, jitter=seed)) as doubt:
        return doubt.of(inputs, expected, RunOptions())["y"]


def test_a_value_on_the_edge_between_two_steps_is_doubted(tmp_path: Path) -> None:
    assert doubt_of(rounded_rows(tmp_path / "edge.onnx", [1.5, 3.0])) > 0.1


def test_values_amid_their_steps_are_sure(tmp_path: Path) -> None:
    assert doubt_of(rounded_rows(tmp_path / "sure.onnx", [1.3, 3.0])) < 1e-5


def test_more_scales_are_asked_while_an_error_is_not_explained(tmp_path: Path) -> None:
    sure, edge = (rounded_rows(tmp_path / f"{row[0]}.onnx", row) for row in ([1.3, 3.0], [1.5, 3.0]))

    def seeds_for(path: Path, errors: dict[str, float] | None) -> list[int]:
        asked: list[int] = []

        def rescaled(seed: int) -> OrtRunner:
            asked.append(seed)
            return OrtRunner(path, jitter=seed)

        inputs = {"ids": np.array([0], np.int64)}
        with OrtRunner(path) as runner:
            expected = runner.run(inputs, RunOptions()).outputs
        with Doubt(lambda: OrtRunner(path, optimise=False), rescaled=rescaled) as doubt:
            doubt.of(inputs, expected, RunOptions(), errors)
        return asked

    assert seeds_for(edge, {"y": 0.3}) == seeds_for(sure, None) == [1, 2, 3, 4]
    assert seeds_for(sure, {"y": 0.3}) == list(range(1, 17))


def test_what_a_model_quantises_while_it_runs_is_moved_within_its_step(tmp_path: Path) -> None:
    """Ids cannot be disturbed, nor is there a stored scale."""
    row = np.random.default_rng(0).standard_normal(500).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["row"]),
        helper.make_node("DynamicQuantizeLinear", ["row"], ["steps", "scale", "zero"]),
        helper.make_node("DequantizeLinear", ["steps", "scale", "zero"], ["y"]),
    ]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, row.size])
    graph = helper.make_graph(nodes, "rows", [ids], [y], [numpy_helper.from_array(row[None], "table")])
    path = tmp_path / "running.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    step = float(np.ptp(row)) / 255
    lost = step / np.sqrt(12) / float(np.sqrt(np.mean(row**2)))
    assert 0.7 * lost < doubt_of(path) < 2.5 * lost


def test_weights_of_four_bits_do_not_round_what_they_are_multiplied_with(tmp_path: Path) -> None:
    """As ONNX Runtime's optimiser otherwise lets them: the reference would be off by 1e-2."""
    rng = np.random.default_rng(0)
    weight, scale = rng.integers(-8, 8, (64, 32)), np.abs(rng.standard_normal((2, 32))).astype(np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["real"], axis=0, block_size=32),
        helper.make_node("MatMul", ["x", "real"], ["y"]),
    ]
    stored = [helper.make_tensor("w", TensorProto.INT4, weight.shape, weight), numpy_helper.from_array(scale, "s")]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 32])
    model = helper.make_model(
        helper.make_graph(nodes, "bits", [x], [y], stored), opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    onnx.save(model, tmp_path / "bits.onnx")
    data = rng.standard_normal((1, 64)).astype(np.float32)
    with OrtRunner(tmp_path / "bits.onnx") as runner:
        found = runner.run({"x": data}, RunOptions()).outputs["y"]
    np.testing.assert_allclose(
        found, data @ (weight * np.repeat(scale, 32, 0)).astype(np.float32), rtol=1e-4, atol=1e-4
    )
