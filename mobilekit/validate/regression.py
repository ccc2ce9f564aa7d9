"""Is B slower than A? Answered from interleaved measurements, with an interval, or not at all.

A *round* times a block of A and a block of B right after one another, so that whatever else the machine does meets
both; its number is ``log(fastest of B's block / fastest of A's)``. What other programs do to an inference only ever
adds to its time, so the fastest one of a block is the nearest to what the model costs by itself (Chen and Revels,
"Robust benchmarking in noisy environments", 2016); on a busy machine its scatter was mostly a quarter to a half of
the medians' (docs/compare.md has when it was not). A *session* is some rounds with both models freshly loaded: where
code and buffers come to lie in memory changes a model's speed by a percent or two, for as long as the process lives.
Rounds of one session are therefore no independent evidence: a session's number is the median of its rounds, and the
interval is that of the sessions' mean (Student's t, one degree of freedom fewer than sessions). It holds for any
noise that meets A and B alike.

Two questions, two confidences. *Is there a change?* is answered at 99.8%: whoever compares often does not want to hunt
for regressions that are none. *Is there none worth speaking of?* is an equivalence test (two one-sided tests,
Schuirmann 1987): the 99% interval lies within the margin, so that a change as large as that is called the same once in
200.

The comparison may look at its data several times and stop when it has an answer. Each look takes an equal part of the
allowed error (Bonferroni), so that the stated confidences are those of the whole procedure.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from mobilekit.errors import UsageError

__all__ = [
    "CONFIDENCE",
    "MARGIN",
    "SAME_CONFIDENCE",
    "SMALLEST_EFFECT",
    "Answer",
    "Difference",
    "difference",
    "t_quantile",
]

CONFIDENCE = 0.998
SAME_CONFIDENCE = 0.99
MARGIN = 0.03
SMALLEST_EFFECT = 0.01
_FEWEST_SESSIONS = 4


class Answer(enum.StrEnum):
    """What a change from A to B did; ``INCONCLUSIVE``: more or quieter measurements are needed to say."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "same"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Difference:
    """``ratio``: B over A, within ``low`` to ``high`` with ``confidence``, and within ``same_low`` to ``same_high``
    with ``same_confidence``, which *same* goes by. ``detectable``: the smallest relative change that this much data
    could have told from none. ``margin``: what counts as the same."""

    answer: Answer
    ratio: float
    low: float
    high: float
    confidence: float
    same_low: float
    same_high: float
    same_confidence: float
    detectable: float
    margin: float
    sessions: int
    rounds: int


def difference(
    sessions: Sequence[Sequence[float]],
    *,
    margin: float = MARGIN,
    confidence: float = CONFIDENCE,
    looks: int = 1,
) -> Difference:
    """``sessions``: for each, its rounds' ``log(B / A)``. ``looks``: how often the caller may ask in all.

    *worse* and *better*: the interval excludes no change, and the change is 1% or more (less is no change to anybody,
    and more than two loads of one model differ by). *same*: the narrower interval (``SAME_CONFIDENCE``, or
    ``confidence`` where that is less) lies within ``margin`` of no change.

    Raises :class:`UsageError` for a margin or a confidence that means nothing, or fewer than four sessions.
    """
    import numpy as np

    if not 0 < margin < 1:
        raise UsageError(f"a margin of {margin:g} decides nothing", hint="0.03 means 3%; between 0 and 1")
    if not 0.5 <= confidence < 1:
        raise UsageError(f"a confidence of {confidence:g} is none", hint="0.5 or more, below 1")
    if len(sessions) < _FEWEST_SESSIONS or not all(sessions):
        raise UsageError(
            f"{len(sessions)} sessions are too few for an interval", hint=f"measure {_FEWEST_SESSIONS} or more"
        )
    means = np.array([np.median(rounds) for rounds in sessions], dtype=np.float64)
    if not np.isfinite(means).all():
        raise UsageError("a time of zero cannot be compared", hint="the clock may have gone backwards; measure again")
    centre = float(means.mean())
    error = float(means.std(ddof=1)) / math.sqrt(len(means))
    agreed = min(SAME_CONFIDENCE, confidence)
    half, within = (t_quantile(1 - (1 - each) / looks / 2, len(means) - 1) * error for each in (confidence, agreed))
    low, high = centre - half, centre + half
    answer = Answer.INCONCLUSIVE
    if (low > 0 or high < 0) and abs(math.expm1(centre)) >= SMALLEST_EFFECT:
        answer = Answer.WORSE if centre > 0 else Answer.BETTER
    elif abs(centre) + within < math.log1p(margin):
        answer = Answer.SAME
    return Difference(
        answer=answer,
        ratio=math.exp(centre),
        low=math.exp(low),
        high=math.exp(high),
        confidence=confidence,
        same_low=math.exp(centre - within),
        same_high=math.exp(centre + within),
        same_confidence=agreed,
        detectable=max(SMALLEST_EFFECT, math.expm1(half)),
        margin=margin,
        sessions=len(means),
        rounds=sum(len(rounds) for rounds in sessions),
    )


@lru_cache(maxsize=64)
def t_quantile(probability: float, degrees: int) -> float:
    """Student's t: the value that ``probability`` (0.5 or more) of the distribution lies below.

    By bisection on the integral of the density, substituted so that it is finite: t = sqrt(n) tan(a), whose density
    in ``a`` is proportional to ``cos(a) ** (n - 1)`` (Abramowitz and Stegun, 26.7).
    """
    import numpy as np

    angles = np.linspace(-math.pi / 2, math.pi / 2, 200_001)
    density = np.cos(angles) ** (degrees - 1)
    steps = (density[1:] + density[:-1]) / 2
    below = np.concatenate([[0.0], np.cumsum(steps)]) / steps.sum()
    return math.sqrt(degrees) * math.tan(float(np.interp(probability, below, angles)))
