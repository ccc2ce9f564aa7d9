"""What a GPU told beside its answers: who computed, how long, how many a second."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mobilekit.report.base import Frozen

__all__ = ["GpuReport", "Throughput", "Times", "rows"]


class Times(Frozen):
    """Of the timed inferences, by the GPU's clock."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float


class Throughput(Frozen):
    """``streams`` execution contexts side by side, kept busy by one thread; copies included."""

    streams: int = Field(ge=1)
    per_second: float
    inferences: int
    seconds: float
    cuda_graph: bool


class GpuReport(Frozen):
    """``version``: of the TensorRT that ran; ``compute`` is the plan alone, ``with_copies`` from the first byte to the
    GPU to the last one back; the report's ``latency`` is what the host sees of the same runs.

    ``cuda_graph``: whether the plan was launched as one; ``cuda_graph_reason`` why not. ``runtime_cache_hit``: every
    kernel was there already (TensorRT for RTX compiles them on the GPU's machine); ``None`` where there is no such
    cache. ``warmup_stable``: the times had settled when timing began; ``None`` where nobody looked.
    ``plan_memory_bytes``: scratch memory of one execution context. ``first_ms``: the first inference after loading,
    compilation included.
    """

    name: str
    compute_capability: str
    memory_bytes: int
    driver: str
    flavour: Literal["rtx", "full"]
    version: str
    compute: Times
    with_copies: Times
    throughput: tuple[Throughput, ...] = ()
    cuda_graph: bool
    cuda_graph_reason: str = ""
    runtime_cache_hit: bool | None = None
    warmup_runs: int = Field(ge=0)
    warmup_stable: bool | None = None
    plan_memory_bytes: int | None = None
    first_ms: float | None = None


def rows(gpu: GpuReport) -> list[tuple[str, str]]:
    """Names and values for the table of facts."""
    graph = "CUDA graph" if gpu.cuda_graph else f"no CUDA graph: {gpu.cuda_graph_reason}"
    settled = {True: "stable", False: "NOT stable", None: "not looked at"}[gpu.warmup_stable]
    found = [
        (
            "GPU",
            f"compute capability {gpu.compute_capability}, {gpu.memory_bytes / 2**30:.1f} GiB, driver {gpu.driver}",
        ),
        ("plan alone p50 / p90 / p99", _text(gpu.compute)),
        ("with copies p50 / p90 / p99", _text(gpu.with_copies)),
        ("launched as", f"{graph}; {gpu.warmup_runs} runs before, {settled}"),
    ]
    for each in gpu.throughput:
        streams = f"{each.streams} stream{'s' if each.streams > 1 else ''}"
        found.append((f"throughput, {streams}", f"{each.per_second:.1f} a second"))
    if gpu.runtime_cache_hit is not None:
        found.append(("compiled kernels", "all from the cache" if gpu.runtime_cache_hit else "compiled now, and kept"))
    if gpu.plan_memory_bytes is not None:
        found.append(("scratch memory", f"{gpu.plan_memory_bytes / 1e6:.2f} MB for each stream"))
    return found


def _text(times: Times) -> str:
    return f"{times.p50_ms:.3f} / {times.p90_ms:.3f} / {times.p99_ms:.3f} ms"
