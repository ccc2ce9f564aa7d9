"""Long timings as data: a sustained run, a single stream of queries, waits for the device to cool."""

from __future__ import annotations

from pydantic import Field

from mobilekit.report.base import Frozen

__all__ = ["CoolDownReport", "SingleStreamReport", "StretchReport", "SustainedReport", "rows"]


class StretchReport(Frozen):
    """A minute of a sustained run, or a fifth of one shorter than five, ``start_s`` into it: the hottest zone, and
    the sum of the cores' frequencies, the mean over the minute."""

    start_s: float
    inferences: int = Field(ge=1)
    p50_ms: float
    p90_ms: float
    temperature_celsius: float | None = None
    frequency_khz: float | None = None


class SustainedReport(Frozen):
    """``seconds`` of ``asked_s`` were run; fewer where the device went away, as ``error`` says then."""

    asked_s: float
    seconds: float
    inferences: int
    stretches: tuple[StretchReport, ...]
    throttled: bool
    sentence: str
    error: str = ""


class SingleStreamReport(Frozen):
    """One query after another, after MLPerf Inference's single-stream scenario; ``p90_ms`` is its score.

    ``seconds``: the sum of the queries' latencies. ``compliant``: at least 1,024 queries and 60 s, on no emulator; else
    ``remark`` says why not.
    """

    queries: int
    seconds: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    compliant: bool
    remark: str = ""


class CoolDownReport(Frozen):
    """The wait before ``what`` was timed. ``before_celsius``, ``after_celsius``: the hottest zone; ``None`` where the
    device shows none, which is not waited for."""

    what: str
    target_celsius: float
    waited_s: float
    before_celsius: float | None
    after_celsius: float | None
    reached: bool


def rows(
    sustained: SustainedReport | None, stream: SingleStreamReport | None, waits: tuple[CoolDownReport, ...]
) -> list[tuple[str, str]]:
    """In words, for the terminal and for Markdown."""
    found = []
    for wait in waits:
        if wait.before_celsius is None or wait.after_celsius is None:
            said = "no thermal zone can be read on this device: not waited for"
        else:
            short = "" if wait.reached else f", still above {wait.target_celsius:g} °C"
            said = f"{wait.before_celsius:.0f} to {wait.after_celsius:.0f} °C in {wait.waited_s:.0f} s{short}"
        found.append(("cool-down", f"before {wait.what}: {said}"))
    if stream is not None:
        mark = "" if stream.compliant else f"; NOT COMPLIANT: {stream.remark}"
        score = f"p90 {stream.p90_ms:.4g} ms over {stream.queries:,} queries in {stream.seconds:.0f} s"
        found.append(("single stream", score + mark))
    if sustained is not None:
        short = f"; ended early: {sustained.error}" if sustained.error else ""
        length = f"{sustained.inferences:,} inferences in {sustained.seconds:.0f} s"
        found.append(("sustained", f"{sustained.sentence}; {length}{short}"))
    return found
