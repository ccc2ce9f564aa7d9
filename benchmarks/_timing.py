"""Whole processes, timed from outside: wall seconds and peak resident memory, as the kernel accounts them."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Cost", "alternate", "run_process"]


@dataclass(frozen=True, slots=True)
class Cost:
    """``seconds`` of wall time, the largest single process's resident set in MB, and the exit code."""

    seconds: float
    peak_mb: float
    returncode: int

    def then(self, other: Cost) -> Cost:
        """Two processes one after the other: times add, peaks do not."""
        return Cost(self.seconds + other.seconds, max(self.peak_mb, other.peak_mb), self.returncode or other.returncode)


def run_process(command: Sequence[str | Path], *, cwd: Path, env: dict[str, str] | None = None) -> Cost:
    """Run once, output thrown away; ``wait4`` gives the peak of the process and of the children it waited for."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [str(part) for part in command], cwd=cwd, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Cost(time.perf_counter() - started, usage.ru_maxrss / 1024, process.returncode)


def alternate(jobs: Sequence[object], runs: int) -> list[Cost]:
    """A B A B ...: each job (a callable giving a Cost) ``runs`` times, in turn, and its median by time."""
    found: list[list[Cost]] = [[] for _ in jobs]
    for _ in range(runs):
        for index, job in enumerate(jobs):
            found[index].append(job())  # type: ignore[operator]
    result = []
    for costs in found:
        middle = statistics.median_low(cost.seconds for cost in costs)
        result.append(next(cost for cost in costs if cost.seconds == middle))
    return result
