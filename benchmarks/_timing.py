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
    """``seconds`` of wall time, the largest single process's resident set in MB, the exit code, and seconds of CPU
    time, which a busy machine disturbs less; both of the process and of the children it waited for."""

    seconds: float
    peak_mb: float
    returncode: int
    cpu_s: float = 0.0

    def then(self, other: Cost) -> Cost:
        """Two processes one after the other: times add, peaks do not."""
        return Cost(
            self.seconds + other.seconds,
            max(self.peak_mb, other.peak_mb),
            self.returncode or other.returncode,
            self.cpu_s + other.cpu_s,
        )


def run_process(command: Sequence[str | Path], *, cwd: Path, env: dict[str, str] | None = None) -> Cost:
    """Run once, output thrown away; ``wait4`` gives the peak of the process and of the children it waited for.

    The kernel counts what the caller has resident when it forks too: a caller that measures memory stays small.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        [str(part) for part in command], cwd=cwd, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    return Cost(seconds, usage.ru_maxrss / 1024, process.returncode, usage.ru_utime + usage.ru_stime)


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
