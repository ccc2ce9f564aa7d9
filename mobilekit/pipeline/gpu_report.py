"""From what the worker tells of a timed run to the report's part about the GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from mobilekit.errors import ChildError

if TYPE_CHECKING:
    from mobilekit.report.gpu import GpuReport, Times
    from mobilekit.runners.base import RunResult

__all__ = ["gpu_report"]


def gpu_report(timed: RunResult, flavour: Literal["rtx", "full"]) -> GpuReport | None:
    """``None`` where no GPU was timed; :class:`ChildError` where the worker's answer is not what it should be."""
    told = timed.facts.get("gpu")
    if not isinstance(told, Mapping):
        return None
    from mobilekit.report.gpu import GpuReport, Throughput

    answer: Mapping[str, Any] = told
    try:
        gpu, latency, cache = answer["gpu"], answer["latency"], answer["runtime_cache"]
        return GpuReport(
            name=gpu["name"],
            compute_capability=gpu["compute_capability"],
            memory_bytes=gpu["memory_bytes"],
            driver=answer["driver"],
            flavour=flavour,
            version=answer["version"],
            compute=_times(latency["compute"]),
            with_copies=_times(latency["with_copies"]),
            throughput=tuple(Throughput(**each) for each in answer["throughput"]),
            cuda_graph=answer["cuda_graph"]["used"],
            cuda_graph_reason=answer["cuda_graph"]["reason"],
            runtime_cache_hit=None if cache is None else cache["hit"],
            warmup_runs=answer["warmup"]["runs"],
            warmup_stable=answer["warmup"]["stable"],
            plan_memory_bytes=answer["device_memory_bytes"],
            first_ms=answer["first_ms"],
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:  # pydantic's is a ValueError
        raise ChildError(f"TensorRT's worker tells of its run what makes no sense: {error}") from error


def _times(values_ms: Sequence[float]) -> Times:
    from mobilekit.report.gpu import Times
    from mobilekit.validate.latency import latency_stats

    stats = latency_stats([round(value * 1e6) for value in values_ms])
    if stats is None:
        raise KeyError("no times")
    return Times(p50_ms=stats.p50_ms, p90_ms=stats.p90_ms, p99_ms=stats.p99_ms, mean_ms=stats.mean_ms)
