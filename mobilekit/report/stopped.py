"""A validation that was stopped before its last sample."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["StoppedReport"]


class StoppedReport(BaseModel):
    """Why it stopped, after ``done`` samples; ``hint`` says what to do. The verdict is on those samples, and at best
    inconclusive."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    done: int
    error: str
    hint: str = ""
    exit_code: int
