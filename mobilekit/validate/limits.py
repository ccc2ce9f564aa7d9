"""Which limits hold for which sample: the user's where there are any, else those that the number format must cost.

Measuring that takes about as long as a few runs of the reference. So each of the first samples is measured, and later
ones are held against the strictest limit known; only those that it does not let pass are measured themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mobilekit.errors import UsageError
from mobilekit.validate.tolerance import Tolerance, Verdict, derived, explicit, judge, tolerance_for

if TYPE_CHECKING:
    from mobilekit.metrics.tensors import TensorError
    from mobilekit.tensors import Array
    from mobilekit.validate.rounding import Costs, NumberFormat

__all__ = ["EVERY", "Limits", "Overrides"]

EVERY = ""
"""Stands for every output that has no limit of its own."""

_MEASURED = 8


@dataclass(frozen=True, slots=True)
class Overrides:
    """Limits that the user names, by output; :data:`EVERY` for all others."""

    rtol: Mapping[str, float] = field(default_factory=dict)
    atol: Mapping[str, float] = field(default_factory=dict)
    cosine: Mapping[str, float] = field(default_factory=dict)
    psnr_db: Mapping[str, float] = field(default_factory=dict)

    def check(self, outputs: Sequence[str]) -> None:
        """Raises :class:`UsageError` for an output that the model does not have, or a limit that judges nothing."""
        for given in (self.rtol, self.atol, self.cosine, self.psnr_db):
            for name in given:
                if name != EVERY and name not in outputs:
                    raise UsageError(f"the model has no output {name!r}", hint=f"its outputs: {', '.join(outputs)}")
        for name in (*outputs, EVERY):
            self.over(tolerance_for("fp32"), name)

    def over(self, base: Tolerance, output: str) -> Tolerance:
        """``base``, or what the user names for ``output``."""

        def of(given: Mapping[str, float]) -> float | None:
            return given.get(output, given.get(EVERY))

        return explicit(base, rtol=of(self.rtol), atol=of(self.atol), cosine=of(self.cosine), psnr_db=of(self.psnr_db))


class Limits:
    """The tolerance of every output, sample by sample.

    ``form`` without a ``cost``: a precision of :func:`~mobilekit.validate.tolerance.tolerance_for`, whose fixed limits
    hold. ``allowance``: the relative L2 that a right conversion of this model may be off anyway (the manifest's
    ``rtol``). ``wrong``: what of the model is known to be wrong, so that no answer of it is right.
    ``picks``: as of :class:`Tolerance`.
    """

    def __init__(
        self,
        outputs: Sequence[str],
        form: NumberFormat | str,
        cost: Costs | None,
        *,
        overrides: Overrides | None = None,
        allowance: float | None = None,
        wrong: str = "",
        picks: bool = False,
    ) -> None:
        self._outputs = tuple(outputs)
        self._form = form
        self._cost = cost
        self._overrides = overrides or Overrides()
        self._overrides.check(self._outputs)
        self._allowance = allowance
        self._wrong = wrong
        self._picks = picks
        self._measured = 0
        self._strictest: dict[str, Tolerance] = {}
        loosest = (
            form
            if isinstance(form, str)
            else form.weights
            if form.computed == "fp32" or form.eight_bits
            else form.computed
        )
        self.fixed: Mapping[str, Tolerance] = self._finished({name: tolerance_for(loosest) for name in self._outputs})

    def of(
        self,
        inputs: Mapping[str, Array],
        errors: Mapping[str, TensorError],
        timeout_s: float,
    ) -> Mapping[str, Tolerance]:
        """The limits for one sample, by output. ``errors`` are those found; they only say whether measuring is worth
        it."""
        if self._cost is None or isinstance(self._form, str):
            return self.fixed
        if all(tolerance.basis == "explicit" for tolerance in self.fixed.values()):
            return self.fixed
        if self._measured >= _MEASURED and not any(
            judge(errors[name], self._strictest[name]).verdict is Verdict.FAIL for name in self._outputs
        ):
            return self._strictest
        costs = self._cost.of(inputs, timeout_s)
        if not costs.keys() >= set(self._outputs):
            return self.fixed
        found = self._finished({name: derived(self._form, costs[name]) for name in self._outputs})
        self._measured += 1
        for name, tolerance in found.items():
            known = self._strictest.get(name)
            if known is None or known.rtol is None or (tolerance.rtol is not None and tolerance.rtol < known.rtol):
                self._strictest[name] = tolerance
            parts = [each.faint for each in (known, tolerance) if each is not None and each.faint is not None]
            self._strictest[name] = replace(self._strictest[name], faint=min(parts, default=None))
        return found

    def _finished(self, base: Mapping[str, Tolerance]) -> dict[str, Tolerance]:
        return {
            name: replace(
                self._overrides.over(tolerance.at_least(self._allowance), name), wrong=self._wrong, picks=self._picks
            )
            for name, tolerance in base.items()
        }
