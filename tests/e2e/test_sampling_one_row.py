"""Sampling a single row of places on arm64, where ncnn's layer writes beyond its scratch memory if told so wrongly."""

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

PLACES = 3000
RNG = np.random.default_rng(0)


def sampled(*shape: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    axes = len(shape) - 2
    grid = RNG.uniform(-1.2, 1.2, (1, *(1,) * (axes - 1), PLACES, axes)).astype(np.float32)
    inputs = {"x": RNG.standard_normal(shape).astype(np.float32), "g": grid}
    return model([helper.make_node("GridSample", ["x", "g"], ["y"], mode="linear")], inputs, ["y"]), inputs


def picked() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    inputs = {"x": RNG.integers(0, 2000, (1, 5000)).astype(np.float32)}
    node = helper.make_node("GatherElements", ["x", "i"], ["y"], axis=1)
    return model([node], inputs, ["y"], {"i": RNG.integers(0, 5000, (1, PLACES))}), inputs


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("case", ["plane", "volume", "picked"])
def test_one_row_of_places(case: str, precision: str, tmp_path: Path) -> None:
    program, emulator = harness_for("arm64-v8a")
    proto, inputs = {"plane": lambda: sampled(1, 3, 9, 11), "volume": lambda: sampled(1, 2, 4, 5, 6), "picked": picked}[
        case
    ]()
    graph = prepared(proto)
    artifact = NcnnTarget().build(graph, tmp_path / "ncnn", NcnnOptions())
    assert "GridSample" in (tmp_path / artifact.param).read_text()
    infos = {v.name: TensorInfo(name=v.name, dtype=v.dtype, shape=v.shape) for v in [*graph.inputs, *graph.results]}
    blobs = {b.blob: to_blob(inputs[b.tensor], infos[b.tensor], b) for b in artifact.inputs}
    host = HarnessHost(program, emulator)
    try:
        for _ in range(2):  # memory written beyond its end is noticed when it is given back
            found = host.run(tmp_path, artifact, blobs, extracted(artifact.outputs), precision)
    finally:
        host.close()
    made = from_blobs(found, infos.values(), artifact.outputs)
    tolerance = 1e-5 if precision == "fp32" else 5e-3
    for output, expected in run_ort(proto, inputs).items():
        np.testing.assert_allclose(made[output], expected, rtol=0 if case == "picked" else tolerance, atol=tolerance)
