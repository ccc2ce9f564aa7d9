"""``mobilekit compare A B``: is B slower or less right than A, on the same device, at the same time?"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from mobilekit.errors import DeviceError, UsageError
from mobilekit.pipeline.place import is_virtual
from mobilekit.pipeline.report import read_report
from mobilekit.pipeline.settings import run_options, setting_at
from mobilekit.pipeline.turns import FIRST_LOOK, Contender, Timed, answers, as_report, in_turns
from mobilekit.pipeline.validate import ValidateOptions, validate_bundle
from mobilekit.progress import SILENT, Progress
from mobilekit.tuning import Setting

if TYPE_CHECKING:
    from mobilekit.bundle import Bundle
    from mobilekit.report.comparison import (
        ComparisonReport,
        GateResult,
        InstructionDifference,
        LatencyDifference,
        Side,
    )
    from mobilekit.report.model import DeviceFacts, ValidationReport
    from mobilekit.runners.base import RunOptions
    from mobilekit.validate.regression import Difference
    from mobilekit.validate.tolerance import Verdict

__all__ = ["CompareOptions", "Gate", "compare", "measure", "parse_gate", "parse_share"]

_ROUNDING = 1e-6
"""Relative L2 that another order of summation gives: below it no error is larger than another."""
_SAME_COUNT = 0.001
"""Fewer instructions than that are no change to anybody; what malloc does differently comes to a tenth of it."""
_DOUBLED = 1.0
"""A change that large cannot have been missed by anything that measures."""


@dataclass(frozen=True, slots=True)
class Gate:
    """``error``: B must pass, and with a ``limit`` its error may exceed A's by that share at most; ``latency``: B may
    be slower by ``limit`` (a share) at most; ``instructions``: it may take so many more, on a virtual device."""

    kind: Literal["latency", "instructions", "error"]
    limit: float | None
    text: str


def parse_gate(text: str) -> Gate:
    """``latency:+5%``, ``instructions:+1%``, ``error``, ``error:+20%``. Raises :class:`UsageError`."""
    found = re.fullmatch(r"(latency|instructions|error)(?::\+?(\d+(?:\.\d+)?)%)?", text.strip())
    if found is None or (found[1] != "error" and found[2] is None):
        raise UsageError(
            f"the gate {text!r} is not understood", hint="latency:+5%, instructions:+1%, error or error:+20%"
        )
    limit = None if found[2] is None else float(found[2]) / 100
    return Gate(cast("Literal['latency', 'instructions', 'error']", found[1]), limit, text.strip())


def parse_share(text: str) -> float:
    """``3%`` or ``0.03``. Raises :class:`UsageError`."""
    found = re.fullmatch(r"\+?(\d+(?:\.\d+)?)(%?)", text.strip())
    if found is None:
        raise UsageError(f"{text!r} is no share", hint="3% or 0.03")
    return float(found[1]) / (100 if found[2] else 1)


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """``margin``: what counts as the same speed. ``budget_s``: the most seconds that timing takes; it stops earlier
    where there is an answer. ``tuned``: each as it was tuned for the device. The rest as in
    :class:`~mobilekit.pipeline.validate.ValidateOptions`."""

    inputs: Path | None = None
    samples: int = 3
    seed: int = 0
    threads: int = 0
    precision: Literal["fp32", "fp16"] | None = None
    margin: float = 0.03
    confidence: float = 0.998
    budget_s: float = 120.0
    tuned: bool = True
    timeout_s: float = 300.0
    gates: tuple[Gate, ...] = field(default=())


def compare(
    a: str | Path,
    b: str | Path,
    device: str | None = None,
    options: CompareOptions | None = None,
    progress: Progress = SILENT,
) -> ComparisonReport:
    """B against A. ``a`` may be the JSON report of an earlier ``validate`` or a folder; ``b`` is a bundle.

    Both bundles are validated first, then timed in turns on the same device
    (:mod:`mobilekit.validate.regression` says how that becomes an answer). A recorded A cannot take turns: its
    answer is no better than the machine is steady, and says so. On a virtual device nothing is timed: exact instruction
    counts answer. Raises what ``validate_bundle`` raises, and :class:`UsageError` for a gate that ``device`` cannot
    answer.
    """
    from mobilekit.bundle import open_bundle
    from mobilekit.report.comparison import ComparisonReport

    options = options or CompareOptions()
    recorded = Path(a).is_file()
    # Both before the work begins: what is no bundle is said now, not after minutes. They are hashed when they are used.
    for path in (b,) if recorded else (a, b):  # B last
        judged = open_bundle(Path(path), check=False)
    _check_gates(options.gates, lambda: is_virtual(judged, device, progress))
    how = ValidateOptions(
        inputs=options.inputs,
        samples=options.samples,
        seed=options.seed,
        threads=options.threads,
        precision=options.precision,
        tuned=options.tuned,
        timeout_s=options.timeout_s,
    )
    if not recorded:
        how = replace(how, warmup=0, iterations=1)
    progress.step("reading A" if recorded else "validating A")
    first = read_report(Path(a)) if recorded else validate_bundle(a, device, how, progress)
    progress.step("validating B")
    second = validate_bundle(b, device, how, progress)
    for report in (first, second):
        if report.stopped is not None:
            raise DeviceError(
                f"{report.model} was not validated to its end: {report.stopped.error}", hint=report.stopped.hint
            )
    latency: LatencyDifference | None = None
    counted: InstructionDifference | None = None
    times: tuple[float | None, float | None] = (_p50(first) if recorded else None, None)
    remark = ""
    if second.device.virtual:
        counted, remark = _by_instructions(first, second)
    elif recorded:
        latency = _against_recording(first, second, options)
        times = (_p50(first), _p50(second))
        remark = "A is a recording: what changed on the machine since then counts as B's"
    else:
        timed = measure(a, b, device, options, progress)
        assert timed.found is not None  # it may overrun the budget
        times, latency = timed.p50_ms, as_report(timed.found, timed.sessions, interleaved=True)
        remark = _unlike(first, second)
    unrelated = _unrelated(first, second)
    remark = "; ".join(part for part in (unrelated, remark) if part)
    gates = tuple(
        _not_held(_gate(gate, first, second, latency or counted, remark), unrelated) for gate in options.gates
    )
    from mobilekit import __version__

    return ComparisonReport(
        mobilekit_version=__version__,
        a=_side(str(a), first, times[0], recorded=recorded),
        b=_side(str(b), second, times[1]),
        device=second.device,
        threads=second.settings.threads,
        latency=latency,
        instructions=counted,
        remark=remark,
        gates=gates,
        verdict=_worst(gates),
        sentence=_sentence(first, second, latency or counted, remark),
    )


def measure(
    a: str | Path, b: str | Path, device: str | None, options: CompareOptions, progress: Progress = SILENT
) -> Timed:
    """Time both bundles in turns until there is an answer, or the budget is spent; at least four sessions are measured,
    whatever the budget."""
    from mobilekit.bundle import open_bundle
    from mobilekit.validate.inputs import samples_of

    sides = []
    for path in (a, b):
        bundle = open_bundle(Path(path))
        samples = samples_of(bundle.manifest, options.inputs, seed=options.seed, count=1)
        sides.append(Contender(bundle, next(samples).tensors, partial(_run_options, bundle, options)))
    return in_turns(
        sides,
        device,
        margin=options.margin,
        confidence=options.confidence,
        budget_s=options.budget_s,
        enough=lambda found: answers(found) and all(_holds(gate, found) is not None for gate in options.gates),
        progress=progress,
    )


def _holds(gate: Gate, found: Difference | LatencyDifference) -> bool | None:
    """Whether a latency gate does; ``None`` where that is open. Any other gate has nothing to do with ``found``."""
    if gate.kind != "latency" or gate.limit is None or found.same_high <= 1 + gate.limit:
        return True
    return False if found.low > 1 + gate.limit else None


def _run_options(bundle: Bundle, options: CompareOptions, facts: DeviceFacts) -> RunOptions:
    setting, _ = setting_at(
        bundle.manifest, facts, threads=options.threads, precision=options.precision, tuned=options.tuned
    )
    return run_options(setting, timeout_s=options.timeout_s)


def _setting(report: ValidationReport) -> Setting:
    how = report.settings
    fp16 = how.precision == "fp16"
    return Setting(threads=how.threads, cluster=how.cluster, fp16=fp16, winograd=how.winograd, packing=how.packing)


def _unlike(first: ValidationReport, second: ValidationReport) -> str:
    """What must be said where one side was tuned and the other was not, or otherwise."""
    a, b = _setting(first), _setting(second)
    if a == b or not (first.settings.tuned or second.settings.tuned):
        return ""
    return f"each as it was tuned: A with {a}, B with {b} (--no-tuned: both as ncnn chooses)"


def _unrelated(first: ValidationReport, second: ValidationReport) -> str:
    """What must be said where A and B are no two versions of one model: neither by name nor by what they give."""
    kinds = [sorted((output.dtype, output.shape) for output in report.outputs) for report in (first, second)]
    if first.model == second.model or kinds[0] == kinds[1]:
        return ""
    return f"A is {first.model!r} and B is {second.model!r}, which gives other outputs: these are different models"


def _not_held(gate: GateResult, unrelated: str) -> GateResult:
    """No gate of a regression passes between different models."""
    from mobilekit.validate.tolerance import Verdict

    if not unrelated or gate.verdict is not Verdict.PASS:
        return gate
    return gate.model_copy(update={"verdict": Verdict.INCONCLUSIVE, "reason": f"{gate.reason}, but {unrelated}"})


def _p50(report: ValidationReport) -> float | None:
    return None if report.latency is None else report.latency.p50_ms


def _against_recording(
    first: ValidationReport, second: ValidationReport, options: CompareOptions
) -> LatencyDifference | None:
    """Blocks of both runs as if they were sessions; ``None`` where they are not of one kind of device and setting."""
    from mobilekit.validate.regression import difference

    same = _setting(first) == _setting(second) and all(
        getattr(first.device, name) == getattr(second.device, name)
        for name in ("kind", "model", "abi", "cpu_features", "runner")
    )
    fits = same and first.latency and second.latency
    if not fits or first.latency is None or second.latency is None:
        return None
    old, new = (_blocks(report.values_ms) for report in (first.latency, second.latency))
    if min(len(old), len(new)) < FIRST_LOOK:
        return None
    ratios = [[math.log(y / x)] for x, y in zip(old, new, strict=False)]
    found = difference(ratios, margin=options.margin, confidence=options.confidence)
    return as_report(found, interleaved=False)


def _blocks(values: Sequence[float]) -> list[float]:
    """The fastest of at most twelve consecutive stretches of the times; none where there are fewer than three
    in each."""
    count = min(12, len(values) // 3)
    edges = [round(index * len(values) / count) for index in range(count + 1)] if count else []
    return [min(values[low:high]) for low, high in pairwise(edges)]


def _side(name: str, report: ValidationReport, p50_ms: float | None, *, recorded: bool = False) -> Side:
    from mobilekit.report.comparison import Side

    return Side(
        name=name,
        model=report.model,
        model_sha256=report.model_sha256,
        precision=report.precision,
        recorded=recorded,
        verdict=report.verdict,
        relative_l2=_error(report),
        p50_ms=p50_ms,
        instructions=_total(report),
    )


def _total(report: ValidationReport) -> int | None:
    return None if report.instructions is None else report.instructions.total


def _check_gates(gates: Sequence[Gate], virtual: Callable[[], bool]) -> None:
    """:class:`UsageError` for a gate that has no answer there, before any work is done."""
    kinds = {gate.kind: gate for gate in gates}
    if not {"latency", "instructions"} & set(kinds):
        return
    if virtual():
        if (gate := kinds.get("latency")) is not None:
            raise UsageError(
                f"the gate {gate.text} has no answer on a virtual device: its times are the emulator's",
                hint=f"--gate instructions:{gate.text.partition(':')[2]} compares exact instruction counts",
            )
    elif (gate := kinds.get("instructions")) is not None:
        raise UsageError(
            f"the gate {gate.text} is for a virtual device: no other counts instructions",
            hint=f"--device virtual, or --gate latency:{gate.text.partition(':')[2]}",
        )


def _by_instructions(first: ValidationReport, second: ValidationReport) -> tuple[InstructionDifference | None, str]:
    """The answer, and what is to be said of it; none where the counts are not of one CPU and one harness."""
    from mobilekit.report.comparison import InstructionDifference
    from mobilekit.validate.regression import Answer

    for side, report in (("A", first), ("B", second)):
        if _total(report) is None:
            why = report.instructions.remark if report.instructions is not None else "an older report"
            return None, f"{side}'s instructions are not known: {why}; a virtual device's times are the emulator's"
    for what in ("cpu_profile", "runner_version"):
        old, new = (getattr(report.device, what) for report in (first, second))
        if old != new:
            return None, f"A ran on {old}, B on {new}: their instructions cannot be compared"
    before, after = _total(first), _total(second)
    assert before is not None
    assert after is not None
    ratio = after / max(before, 1)
    answer = Answer.SAME
    if abs(ratio - 1) >= _SAME_COUNT:
        answer = Answer.WORSE if ratio > 1 else Answer.BETTER
    return (
        InstructionDifference(answer=answer, ratio=ratio),
        "a virtual device's times are the emulator's: exact instruction counts answer",
    )


def _error(report: ValidationReport) -> float | None:
    return max((output.relative_l2 for output in report.outputs if output.evidence), default=None)


def _gate(
    gate: Gate,
    first: ValidationReport,
    second: ValidationReport,
    found: LatencyDifference | InstructionDifference | None,
    remark: str,
) -> GateResult:
    from mobilekit.report.comparison import GateResult, InstructionDifference
    from mobilekit.validate.tolerance import Verdict

    if gate.kind == "error":
        old, new = _error(first), _error(second)
        verdict, reason = second.verdict, f"B: {second.sentence}"
        fed = [(report.samples, report.settings.inputs, report.settings.seed) for report in (first, second)]
        if verdict is Verdict.PASS and gate.limit is not None and fed[0] != fed[1]:
            verdict, reason = Verdict.INCONCLUSIVE, "A was recorded on other samples"
        elif verdict is Verdict.PASS and gate.limit is not None and old is not None and new is not None:
            most = max(old * (1 + gate.limit), _ROUNDING)
            if new > most:
                verdict, reason = Verdict.FAIL, f"B's error {new:.3g} is above {most:.3g}, A's and {gate.limit:.0%}"
        return GateResult(gate=gate.text, verdict=verdict, reason=reason)
    assert gate.limit is not None
    if found is None:
        reason = remark if gate.kind == "instructions" else "the times cannot be compared"
        return GateResult(gate=gate.text, verdict=Verdict.INCONCLUSIVE, reason=reason)
    limit = 1 + gate.limit
    if isinstance(found, InstructionDifference):
        verdict = Verdict.PASS if found.ratio <= limit else Verdict.FAIL
        return GateResult(gate=gate.text, verdict=verdict, reason=f"B takes {found.ratio:.4f} of A's instructions")
    interval = f"B takes {found.low:.3f} to {found.high:.3f} of A's time"
    held = _holds(gate, found)
    if held is False:
        return GateResult(gate=gate.text, verdict=Verdict.FAIL, reason=interval)
    if held:
        least = f"B takes {found.same_high:.3f} of A's time at most ({found.same_confidence:.1%} confidence)"
        return GateResult(gate=gate.text, verdict=Verdict.PASS, reason=least)
    return GateResult(gate=gate.text, verdict=Verdict.INCONCLUSIVE, reason=f"{interval}, on both sides of {limit:g}")


def _worst(gates: Sequence[GateResult]) -> Verdict:
    from mobilekit.validate.tolerance import Verdict

    verdicts = {gate.verdict for gate in gates}
    return next((v for v in (Verdict.FAIL, Verdict.INCONCLUSIVE) if v in verdicts), Verdict.PASS)


def _sentence(
    first: ValidationReport,
    second: ValidationReport,
    found: LatencyDifference | InstructionDifference | None,
    remark: str,
) -> str:
    from mobilekit.report.comparison import InstructionDifference
    from mobilekit.validate.regression import Answer

    if found is None:
        return remark or "the times cannot be compared: other devices, other settings, or too few of them"
    change = found.ratio - 1
    if isinstance(found, InstructionDifference):
        said = f"B takes {change:+.2%} instructions, {_total(second):,} against A's {_total(first):,}"
    else:
        interval = f"{found.low - 1:+.1%} to {found.high - 1:+.1%} at {found.confidence:.1%} confidence"
        said = {
            Answer.WORSE: f"B is {change:.1%} slower than A ({interval})",
            Answer.BETTER: f"B is {-change:.1%} faster than A ({interval})",
            Answer.SAME: f"B is as fast as A within {found.margin:.0%} ({found.same_low - 1:+.1%} to "
            f"{found.same_high - 1:+.1%} at {found.same_confidence:.1%} confidence)",
            Answer.INCONCLUSIVE: f"no answer: B's time differs from A's by {interval}; "
            f"less than {found.detectable:.1%} could not have been told from none"
            if found.detectable < _DOUBLED
            else "no answer: nothing could have been seen, the times vary so much that not even twice the time could "
            "have been told from the same",
        }[found.answer]
    if first.verdict is not second.verdict:
        said += f"; A's outputs: {first.verdict.value}, B's: {second.verdict.value}"
    return f"{said}. {remark[:1].upper()}{remark[1:]}" if remark else said
