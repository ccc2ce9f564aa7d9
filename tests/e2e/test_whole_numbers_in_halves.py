"""Positions beyond 2048, where fp16 holds no more whole numbers, on arm64 with fp16 storage and arithmetic."""

from __future__ import annotations

import tempfile
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

SIZE = 5000
RNG = np.random.default_rng(0)


def scores() -> np.ndarray:
    """A few whole tens among zeros, which halves hold exactly: only positions could go wrong."""
    x = np.zeros((1, SIZE), np.float32)
    x[0, RNG.permutation(np.arange(3000, SIZE))[:40]] = 10.0 * RNG.permutation(40).astype(np.float32) + 10
    return x


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        ([helper.make_node("ArgMax", ["r"], ["y"], axis=1)], ["y"]),
        ([helper.make_node("TopK", ["r", "k"], ["v", "i"]), helper.make_node("Add", ["i", "one"], ["y"])], ["y", "v"]),
        (
            [
                helper.make_node("TopK", ["r", "k"], ["v", "i"]),
                helper.make_node("Relu", ["t"], ["u"]),
                helper.make_node("GatherElements", ["u", "i"], ["y"], axis=1),
            ],
            ["y", "i"],
        ),
    ],
)
def test_positions_are_exact(nodes: list[onnx.NodeProto], outputs: list[str]) -> None:
    program, emulator = harness_for("arm64-v8a")
    inputs = {"x": scores(), "t": RNG.integers(0, 2000, (1, SIZE)).astype(np.float32)}
    if not any("t" in node.input for node in nodes):
        del inputs["t"]
    consts = {"k": np.array([20]), "one": np.array(1)}
    used = {name: array for name, array in consts.items() if any(name in node.input for node in nodes)}
    proto = model([helper.make_node("Relu", ["x"], ["r"]), *nodes], inputs, outputs, used)
    graph = prepared(proto)
    host = HarnessHost(program, emulator)
    with tempfile.TemporaryDirectory() as name:
        artifact = NcnnTarget().build(graph, Path(name) / "ncnn", NcnnOptions())
        infos = {v.name: TensorInfo(name=v.name, dtype=v.dtype, shape=v.shape) for v in [*graph.inputs, *graph.results]}
        blobs = {b.blob: to_blob(inputs[b.tensor], infos[b.tensor], b) for b in artifact.inputs}
        try:
            found = host.run(Path(name), artifact, blobs, extracted(artifact.outputs), "fp16")
        finally:
            host.close()
    made = from_blobs(found, infos.values(), artifact.outputs)
    for output, expected in run_ort(proto, inputs).items():
        np.testing.assert_array_equal(made[output], expected)
