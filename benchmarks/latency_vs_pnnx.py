"""Side by side in one run: the ncnn model that `mobilekit export` makes, pnnx's, MNN's, and ONNX Runtime.

usage: latency_vs_pnnx.py [--rounds 5] [--loops 40] [--only count|time] [--json FILE] [MODEL ...]

Zoo ids or paths; default: the public models. For each: the relative L2 error against ONNX Runtime on one seeded input;
latency on two threads. Our model and pnnx's are loaded in one process and run in turn; several processes, each loading
them in the other order than the one before, since where weights happen to lie in memory is worth a few percent. The
ratio is the median over runs that followed each other, the geometric mean over processes; its 95% bootstrap interval
resamples processes, then runs. ncnn's threads sleep while
they wait (OMP_WAIT_POLICY=passive), so that a busy machine does not drown both. MNN (in an environment of its own) and
ONNX Runtime (its threads do not spin) run in processes of their own between. The arm64 instructions of one
inference are counted under qemu, on one thread: no latency of any device. Values that FILE has are kept where they are
not measured anew: the counting may be done on a busy machine, the timing on a quiet one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections import Counter as Tally
from itertools import chain
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from _peers import MODELS, Job, Peer, counting_harness, instructions, machine, prepare_peers
from _runtimes import feed_of, ncnn_files

MNN = "3.6.1"
RIGHT = 1e-3
_WORKER = Path(__file__).with_name("_runtimes.py")


def mnn_python() -> Path:
    """The interpreter of an environment that has MNN alone: its console script would install telemetry."""
    from mobilekit.paths import cache_dir

    venv = cache_dir("benchmarks") / f"mnn-{MNN}"
    if not (venv / "ready").is_file():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([venv / "bin" / "pip", "install", "-q", f"MNN=={MNN}", "numpy"], check=True)
        (venv / "ready").touch()
    return venv / "bin" / "python"


def worker(python: Path, kind: str, asked: dict[str, Any]) -> dict[str, Any]:
    """What the measurement printed; empty where it failed."""
    request = Path(asked["folder"]) / "request.json"
    request.write_text(json.dumps(asked))
    # No pip on MNN's path, and nothing else.
    env = {**os.environ, "OMP_WAIT_POLICY": "passive", **({"PATH": ""} if kind == "mnn" else {})}
    # MNN's converter leaves a file in its working folder.
    command, cwd = [python, _WORKER, kind, request], asked["folder"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=cwd)
    last = done.stdout.splitlines()[-1:] or [""]
    found: dict[str, Any] = json.loads(last[0]) if done.returncode == 0 and last[0].startswith("{") else {}
    return found


def interval(ours: list[list[float]], theirs: list[list[float]]) -> tuple[float, float, float]:
    """The ratio ours / theirs and its 95% interval; each list holds one process's runs, in the order they were made.

    Neighbouring runs are compared with each other: what else the machine does drifts under both alike.
    """
    rng = np.random.default_rng(0)
    logs = [np.log(np.array(a) / np.array(b)) for a, b in zip(ours, theirs, strict=True)]

    def drawn() -> float:
        chosen = [logs[index] for index in rng.integers(len(logs), size=len(logs))]
        return float(np.mean([np.median(rng.choice(runs, runs.size)) for runs in chosen]))

    low, high = np.exp(np.percentile([drawn() for _ in range(1000)], [2.5, 97.5]))
    return math.exp(statistics.fmean(float(np.median(runs)) for runs in logs)), float(low), float(high)


def measure(model: str, peer: Peer, mnn: Path, harness: Path | None, options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = Job(model, peer, folder)
        row: dict[str, Any] = {"model": model}
        mine = job.ours("--no-verify")
        if mine.returncode:
            return row | {"error": f"export ended with exit code {mine.returncode}"}
        job.onnxsim()
        job.pnnx()
        asked: dict[str, Any] = {"folder": name, "shapes": {k: list(v) for k, v in job.shapes.items()}}
        asked |= {"loops": options.loops, "flip": False, "outputs": []}
        asked["outputs"] = worker(Path(sys.executable), "onnxruntime", asked | {"loops": 1})["outputs"]
        if options.only != "count":
            row |= timed(asked, mnn, options.rounds) | {"load": round(os.getloadavg()[0], 1)}
        return row if options.only == "time" else row | _structure(folder, asked, harness)


def timed(asked: dict[str, Any], mnn: Path, rounds: int) -> dict[str, Any]:
    """Milliseconds and errors of all four, and the ratio with its interval."""
    row: dict[str, Any] = {}
    python = Path(sys.executable)
    others: dict[str, list[dict[str, Any]]] = {"onnxruntime": [], "mnn": []}
    pairs = []
    for turn in range(rounds):
        others["onnxruntime"].append(worker(python, "onnxruntime", asked))
        pairs.append(worker(python, "pair", asked | {"flip": turn % 2 == 1}))
        others["mnn"].append(worker(mnn, "mnn", asked))
    for kind in ("mobilekit", "pnnx"):
        runs = [pair[f"{kind}_ms"] for pair in pairs if f"{kind}_ms" in pair]
        row[f"{kind}_ms"] = round(statistics.median(chain(*runs)), 3) if runs else None
        row[f"{kind}_rel_l2"] = max((p[f"{kind}_rel_l2"] for p in pairs if f"{kind}_rel_l2" in p), default=None)
    both = [pair for pair in pairs if "mobilekit_ms" in pair and "pnnx_ms" in pair]
    if both:
        found = interval([p["mobilekit_ms"] for p in both], [p["pnnx_ms"] for p in both])
        row |= dict(zip(("ratio", "ratio_low", "ratio_high"), (round(x, 4) for x in found), strict=True))
    for kind, results in others.items():
        good = [result for result in results if "ms" in result]
        row[f"{kind}_ms"] = round(statistics.median(r["ms"] for r in good), 3) if good else None
    row["mnn_rel_l2"] = max((r["rel_l2"] for r in others["mnn"] if "rel_l2" in r), default=None)
    return row


def _structure(folder: Path, asked: dict[str, Any], harness: Path | None) -> dict[str, Any]:
    """Instructions, and the layer types of which one model has more than the other: [ours, pnnx's]."""
    found: dict[str, Any] = {}
    tallies = []
    for kind in ("mobilekit", "pnnx"):
        param, weights, arrays, outputs = ncnn_files(kind, folder, feed_of(asked), asked["outputs"])
        if not param.is_file():
            continue
        tallies.append(Tally(line.split()[0] for line in param.read_text().splitlines()[2:] if line.strip()))
        if harness is not None:
            found[f"{kind}_instructions"] = instructions(harness, param, weights, arrays, outputs)
    if len(tallies) == 2:
        ours, theirs = tallies
        found["layers"] = {t: [ours[t], theirs[t]] for t in sorted(ours | theirs) if ours[t] != theirs[t]}
    return found


def _right(row: dict[str, Any], kind: str) -> bool:
    value = row.get(f"{kind}_rel_l2")
    return value is not None and value < RIGHT


def _table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    def error(row: dict[str, Any], kind: str) -> str:
        value = row.get(f"{kind}_rel_l2")
        return "failed" if value is None else f"{value:.0e}" + ("" if value < RIGHT else " WRONG")

    def number(value: float | None, digits: int = 2) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    table = Table(title="latency in ms on 2 threads; relative L2 error; arm64 instructions in millions")
    columns = [
        "model",
        "ours",
        "pnnx",
        "ratio",
        "95%",
        "MNN",
        "ORT",
        "ours err",
        "pnnx err",
        "MNN err",
        "ours Mi",
        "pnnx Mi",
    ]
    for column in columns:
        table.add_column(column, justify="left" if column == "model" else "right")
    for row in rows:
        if "error" in row:
            table.add_row(row["model"], row["error"])
            continue
        cells = [number(row.get(f"{kind}_ms")) for kind in ("mobilekit", "pnnx")]
        cells += [number(row.get("ratio"), 3)]
        cells += [f"{row['ratio_low']:.3f} .. {row['ratio_high']:.3f}" if "ratio" in row else "-"]
        cells += [number(row.get(f"{kind}_ms")) for kind in ("mnn", "onnxruntime")]
        cells += [error(row, kind) for kind in ("mobilekit", "pnnx", "mnn")]
        counts = [row.get(f"{kind}_instructions") for kind in ("mobilekit", "pnnx")]
        cells += [number(count and count / 1e6, 1) for count in counts]
        table.add_row(row["model"], *cells)
    Console(width=170).print(table)
    fair = [row for row in rows if "ratio" in row and _right(row, "pnnx") and _right(row, "mobilekit")]
    if fair:
        mean = math.exp(statistics.fmean(math.log(row["ratio"]) for row in fair))
        print(f"geometric mean of the latency ratio where both are right ({len(fair)} models): {mean:.3f}")
    counted = [row for row in fair if row.get("mobilekit_instructions") and row.get("pnnx_instructions")]
    if counted:
        ratios = [row["mobilekit_instructions"] / row["pnnx_instructions"] for row in counted]
        print(f"geometric mean of the instruction ratio there: {math.exp(statistics.fmean(map(math.log, ratios))):.3f}")


def main() -> None:
    from mobilekit.errors import MobilekitError

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=(*MODELS, "pp_ocrv6_rec"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loops", type=int, default=40)
    parser.add_argument("--only", choices=("count", "time"), help="the arm64 instructions only, or all but those")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    peer, mnn = prepare_peers(), mnn_python()
    harness = None
    if options.only != "time":
        try:
            harness = counting_harness()
        except MobilekitError as error:
            print(f"instructions are not counted: {error}", file=sys.stderr)
    rows: dict[str, dict[str, Any]] = {}
    if options.json and options.json.is_file():
        rows = {row["model"]: row for row in json.loads(options.json.read_text())["rows"]}
    about = machine() | {"mnn": MNN, "rounds": options.rounds, "loops": options.loops}
    for model in options.models:
        print(f"measuring {model}", file=sys.stderr)
        rows[model] = rows.get(model, {}) | measure(model, peer, mnn, harness, options)
        if options.json:  # after each model: an interrupted run keeps what it has
            options.json.write_text(json.dumps({"machine": about, "rows": list(rows.values())}, indent=1) + "\n")
    _table([rows[model] for model in options.models])


if __name__ == "__main__":
    main()
