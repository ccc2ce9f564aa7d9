"""Which samples are worth a look."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mobilekit.validate.tolerance import Verdict

if TYPE_CHECKING:
    from mobilekit.report.model import SampleErrors

__all__ = ["WORST", "worst_samples"]

WORST = 12
"""How many are shown, with their pictures and both answers."""


def worst_samples(samples: Iterable[SampleErrors]) -> list[SampleErrors]:
    """All of them, those that failed first, then by error."""
    return sorted(samples, key=_badness, reverse=True)


def _badness(one: SampleErrors) -> tuple[bool, float]:
    errors = list(one.relative_l2.values())
    # A NaN is worse than any number.
    return one.verdict is Verdict.FAIL, max((float("inf") if e != e else e for e in errors), default=0.0)
