"""Quantised models by ONNX Runtime's own quantiser, exported and held against the quantised original."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from mobilekit.bundle import open_bundle
from mobilekit.errors import UnsupportedModelError, UsageError, VerificationError
from mobilekit.passes import dequantise as module
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.pipeline.validate import ValidateOptions, validate_bundle
from tests.models import of_nodes, save

Node = helper.make_node
RNG = np.random.default_rng(5)


def f32(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def network() -> onnx.ModelProto:
    """Conv, depthwise Conv, residual Add, pools, Concat, Gemm: what mobile networks are made of."""
    weights = {
        "w1": f32(8, 3, 3, 3), "b1": f32(8), "w2": f32(8, 1, 3, 3), "b2": f32(8), "w3": f32(8, 8, 1, 1),
        "w4": f32(10, 16), "b4": f32(10),
    }  # fmt: skip
    nodes = [
        Node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1], strides=[2, 2]),
        Node("Relu", ["c1"], ["r1"]),
        Node("Conv", ["r1", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1], group=8),
        Node("Relu", ["c2"], ["r2"]),
        Node("Conv", ["r2", "w3"], ["c3"]),
        Node("Add", ["c3", "r1"], ["a1"]),
        Node("MaxPool", ["a1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        Node("AveragePool", ["a1"], ["p2"], kernel_shape=[2, 2], strides=[2, 2]),
        Node("Concat", ["p1", "p2"], ["k"], axis=1),
        Node("GlobalAveragePool", ["k"], ["g"]),
        Node("Flatten", ["g"], ["f"]),
        Node("Gemm", ["f", "w4", "b4"], ["y"], transB=1),
    ]
    return of_nodes(nodes, {"x": (1, 3, 16, 16)}, {"y": (1, 10)}, weights)


def recurrent() -> onnx.ModelProto:
    weights = {
        "w": f32(1, 32, 6), "r": f32(1, 32, 8), "b": f32(1, 64), "m": f32(8, 5), "axes": np.int64([1]),
    }  # fmt: skip
    nodes = [
        Node("LSTM", ["x", "w", "r", "b"], ["h"], hidden_size=8),
        Node("Squeeze", ["h", "axes"], ["s"]),
        Node("MatMul", ["s", "m"], ["y"]),
    ]
    return of_nodes(nodes, {"x": (7, 1, 6)}, {"y": (7, 1, 5)}, weights)


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._feeds = iter([{"x": rng.standard_normal((1, 3, 16, 16)).astype(np.float32)} for _ in range(6)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


STATIC = [
    (QuantFormat.QDQ, QuantType.QInt8, QuantType.QInt8, True),
    (QuantFormat.QDQ, QuantType.QUInt8, QuantType.QInt8, False),
    (QuantFormat.QDQ, QuantType.QUInt16, QuantType.QInt8, False),
    (QuantFormat.QOperator, QuantType.QUInt8, QuantType.QInt8, True),
    (QuantFormat.QOperator, QuantType.QUInt8, QuantType.QUInt8, False),
]


@pytest.mark.parametrize(("form", "activation", "weight", "per_channel"), STATIC)
def test_statically_quantised_models_round_as_the_original_does(
    form: QuantFormat, activation: QuantType, weight: QuantType, per_channel: bool, tmp_path: Path
) -> None:
    quantised = tmp_path / "q.onnx"
    quantize_static(
        save(network(), tmp_path / "m.onnx"), quantised, Reader(), quant_format=form, activation_type=activation,
        weight_type=weight, per_channel=per_channel,
    )  # fmt: skip
    report = export_model(quantised, tmp_path / "out", ExportOptions(samples=4))
    assert report.manifest.verified
    assert report.manifest.rtol == 0.05
    assert "quantised original" in report.manifest.rtol_reason
    # The float network is further from the quantised one than this.
    assert report.errors["y"].relative_l2 < 0.01


@pytest.mark.parametrize(("form", "activation", "weight", "per_channel"), STATIC[1:4:2])
def test_roundings_can_be_left_out(
    form: QuantFormat, activation: QuantType, weight: QuantType, per_channel: bool, tmp_path: Path
) -> None:
    """What remains of them is what the quantiser took in: a Relu, as a Clip from zero on in the convolution."""
    quantised = tmp_path / "q.onnx"
    quantize_static(
        save(network(), tmp_path / "m.onnx"), quantised, Reader(), quant_format=form, activation_type=activation,
        weight_type=weight, per_channel=per_channel,
    )  # fmt: skip
    exact = export_model(quantised, tmp_path / "exact", ExportOptions(samples=2))
    report = export_model(quantised, tmp_path / "out", ExportOptions(samples=2, drop_fake_quant=True))
    assert report.manifest.verified
    assert exact.manifest.fake_quant
    assert "keep the digits that the original rounds" in report.manifest.rtol_reason
    assert exact.manifest.ncnn is not None
    assert report.manifest.ncnn is not None
    assert report.manifest.ncnn.layers < exact.manifest.ncnn.layers / 3
    # Either may come nearer: a value on the edge of a step falls to one side here and to the other in ONNX Runtime.
    assert exact.errors["y"].relative_l2 < 0.02
    assert report.errors["y"].relative_l2 < 0.1
    assert not open_bundle(tmp_path / "out").manifest.fake_quant


def test_leaving_roundings_out_is_no_exact_rewrite(tmp_path: Path) -> None:
    model = save(network(), tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="roundings"):
        export_model(model, tmp_path / "out", ExportOptions(drop_fake_quant=True, verify_passes=True))


@pytest.mark.parametrize("build", [network, recurrent])
def test_dynamically_quantised_models_become_float_models(build: object, tmp_path: Path) -> None:
    quantised = tmp_path / "q.onnx"
    assert callable(build)
    quantize_dynamic(save(build(), tmp_path / "m.onnx"), quantised, weight_type=QuantType.QUInt8)
    report = export_model(quantised, tmp_path / "out")
    manifest = open_bundle(tmp_path / "out").manifest
    assert report.manifest.verified
    assert manifest.rtol is not None
    assert 1e-4 < report.errors["y"].relative_l2 < manifest.rtol
    assert "float model of a quantised original" in manifest.rtol_reason
    assert manifest.ncnn is not None
    assert manifest.ncnn.layers < 25
    # Under the bundle's own, wide limit the samples of so small a network count as the same.
    checked = validate_bundle(tmp_path / "out", "local", ValidateOptions(warmup=0, iterations=1, rtol=0.02))
    assert checked.verdict == "pass"


def test_a_wrongly_dequantised_model_is_not_let_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scale that is forgotten changes the numbers by far more than the allowance."""
    right = module._RULES["Mul"]

    def wrong(walk: module._Walk, node: onnx.NodeProto) -> module._Scaled:
        made = right(walk, node)  # type: ignore[arg-type]
        return module._Scaled(walk.build("Mul", [made.real, made.real]), made.powers) if made.real else made

    monkeypatch.setitem(module._RULES, "Mul", wrong)  # type: ignore[arg-type]
    quantised = tmp_path / "q.onnx"
    quantize_dynamic(save(network(), tmp_path / "m.onnx"), quantised, weight_type=QuantType.QUInt8)
    with pytest.raises(VerificationError):
        export_model(quantised, tmp_path / "out")


def test_a_model_that_its_own_rounding_decides_is_no_bug_and_no_proof(tmp_path: Path) -> None:
    """Steep enough, a step of the rounding that the conversion leaves out is the whole answer, as it is after many
    steps of a recurrent network: nothing can be told from it, in either direction."""
    nodes = [
        Node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        Node("MatMulInteger", ["q", "w", "z"], ["i"]),
        Node("Cast", ["i"], ["f"], to=1),
        Node("Mul", ["f", "s"], ["m"]),
        Node("Mul", ["m", "steep"], ["n"]),
        Node("Sin", ["n"], ["y"]),
    ]
    weights = {"w": np.random.default_rng(1).integers(-9, 9, (16, 12)).astype(np.int8), "steep": np.float32([30])}
    model = save(of_nodes(nodes, {"x": (4, 16)}, {"y": (4, 12)}, weights), tmp_path / "m.onnx")
    report = export_model(model, tmp_path / "out")
    assert report.errors["y"].relative_l2 > 0.5
    assert not open_bundle(tmp_path / "out").manifest.verified
    judged = validate_bundle(tmp_path / "out", "local", ValidateOptions(warmup=0, iterations=1))
    assert judged.verdict == "inconclusive"


def test_a_range_that_a_mask_made_infinite_is_named(tmp_path: Path) -> None:
    """What ONNX Runtime's quantiser writes where it calibrates on scores from which a mask takes everything."""
    nodes = [
        Node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        Node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        Node("Softmax", ["d"], ["y"]),
    ]
    weights = {"scale": np.float32(np.inf), "zero": np.uint8(255)}
    model = save(of_nodes(nodes, {"x": (1, 8)}, {"y": (1, 8)}, weights), tmp_path / "m.onnx")
    with pytest.raises(UnsupportedModelError) as refused:
        export_model(model, tmp_path / "out")
    assert any("infinite" in finding.reason and "mask" in finding.remedy for finding in refused.value.findings)
