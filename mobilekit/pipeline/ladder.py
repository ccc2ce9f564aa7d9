"""The ladder: the same samples through every step between the original model and the device.

::

    float64 -> [onnx runtime] -> simplified -> legalised -> ncnn host -> device cpu -> device gpu
                                                   |            \\-> ncnn host bf16
                                                   \\-> tensorrt prepared -> tensorrt

Every rung is held against ONNX Runtime on the original, and its distance to the rung before is told. One that cannot be
taken is left out by name, with the reason. Of a bundle in int8 "ncnn host" is the same model in float, made again; then
comes the bundle itself as "ncnn host int8", and the device after that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from mobilekit.errors import (
    BundleError,
    ChildError,
    FetchError,
    HarnessError,
    HarnessTimeoutError,
    ModelError,
    NoDeviceError,
    SetupError,
    UnsupportedModelError,
    UsageError,
    VerificationError,
)
from mobilekit.pipeline.ladder_rungs import GPU, Climber, GpuAnswer, Rung, stage_graph
from mobilekit.progress import SILENT, Progress
from mobilekit.runners.base import RunOptions
from mobilekit.validate.rounding import NumberFormat

if TYPE_CHECKING:
    from mobilekit.bundle import Bundle
    from mobilekit.metrics.tensors import TensorError
    from mobilekit.pipeline.reference import Reference
    from mobilekit.report.ladder import LadderReport, RungOutput, RungReport
    from mobilekit.report.model import DeviceFacts
    from mobilekit.runners.base import Runner
    from mobilekit.tensors import NamedTensors
    from mobilekit.validate.inputs import Sample
    from mobilekit.validate.limits import Limits, Overrides
    from mobilekit.validate.tolerance import Judgement, Tolerance

__all__ = ["MOST_SAMPLES", "climb"]

MOST_SAMPLES = 3
_FLOAT64_MACS = 5_000_000_000
"""Convolutions take a second for 2e8 to 5e8 of them; what other operators take is up to the time limit."""
_FLOAT64_S = 120.0
_OMITTED = (
    BundleError,
    ChildError,
    FetchError,
    ModelError,
    NoDeviceError,
    SetupError,
    UnsupportedModelError,
    UsageError,
    VerificationError,
)
"""What leaves a rung out. A device that goes away is another matter."""


def climb(
    bundle: Bundle,
    runner: Runner,
    facts: DeviceFacts,
    reference: Reference,
    samples: Sequence[Sample],
    form: NumberFormat,
    run: RunOptions,
    overrides: Overrides,
    progress: Progress = SILENT,
    *,
    wrong: str = "",
) -> LadderReport:
    """Up to :data:`MOST_SAMPLES` of ``samples`` through every rung.

    ``runner`` is the device's, ``form`` the number format of its processor; ``wrong``: what is known to be wrong with
    the int8 layers there. Raises what the reference and the device raise; everything else that goes wrong leaves a rung
    out.
    """
    from mobilekit.report.ladder import LadderReport, lost_at, sentence

    samples = samples[:MOST_SAMPLES]
    progress.step("ladder: the reference")
    first = [reference.answer(sample.tensors, run.timeout_s) for sample in samples]
    answers: dict[str, Sequence[NamedTensors]] = {"onnx runtime": first}
    climber = Climber(bundle, runner, facts, form, run, progress)
    title = f"{reference.facts.name} {reference.facts.version}, the original"
    reports = [_float64(bundle, samples, first, run, progress), _report("onnx runtime", title)]
    with ExitStack() as stack:
        judge = _Judge(bundle, reference, samples, first, overrides, run.timeout_s, stack)
        for rung in climber.rungs():
            progress.step(f"ladder: {rung.name}")
            try:
                with rung.open() as answer:
                    found = [answer(sample.tensors) for sample in samples]
                    rung = answer.told(rung) if isinstance(answer, GpuAnswer) else rung
            except HarnessError as error:
                if rung.name != GPU:
                    raise
                answers[rung.name] = answers[rung.before]
                slow = isinstance(error, HarnessTimeoutError)
                reports.append(
                    _report(rung.name, rung.title, before=rung.before, omitted=error.message)
                    if slow
                    else _unlike(rung, bundle, error.message)
                )
                continue
            except _OMITTED as error:
                answers[rung.name] = answers[rung.before]
                if isinstance(error, VerificationError) and (rung.form is None or rung.form.computed != "bf16"):
                    reports.append(_unlike(rung, bundle, error.message))
                    continue
                reports.append(_report(rung.name, rung.title, before=rung.before, omitted=error.message))
                continue
            reports.append(judge.report(rung, found, answers[rung.before], climber.wrong(rung.name, samples, wrong)))
            answers[rung.name] = found
    lost = lost_at(reports)
    return LadderReport(
        first="onnx runtime",
        samples=tuple(sample.name for sample in samples),
        rungs=tuple(reports),
        lost_at=None if lost is None else lost.name,
        sentence=sentence(reports),
    )


def _report(name: str, title: str, *, before: str = "", omitted: str = "") -> RungReport:
    from mobilekit.report.ladder import RungReport

    return RungReport(name=name, title=title, before=before, omitted=omitted)


def _unlike(rung: Rung, bundle: Bundle, why: str) -> RungReport:
    """A rung whose answer cannot be read as the model's outputs at all (integers that are none, say: in bfloat16 that
    is no fault), or that gives none: a GPU's driver that dies."""
    from mobilekit.report.ladder import RungOutput, RungReport
    from mobilekit.validate.tolerance import Verdict

    outputs = tuple(
        RungOutput(name=info.name, relative_l2=math.inf, step=None, rtol=None, verdict=Verdict.FAIL, reason=why)
        for info in bundle.manifest.outputs
    )
    form = str(rung.form) if rung.form is not None else rung.precision
    return RungReport(
        name=rung.name, title=rung.title, before=rung.before, format=form, outputs=outputs, verdict=Verdict.FAIL
    )


class _Judge:
    """Limits by number format, each measured once."""

    def __init__(
        self,
        bundle: Bundle,
        reference: Reference,
        samples: Sequence[Sample],
        first: Sequence[NamedTensors],
        overrides: Overrides,
        timeout_s: float,
        stack: ExitStack,
    ) -> None:
        self._bundle, self._reference, self._samples, self._first = bundle, reference, samples, first
        self._overrides, self._timeout_s, self._stack = overrides, timeout_s, stack
        self._limits: dict[NumberFormat, Limits] = {}

    def report(
        self, rung: Rung, found: Sequence[NamedTensors], before: Sequence[NamedTensors], wrong: str = ""
    ) -> RungReport:
        from mobilekit.metrics.tensors import compare
        from mobilekit.report.ladder import RungReport
        from mobilekit.validate.tolerance import Judgement, Verdict, judge, overall

        outputs = [info.name for info in self._bundle.manifest.outputs]
        missing = [name for name in outputs if any(name not in one for one in found)]
        if missing:
            return _report(rung.name, rung.title, before=rung.before, omitted=f"it gave no output {missing[0]!r}")
        judged: dict[str, list[tuple[float, float, float | None, Judgement]]] = {name: [] for name in outputs}
        for sample, one, wanted, last in zip(self._samples, found, self._first, before, strict=True):
            errors = {name: compare(one[name], wanted[name]) for name in outputs}
            limits = {
                name: replace(limit, wrong=wrong) for name, limit in self._tolerances(rung, sample, errors).items()
            }
            doubts: Mapping[str, float] = {}
            failing = {
                name: errors[name].relative_l2
                for name in outputs
                if judge(errors[name], limits[name]).verdict is Verdict.FAIL
            }
            if failing:
                doubts = self._reference.doubt(sample.tensors, wanted, self._timeout_s, failing)
            for name in outputs:
                judgement = judge(errors[name], limits[name], doubts.get(name, 0.0))
                error, step, limit = errors[name], compare(one[name], last[name]), limits[name].rtol
                if judgement.faint:
                    error, step, limit = error.in_faint_part(), step.in_faint_part(), limits[name].faint
                judged[name].append((error.relative_l2, step.relative_l2, limit, judgement))
        reports = tuple(_output(name, every) for name, every in judged.items())
        return RungReport(
            name=rung.name,
            title=rung.title,
            before=rung.before,
            format=str(rung.form) if rung.form is not None else rung.precision,
            outputs=reports,
            verdict=overall(Judgement(output.verdict, "") for output in reports),
        )

    def _tolerances(self, rung: Rung, sample: Sample, errors: Mapping[str, TensorError]) -> Mapping[str, Tolerance]:
        from mobilekit.pipeline.int8 import cost_of
        from mobilekit.validate.limits import Limits
        from mobilekit.validate.tolerance import tolerance_for

        names = list(errors)
        allowance = self._bundle.manifest.rtol
        if rung.form is None:
            fixed = tolerance_for(rung.precision).at_least(allowance)
            fixed = replace(fixed, picks=self._bundle.manifest.picks)
            return {name: self._overrides.over(fixed, name) for name in names}
        if rung.form not in self._limits:
            cost = self._stack.enter_context(cost_of(self._bundle, rung.form))
            self._limits[rung.form] = Limits(
                names,
                rung.form,
                cost,
                overrides=self._overrides,
                allowance=allowance,
                picks=self._bundle.manifest.picks,
            )
        return self._limits[rung.form].of(sample.tensors, errors, self._timeout_s)


def _output(name: str, every: Sequence[tuple[float, float, float | None, Judgement]]) -> RungOutput:
    """The worst over the samples."""
    from mobilekit.report.ladder import RungOutput
    from mobilekit.validate.tolerance import overall

    judgements = [judgement for *_, judgement in every]
    verdict = overall(judgements)
    bad = max(range(len(every)), key=lambda i: (judgements[i].verdict is verdict, every[i][0]))
    error, step, limit, _ = every[bad]
    return RungOutput(
        name=name,
        relative_l2=error,
        step=step,
        rtol=limit,
        verdict=verdict,
        reason=judgements[bad].reason,
    )


def _float64(
    bundle: Bundle, samples: Sequence[Sample], first: Sequence[NamedTensors], run: RunOptions, progress: Progress
) -> RungReport:
    """How far ONNX Runtime is from float64, over the first sample."""
    from mobilekit.report.ladder import RungOutput, RungReport
    from mobilekit.validate.tolerance import Verdict

    name, title = "float64", "onnx.reference, the original"
    progress.step("ladder: float64")
    try:
        sample = samples[0]
        shapes = {key: array.shape for key, array in sample.tensors.items()}
        count = _macs(bundle, shapes)
        if count > _FLOAT64_MACS:
            raise UsageError(f"{count / 1e9:.1f} billion multiplications would take onnx.reference minutes")
        limit = max(_FLOAT64_RTOL, bundle.manifest.rtol or 0.0)
        errors = _beside(bundle, sample, first[0], limit, run)
    except _OMITTED as error:
        return _report(name, title, omitted=error.message)
    outputs = [
        RungOutput(
            name=output,
            relative_l2=found.relative_l2,
            step=None,
            rtol=limit,
            verdict=Verdict.FAIL
            if not found.relative_l2 <= limit
            else Verdict.PASS
            if found.evidence
            else Verdict.INCONCLUSIVE,
            reason=found.mismatch or f"ONNX Runtime is relative L2 {found.relative_l2:.2g} from float64",
        )
        for output, found in errors.items()
    ]
    verdict = Verdict.FAIL if any(o.verdict is Verdict.FAIL for o in outputs) else Verdict.PASS
    return RungReport(name=name, title=title, format="float64", outputs=tuple(outputs), verdict=verdict)


_FLOAT64_RTOL = 1e-3
"""Far more than float32 costs a model that can be told apart at all."""


def _beside(
    bundle: Bundle, sample: Sample, first: NamedTensors, limit: float, run: RunOptions
) -> dict[str, TensorError]:
    """ONNX Runtime held against float64, by output.

    Raises :class:`UsageError` where the evaluator disagrees with ONNX Runtime in float32 too: then it computes
    something else, and its float64 says nothing.
    """
    from mobilekit.metrics.tensors import compare
    from mobilekit.runners.float64 import run_float64

    def errors(*, wide: bool) -> dict[str, TensorError]:
        limit_s = min(_FLOAT64_S, run.timeout_s)
        found = run_float64(bundle.source, sample.tensors, bundle.fixed(), timeout_s=limit_s, wide=wide)
        names = [info.name for info in bundle.manifest.outputs]
        return {name: compare(first[name].astype(found[name].dtype), found[name]) for name in names}

    double = errors(wide=True)
    if not all(error.relative_l2 <= limit for error in double.values()):
        single = errors(wide=False)
        if not all(error.relative_l2 <= limit for error in single.values()):
            worst = max(error.relative_l2 for error in single.values())
            raise UsageError(f"onnx.reference is {worst:.2g} from ONNX Runtime in float32 too: no truth to go by")
    return double


def _macs(bundle: Bundle, shapes: Mapping[str, tuple[int, ...]]) -> int:
    from mobilekit.passes.cost import macs

    return sum(macs(stage_graph(bundle, shapes, legal=False, one_sample=False)).values())
