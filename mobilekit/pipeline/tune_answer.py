"""What a sweep of settings comes to, in a word and a sentence."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mobilekit.pipeline.tune import ALIKE, SCREENING

if TYPE_CHECKING:
    from mobilekit.pipeline.tune import Sweep, Trial, TuneOptions
    from mobilekit.report.comparison import LatencyDifference
    from mobilekit.report.tune import Outcome

__all__ = ["decided", "what_was_written"]

_FAR = 10.0
"""Times the default: beyond, an interval says nothing but that it is wide."""


def decided(sweep: Sweep, best: Trial | None, found: LatencyDifference | None) -> tuple[Outcome, str]:
    """``found``: ``best`` against the default, ``None`` where they did not meet."""
    from mobilekit.validate.regression import Answer
    from mobilekit.validate.tolerance import Verdict

    default = sweep.default
    wrong = sum(trial.verdict is Verdict.FAIL for trial in sweep.trials)
    untried = sum(not trial.reason for trial in sweep.trials)
    parts = [f"{wrong} with wrong answers" if wrong else "", f"{untried} not tried" if untried else ""]
    said = ", ".join(filter(None, parts))
    count = f"{len(sweep.trials)} settings" + (f" ({said})" if said else "")
    if default.verdict is Verdict.FAIL:
        return "wrong", f"the bundle's answers are wrong as it is ({default.reason}): see mobilekit bisect"
    if untried == len(sweep.trials):
        return "undecided", "no setting was tried: give --budget more seconds"
    if best is None:
        return "default", f"keep the default, {default.setting}: of {count} none gives right answers"
    if not sweep.decides:
        return _by_instructions(sweep, best, count)
    if sweep.short_of_s is not None:
        enough = math.ceil(max(sweep.options.budget_s, sweep.short_of_s / (1 - SCREENING)))
        more = f"{enough} seconds or more" if enough > sweep.options.budget_s else "more seconds"
        return "undecided", f"{best.setting} looks faster, but no time was left to make sure: give --budget {more}"
    if found is None and untried:
        return "undecided", f"of {count} none was faster at first sight: give --budget more seconds"
    if found is None:
        return "default", f"keep the default, {default.setting}: of {count} none was faster at first sight"
    most = f"{found.high - 1:+.1%}" if found.high < _FAR else "far above"
    interval = f"{found.low - 1:+.1%} to {most} at {found.confidence:.1%} confidence"
    if found.answer is Answer.BETTER:
        said = f"{best.setting}: {1 - found.ratio:.1%} less time than the default, {default.setting} ({interval})"
        if best.relative_l2 is not None and default.relative_l2 is not None:
            said += f"; error {best.relative_l2:.2g} instead of {default.relative_l2:.2g}"
        if best.verdict is not Verdict.PASS:
            said += "; neither one's answers prove anything on these inputs: try real ones with --inputs"
        return "tuned", said
    if found.answer is Answer.INCONCLUSIVE:
        return "undecided", (
            f"the machine is too noisy to say whether {best.setting} is faster than the default ({interval}): give "
            "--budget more seconds"
        )
    return "default", f"keep the default, {default.setting}: the best of {count}, {best.setting}, differs by {interval}"


def _by_instructions(sweep: Sweep, best: Trial, count: str) -> tuple[Outcome, str]:
    """The answer of a virtual device."""
    default = sweep.default
    if default.instructions is None or best.instructions is None:
        why = sweep.uncounted or "they are counted on one thread"
        return "undecided", (
            "a virtual device's times are the emulator's and decide nothing, and its instructions are not known: "
            f"{why}. Every setting's answers were judged on its kernels: {count}"
        )
    ratio = best.instructions / max(default.instructions, 1)
    if ratio * ALIKE > 1:
        return "default", f"keep the default, {default.setting}: of {count} none takes 1% fewer instructions"
    said = f"{best.setting}: {1 - ratio:.1%} fewer instructions than the default, {default.setting} (exact, one thread"
    return "tuned", f"{said}; a virtual device's times are the emulator's, and a real one's are not in proportion)"


def what_was_written(outcome: Outcome, written: bool, options: TuneOptions) -> str:
    if not options.write:
        return ". Nothing was written"
    if outcome == "tuned":
        return ". Written to the manifest" if written else ". The manifest says so already"
    return ". What the manifest said of such devices was taken out" if written else ""
