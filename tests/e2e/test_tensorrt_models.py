"""The public models as TensorRT plans, in fp32 and fp16, built on a machine without a GPU."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from mobilekit import zoo
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.pipeline.inspect_plan import inspect_plan
from mobilekit.targets.tensorrt import TensorRTOptions
from mobilekit.targets.tensorrt.flavour import FLAVOURS, installed

pytestmark = [
    pytest.mark.network,
    pytest.mark.slow,
    pytest.mark.skipif(not installed(FLAVOURS["rtx"]), reason="needs the extra [tensorrt]"),
]

# How many nodes are fused into the largest layer, at least: a plan in which nothing is fused is slow.
FUSED = {
    "pp_lcnet_orientation": 5,
    "pp_ocr_cls": 5,
    "pp_ocrv6_det": 3,
    "pp_ocrv6_rec": 3,
    "picodet_layout": 5,
    "yolov8n_nudenet": 3,
    "yolox_ddddocr": 3,
    "mtcnn_pnet": 1,
    "mtcnn_rnet": 1,
    "mtcnn_onet": 1,
    "mobilenet_v2": 2,
    "efficientnet_lite0": 2,
    "silero_vad": 3,
    "magika": 3,
}
NEED_TORCH = ("mobilenet_v2", "efficientnet_lite0")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("model", FUSED)
def test_each_public_model_builds(model: str, precision: str, tmp_path: Path) -> None:
    if model in NEED_TORCH and importlib.util.find_spec("torch") is None and not zoo.cached(zoo.find_entry(model)):
        pytest.skip("preparing its .pth weights needs torch (pip install 'mobilekit[torch]')")
    settings = TensorRTOptions(precision=precision)  # type: ignore[arg-type]
    report = export_model(model, tmp_path / "out", ExportOptions(targets=("tensorrt",), tensorrt=settings))
    plan = report.manifest.tensorrt
    assert plan is not None
    assert plan.verified
    view = inspect_plan(tmp_path / "out")
    assert view.layers
    assert max(len(layer["onnx_nodes"]) for layer in view.layers) >= FUSED[model]
