"""Side by side in one run: `mobilekit export` against the onnxsim command plus the bare pnnx binary.

usage: export_vs_pnnx.py [--runs 5] [--json FILE] [MODEL ...]      (zoo ids or paths; default: the public models)

For each model, as whole processes and in turn: seconds and peak memory of `mobilekit export --no-verify`, of the
default export, which verifies, and of onnxsim and pnnx one after the other. ``own`` is what the export spends in its
rules, emitter and writer. Medians of ``--runs`` rounds, after one that is not counted. pnnx gets ``fp16=0``, so that
both store float weights; its wheel is fetched with pip and unpacked, not installed (it would pull torch); onnxsim runs
in a virtual environment without torch. What the models compute, and how fast: latency_vs_pnnx.py.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from _peers import MODELS, Job, Peer, machine, prepare_peers
from _timing import alternate

OWN = ("prepare", "emit", "write")
"""Stages of run.json that are rules (with onnxsim where it is wanted), emission and writing."""


def measure(model: str, peer: Peer, runs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = Job(model, peer, folder)
        own: list[float] = []
        own_cpu: list[float] = []

        def ours() -> Any:
            cost = job.ours("--no-verify")
            run = folder / "ours" / "run.json"
            if run.is_file():
                spent = json.loads(run.read_text())
                own.append(sum(spent["seconds"].get(stage, 0.0) for stage in OWN))
                own_cpu.append(sum(spent["cpu_seconds"].get(stage, 0.0) for stage in OWN))
            return cost

        jobs = [ours, job.ours, job.onnxsim, job.pnnx]
        alternate(jobs, 1)
        own.clear()
        own_cpu.clear()
        load = round(os.getloadavg()[0], 1)
        mine, verified, sim, pnnx = alternate(jobs, runs)
        theirs = sim.then(pnnx)
        row = {
            "model": model,
            "mobilekit_s": round(mine.seconds, 3),
            "onnxsim_s": round(sim.seconds, 3),
            "pnnx_s": round(pnnx.seconds, 3),
            "ratio": round(mine.seconds / theirs.seconds, 3),
            "own_s": round(statistics.median(own), 3) if own else None,
            "own_cpu_s": round(statistics.median(own_cpu), 3) if own_cpu else None,
            "pnnx_cpu_s": round(pnnx.cpu_s, 3),
            "verified_s": round(verified.seconds, 3),
            "verified_ratio": round(verified.seconds / theirs.seconds, 3),
            "mobilekit_cpu_s": round(mine.cpu_s, 3),
            "verified_cpu_s": round(verified.cpu_s, 3),
            "onnxsim_pnnx_cpu_s": round(theirs.cpu_s, 3),
            "mobilekit_peak_mb": round(mine.peak_mb, 1),
            "verified_peak_mb": round(verified.peak_mb, 1),
            "onnxsim_peak_mb": round(sim.peak_mb, 1),
            "pnnx_peak_mb": round(pnnx.peak_mb, 1),
            "load": load,
        }
        for key, cost in (("mobilekit_error", mine), ("verified_error", verified)):
            if cost.returncode:
                row[key] = f"exit code {cost.returncode}"
        return row


def _table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="mobilekit export against onnxsim + pnnx: seconds and MB of whole processes")
    columns = {
        "model": "model",
        "mobilekit_s": "export",
        "verified_s": "verified",
        "onnxsim_s": "onnxsim",
        "pnnx_s": "pnnx",
        "ratio": "ratio",
        "verified_ratio": "verified ratio",
        "own_s": "own",
        "mobilekit_peak_mb": "MB",
        "verified_peak_mb": "verified MB",
        "onnxsim_peak_mb": "onnxsim MB",
        "pnnx_peak_mb": "pnnx MB",
    }
    for column in columns.values():
        table.add_column(column, justify="left" if column == "model" else "right")
    for row in rows:
        table.add_row(*(str(row[key]) for key in columns))
        for key in ("mobilekit_error", "verified_error"):
            if key in row:
                table.add_row(f"  {key}: {row[key]}")
    Console(width=160).print(table)

    def total(key: str) -> float:
        return float(sum(row[key] or 0 for row in rows))

    ours, verified, sim, pnnx, own = map(total, ("mobilekit_s", "verified_s", "onnxsim_s", "pnnx_s", "own_s"))
    cpu, verified_cpu, their_cpu = map(total, ("mobilekit_cpu_s", "verified_cpu_s", "onnxsim_pnnx_cpu_s"))
    largest, theirs = (max(row[key] for row in rows) for key in ("mobilekit_peak_mb", "pnnx_peak_mb"))
    print(f"total {ours:.2f} s against {sim + pnnx:.2f} s: ratio {ours / (sim + pnnx):.2f}", end="; ")
    print(f"the slowest {max(row['ratio'] for row in rows):.2f}")
    print(f"verified {verified:.2f} s: ratio {verified / (sim + pnnx):.2f}", end="; ")
    print(f"the slowest {max(row['verified_ratio'] for row in rows):.2f}")
    own_cpu, pnnx_cpu = total("own_cpu_s"), total("pnnx_cpu_s")
    print(f"CPU time: ratio {cpu / their_cpu:.2f}, verified {verified_cpu / their_cpu:.2f}", end="; ")
    print(f"rules, emitter, writer {own_cpu / pnnx_cpu:.2f} of pnnx")
    print(
        f"rules, emitter, writer {own:.2f} s: {own / pnnx:.2f} of pnnx; largest peak {largest / theirs:.2f} of pnnx's"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    peer = prepare_peers()
    rows = []
    for model in arguments.models:
        print(f"measuring {model}", file=sys.stderr)
        rows.append(measure(model, peer, arguments.runs))
        if arguments.json:  # after each model: an interrupted run keeps what it has
            arguments.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    _table(rows)


if __name__ == "__main__":
    main()
