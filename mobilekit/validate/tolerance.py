"""When an output counts as right: limits for each precision, and the three-way verdict.

Relative L2 decides. A result within relative L2 *r* of the reference has a cosine of at least ``sqrt(1 - r²)``, so the
cosine limit is that (less a rounding allowance) and follows ``--rtol``.

* **fp32**: 1e-3. Another order of summation and other kernels (Winograd, sgemm) cost about 1e-6 to 1e-5 over a
  hundred layers; a wrong axis, pad or activation costs 1e-2 and far more. 1e-3 lies between.
* **fp16**: 5e-2. Half precision rounds to u = 2^-11 = 4.9e-4. Errors of a hundred layers that add up at random give
  u * sqrt(100) = 4.9e-3; sums kept in half precision inside a layer, as ARM's fp16 kernels do, cost several times
  that. Measured with fp16 arithmetic on emulated arm64: 6e-4 on a real page (PP-LCNet), 5e-4 to 5e-3 (a text
  classifier) and 1e-4 to 4e-2 (MTCNN) on seeded inputs. On seeded inputs, where PP-LCNet cannot decide, it reached
  0.13, which fails, as it should: there half precision changes the answer. Use real inputs before giving up on fp16.
* **tf32**: as fp16: its factors have the same 10 bits after the point, its sums more.
* **bf16**: 0.3. bfloat16 rounds to 2^-8, eight times as coarse as half precision; measured over the public models on
  seeded inputs: 6e-4 (silero) to 0.21 (PP-OCR's text detector, on noise).
* **int8, fp8**: 0.5. What 8 bits cost depends on model and calibration and is for the user to judge by the figure
  that is shown; beyond half of the signal nothing is left of the answer.

A model may be less sure than its precision. Where one fails, the reference runs once more without ONNX Runtime's
optimisations (:mod:`mobilekit.validate.doubt`): a result within twice of what they change is no further from the truth
than the reference may be. (A saturated sigmoid does this: values of 1e-7 are rounding noise to either side.) Above
0.1 the reference says nothing.

Where the reference carries no evidence (zero, constant, not finite) no relative error means anything. Such an output
fails where its largest absolute error is above ``atol``, and else says nothing: if all are so, the verdict is
inconclusive.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mobilekit.errors import UsageError

if TYPE_CHECKING:
    from mobilekit.metrics.tensors import TensorError

__all__ = ["Judgement", "Tolerance", "Verdict", "judge", "overall", "tolerance_for"]

_LIMITS = {
    "fp32": (1e-3, 1e-4),
    "fp16": (5e-2, 1e-2),
    "tf32": (5e-2, 1e-2),
    "bf16": (0.3, 0.1),
    "int8": (0.5, 0.1),
    "fp8": (0.5, 0.1),
}
_LARGEST_RTOL = 0.5


class Verdict(enum.StrEnum):
    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"

    @property
    def exit_code(self) -> int:
        return {"pass": 0, "fail": 1, "inconclusive": 3}[self.value]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Limits of one output: relative L2 at most ``rtol``, cosine at least ``cosine``.

    ``atol`` bounds the largest absolute error where the reference carries no evidence; elsewhere it has no say.
    """

    rtol: float
    cosine: float
    atol: float

    def at_least(self, rtol: float | None) -> Tolerance:
        """This one, or one whose relative L2 is ``rtol`` where that is more; the cosine follows."""
        return self if rtol is None or rtol <= self.rtol else Tolerance(rtol, _cosine(rtol), self.atol)


@dataclass(frozen=True, slots=True)
class Judgement:
    verdict: Verdict
    reason: str


def tolerance_for(precision: str, *, rtol: float | None = None, atol: float | None = None) -> Tolerance:
    """Limits for ``"fp32"``, ``"fp16"``, ``"bf16"``, ``"int8"`` or ``"fp8"``, or those the user names.

    Raises :class:`UsageError` for limits under which a wrong result would pass (above 0.5, the error of a result
    half the right size) or none could.
    """
    if precision not in _LIMITS:
        raise UsageError(f"no tolerance is known for the precision {precision!r}", hint=", ".join(_LIMITS))
    default_rtol, default_atol = _LIMITS[precision]
    rtol = default_rtol if rtol is None else rtol
    atol = default_atol if atol is None else atol
    if not 0 < rtol <= _LARGEST_RTOL:
        raise UsageError(f"a relative tolerance of {rtol:g} judges nothing", hint=f"0 < --rtol <= {_LARGEST_RTOL}")
    if not (atol >= 0 and math.isfinite(atol)):
        raise UsageError(f"an absolute tolerance of {atol:g} judges nothing", hint="--atol 0 or more")
    return Tolerance(rtol, _cosine(rtol), atol)


def _cosine(rtol: float) -> float:
    return math.sqrt(1 - rtol * rtol) - 1e-9


_LARGEST_DOUBT = 0.1


def judge(error: TensorError, tolerance: Tolerance, doubt: float = 0.0) -> Judgement:
    """One output's verdict, with a sentence that says what decided it. ``doubt``: how far, in relative L2, the
    reference lies from itself computed in another way."""
    if error.mismatch:
        return Judgement(Verdict.FAIL, error.mismatch)
    if not error.evidence:
        if not error.max_abs <= tolerance.atol:
            return Judgement(
                Verdict.FAIL,
                f"off by {error.max_abs:.3g} (limit {tolerance.atol:g}) from a reference that is zero or constant",
            )
        return Judgement(
            Verdict.INCONCLUSIVE, "the reference output is zero or constant for these inputs, which proves nothing"
        )
    if tolerance.rtol < error.relative_l2 <= 2 * doubt:
        if doubt > _LARGEST_DOUBT:
            return Judgement(
                Verdict.INCONCLUSIVE, f"ONNX Runtime itself is off by {doubt:.2g} with and without its optimisations"
            )
        return Judgement(
            Verdict.PASS,
            f"relative L2 {error.relative_l2:.3g} is within twice of what ONNX Runtime's optimisations change",
        )
    # Written so that a NaN fails.
    if not error.relative_l2 <= tolerance.rtol:
        return Judgement(Verdict.FAIL, f"relative L2 {error.relative_l2:.3g} is above {tolerance.rtol:g}")
    if not error.cosine >= tolerance.cosine:
        return Judgement(Verdict.FAIL, f"cosine {error.cosine:.9f} is below {tolerance.cosine:.9f}")
    return Judgement(Verdict.PASS, f"relative L2 {error.relative_l2:.3g} is within {tolerance.rtol:g}")


def overall(judgements: Iterable[Judgement]) -> Verdict:
    """Fail where any output fails; inconclusive where none says anything; else pass."""
    verdicts = [judgement.verdict for judgement in judgements]
    if Verdict.FAIL in verdicts:
        return Verdict.FAIL
    return Verdict.PASS if Verdict.PASS in verdicts else Verdict.INCONCLUSIVE
