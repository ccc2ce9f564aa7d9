"""What many timed iterations say about a model's latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mobilekit.tensors import Array

__all__ = ["LatencyStats", "is_steady", "latency_stats", "outliers"]

_RESAMPLES = 2000
_STEADY = 0.02
_BLOCKS = 3


@dataclass(frozen=True, slots=True)
class LatencyStats:
    """Of ``iterations`` single inferences, warm-up left out.

    Percentiles interpolate linearly between the two nearest values (numpy's default). ``cv`` is the sample standard
    deviation over the mean; ``spread`` is (p90 - p10) / p50, which a single outlier does not move.

    ``p50_low_ms`` to ``p50_high_ms``: the median's 95% interval (percentile bootstrap, Efron 1979), which takes the
    runs for independent: it is of this session, not of the next. ``outliers``: runs over three interquartile ranges
    from the quartiles (Tukey's outer fences); none is left out of anything. ``drift``: the last third's median over the
    first's, less one.
    """

    iterations: int
    p50_ms: float
    p50_low_ms: float
    p50_high_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    mean_ms: float
    min_ms: float
    max_ms: float
    cv: float
    spread: float
    outliers: int
    drift: float


def latency_stats(latencies_ns: Sequence[int]) -> LatencyStats | None:
    """``None`` for no measurements."""
    if not latencies_ns:
        return None
    import numpy as np

    ms = np.asarray(latencies_ns, dtype=np.float64) / 1e6
    p10, p50, p90, p95, p99 = (float(v) for v in np.percentile(ms, (10, 50, 90, 95, 99)))
    mean = float(ms.mean())
    deviation = float(ms.std(ddof=1)) if len(ms) > 1 else 0.0
    rng = np.random.default_rng(0)
    # One at a time: a long session's draws would not fit into memory together.
    medians = [float(np.median(rng.choice(ms, len(ms)))) for _ in range(_RESAMPLES if len(ms) > 1 else 1)]
    low, high = (float(value) for value in np.percentile(medians, (2.5, 97.5)))
    third = max(1, len(ms) // 3)
    return LatencyStats(
        iterations=len(ms),
        p50_ms=p50,
        p50_low_ms=low,
        p50_high_ms=high,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
        mean_ms=mean,
        min_ms=float(ms.min()),
        max_ms=float(ms.max()),
        cv=deviation / mean if mean else 0.0,
        spread=(p90 - p10) / p50 if p50 else 0.0,
        outliers=len(outliers(ms)),
        drift=float(np.median(ms[-third:]) / np.median(ms[:third])) - 1 if ms[:third].all() else 0.0,
    )


def outliers(values: Sequence[float] | Array) -> list[int]:
    """Which lie over three interquartile ranges from the quartiles (Tukey's outer fences)."""
    import numpy as np

    found = np.asarray(values, dtype=np.float64)
    if found.size == 0 or not np.isfinite(found).all():
        return []
    low, high = np.percentile(found, (25, 75))
    reach = 3 * (high - low)
    return [int(index) for index in np.flatnonzero((found < low - reach) | (found > high + reach))]


def is_steady(medians: Sequence[float]) -> bool:
    """Whether a model is warm: the last three blocks' medians lie within 2% of the least of them."""
    last = medians[-_BLOCKS:]
    return len(last) == _BLOCKS and max(last) <= (1 + _STEADY) * min(last)
