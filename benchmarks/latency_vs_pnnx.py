"""Side by side in one run: the ncnn model that `mobilekit export` makes, pnnx's, and ONNX Runtime on the original.

usage: latency_vs_pnnx.py [--json FILE] [MODEL ...]      (zoo ids or paths; default: the public models)

For each model: the relative L2 error of both ncnn models against ONNX Runtime on the same input, and the latency of
all three, in turn, each in a process of its own, on two threads.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from _peers import MODELS, Job, Peer, machine, prepare_peers

LOOPS = 30


def measure(model: str, peer: Peer) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = Job(model, peer, folder)
        row: dict[str, Any] = {"model": model}
        mine = job.ours("--no-verify")
        if mine.returncode:
            return row | {"mobilekit_error": f"exit code {mine.returncode}"}
        job.onnxsim()
        job.pnnx()
        return row | _latencies(folder, job.shapes)


def _latencies(folder: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Errors and latencies, each runtime in its own process, three rounds in turn."""
    request = folder / "request.json"
    request.write_text(json.dumps({"folder": str(folder), "shapes": {k: list(v) for k, v in shapes.items()}}))
    found: dict[str, list[dict[str, Any]]] = {"onnxruntime": [], "mobilekit": [], "pnnx": []}
    for _ in range(3):
        for kind, results in found.items():
            command = [sys.executable, __file__, "--worker", kind, str(request)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            ok = done.returncode == 0 and done.stdout.startswith("{")
            results.append(json.loads(done.stdout) if ok else {"error": f"exit code {done.returncode}"})
    row: dict[str, Any] = {}
    for kind, results in found.items():
        good = [result for result in results if "ms" in result]
        row[f"{kind}_ms"] = round(statistics.median(r["ms"] for r in good), 2) if good else None
        if kind != "onnxruntime":
            row[f"{kind}_rel_l2"] = max(r["rel_l2"] for r in good) if good else None
    return row


def worker(kind: str, request: Path) -> None:
    """One runtime, one model: latency (median of LOOPS runs, 2 threads) and error against ONNX Runtime."""
    import time

    import numpy as np
    import onnxruntime as ort

    asked = json.loads(request.read_text())
    folder = Path(asked["folder"])
    rng = np.random.default_rng(0)
    feed = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in asked["shapes"].items()}
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    expected = session.run(None, feed)

    def timed(once: Any) -> float:
        for _ in range(3):
            once()
        spent = []
        for _ in range(LOOPS):
            started = time.perf_counter()
            once()
            spent.append(time.perf_counter() - started)
        return statistics.median(spent) * 1e3

    if kind == "onnxruntime":
        print(json.dumps({"ms": timed(lambda: session.run(None, feed))}))
        return
    run, outputs = _ncnn_model(kind, folder, feed, [value.name for value in session.get_outputs()])
    errors = []
    for actual, wanted in zip(outputs(), expected, strict=True):
        flat = wanted.astype(np.float64).ravel()
        error = np.linalg.norm(actual.astype(np.float64).ravel() - flat) if actual.size == flat.size else np.inf
        errors.append(float(error / max(np.linalg.norm(flat), 1e-12)))
    print(json.dumps({"ms": timed(run), "rel_l2": max(errors)}))


def _ncnn_model(kind: str, folder: Path, feed: dict[str, Any], wanted: list[str]) -> tuple[Any, Any]:
    """A function that runs the ncnn model once, and one that gives its outputs in ONNX order."""
    import ncnn
    import numpy as np

    net = ncnn.Net()
    net.opt.num_threads = 2
    for flag in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{flag}", False)
    if kind == "mobilekit":
        from mobilekit.bundle import open_bundle
        from mobilekit.runners.blobs import to_blob

        bundle = open_bundle(folder / "ours")
        artifact = bundle.manifest.ncnn
        assert artifact is not None
        param, weights = bundle.root / artifact.param, bundle.root / artifact.bin
        infos = {info.name: info for info in bundle.manifest.inputs}
        arrays = {blob.blob: to_blob(feed[blob.tensor], infos[blob.tensor], blob) for blob in artifact.inputs}
        names = {blob.tensor: blob.blob for blob in artifact.outputs}
        outputs = [names[name] for name in wanted]
    else:
        param, weights = folder / "sim.ncnn.param", folder / "sim.ncnn.bin"
        arrays = {f"in{i}": np.ascontiguousarray(array[0]) for i, array in enumerate(feed.values())}
        outputs = [f"out{i}" for i in range(len(wanted))]
    if net.load_param(str(param)) or net.load_model(str(weights)):
        raise SystemExit(3)
    mats = {name: ncnn.Mat(array).clone() for name, array in arrays.items()}

    def run() -> list[Any]:
        with net.create_extractor() as extractor:
            for name, mat in mats.items():
                if extractor.input(name, mat):
                    raise SystemExit(3)
            found = [extractor.extract(name) for name in outputs]
            if any(code for code, _ in found):
                raise SystemExit(3)
            return [np.array(mat) for _, mat in found]

    return run, run


def _table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    def error(value: float | None) -> str:
        return "failed" if value is None else f"{value:.0e}" + ("" if value < 1e-3 else " WRONG")

    table = Table(title="ncnn models of mobilekit and pnnx, and ONNX Runtime: error, latency on 2 threads")
    for column in ("model", "ours err", "pnnx err", "ours ms", "pnnx ms", "ORT ms"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for row in rows:
        table.add_row(
            row["model"],
            row.get("mobilekit_error") or error(row["mobilekit_rel_l2"]),
            "-" if "mobilekit_error" in row else error(row["pnnx_rel_l2"]),
            *(str(row.get(f"{kind}_ms") or "-") for kind in ("mobilekit", "pnnx", "onnxruntime")),
        )
    Console(width=140).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker[0], Path(arguments.worker[1]))
        return
    peer = prepare_peers()
    rows = []
    for model in arguments.models:
        print(f"measuring {model}", file=sys.stderr)
        rows.append(measure(model, peer))
        if arguments.json:  # after each model: an interrupted run keeps what it has
            arguments.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    _table(rows)


if __name__ == "__main__":
    main()
