"""When an output counts as right: limits for each sample and output, and the three-way verdict.

Relative L2 decides. A result within relative L2 *r* of the reference has a cosine of at least ``sqrt(1 - r²)``, so the
cosine limit is that (less a rounding allowance) and follows ``--rtol``.

Limits are **derived** (:func:`derived`) from what the number format costs by itself on this model and this input
(:mod:`mobilekit.validate.rounding`): ``factor * cost``, not below a floor and not above a ceiling. See ``_RULES`` for
what the factors were measured to be. Where the format by itself costs more than the ceiling allows, a result that is
as far off as that is *inconclusive*: half precision is too coarse for that input, and nothing is proven either way.

Where nothing can be measured, limits are fixed (:func:`tolerance_for`):

* **fp32**: 1e-3. Another order of summation and other kernels (Winograd, sgemm) cost about 1e-6 to 1e-5 over a
  hundred layers; a wrong axis, pad or activation costs 1e-2 and far more. 1e-3 lies between.
* **fp16**: 5e-2. Half precision rounds to u = 2^-11 = 4.9e-4. Errors of a hundred layers that add up at random give
  u * sqrt(100) = 4.9e-3; sums kept in half precision inside a layer, as ARM's fp16 kernels do, cost several times
  that.
* **tf32**: as fp16: its factors have the same 10 bits after the point, its sums more.
* **bf16**: 0.3. bfloat16 rounds to 2^-8, eight times as coarse as half precision; measured over the public models on
  seeded inputs: 6e-4 (silero) to 0.21 (PP-OCR's text detector, on noise).
* **int8, fp8**: 0.5, where nothing is measured. What 8 bits cost depends on model and calibration and is for the user
  to judge by the figure that is shown; beyond half of the signal nothing is left of the answer.

Of **int8** layers every step is known, so that each by itself must be right nearly to the last digit, however much all
of them together cost; where one is not (:mod:`mobilekit.pipeline.int8_layers`), no result is right.

A model may be less sure than its precision. Where one fails, the reference runs again in other ways
(:mod:`mobilekit.validate.doubt`): a result within twice of what they change is no further from the truth than the
reference may be. (A saturated sigmoid does this: values of 1e-7 are rounding noise to either side.) Above 0.1 the
reference says nothing. A limit that the user names holds as it is.

A model that picks rows by score (TopK, NonMaxSuppression) may find neighbours in the other order where their scores
tie: rows that are right once they are put back (:mod:`mobilekit.metrics.order`) are right.

Where the reference carries no evidence (zero, constant, not finite) no relative error means anything. Such an output
fails where its largest absolute error is above ``atol``, and else says nothing, as does one that is constant to within
its limit: a constant would pass. If all are so, the verdict is inconclusive.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from mobilekit.errors import UsageError

if TYPE_CHECKING:
    from mobilekit.metrics.tensors import TensorError
    from mobilekit.validate.rounding import Cost, NumberFormat

__all__ = [
    "FAINT_FLOOR",
    "Judgement",
    "Tolerance",
    "Verdict",
    "derived",
    "explicit",
    "judge",
    "overall",
    "tolerance_for",
]

_LIMITS = {
    "fp32": (1e-3, 1e-4),
    "fp16": (5e-2, 1e-2),
    "tf32": (5e-2, 1e-2),
    "bf16": (0.3, 0.1),
    "int8": (0.5, 0.1),
    "fp8": (0.5, 0.1),
}
_LARGEST_RTOL = 0.5
FAINT_FLOOR = 0.02
"""The strictest limit of an output's faint part (:mod:`mobilekit.metrics.faint`), of fp32; beyond it, what the format
costs there is measured."""
_FAINT_PICKED = 0.5
"""The strictest where rows are picked by score: a tie may give one of them another class, beside the same box."""
_LARGEST_FAINT = 0.9
"""Above it, what is lost (1) would hardly show."""
_COARSE = 8.0
"""An error above the ceiling and within so many costs may be the format's own, if half of the signal is left."""
_RUINED = 2.0
"""Where the format by itself leaves less than that, an error within so many costs may be."""
_SMALLEST_COSINE = 0.866
"""That of a result at relative L2 0.5."""
_SMALLEST_PSNR_DB = 6.0


@dataclass(frozen=True, slots=True)
class _Rule:
    """``limit = clamp(factor * cost, floor, ceiling)``; ``absolute`` is the least limit of zeros, ``faint`` that of a
    faint part.

    Faint parts of the public models' outputs cost 2e-7 to 1e-4 in fp32, and ncnn is off there by at most 5 times as
    much; fp16 weights cost up to 5e-3, bf16 0.01 to 0.09, fp16 0.01 to all of it.
    """

    factor: float
    floor: float
    ceiling: float
    absolute: float
    faint: float


_RULES = {
    "fp32": _Rule(factor=64.0, floor=2e-5, ceiling=1e-2, absolute=1e-5, faint=FAINT_FLOOR),
    "weights": _Rule(factor=4.0, floor=4e-3, ceiling=0.1, absolute=1e-4, faint=0.05),
    "fp16": _Rule(factor=6.0, floor=2e-2, ceiling=0.1, absolute=1e-3, faint=0.1),
    "bf16": _Rule(factor=4.0, floor=2e-2, ceiling=0.3, absolute=1e-2, faint=0.2),
    "int8": _Rule(factor=2.0, floor=2e-2, ceiling=0.5, absolute=1e-2, faint=0.5),
}


class Verdict(enum.StrEnum):
    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"

    @property
    def exit_code(self) -> int:
        return {"pass": 0, "fail": 1, "inconclusive": 3}[self.value]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Limits of one output for one sample: relative L2 at most ``rtol``, cosine at least ``cosine``, PSNR at least
    ``psnr_db``; ``None`` sets no limit.

    ``atol`` bounds the largest absolute error where the reference carries no evidence; elsewhere it has no say.
    ``cost`` is the relative L2 that ``form`` causes by itself, where it was measured; an error above ``rtol`` and
    within ``coarse`` says only that the format is too coarse here. ``wrong``: why no
    result is right, however near it is. ``picks``: the model picks rows by score, and ties may exchange them.
    ``faint``: the largest relative L2 of the faint part (:mod:`mobilekit.metrics.faint`), where its cost was measured.
    """

    rtol: float | None
    cosine: float | None
    atol: float
    psnr_db: float | None = None
    basis: Literal["fixed", "derived", "explicit"] = "fixed"
    form: str = ""
    cost: float | None = None
    coarse: float = 0.0
    wrong: str = ""
    picks: bool = False
    faint: float | None = None

    @property
    def reach(self) -> float:
        """The relative L2 that a result may have and pass: by ``rtol``, else by the cosine; 0 where neither says."""
        if self.rtol is not None:
            return self.rtol
        return 0.0 if self.cosine is None else math.sqrt(1 - self.cosine * self.cosine)

    @property
    def faint_limit(self) -> float | None:
        """The relative L2 that a faint part may have; ``None``: it has no limit."""
        return max(self.faint, _FAINT_PICKED) if self.faint and self.picks else self.faint

    def at_least(self, rtol: float | None) -> Tolerance:
        """This one, or one whose relative L2 is ``rtol`` where that is more; the cosine follows. A faint part has no
        limit then: what a model may be off anyway may be all of it."""
        if rtol is None or self.rtol is None:
            return self
        if rtol <= self.rtol:
            return replace(self, faint=None)
        return replace(self, rtol=rtol, cosine=_cosine(rtol), faint=None)


@dataclass(frozen=True, slots=True)
class Judgement:
    """``beyond``: inconclusive because the error is above the limit and may be the number format's, or the reference's,
    own. ``faint``: what fails is the faint part, and not the whole."""

    verdict: Verdict
    reason: str
    beyond: bool = False
    faint: bool = False


def tolerance_for(precision: str, *, rtol: float | None = None, atol: float | None = None) -> Tolerance:
    """Fixed limits for ``"fp32"``, ``"fp16"``, ``"bf16"``, ``"int8"`` or ``"fp8"``, or those the user names: for where
    nothing is measured.

    Raises :class:`UsageError` for limits under which a wrong result would pass (above 0.5, the error of a result
    half the right size) or none could.
    """
    if precision not in _LIMITS:
        raise UsageError(f"no tolerance is known for the precision {precision!r}", hint=", ".join(_LIMITS))
    default_rtol, default_atol = _LIMITS[precision]
    rtol = default_rtol if rtol is None else rtol
    atol = default_atol if atol is None else atol
    _check(rtol=rtol, atol=atol)
    return Tolerance(rtol, _cosine(rtol), atol, form=precision)


def derived(form: NumberFormat, cost: Cost) -> Tolerance:
    """The limits that follow from what ``form`` costs by itself (:mod:`mobilekit.validate.rounding`)."""
    rule = _RULES[
        "int8" if form.eight_bits else form.computed if form.computed != "fp32" or form.weights == "fp32" else "weights"
    ]
    wide = rule.factor * cost.relative_l2
    rtol = min(max(rule.floor, wide), rule.ceiling)
    absolute = rule.factor * cost.max_abs if math.isfinite(cost.max_abs) else 0.0
    return Tolerance(
        rtol,
        _cosine(rtol),
        max(rule.absolute, absolute),
        basis="derived",
        form=str(form),
        cost=cost.relative_l2,
        coarse=max(min(_COARSE * cost.relative_l2, _LARGEST_RTOL), _RUINED * cost.relative_l2)
        if math.isfinite(wide)
        else 0.0,
        faint=_faint(rule, form, cost),
    )


def _faint(rule: _Rule, form: NumberFormat, cost: Cost) -> float | None:
    """No limit where the format itself may leave nothing of that part, as 8 bits shared with large values do."""
    limit = max(rule.faint, rule.factor * cost.faint_l2)
    return None if form.eight_bits or not limit <= _LARGEST_FAINT else limit


def explicit(
    base: Tolerance,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    cosine: float | None = None,
    psnr_db: float | None = None,
) -> Tolerance:
    """What the user names in place of ``base``: of the first, third and fourth limit only those named count then.

    Raises :class:`UsageError` for limits that judge nothing.
    """
    _check(rtol=rtol, atol=atol, cosine=cosine, psnr_db=psnr_db)
    if rtol is None and cosine is None and psnr_db is None:
        return base if atol is None else replace(base, atol=atol)
    bound = cosine if cosine is not None else None if rtol is None else _cosine(rtol)
    return Tolerance(
        rtol, bound, base.atol if atol is None else atol, psnr_db=psnr_db, basis="explicit", form=base.form
    )


def _check(
    *,
    rtol: float | None = None,
    atol: float | None = None,
    cosine: float | None = None,
    psnr_db: float | None = None,
) -> None:
    if rtol is not None and not 0 < rtol <= _LARGEST_RTOL:
        raise UsageError(f"a relative tolerance of {rtol:g} judges nothing", hint=f"0 < --rtol <= {_LARGEST_RTOL}")
    if atol is not None and not (atol >= 0 and math.isfinite(atol)):
        raise UsageError(f"an absolute tolerance of {atol:g} judges nothing", hint="--atol 0 or more")
    if cosine is not None and not _SMALLEST_COSINE <= cosine <= 1:
        raise UsageError(f"a cosine of {cosine:g} judges nothing", hint=f"{_SMALLEST_COSINE} <= --cosine <= 1")
    if psnr_db is not None and not (psnr_db >= _SMALLEST_PSNR_DB and math.isfinite(psnr_db)):
        raise UsageError(f"a PSNR of {psnr_db:g} dB judges nothing", hint=f"--psnr {_SMALLEST_PSNR_DB:g} or more")


def _cosine(rtol: float) -> float:
    return math.sqrt(1 - rtol * rtol) - 1e-9


_LARGEST_DOUBT = 0.1


def judge(error: TensorError, tolerance: Tolerance, doubt: float = 0.0) -> Judgement:
    """One output's verdict for one sample, with a sentence that says what decided it. ``doubt``: how far, in relative
    L2, the reference lies from itself computed in another way."""
    if error.elements and error.nonfinite_expected == error.elements:
        return Judgement(
            Verdict.INCONCLUSIVE, "the reference is NaN or infinite throughout for these inputs: there is no answer"
        )
    if error.mismatch:
        if error.by_data and math.isinf(doubt) and tolerance.basis != "explicit":
            return Judgement(
                Verdict.INCONCLUSIVE,
                f"{error.mismatch}; ONNX Runtime itself gives another count with other kernels or inputs changed in "
                "the last digit",
                beyond=True,
            )
        lost = error.nonfinite_actual > 0 and tolerance.cost is not None and math.isinf(tolerance.cost)
        why = f"; {tolerance.form} cannot hold what this model computes" if lost else ""
        return Judgement(Verdict.FAIL, error.mismatch + why)
    if not error.evidence:
        if not error.max_abs <= tolerance.atol:
            return Judgement(
                Verdict.FAIL,
                f"off by {error.max_abs:.3g} (limit {tolerance.atol:g}) from a reference that is zero or constant",
            )
        return Judgement(
            Verdict.INCONCLUSIVE,
            f"the reference output is {'zero or constant' if error.elements else 'empty'} for these inputs, which "
            "proves nothing",
        )
    if tolerance.wrong:
        return Judgement(Verdict.FAIL, tolerance.wrong)
    # Every comparison is written so that a NaN fails.
    if tolerance.rtol is not None and not error.relative_l2 <= tolerance.rtol:
        return _beyond(error, tolerance, tolerance.rtol, doubt)
    if tolerance.cosine is not None and not error.cosine >= tolerance.cosine:
        return Judgement(Verdict.FAIL, f"cosine {error.cosine:.9f} is below {tolerance.cosine:.9f}")
    faint = tolerance.faint_limit
    if faint is not None and not error.faint_l2 <= faint:
        return Judgement(
            Verdict.FAIL,
            f"{error.faint}, beside which their error does not show, are off by a relative L2 of {error.faint_l2:.3g}, "
            f"above {faint:.3g}",
            faint=True,
        )
    if tolerance.psnr_db is not None and not error.psnr_db >= tolerance.psnr_db:
        return Judgement(Verdict.FAIL, f"PSNR {error.psnr_db:.1f} dB is below {tolerance.psnr_db:g} dB")
    if _constant_passes(error, tolerance):
        found = f"constant to within {error.expected_spread:.2g}"
        if tolerance.rtol is None and tolerance.cosine is None:
            found = f"{error.constant_psnr_db:.1f} dB from its own mean"
        return Judgement(Verdict.INCONCLUSIVE, f"the reference output is {found}, so that a constant would pass")
    left_out = f"; {error.nonfinite_expected} elements are NaN or infinite on both sides" * bool(
        error.nonfinite_expected
    )
    return Judgement(Verdict.PASS, _within(error, tolerance) + left_out)


def _constant_passes(error: TensorError, tolerance: Tolerance) -> bool:
    """Whether the reference's own mean, given everywhere, is within all limits."""
    by_angle = tolerance.rtol is not None or tolerance.cosine is not None
    if by_angle and error.expected_spread > tolerance.reach:
        return False
    return tolerance.psnr_db is None or error.constant_psnr_db >= tolerance.psnr_db


def _beyond(error: TensorError, tolerance: Tolerance, rtol: float, doubt: float) -> Judgement:
    """An error above the limit: is it the format's, or the reference's own? A limit that the user names is not widened
    by either."""
    found = error.relative_l2
    if tolerance.picks and error.moved and error.in_order_l2 <= rtol:
        return Judgement(
            Verdict.PASS,
            f"{error.moved} rows stand in another order, as ties in what the model picks by may; put back, relative L2 "
            f"{error.in_order_l2:.3g} is within {rtol:.3g}",
        )
    if tolerance.basis == "explicit":
        unsure = f"; ONNX Runtime itself is off by {doubt:.2g} with other kernels" if found <= 2 * doubt else ""
        return Judgement(Verdict.FAIL, f"relative L2 {found:.3g} is above {rtol:.3g}{unsure}")
    if found <= 2 * doubt:
        if doubt > _LARGEST_DOUBT:
            return Judgement(
                Verdict.INCONCLUSIVE,
                f"ONNX Runtime itself is off by {doubt:.2g} with other kernels or inputs changed by a rounding",
                beyond=True,
            )
        return Judgement(
            Verdict.PASS,
            f"relative L2 {found:.3g} is within twice of what other kernels or the inputs' last digit change",
        )
    if found <= tolerance.coarse:
        return Judgement(
            Verdict.INCONCLUSIVE,
            f"relative L2 {found:.3g} is above {rtol:.3g}, but {tolerance.form} by itself costs {tolerance.cost:.2g} "
            "here: too coarse for this input to prove anything",
            beyond=True,
        )
    why = ""
    if tolerance.cost is not None:
        form, cost = tolerance.form, tolerance.cost
        why = f"; values leave the range of {form}" if math.isinf(cost) else f"; {form} costs {cost:.2g} by itself"
    return Judgement(Verdict.FAIL, f"relative L2 {found:.3g} is above {rtol:.3g}{why}")


def _within(error: TensorError, tolerance: Tolerance) -> str:
    if tolerance.rtol is not None:
        return f"relative L2 {error.relative_l2:.3g} is within {tolerance.rtol:.3g}"
    if tolerance.cosine is not None:
        return f"cosine {error.cosine:.9f} is at least {tolerance.cosine:g}"
    return f"PSNR {error.psnr_db:.1f} dB is at least {tolerance.psnr_db:g} dB"


def overall(judgements: Iterable[Judgement]) -> Verdict:
    """Fail where any output fails; inconclusive where none says anything; else pass."""
    verdicts = [judgement.verdict for judgement in judgements]
    if Verdict.FAIL in verdicts:
        return Verdict.FAIL
    return Verdict.PASS if Verdict.PASS in verdicts else Verdict.INCONCLUSIVE
