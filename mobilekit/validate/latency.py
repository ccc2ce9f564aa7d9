"""What many timed iterations say about a model's latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["LatencyStats", "latency_stats"]


@dataclass(frozen=True, slots=True)
class LatencyStats:
    """Of ``iterations`` single inferences, warm-up left out.

    Percentiles interpolate linearly between the two nearest values (numpy's default). ``cv`` is the sample standard
    deviation over the mean; ``spread`` is (p90 - p10) / p50, which a single outlier does not move.
    """

    iterations: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    min_ms: float
    max_ms: float
    cv: float
    spread: float


def latency_stats(latencies_ns: Sequence[int]) -> LatencyStats | None:
    """``None`` for no measurements."""
    if not latencies_ns:
        return None
    import numpy as np

    ms = np.asarray(latencies_ns, dtype=np.float64) / 1e6
    p10, p50, p90, p99 = (float(value) for value in np.percentile(ms, (10, 50, 90, 99)))
    mean = float(ms.mean())
    deviation = float(ms.std(ddof=1)) if len(ms) > 1 else 0.0
    return LatencyStats(
        iterations=len(ms),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        mean_ms=mean,
        min_ms=float(ms.min()),
        max_ms=float(ms.max()),
        cv=deviation / mean if mean else 0.0,
        spread=(p90 - p10) / p50 if p50 else 0.0,
    )
