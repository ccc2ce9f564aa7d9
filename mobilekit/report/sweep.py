"""The same model with other threads and on other cores, as data and in words."""

from __future__ import annotations

from pydantic import Field

from mobilekit.report.base import Frozen
from mobilekit.report.figures import short_ms
from mobilekit.tuning import Cluster

__all__ = ["SweepRow", "line"]


class SweepRow(Frozen):
    """``p50_ms`` within ``p50_low_ms`` to ``p50_high_ms`` (95%, of this session) over ``runs`` in turns with the other
    rows; ``None`` where it did not run, for ``remark``."""

    threads: int = Field(ge=0)
    cluster: Cluster
    p50_ms: float | None
    p50_low_ms: float | None = None
    p50_high_ms: float | None = None
    runs: int = 0
    remark: str = ""

    @property
    def name(self) -> str:
        """``2 threads, big cores``"""
        count = f"{self.threads} thread{'s' if self.threads > 1 else ''}" if self.threads else "ncnn's threads"
        return count if self.cluster == "all" else f"{count}, {self.cluster} cores"


def line(row: SweepRow) -> str:
    if row.p50_ms is None or row.p50_low_ms is None or row.p50_high_ms is None:
        return f"{row.name}: {row.remark}"
    return f"{row.name}: {short_ms(row.p50_ms)} ms ({short_ms(row.p50_low_ms)} to {short_ms(row.p50_high_ms)})"
