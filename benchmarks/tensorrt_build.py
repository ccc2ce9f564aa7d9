"""How long a plan takes to build, beside a bare builder script: `python benchmarks/tensorrt_build.py [MODEL ...]`.

Needs the extra [tensorrt]. The bare script is what a user would write: a fresh Python that parses the prepared ONNX
and builds it with the same settings. `build` is our builder on that file, as an export calls it: a fresh worker process
too, whose log is read for the layers. `export` is the whole command without verification on the original's file, which
also reads and prepares it, asks the parser about every node and writes the bundle, and `verified` the command as it is,
which holds the prepared model against ONNX Runtime while the plan is built. `imports` is what Python's libraries for
that (typer, pydantic, numpy, onnx) take to be imported, which the bare script does without. Bytecode is kept, as an
installed package's is. All are timed in turns; what counts is the median of the ratios of each round, and over all
models the ratio of the sums of the medians.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "tensorrt_build.json"
MODELS = (
    "mobilenet_v2", "efficientnet_lite0", "pp_lcnet_orientation", "pp_ocr_cls", "pp_ocrv6_det", "pp_ocrv6_rec",
    "picodet_layout", "yolov8n_nudenet", "yolox_ddddocr", "mtcnn_pnet", "mtcnn_rnet", "mtcnn_onet", "silero_vad",
    "magika",
)  # fmt: skip
"""The public ones with weights of their own, as scripts/gpu_check.py has them."""

BARE = """
import sys
import tensorrt_rtx as trt

logger = trt.Logger(trt.Logger.WARNING)
builder = trt.Builder(logger)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, logger)
assert parser.parse_from_file(sys.argv[1])
config = builder.create_builder_config()
config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
config.clear_flag(trt.BuilderFlag.TF32)
plan = builder.build_serialized_network(network, config)
open(sys.argv[2], "wb").write(plan)
"""

BUILD = """
import os, sys, time
from pathlib import Path
from mobilekit.targets.tensorrt import TensorRTOptions, build
from mobilekit.targets.tensorrt.flavour import FLAVOURS

before, started = sum(os.times()[:4]), time.perf_counter()
build(Path(sys.argv[1]), FLAVOURS["rtx"], TensorRTOptions())
print(time.perf_counter() - started, sum(os.times()[:4]) - before)
"""


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds on the clock, and of processor time of the process and all that it started."""
    before, started = os.times(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
    wall, after = time.perf_counter() - started, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, used


def built_in(folder: Path) -> tuple[float, float]:
    """The same of our builder, in a Python that runs already."""
    command = [sys.executable, "-c", BUILD, str(folder)]
    wall, used = subprocess.run(command, check=True, capture_output=True, text=True, env=environment()).stdout.split()
    return float(wall), float(used)


def as_a_file(folder: Path) -> list[str]:
    """The original of the bundle ``out`` and what an export must know of it, as a user of a file says it."""
    from mobilekit.bundle import open_bundle
    from mobilekit.tensors import format_shape

    bundle = open_bundle(folder / "out")
    original = folder / "original.onnx"
    shutil.copyfile(bundle.source, original)
    said = [str(original)]
    for info in bundle.manifest.inputs:
        said += ["--input-shape", f"{info.name}:{format_shape(info.shape)}"]
    for name, value in bundle.fixed().items():
        np.save(folder / f"{len(said)}.npy", value)
        said += ["--input", f"{name}={folder / f'{len(said)}.npy'}"]
    return said


def measure(model: str, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "mobilekit", "export", "--target", "tensorrt", "-o", str(folder / "out")]
        timed([*command, model, "--no-verify"])  # the zoo fetches
        export = [*command, *as_a_file(folder)]
        timed([*export, "--no-verify"])  # pages are cached
        prepared, plan = folder / "model.onnx", folder / "bare.plan"
        prepared.write_bytes((folder / "out" / "tensorrt" / "model.onnx").read_bytes())
        bare = [sys.executable, "-c", BARE, str(prepared), str(plan)]
        imports = [sys.executable, "-c", "import typer, pydantic, numpy, onnx"]
        theirs, built, exported, verified, imported = [], [], [], [], []
        for _ in range(rounds):
            theirs.append(timed(bare))
            built.append(built_in(folder / "out"))
            exported.append(timed([*export, "--no-verify"]))
            verified.append(timed(export))
            imported.append(timed(imports))
        same = plan.read_bytes() == (folder / "out" / "tensorrt" / "model.plan").read_bytes()

    def middle(pairs: list[tuple[float, float]], which: int) -> float:
        return round(statistics.median(pair[which] for pair in pairs), 3)

    def ratio(a: list[tuple[float, float]], which: int) -> float:
        return round(statistics.median(x[which] / y[which] for x, y in zip(a, theirs, strict=True)), 3)

    return {
        "model": model,
        "rounds": rounds,
        "bare_s": middle(theirs, 0),
        "build_s": middle(built, 0),
        "export_s": middle(exported, 0),
        "verified_s": middle(verified, 0),
        "bare_processor_s": middle(theirs, 1),
        "export_processor_s": middle(exported, 1),
        "imports_processor_s": middle(imported, 1),
        "build_ratio": ratio(built, 0),
        "build_ratio_processor_time": ratio(built, 1),
        "export_ratio": ratio(exported, 0),
        "export_ratio_processor_time": ratio(exported, 1),
        "verified_ratio": ratio(verified, 0),
        "same_plan": same,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}")
    options = parser.parse_args()
    rows = []
    for model in options.models:
        rows.append(measure(model, options.rounds))
        print(json.dumps(rows[-1]), flush=True)
    totals = {key: sum(row[key] for row in rows) for key in ("bare_s", "build_s", "export_s", "verified_s")}
    found = {
        "tensorrt_rtx": version("tensorrt-rtx"),
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "over_all": {key: round(value / totals["bare_s"], 3) for key, value in totals.items() if key != "bare_s"},
        "models": rows,
    }
    print(json.dumps(found["over_all"]))
    if options.write:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
