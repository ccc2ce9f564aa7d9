"""The public models, each fetched, exported and held against ONNX Runtime: every output within relative L2 1e-3."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from mobilekit import zoo
from mobilekit.bundle import open_bundle
from mobilekit.pipeline.export import ExportOptions, export_model

pytestmark = [pytest.mark.network, pytest.mark.slow]

OUTPUTS = {
    "pp_lcnet_orientation": 1,
    "pp_ocr_cls": 1,
    "pp_ocrv6_det": 1,
    "pp_ocrv6_rec": 1,
    "picodet_layout": 8,
    "yolov8n_nudenet": 1,
    "yolox_ddddocr": 1,
    "mtcnn_pnet": 2,
    "mtcnn_rnet": 2,
    "mtcnn_onet": 3,
    "mobilenet_v2": 1,
    "efficientnet_lite0": 1,
}
NEED_TORCH = ("mobilenet_v2", "efficientnet_lite0")


@pytest.mark.parametrize("model", OUTPUTS)
def test_each_public_model_converts_to_the_same_numbers(model: str, tmp_path: Path) -> None:
    if model in NEED_TORCH and importlib.util.find_spec("torch") is None and not zoo.cached(zoo.find_entry(model)):
        pytest.skip("preparing its .pth weights needs torch (pip install 'mobilekit[torch]')")
    report = export_model(model, tmp_path / "out")
    bundle = open_bundle(tmp_path / "out")
    assert bundle.manifest.verified
    assert len(bundle.manifest.outputs) == OUTPUTS[model]
    assert list(report.errors) == [info.name for info in bundle.manifest.outputs]
    for name, error in report.errors.items():
        assert error.evidence, name
        assert error.relative_l2 < 1e-3, name


@pytest.mark.parametrize("model", ["pp_lcnet_orientation", "yolov8n_nudenet"])
def test_half_precision_halves_the_weights(model: str, tmp_path: Path) -> None:
    sizes = {}
    for precision in ("fp32", "fp16"):
        report = export_model(model, tmp_path / precision, ExportOptions(precision=precision))  # type: ignore[arg-type]
        assert report.manifest.verified
        sizes[precision] = (tmp_path / precision / "ncnn" / "model.bin").stat().st_size
    assert sizes["fp16"] < 0.55 * sizes["fp32"]
