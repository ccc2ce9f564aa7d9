"""What the stages of a command take: wall seconds, CPU seconds and memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["StageClock", "peak_bytes"]


def peak_bytes() -> int:
    """The largest resident set of this process, or of a child that has ended, until now."""
    return 1024 * max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


class StageClock:
    """Wall seconds and CPU seconds (of this process and of children that have ended) of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started, cpu = time.perf_counter(), _cpu_s()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - started, 4)
            self.cpu_seconds[name] = round(self.cpu_seconds.get(name, 0.0) + _cpu_s() - cpu, 4)


def _cpu_s() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
