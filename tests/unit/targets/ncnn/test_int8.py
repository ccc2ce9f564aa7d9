"""Layers in int8: ncnn's result is that of whole numbers, computed here with numpy, and the twin's in ONNX Runtime."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from mobilekit.bundle import TensorInfo
from mobilekit.graph import Graph
from mobilekit.importers.convert import to_proto
from mobilekit.precision.int8 import add_costs, fake_quantise, quantised, scale_of, scales_of
from mobilekit.runners.blobs import extracted, from_blobs, to_blob
from mobilekit.runners.ncnn_host import infer
from mobilekit.targets.ncnn import NcnnOptions, NcnnTarget
from mobilekit.targets.ncnn.emit import emit
from mobilekit.targets.ncnn.int8 import candidates, with_int8
from mobilekit.targets.ncnn.writer import INT8_TAG
from tests.unit.targets.ncnn.oracle import Arrays, model, prepared

EXACT = 1e-6
"""Whole numbers, and a few roundings of float32 behind them."""
INVERSE = 4e-4
"""x86's depthwise convolution multiplies with an inverse of 12 bits."""


def rand(*shape: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def int8_model(proto: onnx.ModelProto, inputs: Arrays) -> tuple[Graph, Any, dict[str, float]]:
    """The graph, the emitted model with all it can in int8, and the scales by node."""
    graph = prepared(proto)
    emitted = emit(graph)
    found = candidates(graph, emitted)
    scales = {}
    for each in found:
        session = onnxruntime.InferenceSession(_tapped(graph, each.tensor), providers=["CPUExecutionProvider"])
        values = inputs.get(each.tensor)
        values = session.run([each.tensor], dict(inputs))[0] if values is None else values
        scales[each.node.label] = scale_of(float(values.min()), float(values.max()))
    layers = {each.layer.name: scales[each.node.label] for each in found}
    return graph, with_int8(emitted, layers), scales


def _tapped(graph: Graph, tensor: str) -> bytes:
    proto = to_proto(graph)
    if tensor not in {value.name for value in [*proto.graph.output, *proto.graph.input]}:
        proto.graph.output.append(onnx.ValueInfoProto(name=tensor))
    return proto.SerializeToString()


def run_int8(proto: onnx.ModelProto, inputs: Arrays, folder: Path) -> tuple[np.ndarray, np.ndarray, str]:
    """The output ``y`` as ncnn gives it, as ONNX Runtime does with the same roundings, and the ``.param``."""
    graph, emitted, scales = int8_model(proto, inputs)
    assert scales, "nothing became int8"
    artifact = NcnnTarget().write(emitted, folder / "ncnn", NcnnOptions("int8"))
    assert artifact.int8 is not None
    infos = {v.name: TensorInfo(name=v.name, dtype=v.dtype, shape=v.shape) for v in [*graph.inputs, *graph.results]}
    answer = infer(
        param=str(folder / artifact.param),
        weights=str(folder / artifact.bin),
        inputs={b.blob: to_blob(inputs[b.tensor], infos[b.tensor], b) for b in artifact.inputs},
        outputs=extracted(artifact.outputs),
        depth=artifact.depth,
        threads=1,
        fp16=False,
        bf16=False,
        warmup=0,
        iterations=1,
    )
    found = dict(zip(extracted(artifact.outputs), answer["outputs"], strict=True))
    actual = from_blobs(found, infos.values(), artifact.outputs)["y"]
    fake_quantise(graph, scales)
    session = onnxruntime.InferenceSession(
        to_proto(graph).SerializeToString(), _unoptimised(), providers=["CPUExecutionProvider"]
    )
    return actual, session.run(["y"], dict(inputs))[0], (folder / artifact.param).read_text()


def _unoptimised() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return options


def off(actual: np.ndarray, expected: np.ndarray) -> float:
    assert actual.shape == expected.shape
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def whole(values: np.ndarray, scale: float) -> np.ndarray:
    """As ncnn rounds, in plain numpy: halves away from zero, at most 127."""
    scaled = (values.astype(np.float32) * np.float32(scale)).astype(np.float64)
    return np.clip(np.sign(scaled) * np.floor(np.abs(scaled) + 0.5), -127, 127).astype(np.int64)


def convolved(
    x: np.ndarray, weight: np.ndarray, *, stride: int = 1, pad: int = 0, dilation: int = 1, group: int = 1
) -> np.ndarray:
    """A 2-D convolution of whole numbers, exactly; ``(1, C, H, W)`` and ``(F, C / group, k, k)``."""
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    filters, channels, k, _ = weight.shape
    extent = dilation * (k - 1) + 1
    rows, columns = (x.shape[2] - extent) // stride + 1, (x.shape[3] - extent) // stride + 1
    sums = np.zeros((1, filters, rows, columns), np.int64)
    for f in range(filters):
        first = f // (filters // group) * channels
        for i in range(k):
            for j in range(k):
                part = x[:, first : first + channels, i * dilation :, j * dilation :]
                part = part[:, :, : (rows - 1) * stride + 1 : stride, : (columns - 1) * stride + 1 : stride]
                sums[:, f] += (part * weight[f, :, i, j][None, :, None, None]).sum(axis=1)
    return sums


CONVOLUTIONS = [
    pytest.param({"k": 1, "channels": 8, "filters": 16}, EXACT, id="pointwise"),
    pytest.param({"k": 3, "channels": 3, "filters": 8, "pad": 1, "stride": 2}, EXACT, id="strided"),
    pytest.param({"k": 3, "channels": 16, "filters": 16, "pad": 1}, EXACT, id="winograd"),
    pytest.param({"k": 5, "channels": 4, "filters": 6, "pad": 2, "dilation": 2}, EXACT, id="dilated"),
    pytest.param({"k": 3, "channels": 16, "filters": 16, "pad": 1, "group": 16}, INVERSE, id="depthwise"),
    pytest.param({"k": 5, "channels": 5, "filters": 5, "pad": 2, "group": 5, "stride": 2}, INVERSE, id="odd depthwise"),
    pytest.param({"k": 3, "channels": 8, "filters": 12, "pad": 1, "group": 4}, INVERSE, id="grouped"),
]


@pytest.mark.parametrize(("case", "limit"), CONVOLUTIONS)
@pytest.mark.parametrize("fused", [False, True])
def test_a_convolution_is_that_of_whole_numbers(
    tmp_path: Path, case: dict[str, int], limit: float, fused: bool
) -> None:
    k, channels, filters = case["k"], case["channels"], case["filters"]
    group, stride, pad, dilation = (case.get(name, d) for name, d in _DEFAULTS.items())
    x, bias = rand(1, channels, 13, 11), rand(filters, seed=5)
    weight = rand(filters, channels // group, k, k, seed=4)
    weight *= np.linspace(0.01, 3, filters, dtype=np.float32)[:, None, None, None]
    attributes = {"pads": [pad] * 4, "strides": [stride] * 2, "dilations": [dilation] * 2, "group": group}
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["a" if fused else "y"], name="conv", **attributes)]
    if fused:
        nodes.append(helper.make_node("Relu", ["a"], ["y"], name="relu"))
    actual, twin, text = run_int8(model(nodes, {"x": x}, ["y"], {"w": weight, "b": bias}), {"x": x}, tmp_path)
    assert " 8=1" in text

    blocks = filters if group == 1 else group
    scales = scales_of(weight.reshape(filters, -1), group if group > 1 else 0)
    by_filter = np.repeat(scales, filters // blocks)
    scale = np.float32(127 / np.abs(x).max())
    numbers = whole(weight, 1.0) * 0 + np.stack([whole(weight[f], by_filter[f]) for f in range(filters)])
    assert np.array_equal(quantised(weight.reshape(filters, -1), scales).reshape(weight.shape), numbers)
    sums = convolved(whole(x, scale), numbers, stride=stride, pad=pad, dilation=dilation, group=group)
    expected = sums / (float(scale) * by_filter[None, :, None, None].astype(np.float64)) + bias[None, :, None, None]
    expected = np.maximum(expected, 0) if fused else expected
    assert off(actual, expected) < limit
    assert off(twin, expected) < EXACT


_DEFAULTS = {"group": 1, "stride": 1, "pad": 0, "dilation": 1}


@pytest.mark.parametrize("node", ["Gemm", "Gemm turned", "MatMul", "pooled Conv"])
def test_one_row_times_a_matrix(tmp_path: Path, node: str) -> None:
    weight, bias, x = rand(10, 33, seed=4), rand(10, seed=5), rand(1, 33)
    if node == "pooled Conv":
        x = x.reshape(1, 33, 1, 1)
        nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"])]
        consts = {"w": weight.reshape(10, 33, 1, 1), "b": bias}
    elif node == "MatMul":
        nodes, consts = [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": np.ascontiguousarray(weight.T)}
        bias = np.zeros(10, np.float32)
    else:
        turned = node == "Gemm"
        nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=int(turned))]
        consts = {"w": weight if turned else np.ascontiguousarray(weight.T), "b": bias}
    actual, twin, text = run_int8(model(nodes, {"x": x}, ["y"], consts), {"x": x}, tmp_path)
    assert "InnerProduct" in text
    scales, scale = scales_of(weight), np.float32(127 / np.abs(x).max())
    numbers = np.stack([whole(weight[f], scales[f]) for f in range(10)])
    expected = numbers @ whole(x.reshape(-1), scale) / (float(scale) * scales.astype(np.float64)) + bias
    assert off(actual.reshape(-1), expected) < EXACT
    assert off(twin.reshape(-1), expected) < EXACT


def test_a_channel_of_zeros_gives_its_bias(tmp_path: Path) -> None:
    weight, bias, x = rand(4, 3, 1, 1), np.array([1, 2, 3, 4], np.float32), rand(1, 3, 5, 5)
    weight[2] = 0
    proto = model([helper.make_node("Conv", ["x", "w", "b"], ["y"])], {"x": x}, ["y"], {"w": weight, "b": bias})
    actual, twin, _ = run_int8(proto, {"x": x}, tmp_path)
    assert np.array_equal(actual[:, 2], np.full((1, 5, 5), 3, np.float32))
    assert off(actual, twin) < EXACT


def test_values_beyond_the_range_are_cut_off_alike(tmp_path: Path) -> None:
    """Scales come from calibration; what is fed later may be larger."""
    x = rand(1, 8, 9, 9)
    proto = model([helper.make_node("Conv", ["x", "w"], ["y"])], {"x": x}, ["y"], {"w": rand(8, 8, 1, 1)})
    graph, emitted, scales = int8_model(proto, {"x": x})
    artifact = NcnnTarget().write(emitted, tmp_path / "ncnn", NcnnOptions("int8"))
    assert artifact.int8 is not None
    info = TensorInfo(name="x", dtype="float32", shape=x.shape)
    answer = infer(
        param=str(tmp_path / artifact.param),
        weights=str(tmp_path / artifact.bin),
        inputs={artifact.inputs[0].blob: to_blob(3 * x, info, artifact.inputs[0])},
        outputs=extracted(artifact.outputs),
        depth=artifact.depth,
        threads=1,
        fp16=False,
        bf16=False,
        warmup=0,
        iterations=1,
    )
    fake_quantise(graph, scales)
    session = onnxruntime.InferenceSession(
        to_proto(graph).SerializeToString(), _unoptimised(), providers=["CPUExecutionProvider"]
    )
    expected = session.run(["y"], {"x": 3 * x})[0]
    assert off(answer["outputs"][0].reshape(expected.shape), expected) < EXACT
    assert off(3 * run_int8(proto, {"x": x}, tmp_path / "b")[0], expected) > 0.1


def test_sums_that_winograd_would_not_hold_are_computed_without_it(tmp_path: Path) -> None:
    """All weights alike and all inputs alike: 9 * 64 * 127 * 127, which F(4,3) would have 576 times of in 32 bits."""
    x, weight = np.ones((1, 64, 12, 12), np.float32), np.ones((64, 64, 3, 3), np.float32)
    proto = model([helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)], {"x": x}, ["y"], {"w": weight})
    actual, twin, text = run_int8(proto, {"x": x}, tmp_path)
    assert off(actual, twin) < EXACT
    assert actual.max() == pytest.approx(576)
    mask = next(word for word in text.split() if word.startswith("31="))
    assert int(mask[3:]) & 1 << 6
    _, emitted, _ = int8_model(proto, {"x": x})
    broken = NcnnTarget().write(
        _without_masks(emitted), tmp_path / "broken" / "ncnn", NcnnOptions("int8", fixed_sizes=False)
    )
    info = TensorInfo(name="x", dtype="float32", shape=x.shape)
    answer = infer(
        param=str(tmp_path / "broken" / broken.param),
        weights=str(tmp_path / "broken" / broken.bin),
        inputs={broken.inputs[0].blob: to_blob(x, info, broken.inputs[0])},
        outputs=extracted(broken.outputs),
        depth=broken.depth,
        threads=1,
        fp16=False,
        bf16=False,
        warmup=0,
        iterations=1,
    )
    assert off(answer["outputs"][0].reshape(actual.shape), twin) > 0.1, "ncnn holds these sums now: drop the mask"


def _without_masks(emitted: Any) -> Any:
    from dataclasses import replace

    return replace(emitted, layers=tuple(replace(layer, mask=0) for layer in emitted.layers))


def test_what_is_no_layer_of_int8_is_left_alone() -> None:
    x = rand(1, 6, 4, 4)
    alike = {"w": rand(6, 6, 1, 1), "r": rand(6, 6)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="yes"),
        helper.make_node("ConvTranspose", ["a", "w"], ["b"], name="transposed"),
        helper.make_node("MatMul", ["rows", "r"], ["c"], name="rows"),
        helper.make_node("MatMul", ["one", "q"], ["d"], name="two computed ones"),
    ]
    inputs = {"x": x, "rows": rand(3, 6), "one": rand(1, 6), "q": rand(6, 2)}
    graph = prepared(model(nodes, inputs, ["b", "c", "d"], alike))
    assert [each.node.name for each in candidates(graph, emit(graph))] == ["yes"]


def test_int8_weights_take_a_quarter_and_carry_their_tag(tmp_path: Path) -> None:
    x = rand(1, 5, 3, 3)
    proto = model([helper.make_node("Conv", ["x", "w"], ["y"])], {"x": x}, ["y"], {"w": rand(3, 5, 1, 1)})
    _, emitted, scales = int8_model(proto, {"x": x})
    artifact = NcnnTarget().write(emitted, tmp_path / "ncnn", NcnnOptions("int8"))
    data = (tmp_path / artifact.bin).read_bytes()
    assert struct.unpack("<I", data[:4]) == (INT8_TAG,)
    assert len(data) == 4 + 16 + 4 * 3 + 4  # 15 weights and a byte of padding, 3 scales and 1
    assert struct.unpack("<f", data[-4:])[0] == pytest.approx(
        scales["y"] if "y" in scales else next(iter(scales.values()))
    )
    assert NcnnTarget().write(emit(prepared(proto)), tmp_path / "float" / "ncnn", NcnnOptions()).int8 is None


def test_the_cost_of_one_node_is_that_of_its_rounding() -> None:
    x = rand(1, 8, 6, 6)
    proto = model([helper.make_node("Conv", ["x", "w"], ["y"], name="c")], {"x": x}, ["y"], {"w": rand(4, 8, 3, 3)})
    graph = prepared(proto)
    exact = onnxruntime.InferenceSession(proto.SerializeToString()).run(["y"], {"x": x})[0]
    scale = scale_of(float(x.min()), float(x.max()))
    rounded = prepared(proto)
    fake_quantise(rounded, {"c": scale})
    twin = onnxruntime.InferenceSession(to_proto(rounded).SerializeToString(), _unoptimised()).run(["y"], {"x": x})[0]
    names = add_costs(graph, {"c": scale})["c"]
    error, signal = onnxruntime.InferenceSession(to_proto(graph).SerializeToString(), _unoptimised()).run(
        list(names), {"x": x}
    )
    assert np.sqrt(error / signal) == pytest.approx(off(twin, exact), rel=1e-3)
    assert 1e-3 < off(twin, exact) < 5e-2


@pytest.mark.parametrize(("low", "high", "scale"), [(-2, 1, 63.5), (0, 0, 0), (0, float("inf"), 0), (0, 1e-40, 0)])
def test_the_scale_of_a_range(low: float, high: float, scale: float) -> None:
    assert scale_of(low, high) == scale
