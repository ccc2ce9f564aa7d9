"""Mutated models through ``inspect`` and ``export``: ``python -m tests.fuzz.run --count 10000 --jobs 2 --record``.

``--record`` writes what came of them to ``results.json`` beside this file. Exits 1 where any of them did what no
input may cause: a crash, a hang (10 s), a traceback, a file where none belongs. ``--log FILE`` keeps every finding:
started again with it, only those mutants are run that are not in it yet, or had a problem (mended since).
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tests.fuzz.mutations import KINDS, mutant

__all__ = ["RESULTS", "Finding", "examine"]

RESULTS = Path(__file__).with_name("results.json")
_BUSY_LIMIT_S = 120.0
_REFUSED = {1: "fails verification", 2: "bad model", 3: "inconclusive", 4: "environment", 5: "unsupported"}


@dataclass(frozen=True)
class Finding:
    """What came of one command on one mutant. ``problem``: what no input may cause, ``""`` if nothing; ``tries``: 2
    where the first took too long."""

    seed: int
    kind: str
    command: str
    outcome: str
    problem: str
    said: str
    tries: int = 1


def examine(seed: int, folder: Path) -> list[Finding]:
    """The mutant of ``seed`` through both commands, in ``folder``."""
    from tests.fuzz.server import LIMIT_S, emptied, run

    made = mutant(seed)
    found = []
    for command in ("inspect", "export"):
        arguments = [command, "models/model.onnx", *(("-o", "out") if command == "export" else ())]
        tries = 0
        while tries < 2:
            tries += 1
            made.write(emptied(folder) / "models")
            (folder / "outside.bin").write_bytes(bytes(1 << 16))
            done = run(arguments, folder, ("models", "outside.bin"), LIMIT_S if tries == 1 else _BUSY_LIMIT_S)
            if done.code is not None:
                break  # else once more: a machine that is busy with other work is no hang of ours
        left = [name for name in done.left if not (name == "out" and done.code == 0)]
        extra = [
            path.name
            for path in (folder / "models").iterdir()
            if path.name not in {"model.onnx", *made.files, *made.links}
        ]
        problem = ""
        if done.code is None:
            problem = "hang"
        elif done.cpu_s > LIMIT_S:
            problem = f"{done.cpu_s:.0f} s of processor time"
        elif done.code < 0:
            problem = f"signal {-done.code}"
        elif "Traceback" in done.stderr or "internal error" in done.stderr:
            problem = "traceback"
        elif done.code not in (0, *_REFUSED):
            problem = f"exit code {done.code}"
        elif done.code and "error: " not in done.stderr:
            problem = "no message"
        elif left or extra:
            problem = f"left {', '.join([*left, *extra])}"
        elif command == "export" and done.code == 0 and not (folder / "out" / "manifest.json").is_file():
            problem = "no bundle"
        outcome = "done" if done.code == 0 else _REFUSED.get(done.code or -1, "")
        found.append(Finding(seed, made.kind, command, outcome, problem, done.stderr[-3000:], tries))
    return found


def _logged(log: Path | None) -> dict[tuple[int, str], Finding]:
    """The last finding of each seed and command."""
    lines = log.read_text().splitlines() if log is not None and log.is_file() else []
    found = (Finding(**json.loads(line)) for line in lines)
    return {(finding.seed, finding.command): finding for finding in found}


def _shard(start: int, count: int, step: int, log: Path | None) -> None:
    """Examine every ``step``-th mutant and print each as a JSON line."""
    good = {seed for (seed, command), finding in _logged(log).items() if command == "export" and not finding.problem}
    good -= {seed for (seed, _), finding in _logged(log).items() if finding.problem}
    with tempfile.TemporaryDirectory(prefix="mobilekit-fuzz-") as folder:
        for seed in range(start, start + count, step):
            for finding in examine(seed, Path(folder) / "work") if seed not in good else ():
                print(json.dumps(finding.__dict__), flush=True)


def _findings(shard: subprocess.Popen[str], log: Path | None) -> list[Finding]:
    """All that a shard prints; problems are shown at once."""
    found = []
    assert shard.stdout is not None
    for line in shard.stdout:
        finding = Finding(**json.loads(line))
        found.append(finding)
        if log is not None:
            with log.open("a") as file:  # a line at once, whatever the other shards write
                file.write(json.dumps({**finding.__dict__, "said": finding.said if finding.problem else ""}) + "\n")
        if len(found) % 500 == 0:
            print(f"seed {finding.seed}", file=sys.stderr, flush=True)
        if finding.problem:
            said = "\n    ".join(line[:200] for line in finding.said.strip().splitlines()[-12:])
            print(f"seed {finding.seed} {finding.kind} {finding.command}: {finding.problem}\n    {said}", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--step", type=int, default=0, help="examine every so manyth here; no summary")
    parser.add_argument("--record", action="store_true", help=f"write {RESULTS.name}")
    parser.add_argument("--log", type=Path, help="keep findings here, and do not look again at what it says is well")
    options = parser.parse_args()
    if options.step:
        _shard(options.start, options.count, options.step, options.log)
        return 0
    command = [sys.executable, "-m", "tests.fuzz.run", "--step", str(options.jobs)]
    command += ["--log", str(options.log)] if options.log is not None else []
    seeds = range(options.start, options.start + options.count)
    findings = _logged(options.log)
    shards = [
        subprocess.Popen(
            [*command, "--start", str(options.start + job), "--count", str(options.count - job)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for job in range(options.jobs)
    ]
    with ThreadPoolExecutor(options.jobs) as pool:
        for found in pool.map(_findings, shards, [options.log] * options.jobs):
            findings |= {(finding.seed, finding.command): finding for finding in found}
    if any(shard.wait() for shard in shards):
        print("a shard ended early")
        return 1
    examined = [finding for (seed, _), finding in findings.items() if seed in seeds]
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    for finding in examined:
        counts[finding.kind][f"{finding.command}: {finding.problem or finding.outcome}"] += 1
    problems = sum(bool(finding.problem) for finding in examined)
    result = {
        "start": options.start,
        "mutants": options.count,
        "problems": problems,
        "run again after 10 s": sum(finding.tries > 1 for finding in examined),
        "command": f"python -m tests.fuzz.run --start {options.start} --count {options.count} --jobs {options.jobs}",
        "versions": {name: version(name) for name in ("onnx", "onnxruntime", "ncnn", "onnxsim", "numpy")}
        | {"python": platform.python_version()},
        "outcomes": {kind: dict(sorted(counts[kind].items())) for kind in sorted(counts)},
    }
    if options.log is not None:
        result["note"] = "from a log: mutants that showed a fault were run again once it was mended, the others not"
    text = json.dumps(result, indent=1) + "\n"
    if options.record:
        RESULTS.write_text(text)
    print(text)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
