"""A sample that was measured, as a search for the fault takes it: what is off, by how much, and by which figure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mobilekit.metrics.tensors import TensorError
    from mobilekit.pipeline.measure import SampleRecord
    from mobilekit.report.bisection import OutputState
    from mobilekit.tensors import Array
    from mobilekit.validate.tolerance import Judgement, Tolerance

__all__ = ["Judged", "error_of", "judged"]


@dataclass(frozen=True, slots=True)
class Judged:
    """``off``: outputs beyond their tolerance, those that fail and those for which the number format is too coarse.
    ``badness``: whether the sample fails, and how many times its limit it is off by. ``faint``: an output is off in its
    faint part (:mod:`mobilekit.metrics.faint`), so that errors of the whole would lead elsewhere."""

    judgements: tuple[Judgement, ...]
    states: tuple[OutputState, ...]
    off: tuple[str, ...]
    badness: tuple[bool, float]
    faint: bool


def judged(record: SampleRecord) -> Judged:
    """Every output of a sample, as a validation judges it."""
    from mobilekit.report.bisection import OutputState
    from mobilekit.validate.tolerance import Verdict, judge

    found = {name: judge(error, record.tolerances[name], record.doubts[name]) for name, error in record.errors.items()}
    off = tuple(name for name, each in found.items() if each.verdict is Verdict.FAIL or each.beyond)
    states = tuple(
        OutputState(
            name=name,
            verdict=each.verdict,
            reason=each.reason,
            relative_l2=record.errors[name].faint_l2 if each.faint else record.errors[name].relative_l2,
        )
        for name, each in found.items()
    )
    return Judged(
        judgements=tuple(found.values()),
        states=states,
        off=off,
        badness=(
            any(each.verdict is Verdict.FAIL for each in found.values()),
            max((_distance(record.errors[name], record.tolerances[name], found[name]) for name in off), default=0.0),
        ),
        faint=any(each.faint for each in found.values()),
    )


def error_of(actual: Array, expected: Array, *, faint: bool) -> TensorError:
    """By the figure that the outputs are off by: of a faint part where ``faint`` of :class:`Judged`."""
    from mobilekit.metrics.tensors import compare

    found = compare(actual, expected)
    return found.in_faint_part() if faint else found


def _distance(error: TensorError, tolerance: Tolerance, judgement: Judgement) -> float:
    """How many times its limit an output that is off is off by."""
    if error.mismatch or not math.isfinite(error.relative_l2):
        return math.inf
    found, limit = (error.faint_l2, tolerance.faint) if judgement.faint else (error.relative_l2, tolerance.rtol)
    return found / limit if limit else found
