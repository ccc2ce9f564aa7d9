"""The public models, each fetched, exported and held against ONNX Runtime: every output within a limit."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from mobilekit import zoo
from mobilekit.bundle import open_bundle
from mobilekit.pipeline.export import ExportOptions, export_model

pytestmark = [pytest.mark.network, pytest.mark.slow]

OUTPUTS = {
    "aecmos": 1,
    "arabic_names_decoder": 2,
    "arabic_names_encoder": 3,
    "asr_gigaam_v2": 2,
    "asr_gigaam_v3": 2,
    "asr_kaldi": 2,
    "asr_nemo128_conv": 2,
    "asr_nemo80": 2,
    "asr_resample_44_16": 2,
    "asr_resample_8_16": 2,
    "asr_wespeaker": 2,
    "asr_whisper128_conv": 2,
    "asr_whisper80": 2,
    "attacut_c": 1,
    "attacut_sc": 1,
    "basic_pitch": 3,
    "captcha_crnn": 1,
    "ddddocr_common": 1,
    "ddddocr_common_old": 1,
    "deepcut": 1,
    "dnsmos_p808": 1,
    "eeg_seizure": 2,
    "eeg_spindles": 2,
    "efficientnet_lite0": 1,
    "lac": 1,
    "magika": 1,
    "mobilenet_v2": 1,
    "mtcnn_onet": 3,
    "mtcnn_pnet": 2,
    "mtcnn_rnet": 2,
    "open_nsfw": 1,
    "oskut_ws": 1,
    "picodet_layout": 8,
    "piper_nakdimon": 3,
    "piper_tashkeel": 2,
    "plcmos": 1,
    "pp_lcnet_orientation": 1,
    "pp_ocr_cls": 1,
    "pp_ocrv4_det": 1,
    "pp_ocrv4_rec": 1,
    "pp_ocrv5_det": 1,
    "pp_ocrv5_rec": 1,
    "pp_ocrv5_textline": 1,
    "pp_ocrv6_det": 1,
    "pp_ocrv6_rec": 1,
    "silero_vad": 2,
    "silero_vad_8k": 2,
    "silero_vad_half": 2,
    "silero_vad_ifless": 2,
    "silero_vad_v6": 3,
    "sudachi_tagger": 1,
    "wakeword_embedding": 1,
    "wakeword_melspectrogram": 1,
    "yolov8n_nudenet": 1,
    "yolox_ddddocr": 1,
}
LIMITS = {"ddddocr_common_old": 0.1, "pp_ocrv4_det": 0.05, "pp_ocrv5_det": 0.1}
"""Quantised while it runs; detectors that see no text (docs/models.md). Everything else: 1e-3."""

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
        assert error.relative_l2 < LIMITS.get(model, 1e-3), name


@pytest.mark.parametrize("model", ["pp_lcnet_orientation", "yolov8n_nudenet"])
def test_half_precision_halves_the_weights(model: str, tmp_path: Path) -> None:
    sizes = {}
    for precision in ("fp32", "fp16"):
        report = export_model(model, tmp_path / precision, ExportOptions(precision=precision))  # type: ignore[arg-type]
        assert report.manifest.verified
        sizes[precision] = (tmp_path / precision / "ncnn" / "model.bin").stat().st_size
    assert sizes["fp16"] < 0.55 * sizes["fp32"]
