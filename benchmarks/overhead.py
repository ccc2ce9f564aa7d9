"""What measuring costs: the harness against ncnn with nothing around it, and how much of a device's time is inference.

usage: overhead.py [--sessions 6] [--samples 500] [--threads 1] [--output FILE]

1. A program of thirty lines (``bare_loop``), linked with the ncnn that the harness was built with, and the harness
   run the same model in turns, on the same input, with the same options. A session starts both anew, since where
   things come to lie in memory changes a model's speed; each has eight rounds of a block of both. The figure is the
   median, over the sessions, of the ratio of their p50.
2. ``validate`` runs so many inputs of MobileNetV2 on the virtual device (this machine's own code, over adb), and the
   harness says, by its own clock, how long it was between the first input's arrival and the last answer, and how
   much of that ncnn computed.

Writes ``results/overhead.json``; exit code 1 where a figure misses what it should reach.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # of both programs: threads that spin starve a busy neighbour

import numpy as np

RESULTS = Path(__file__).with_name("results") / "overhead.json"
MODELS = ("mobilenet_v2", "pp_lcnet_orientation", "yolov8n_nudenet")
_LARGEST_OVERHEAD = 0.02
_LEAST_SHARE = 0.85
_ROUNDS = 8
_BLOCK_NS = 150_000_000


def build_bare_loop(abi: str, folder: Path) -> Path:
    from mobilekit.device.harness.build import ncnn_prefix
    from mobilekit.device.harness.toolchains import find_tool

    _, toolchain, arguments = ncnn_prefix(abi)
    source, cmake = Path(__file__).with_name("bare_loop"), str(find_tool("cmake"))
    configure = [cmake, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={find_tool('ninja')}", "-S", source, "-B", folder]
    for command in ([*configure, *arguments], [cmake, "--build", folder]):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **toolchain.environment})
    return folder / "bare_loop"


@contextmanager
def bare_loop(program: Path, arguments: list[str]) -> Iterator[Any]:
    """A function: so many iterations, their ns."""
    # A session of its own, as the harness has: the scheduler shares a busy machine out among those.
    process = subprocess.Popen(
        [program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def run(iterations: int) -> list[int]:
        process.stdin.write(f"{iterations}\n")
        process.stdin.flush()
        return [int(word) for word in process.stdout.readline().split()]

    try:
        yield run
    finally:
        process.stdin.close()
        process.wait(30)


def against_bare_loop(bundle: Path, harness: Path, program: Path, threads: int, sessions: int) -> dict[str, Any]:
    from mobilekit.bundle import open_bundle
    from mobilekit.device.harness.client import HarnessSession
    from mobilekit.device.harness.protocol import LoadOptions

    ncnn = open_bundle(bundle).manifest.ncnn
    assert ncnn is not None
    param, weights = str(bundle / ncnn.param), str(bundle / ncnn.bin)
    (name,), shape = [each.blob for each in ncnn.inputs], open_bundle(bundle).manifest.inputs[0].shape[1:]
    outputs = [each.blob for each in ncnn.outputs]
    plane, channels = np.arange(math.prod(shape[1:])), np.arange(shape[0])
    data = (((plane * 7)[None] + (channels * 13)[:, None]) % 101 / np.float32(50) - 1).astype(np.float32)
    ratios, both = [], ([], [])  # type: ignore[var-annotated]
    for session in range(sessions):
        with (
            HarnessSession.connect_local(harness) as ours,
            bare_loop(program, [param, weights, str(threads), name, *map(str, shape), *outputs]) as bare,
        ):
            ours.load(param, weights, LoadOptions.for_precision("fp32", threads=threads))

            def measured(iterations: int, ours: HarnessSession = ours) -> tuple[int, ...]:
                feed = {name: data.reshape(shape)}
                return ours.infer(feed, outputs, warmup=1, iterations=iterations).latencies_ns

            iterations = max(5, min(500, round(_BLOCK_NS / statistics.median(bare(5)))))
            measured(5)
            times: tuple[list[int], list[int]] = ([], [])
            for number in range(_ROUNDS):
                for side in (0, 1) if (number + session) % 2 else (1, 0):
                    times[side].extend(measured(iterations) if side == 0 else bare(iterations + 1)[1:])
            p50 = [statistics.median(each) for each in times]
            ratios.append(p50[0] / p50[1])
            for kept, value in zip(both, p50, strict=True):
                kept.append(value / 1e6)
    return {
        "ratio": round(statistics.median(ratios), 4),
        "ratios": [round(ratio, 4) for ratio in ratios],
        "harness_p50_ms": round(statistics.median(both[0]), 4),
        "bare_p50_ms": round(statistics.median(both[1]), 4),
    }


def device_time(bundle: Path, folder: Path, samples: int) -> dict[str, Any]:
    from mobilekit import ValidateOptions, validate_bundle
    from mobilekit.bundle import open_bundle

    (info,) = open_bundle(bundle).manifest.inputs
    rng = np.random.default_rng(0)
    inputs = folder / "inputs"
    inputs.mkdir()
    for number in range(samples):
        np.save(inputs / f"{number:04}.npy", rng.standard_normal(info.shape, dtype=np.float32))
    begun = time.monotonic()
    report = validate_bundle(bundle, "virtual:x86_64", ValidateOptions(inputs=inputs))
    held = report.device_time
    assert held is not None
    return {
        "samples": len(report.samples),
        "verdict": report.verdict.value,
        "share_in_inference": round(held.inference_ms / held.wall_ms, 4),
        "device_s": round(held.wall_ms / 1e3, 3),
        "inference_s": round(held.inference_ms / 1e3, 3),
        "validate_s": round(time.monotonic() - begun, 3),
    }


def missed(found: Mapping[str, Any]) -> list[str]:
    slow = [name for name, row in found["harness against a bare loop"].items() if row["ratio"] > 1 + _LARGEST_OVERHEAD]
    return slow + (["device time"] if found["validate"]["share_in_inference"] < _LEAST_SHARE else [])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=6)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    from mobilekit import ExportOptions, export_model
    from mobilekit.device.harness.build import build_harness
    from mobilekit.device.harness.toolchains import ABIS

    abi = next(abi for abi, machine in ABIS.items() if machine == platform.machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        harness, program = build_harness(abi).path, build_bare_loop(abi, folder / "bare")
        rows = {}
        for model in MODELS:
            export_model(model, folder / model, ExportOptions(verify=False))
            rows[model] = against_bare_loop(folder / model, harness, program, options.threads, options.sessions)
            print(model, rows[model], flush=True)
        share = device_time(folder / MODELS[0], folder, options.samples)
        print("validate", share, flush=True)
    found = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "threads": options.threads,
        "load": round(os.getloadavg()[0], 1),
        "harness against a bare loop": rows,
        "validate": share,
    }
    options.output.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print("missed:", ", ".join(missed(found)) or "nothing")
    return int(bool(missed(found)))


if __name__ == "__main__":
    raise SystemExit(main())
