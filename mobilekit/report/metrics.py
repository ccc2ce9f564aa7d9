"""Task metrics and accuracy over the samples."""

from __future__ import annotations

from mobilekit.report.base import Frozen

__all__ = ["AccuracyReport", "MetricReport"]


class MetricReport(Frozen):
    """How far device and reference agree, 0 to 1, over the samples; ``least`` is the mean that was asked for."""

    name: str
    mean: float
    worst: float
    worst_sample: str
    least: float | None = None

    @property
    def passes(self) -> bool:
        return self.least is None or self.mean >= self.least


class AccuracyReport(Frozen):
    """How far each side is right by the user's truth, 0 to 1: a mean over ``samples`` samples."""

    samples: int
    device: float
    reference: float
