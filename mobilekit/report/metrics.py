"""Task metrics and accuracy over the samples."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["AccuracyReport", "MetricReport"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MetricReport(_Frozen):
    """How far device and reference agree, 0 to 1, over the samples; ``least`` is the mean that was asked for."""

    name: str
    mean: float
    worst: float
    worst_sample: str
    least: float | None = None

    @property
    def passes(self) -> bool:
        return self.least is None or self.mean >= self.least


class AccuracyReport(_Frozen):
    """How far each side is right by the user's truth, 0 to 1: a mean over ``samples`` samples."""

    samples: int
    device: float
    reference: float
