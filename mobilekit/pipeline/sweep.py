"""``validate --threads 1,2,4 --cluster big,little``: the model's times with each, in turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mobilekit.progress import SILENT, Progress

if TYPE_CHECKING:
    from mobilekit.report.sweep import SweepRow
    from mobilekit.runners.base import Runner, RunOptions
    from mobilekit.tensors import Array

__all__ = ["sweep"]

_ROUNDS = 4
_WARMUP = 2


def sweep(
    runner: Runner,
    tensors: Mapping[str, Array],
    ways: Sequence[RunOptions],
    iterations: int,
    progress: Progress = SILENT,
) -> tuple[SweepRow, ...]:
    """About ``iterations`` timed runs of each of ``ways``, in four rounds, to and fro, so that drift meets all. Raises
    what the runner raises."""
    from mobilekit.report.sweep import SweepRow
    from mobilekit.validate.latency import latency_stats

    times: dict[int, list[int]] = {number: [] for number in range(len(ways))}
    remarks: dict[int, str] = {}
    with progress.task("timing threads and cores", _ROUNDS * len(ways), unit="blocks") as task:
        for number in range(_ROUNDS):
            order = list(enumerate(ways))
            for index, way in order if number % 2 == 0 else reversed(order):
                task.advance(1)
                if index in remarks:
                    continue
                block = replace(way, warmup=_WARMUP, iterations=max(1, iterations // _ROUNDS))
                result = runner.run(tensors, block)
                cores = result.facts.get("cores")
                if isinstance(cores, dict) and way.cluster != "all" and not (cores.get("big") and cores.get("little")):
                    remarks[index] = "this processor's cores are all alike"
                elif result.facts.get("cluster_applied") is False:
                    remarks[index] = "the system does not let us choose these cores"
                else:
                    times[index] += result.latencies_ns
    rows = []
    for index, way in enumerate(ways):
        stats = latency_stats(times[index])
        rows.append(
            SweepRow(threads=way.threads, cluster=way.cluster, p50_ms=None, remark=remarks.get(index, ""))
            if stats is None or index in remarks
            else SweepRow(
                threads=way.threads,
                cluster=way.cluster,
                p50_ms=stats.p50_ms,
                p50_low_ms=stats.p50_low_ms,
                p50_high_ms=stats.p50_high_ms,
                runs=stats.iterations,
            )
        )
    return tuple(rows)
