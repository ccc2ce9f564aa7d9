"""What int8 costs and gains: accuracy, size, latency and instructions of ncnn bundles beside those in float32.

usage: int8.py --calib DIR --pictures DIR [--method minmax --method percentile] [--depthwise] [--loops 40]
               [--json FILE] [MODEL ...]

Each model is exported in float32, and in int8 with each method, calibrated with the pictures in ``--calib``; accuracy
is that over ``--pictures``, which calibration does not see, against ONNX Runtime on the original. Latency is the median
of the ratios of neighbouring runs in turn, on two threads of this machine; instructions are arm64's, of one inference
on one thread. ``--json``: each row is written as soon as it is measured and takes the place of the same one there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when ncnn is loaded

import numpy as np
from _peers import command, counting_harness, instructions, machine
from _runtimes import in_turn, ncnn_model

MODELS = ("mobilenet_v2", "efficientnet_lite0", "pp_lcnet_orientation", "pp_ocr_cls")


def exported(model: str, folder: Path, method: str | None, calib: Path, *, depthwise: bool = False) -> Any:
    from mobilekit.bundle import open_bundle
    from mobilekit.pipeline.export import ExportOptions, export_model
    from mobilekit.pipeline.int8 import Calibration

    options = ExportOptions(
        precision="int8" if method else "fp32",
        calibration=Calibration(calib, method, depthwise) if method else None,
        verify=False,
    )
    export_model(model, folder, options)
    return open_bundle(folder)


def files_of(bundle: Any, tensors: dict[str, Any]) -> tuple[Path, Path, dict[str, Any], list[str]]:
    from mobilekit.runners.blobs import extracted, input_blobs

    artifact = bundle.manifest.ncnn
    fed = input_blobs(tensors, bundle.manifest)
    return bundle.root / artifact.param, bundle.root / artifact.bin, fed, extracted(artifact.outputs)


def answers(bundle: Any, samples: Sequence[Any]) -> list[dict[str, Any]]:
    from mobilekit.runners.base import RunOptions
    from mobilekit.runners.ncnn_host import NcnnHostRunner

    with NcnnHostRunner(bundle.root, bundle.manifest) as runner:
        return [runner.run(sample.tensors, RunOptions()).outputs for sample in samples]


def reference(bundle: Any, samples: Sequence[Any]) -> list[dict[str, Any]]:
    from mobilekit.runners.base import RunOptions
    from mobilekit.runners.ort import OrtRunner

    with OrtRunner(bundle.source, fixed=bundle.fixed()) as runner:
        return [runner.run(sample.tensors, RunOptions()).outputs for sample in samples]


def accuracy(actual: Sequence[dict[str, Any]], right: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the pictures of each one's worst output, and the share of equal best classes."""
    from mobilekit.metrics.tensors import compare, top1_agreement

    errors = [
        [compare(ours[name], theirs[name]) for name in theirs] for ours, theirs in zip(actual, right, strict=True)
    ]
    best = [top1_agreement(ours[n], theirs[n]) for ours, theirs in zip(actual, right, strict=True) for n in theirs]
    return {
        "relative_l2": round(statistics.median(max(e.relative_l2 for e in each) for each in errors), 6),
        "cosine": round(statistics.median(min(e.cosine for e in each) for each in errors), 6),
        "top1": round(float(np.mean(best)), 4) if len(right[0]) == 1 and None not in best else None,
    }


def rows_of(model: str, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from mobilekit.validate.inputs import file_samples

    with tempfile.TemporaryDirectory() as name:
        plain = exported(model, Path(name) / "fp32", None, arguments.calib)
        manifest = plain.manifest
        samples = list(file_samples(arguments.pictures, manifest.inputs, preprocess=manifest.preprocess))
        right = reference(plain, samples)
        first = files_of(plain, samples[0].tensors)
        base = ncnn_model(*first)
        harness = counting_harness()
        count = instructions(harness, *first)
        for method in arguments.method or ["minmax"]:
            narrow = exported(model, Path(name) / method, method, arguments.calib, depthwise=arguments.depthwise)
            files = files_of(narrow, samples[0].tensors)
            runs = ncnn_model(*files)
            assert base is not None
            assert runs is not None
            times = in_turn([base, runs], arguments.loops)
            ratios = [after / before for before, after in zip(*times, strict=True)]
            low, middle, high = np.percentile(ratios, [25, 50, 75])
            now = instructions(harness, *files)
            int8 = narrow.manifest.ncnn.int8
            yield {
                "model": model,
                "method": method,
                "depthwise": arguments.depthwise,
                "int8_layers": len(int8.scales),
                "kept_float": len(int8.kept),
                "calibrated_with": int8.samples,
                "pictures": len(samples),
                **accuracy(answers(narrow, samples), right),
                "bytes_fp32": first[1].stat().st_size,
                "bytes_int8": files[1].stat().st_size,
                "latency_ratio": round(float(middle), 3),
                "latency_ratio_quartiles": [round(float(low), 3), round(float(high), 3)],
                "instructions_fp32": count,
                "instructions_int8": now,
                "load": round(os.getloadavg()[0], 1),
                "command": command(),
            }


_KEY = ("model", "method", "depthwise")


def keep(row: dict[str, Any], path: Path) -> None:
    known = json.loads(path.read_text("utf-8"))["rows"] if path.exists() else []
    rows = {tuple(each[key] for key in _KEY): each for each in [*known, row]}
    about = {key: value for key, value in machine().items() if key in ("cpu", "cores", "python")}
    path.write_text(json.dumps({"machine": about, "rows": list(rows.values())}, indent=1) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--calib", type=Path, required=True)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--method", action="append", choices=["minmax", "entropy", "percentile"])
    parser.add_argument("--depthwise", action="store_true")
    parser.add_argument("--loops", type=int, default=40)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    for model in arguments.models:
        for row in rows_of(model, arguments):
            print(json.dumps(row), flush=True)
            if arguments.json is not None:
                keep(row, arguments.json)


if __name__ == "__main__":
    main()
