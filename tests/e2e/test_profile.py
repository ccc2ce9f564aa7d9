"""`mobilekit profile`: every layer timed, with its nodes and what it costs; on this machine and on a virtual device."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from mobilekit.pipeline.bisect import open_traced
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.pipeline.inspect import inspect_model
from mobilekit.pipeline.profile import ProfileOptions, profile_bundle
from mobilekit.report.html.charts import Block, icicle
from mobilekit.targets.ncnn.cost import layer_costs
from tests.e2e.bench import bench, bundle, mobilekit, need, need_host_harness
from tests.models import save

__all__ = ["bench", "bundle"]
pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)


def model(nodes, inputs, outputs, **weights):
    infos = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends.items()]
        for ends in (inputs, outputs)
    ]
    tensors = [
        numpy_helper.from_array(RNG.standard_normal(shape).astype(np.float32), name) for name, shape in weights.items()
    ]
    graph = helper.make_graph(nodes, "costs", *infos, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


node = helper.make_node
MODELS = {
    "conv": model([node("Conv", ["x", "w"], ["y"], pads=[1] * 4, strides=[2, 2])], {"x": [1, 8, 14, 18]},
                  {"y": [1, 12, 7, 9]}, w=(12, 8, 3, 3)),
    "depthwise": model([node("Conv", ["x", "w"], ["y"], group=8)], {"x": [1, 8, 9, 9]}, {"y": [1, 8, 7, 7]},
                       w=(8, 1, 3, 3)),
    "deconv": model([node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])], {"x": [1, 6, 5, 5]},
                    {"y": [1, 4, 10, 10]}, w=(6, 4, 2, 2)),
    "dense": model([node("Gemm", ["x", "w", "b"], ["y"], transB=1)], {"x": [1, 24]}, {"y": [1, 10]},
                   w=(10, 24), b=(10,)),
    "rows": model([node("MatMul", ["x", "w"], ["y"])], {"x": [1, 7, 24]}, {"y": [1, 7, 10]}, w=(24, 10)),
    "matmul": model([node("MatMul", ["x", "z"], ["y"])], {"x": [1, 3, 7, 24], "z": [1, 3, 24, 5]},
                    {"y": [1, 3, 7, 5]}),
    "lstm": model([node("LSTM", ["x", "w", "r"], ["y"], hidden_size=6, direction="bidirectional")],
                  {"x": [5, 1, 4]}, {"y": [5, 2, 1, 6]}, w=(2, 24, 4), r=(2, 24, 6)),
    "batched gru": model([node("GRU", ["x", "w", "r"], ["y"], hidden_size=6)], {"x": [25, 3, 4]}, {"y": [25, 1, 3, 6]},
                         w=(1, 18, 4), r=(1, 18, 6)),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_multiply_accumulates_are_those_of_the_onnx_model(name: str, tmp_path: Path) -> None:
    path = save(MODELS[name], tmp_path / "m.onnx")
    export_model(path, tmp_path / "b", ExportOptions(verify=False))
    _, _, trace, layers = open_traced(tmp_path / "b")
    found = layer_costs(layers, trace)
    assert sum(cost.macs or 0 for cost in found.values()) == inspect_model(path, {}).macs
    assert all(cost.moved_bytes is not None for cost in found.values())


def test_every_layer_is_timed_and_named(bundle: Path, tmp_path: Path) -> None:
    need_host_harness()
    page = tmp_path / "p.html"
    done = mobilekit("profile", bundle, "--device", "local", "--threads", 1, "--json", "-", "--report", page)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    _, artifact, _, layers = open_traced(bundle)
    timed = [layer["name"] for layer in found["layers"]]
    assert timed == [layer.name for layer in layers if layer.name in timed]
    assert len(timed) >= len(layers) - len(artifact.inputs)
    assert sum(layer["share"] for layer in found["layers"]) == pytest.approx(1)
    convolution = next(layer for layer in found["layers"] if layer["type"] == "Convolution")
    assert convolution["nodes"]
    assert convolution["macs"] > 0
    assert convolution["bound"] in ("compute", "memory")
    assert found["peak"]["gflops"] > 0
    assert {name for names in artifact.nodes.values() for name in names} >= {convolution["name"]}
    text = page.read_text("utf-8")
    assert text.count("<svg") == 3
    assert "<script" not in text


def test_a_virtual_device_is_profiled_too(bench, bundle: Path) -> None:
    need("arm64-v8a")
    serial = bench.start().serial
    found = profile_bundle(bundle, serial, ProfileOptions(peak=False))
    assert found.device.virtual
    assert found.peak is None
    assert found.threads == 1
    assert all(layer.of_roof is None for layer in found.layers)
    assert any(layer.macs for layer in found.layers)


def test_an_icicle_keeps_neighbours_together() -> None:
    drawn = icicle([Block(("a", "x"), 1), Block(("a", "y"), 1), Block(("b",), 2)], "n", unit="ms")
    assert drawn is not None
    titles = [title.text for title in drawn.iter("title")][1:]
    assert titles == ["a: 2 ms, 50.0%", "b: 2 ms, 50.0%", "a/x: 1 ms, 25.0%", "a/y: 1 ms, 25.0%"]
    assert icicle([], "n", unit="ms") is None
