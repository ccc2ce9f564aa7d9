"""int8 bundles over real adb, on virtual arm64 devices with and without dot products: the same integers as here."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.pipeline.int8 import Calibration
from mobilekit.pipeline.repair import RepairOptions, repair_bundle
from mobilekit.pipeline.validate import ValidateOptions, validate_bundle
from mobilekit.validate.tolerance import Verdict
from tests.e2e.bench import bench, need
from tests.models import save
from tests.unit.pipeline.test_int8 import calibration_inputs, doubled, small_net

pytestmark = [pytest.mark.device, pytest.mark.slow, pytest.mark.timeout(900)]
__all__ = ["bench"]


@pytest.mark.parametrize("cpu", ["cortex-a53", "cortex-a76"])
def test_int8_on_arm64_is_right_and_a_wrong_scale_is_not(bench, tmp_path, cpu):
    need("arm64-v8a")
    device = bench.start(cpu=cpu)
    calib = calibration_inputs(tmp_path / "calib")
    options = ExportOptions(precision="int8", calibration=Calibration(calib, depthwise=True))
    export_model(save(small_net(), tmp_path / "net.onnx"), tmp_path / "b", options)
    once = ValidateOptions(samples=1, warmup=0, iterations=1)
    found = validate_bundle(tmp_path / "b", device.serial, once)
    assert found.verdict is Verdict.PASS
    assert found.outputs[0].limits.format == "int8"
    assert found.outputs[0].relative_l2 > 1e-3  # it was int8
    half = validate_bundle(tmp_path / "b", device.serial, replace(once, precision="fp16"))
    assert half.verdict is Verdict.PASS
    assert half.outputs[0].limits.format == "int8, fp16"
    doubled(tmp_path / "b", "pointwise", -1)
    for precision in ("fp32", "fp16"):
        wrong = validate_bundle(tmp_path / "b", device.serial, replace(once, precision=precision))
        assert wrong.verdict is Verdict.FAIL
        assert "'pointwise'" in wrong.sentence
    mended = repair_bundle(tmp_path / "b", tmp_path / "mended", device.serial, RepairOptions(samples=1))
    assert mended.verdict is Verdict.PASS
    assert [layer.name for layer in mended.layers] == ["pointwise"]
