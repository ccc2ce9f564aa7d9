"""A validation that was stopped before its last sample."""

from __future__ import annotations

from mobilekit.report.base import Frozen

__all__ = ["StoppedReport"]


class StoppedReport(Frozen):
    """Why it stopped, after ``done`` samples; ``hint`` says what to do. The verdict is on those samples, and at best
    inconclusive."""

    done: int
    error: str
    hint: str = ""
    exit_code: int
