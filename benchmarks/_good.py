"""Good bundles of all zoo models: none may be called fail. ``planted.py --good`` runs it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from _rows import Rows

__all__ = ["all_good"]

_EMULATED = (
    "asr_gigaam_v2",
    "asr_gigaam_v3",
    "asr_kaldi",
    "asr_nemo80",
    "asr_resample_44_16",
    "asr_resample_8_16",
    "asr_wespeaker",
    "attacut_c",
    "attacut_sc",
    "deepcut",
    "lac",
    "magika",
    "mtcnn_onet",
    "mtcnn_pnet",
    "mtcnn_rnet",
    "oskut_ws",
    "pp_ocr_cls",
    "silero_vad",
    "silero_vad_8k",
    "silero_vad_half",
    "silero_vad_ifless",
    "silero_vad_v6",
    "wakeword_embedding",
    "wakeword_melspectrogram",
)
"""Models small enough for an emulated arm64, some hundred times slower than this machine."""


def all_good(names: Sequence[str], rows: Rows) -> Iterator[dict[str, Any]]:
    """A row for each bundle: fp32 and fp16 on this machine, fp16 on the virtual arm64 device for the small ones,
    and TensorRT's int8 as it was prepared, where TensorRT is installed."""
    from mobilekit import zoo
    from mobilekit.targets.tensorrt.flavour import FLAVOURS, installed

    models = [entry.id for entry in zoo.list_entries() if not names or any(name in entry.id for name in names)]
    for model in models:
        yield _row(rows, model, "fp32", "local")
    for model in models:
        yield _row(rows, model, "fp16", "local")
        if model in _EMULATED:
            yield _row(rows, model, "fp16", "virtual")
    if any(installed(flavour) for flavour in FLAVOURS.values()):
        for model in models:
            yield _row(rows, model, "int8", "prepared")


def _row(rows: Rows, model: str, precision: Literal["fp32", "fp16", "int8"], device: str) -> dict[str, Any]:
    key = f"{model} {precision} {device}"
    row = rows.get(key) or rows.add(key, _judged(model, precision, device))
    print(f"{row['validate']:12} {key} | {row['sentence']}", flush=True)
    return row


def _judged(model: str, precision: Literal["fp32", "fp16", "int8"], device: str) -> dict[str, Any]:
    from mobilekit import ExportOptions, ValidateOptions, export_model, validate_bundle
    from mobilekit.errors import MobilekitError, UnsupportedModelError, VerificationError
    from mobilekit.targets.tensorrt import TensorRTOptions

    row: dict[str, Any] = {"model": model, "precision": precision, "device": device}
    with tempfile.TemporaryDirectory() as name:
        try:
            if precision == "int8":  # what an export refuses for its error is no good bundle
                plan = TensorRTOptions(precision="int8", calibration=_calibration(model, Path(name)))
                export = ExportOptions(targets=("tensorrt",), tensorrt=plan)
            else:
                export = ExportOptions(precision=precision, verify=False)
            export_model(model, Path(name) / "bundle", export)
            report = validate_bundle(Path(name) / "bundle", device, ValidateOptions(warmup=0, iterations=1))
        except (UnsupportedModelError, VerificationError) as error:
            return {**row, "validate": "no bundle", "sentence": error.message, "latency_ms": None, "outputs": []}
        except MobilekitError as error:
            return {**row, "validate": "error", "sentence": str(error), "latency_ms": None, "outputs": []}
    return {
        **row,
        "validate": report.verdict.value,
        "sentence": report.sentence,
        "latency_ms": None if report.latency is None else report.latency.p50_ms,
        "outputs": [
            {
                "name": output.name,
                "verdict": output.verdict.value,
                "relative_l2": output.relative_l2,
                "limit": output.limits.rtol,
                "cost": output.limits.format_cost,
                "reason": output.reason,
            }
            for output in report.outputs
        ],
    }


def _calibration(model: str, folder: Path) -> Path:
    """Eight inputs to take ranges from, none of those that are validated."""
    import numpy as np

    from mobilekit import ExportOptions, export_model
    from mobilekit.bundle import open_bundle
    from mobilekit.validate.inputs import seeded_samples

    export_model(model, folder / "float", ExportOptions(verify=False))
    manifest = open_bundle(folder / "float").manifest
    for number, sample in enumerate(
        seeded_samples(manifest.inputs, seed=1, count=8, preprocess=manifest.preprocess, sizes=manifest.sizes)
    ):
        for name, array in sample.tensors.items():
            alone = len(sample.tensors) == 1
            file = f"{number}.npy" if alone else f"{number}/{name.replace('/', '_').replace(':', '_')}.npy"
            path = folder / "calibration" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, array)
    return folder / "calibration"
