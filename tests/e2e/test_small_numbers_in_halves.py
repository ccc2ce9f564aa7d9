"""Logarithms and quotients of numbers that fp16 does not have, on arm64 with fp16 storage and arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from mobilekit.bundle import TensorInfo
from mobilekit.runners.blobs import extracted, from_blobs, to_blob
from mobilekit.targets.ncnn import NcnnOptions, NcnnTarget
from tests.e2e.own_layer_lab import harness_for
from tests.own_layers import HarnessHost
from tests.unit.targets.ncnn.oracle import model, prepared, run_ort

pytestmark = pytest.mark.timeout(3600)  # the first to run may have to build the harness

RNG = np.random.default_rng(0)
Made = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]


def run_fp16(proto: onnx.ModelProto, inputs: dict[str, np.ndarray], folder: Path) -> Made:
    """The outputs of the fp16 bundle on arm64, and ONNX Runtime's."""
    program, emulator = harness_for("arm64-v8a")
    graph = prepared(proto)
    host = HarnessHost(program, emulator)
    artifact = NcnnTarget().build(graph, folder / "ncnn", NcnnOptions(precision="fp16"))
    infos = {v.name: TensorInfo(name=v.name, dtype=v.dtype, shape=v.shape) for v in [*graph.inputs, *graph.results]}
    blobs = {b.blob: to_blob(inputs[b.tensor], infos[b.tensor], b) for b in artifact.inputs}
    try:
        found = host.run(folder, artifact, blobs, extracted(artifact.outputs), "fp16")
    finally:
        host.close()
    return from_blobs(found, infos.values(), artifact.outputs), run_ort(proto, inputs)


def test_the_logarithm_of_a_power_spectrum(tmp_path: Path) -> None:
    """Amplitudes of 1e-5 to 100, whose squares are 1e-10 to 10,000, and silence."""
    x = np.geomspace(1e-5, 100, 16 * 32).astype(np.float32).reshape(1, 16, 32)
    x[0, 7] = 0
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Mul", ["r", "r"], ["p"]),
        helper.make_node("MatMul", ["p", "bands"], ["m"]),
        helper.make_node("Clip", ["m", "floor"], ["c"]),
        helper.make_node("Log", ["c"], ["y"]),
    ]
    bands = RNG.random((32, 8), dtype=np.float32)
    proto = model(nodes, {"x": x}, ["y"], {"bands": bands, "floor": np.float32(1e-10)})
    made, expected = run_fp16(proto, {"x": x}, tmp_path)
    np.testing.assert_allclose(made["y"], expected["y"], rtol=0, atol=0.2)
    loud = expected["y"] > np.log(1e-6)  # amplitudes that halves hold with most of their digits
    np.testing.assert_allclose(made["y"][loud], expected["y"][loud], rtol=0, atol=1e-2)


@pytest.mark.parametrize("norm", ["ReduceL2", "ReduceSumSquare"])
def test_a_row_of_zeros_is_normalised_to_zeros(norm: str, tmp_path: Path) -> None:
    x = RNG.standard_normal((1, 16, 32)).astype(np.float32)
    x[0, 3] = 0
    nodes = [
        helper.make_node("Neg", ["x"], ["t"]),
        helper.make_node(norm, ["t", "last"], ["n"], keepdims=1),
        helper.make_node("Max", ["n", "floor"], ["m"]),
        helper.make_node("Div", ["t", "m"], ["y"]),
    ]
    proto = model(nodes, {"x": x}, ["y"], {"last": np.array([-1]), "floor": np.float32(1e-12)})
    made, expected = run_fp16(proto, {"x": x}, tmp_path)
    np.testing.assert_allclose(made["y"], expected["y"], rtol=0, atol=3e-3)


def test_a_reciprocal_root_that_only_float32_holds(tmp_path: Path) -> None:
    x = RNG.standard_normal((1, 16, 32)).astype(np.float32)
    x[0, 3] = 0
    nodes = [
        helper.make_node("Neg", ["x"], ["t"]),
        helper.make_node("Abs", ["t"], ["s"]),
        helper.make_node("ReduceMax", ["s", "last"], ["v"], keepdims=1),
        helper.make_node("Add", ["v", "floor"], ["a"]),
        helper.make_node("Sqrt", ["a"], ["q"]),
        helper.make_node("Reciprocal", ["q"], ["i"]),
        helper.make_node("Mul", ["t", "i"], ["y"]),
    ]
    proto = model(nodes, {"x": x}, ["y"], {"last": np.array([-1]), "floor": np.float32(1e-12)})
    made, expected = run_fp16(proto, {"x": x}, tmp_path)
    np.testing.assert_allclose(made["y"], expected["y"], rtol=3e-3, atol=3e-3)
