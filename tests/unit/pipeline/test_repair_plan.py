"""``mobilekit repair --target tensorrt``: plans that are too coarse become right by few nodes in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from mobilekit.bundle import open_bundle
from mobilekit.errors import BundleError, UsageError
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.pipeline.repair import RepairOptions, repair_bundle
from mobilekit.pipeline.validate import ValidateOptions, validate_bundle
from mobilekit.report.repair import RepairReport, render
from mobilekit.targets.tensorrt import TensorRTOptions
from mobilekit.targets.tensorrt.flavour import FLAVOURS, installed
from tests.models import coarse_convolutions, of_nodes, save

pytestmark = pytest.mark.skipif(not installed(FLAVOURS["rtx"]), reason="needs the extra [tensorrt]")

SIZE = (1, 3, 14, 14)


@pytest.fixture(scope="module")
def coarse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """float16 has 11 bits, too few beside 3000."""
    return save(coarse_convolutions(4, 3000, seed=5), tmp_path_factory.mktemp("repair") / "coarse.onnx")


def export(model: Path, folder: Path, precision: str, **more: object) -> Path:
    options = TensorRTOptions(precision=precision, **more)  # type: ignore[arg-type]
    export_model(model, folder, ExportOptions(targets=("tensorrt",), tensorrt=options, verify=False))
    return folder


def check_written(report: RepairReport, bundle: Path, rtol: float) -> None:
    """The new bundle passes a validation of its own, and its prepared model is strongly typed and valid."""
    assert report.verdict.value == "pass", report.sentence
    assert report.before[0].relative_l2 > rtol > report.after[0].relative_l2
    manifest = open_bundle(bundle).manifest
    plan = manifest.tensorrt
    assert plan is not None
    assert plan.verified
    assert report.trade is not None
    assert report.trade.bytes_after == (bundle / plan.plan).stat().st_size == plan.plan_bytes
    assert report.trade.latency_after_ms is None
    onnx.checker.check_model(str(bundle / plan.onnx), full_check=True)
    options = ValidateOptions(target="tensorrt", samples=2, rtol=rtol)
    assert validate_bundle(bundle, "prepared", options).verdict.value == "pass"


@pytest.mark.parametrize(("precision", "rtol"), [("fp16", 1e-2), ("bf16", 4e-2)])
def test_a_few_nodes_in_float32_mend_a_plan(coarse: Path, tmp_path: Path, precision: str, rtol: float) -> None:
    bundle = export(coarse, tmp_path / "bad", precision)
    report = repair_bundle(bundle, tmp_path / "new", options=RepairOptions(rtol=rtol, samples=2))
    check_written(report, tmp_path / "new", rtol)
    # Not the subtraction alone: what it reads was rounded before, by the activation and the convolution.
    kept = {layer.name for layer in report.layers}
    assert {"minus", "relu1", "conv1"} <= kept
    assert len(kept) < 7
    types = {}
    for node in onnx.load(str(tmp_path / "new/tensorrt/model.onnx")).graph.node:
        types[node.name] = node.op_type
    assert sum(kind == "Cast" for kind in types.values()) >= 2
    again = repair_bundle(tmp_path / "new", tmp_path / "newer", options=RepairOptions(rtol=rtol, samples=2))
    assert "right as it is" in again.sentence
    text = render(report)
    assert "nodes kept in float32" in text
    assert "latency" not in text
    assert "Conv conv1 (its own error was" in text


def test_a_node_of_eight_bits_that_has_an_outlier(tmp_path: Path) -> None:
    """One channel of 2,000 makes steps of 16 for the others."""
    rng = np.random.default_rng(5)
    weights = {f"w{i}": np.asarray(rng.standard_normal((8, 8 if i else 3, 3, 3)) * 0.3, np.float32) for i in range(3)}
    big = np.ones((1, 8, 1, 1), np.float32)
    big[0, 3] = 2000
    # The outlier's weights are small again, so that it does not drown the others.
    weights["w1"][:, 3] /= 2000
    weights["big"] = big
    same = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c0"], name="conv0", **same),
        helper.make_node("Sigmoid", ["c0"], ["s0"], name="sigmoid"),
        helper.make_node("Mul", ["s0", "big"], ["m"], name="outlier"),
        helper.make_node("Conv", ["m", "w1"], ["c1"], name="conv1", **same),
        helper.make_node("Sigmoid", ["c1"], ["s1"], name="sigmoid1"),
        helper.make_node("Conv", ["s1", "w2"], ["y"], name="conv2", **same),
    ]
    model = save(of_nodes(nodes, {"x": SIZE}, {"y": (1, 8, 14, 14)}, weights), tmp_path / "outlier.onnx")
    (tmp_path / "calib").mkdir()
    for index in range(4):
        np.save(tmp_path / "calib" / f"{index}.npy", rng.standard_normal(SIZE).astype(np.float32))
    bundle = export(model, tmp_path / "bad", "int8", calibration=tmp_path / "calib")
    before = [node.op_type for node in onnx.load(str(bundle / "tensorrt/model.onnx")).graph.node]
    report = repair_bundle(bundle, tmp_path / "new", options=RepairOptions(rtol=5e-2, samples=2))
    check_written(report, tmp_path / "new", 5e-2)
    assert [layer.name for layer in report.layers] == ["conv1"]
    pairs = [node.op_type for node in onnx.load(str(tmp_path / "new/tensorrt/model.onnx")).graph.node]
    assert pairs.count("DequantizeLinear") == before.count("DequantizeLinear") - 2  # its input and its weights
    assert pairs.count("Conv") == 3


def test_a_plan_that_is_right_is_left_alone(coarse: Path, tmp_path: Path) -> None:
    bundle = export(coarse, tmp_path / "good", "fp16")
    report = repair_bundle(bundle, tmp_path / "new", options=RepairOptions(rtol=0.5, samples=1), target="tensorrt")
    assert report.verdict.value == "pass"
    assert "right as it is" in report.sentence
    assert not (tmp_path / "new").exists()


def test_a_budget_that_does_not_suffice(coarse: Path, tmp_path: Path) -> None:
    bundle = export(coarse, tmp_path / "bad", "fp16")
    report = repair_bundle(bundle, tmp_path / "new", options=RepairOptions(rtol=1e-3, samples=1, most_layers=1))
    assert report.verdict.value == "fail"
    assert "do not suffice" in report.sentence
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_repaired_is_said(coarse: Path, tmp_path: Path) -> None:
    bundle = export(coarse, tmp_path / "plan", "fp32")
    with pytest.raises(UsageError, match="fp32 already"):
        repair_bundle(bundle, tmp_path / "new")
    with pytest.raises(UsageError, match="without a device"):
        repair_bundle(bundle, tmp_path / "new", "local", target="tensorrt")
    with pytest.raises(BundleError, match="no ncnn model"):
        repair_bundle(bundle, tmp_path / "new", target="ncnn")
