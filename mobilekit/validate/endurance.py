"""What long timings say: stretches of a sustained run, throttling, the score of a single stream of queries."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mobilekit.errors import UsageError

__all__ = [
    "Block",
    "CoolDown",
    "SingleStream",
    "Stretch",
    "parse_cool_down",
    "parse_duration",
    "stretch_length",
    "stretches",
    "sustained_sentence",
]

MLPERF_QUERIES = 1024
MLPERF_SECONDS = 60.0
"""The least of MLPerf Inference's single-stream scenario (its rules, "Scenarios")."""

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_STRETCH_S = 60.0
_FEWEST = 5
_CHANGED = 0.1


@dataclass(frozen=True, slots=True)
class CoolDown:
    """Wait until the hottest thermal zone is at ``celsius`` or below, at most ``timeout_s``."""

    celsius: float
    timeout_s: float = 600.0


@dataclass(frozen=True, slots=True)
class SingleStream:
    """One query after another: at least so many, for at least so long."""

    queries: int = MLPERF_QUERIES
    seconds: float = MLPERF_SECONDS

    @property
    def compliant(self) -> bool:
        return self.queries >= MLPERF_QUERIES and self.seconds >= MLPERF_SECONDS


@dataclass(frozen=True, slots=True)
class Block:
    """Inferences right after one another, from ``start_s`` to ``end_s`` of the run; what ``/sys`` showed after them:
    the hottest zone, the sum of the cores' frequencies."""

    start_s: float
    end_s: float
    latencies_ns: Sequence[int]
    celsius: float | None = None
    khz: float | None = None


@dataclass(frozen=True, slots=True)
class Stretch:
    """A minute of a sustained run, or a fifth of one that is shorter than five. The hottest, and the mean frequency."""

    start_s: float
    inferences: int
    p50_ms: float
    p90_ms: float
    celsius: float | None
    khz: float | None


def parse_duration(text: str) -> float:
    """``10m``, ``90s``, ``1h`` or seconds. Raises :class:`UsageError`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if found is None or float(found[1]) == 0:
        raise UsageError(f"{text!r} is no duration", hint="10m, 90s or 1h")
    return float(found[1]) * _UNITS[found[2]]


def parse_cool_down(text: str) -> CoolDown:
    """``40`` or ``40,5m``: degrees Celsius, and how long to wait. Raises :class:`UsageError`."""
    degrees, comma, timeout = text.partition(",")
    if re.fullmatch(r"\s*\d+(\.\d+)?\s*", degrees) is None:
        raise UsageError(f"{text!r} is no temperature", hint="--cool-down 40, or with the longest wait 40,5m")
    return CoolDown(float(degrees), parse_duration(timeout)) if comma else CoolDown(float(degrees))


def stretch_length(seconds: float) -> float:
    """A minute, or a fifth of a run of ``seconds`` where that is less."""
    return min(_STRETCH_S, seconds / _FEWEST)


def stretches(blocks: Sequence[Block], seconds: float) -> list[Stretch]:
    """``seconds``: how long the run was to be."""
    import numpy as np

    length = stretch_length(seconds)
    groups: dict[int, list[Block]] = {}
    for block in blocks:
        # The last block may end late, and makes no stretch of its own.
        groups.setdefault(min(int(block.start_s / length), max(0, round(seconds / length) - 1)), []).append(block)
    found = []
    for number, group in sorted(groups.items()):
        ms = np.concatenate([np.asarray(block.latencies_ns, dtype=np.float64) for block in group]) / 1e6
        heat = [block.celsius for block in group if block.celsius is not None]
        khz = [block.khz for block in group if block.khz]
        p50, p90 = (float(value) for value in np.percentile(ms, (50, 90)))
        hottest = max(heat, default=None)
        found.append(Stretch(number * length, len(ms), p50, p90, hottest, sum(khz) / len(khz) if khz else None))
    return found


def sustained_sentence(found: Sequence[Stretch]) -> tuple[bool, str]:
    """Whether the device throttled (its cores' frequencies fell by more than 10%), and what became of the times."""
    first, last = found[0], found[-1]
    change = last.p50_ms / first.p50_ms - 1 if first.p50_ms else 0.0
    times = f"p50 {first.p50_ms:.3g} ms at first, {last.p50_ms:.3g} ms at last ({change:+.1%})"
    if first.khz is not None:
        slowest = min((one for one in found if one.khz is not None), key=lambda one: one.khz or 0.0)
        fell = 1 - (slowest.khz or 0.0) / first.khz
        if fell > _CHANGED:
            at = f" at {slowest.celsius:.0f} °C" if slowest.celsius is not None else ""
            return (
                True,
                f"throttled: the cores' frequencies fell by {fell:.0%}{at}, {slowest.start_s:.0f} s in; {times}",
            )
    if change > _CHANGED:
        why = "no frequency shows why" if first.khz is None else "the frequencies did not fall"
        return False, f"slower in the end; {why}; {times}"
    return False, f"{'no throttling seen' if first.khz is None else 'not throttled'}; {times}"
