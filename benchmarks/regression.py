"""How often ``mobilekit compare`` is right: a bundle against itself, and against a planted slow-down.

``python benchmarks/regression.py [--same 200] [--slower 40] [--threads 1]`` writes ``results/regression.json``. Each
comparison is kept under the user's cache folder as it comes: what was stopped goes on; ``--fresh`` begins anew. With
``--same 0`` or ``--slower 0`` what the file has of those stays. To see a small change takes longer than to see none
where there is none: ``--slower-budget``.

The model is a chain of equal convolutions, so that one with N% more of them takes N% longer but for what the chain
costs as a whole; what it truly costs is told by arm64 instructions where qemu is there to count them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from _rows import Rows, code_digest
from onnx import TensorProto, helper, numpy_helper, save

RESULTS = Path(__file__).with_name("results") / "regression.json"
_LAYERS = 20


def chain(count: int) -> Any:
    """``count`` convolutions of 32 channels over 28 x 28, one after another."""
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array((rng.standard_normal((32, 32, 3, 3)) / 17).astype(np.float32), "w")
    nodes = [
        helper.make_node("Conv", [f"t{index}", "w"], [f"t{index + 1}"], pads=[1, 1, 1, 1]) for index in range(count)
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 32, 28, 28]) for name in ("t0", f"t{count}")]
    graph = helper.make_graph(nodes, f"chain of {count}", ends[:1], ends[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--same", type=int, default=200, help="comparisons of a bundle with itself")
    parser.add_argument("--slower", type=int, default=40, help="comparisons with each planted slow-down")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget", type=float, default=60.0, help="seconds for each")
    parser.add_argument("--slower-budget", type=float, help="seconds for each with a slow-down; default: as the others")
    parser.add_argument("--fresh", action="store_true", help="forget what was measured before")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    from mobilekit import CompareOptions, ExportOptions, export_model
    from mobilekit.paths import cache_dir
    from mobilekit.pipeline.compare import measure

    kept = cache_dir("benchmarks") / "regression.jsonl"
    if options.fresh:
        kept.unlink(missing_ok=True)
    digest = code_digest([Path(__file__)])
    slower = options.budget if options.slower_budget is None else options.slower_budget
    about: dict[str, Any] = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "ncnn": version("ncnn"),
        "threads": options.threads,
    }
    found: dict[str, Any] = {}
    if options.output.is_file() and not options.fresh:
        found = json.loads(options.output.read_text("utf-8"))["results"]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for percent in (0, 5, 10):
            save(chain(_LAYERS * (100 + percent) // 100), root / f"{percent}.onnx")
            export_model(root / f"{percent}.onnx", root / f"{percent}", ExportOptions(samples=1))
        for percent, tries, budget in (
            (0, options.same, options.budget),
            (10, options.slower, slower),
            (5, options.slower, slower),
        ):
            settings = CompareOptions(threads=options.threads, budget_s=budget)
            known = Rows(kept, f"{digest} {options.threads} {budget}")
            rows = []
            for number in range(tries):
                key = f"{percent} {number}"
                row = known.get(key)
                if row is None:
                    begun = time.monotonic()
                    timed = measure(root / "0", root / f"{percent}", "local", settings)
                    answer = timed.found
                    assert answer is not None
                    row = known.add(
                        key,
                        {
                            "answer": answer.answer.value,
                            "ratio": round(answer.ratio, 4),
                            "low": round(answer.low, 4),
                            "high": round(answer.high, 4),
                            "same_low": round(answer.same_low, 4),
                            "same_high": round(answer.same_high, 4),
                            "sessions": answer.sessions,
                            "scatter": _scatter(timed.sessions),
                            "scatter_of_medians": _scatter(timed.typical),
                            "seconds": round(time.monotonic() - begun, 1),
                            "load": round(os.getloadavg()[0], 1),
                        },
                    )
                rows.append(row)
                print(percent, number, row, flush=True)
            if not rows:
                continue
            counts = Counter(row["answer"] for row in rows)
            holds = sum(row["low"] <= 1 + percent / 100 <= row["high"] for row in rows)
            scatter = {each: statistics.median(row[each] for row in rows) for each in ("scatter", "scatter_of_medians")}
            found[f"{percent}% slower"] = {
                "budget_s": budget, "answers": counts, "interval holds the truth": holds, "median of": scatter,
                "load": statistics.quantiles([row["load"] for row in rows], n=4), "tries": rows,
            }  # fmt: skip
            print(f"{percent}% slower: {dict(counts)}; {holds} of {len(rows)} intervals hold {1 + percent / 100}")
            options.output.write_text(json.dumps({**about, "results": found}, indent=1) + "\n", "utf-8")
    return _missed(found)


def _scatter(sessions: Sequence[Sequence[float]]) -> float:
    """Standard deviation of the sessions' log ratios: what an interval is made of."""
    return round(statistics.stdev(statistics.median(rounds) for rounds in sessions), 4)


def _missed(found: dict[str, Any]) -> int:
    """1 where the answers are not as right as they should be."""
    answers = {name: Counter(group["answers"]) for name, group in found.items()}
    same, five, ten = (answers.get(f"{percent}% slower", Counter()) for percent in (0, 5, 10))
    wrong = same["better"] + same["worse"] > 0.01 * same.total()
    return int(wrong or ten["worse"] < 0.95 * ten.total() or five["same"] + five["better"] > 0)


if __name__ == "__main__":
    raise SystemExit(main())
