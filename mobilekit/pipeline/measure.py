"""The work of a validation: every sample through the reference and the device, every output compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mobilekit.errors import BundleError, ChildError, DeviceError, UsageError, VerificationError
from mobilekit.pipeline.ahead import RunAhead, Turn
from mobilekit.pipeline.answers import answer_of
from mobilekit.pipeline.warm import Warmth, warm_up
from mobilekit.progress import SILENT, Progress
from mobilekit.runners.base import StreamRunner
from mobilekit.tensors import digest_of

if TYPE_CHECKING:
    from mobilekit.bundle import Bundle, TensorInfo
    from mobilekit.errors import MobilekitError
    from mobilekit.metrics.tensors import TensorError
    from mobilekit.pipeline.partial import Partial
    from mobilekit.pipeline.reference import Reference
    from mobilekit.report.answers import SampleAnswer
    from mobilekit.report.model import AnswerPair
    from mobilekit.runners.base import Runner, RunOptions, RunResult
    from mobilekit.tensors import NamedTensors
    from mobilekit.validate.inputs import Sample
    from mobilekit.validate.limits import Limits
    from mobilekit.validate.task import TaskMetric, Truth
    from mobilekit.validate.tolerance import Tolerance

__all__ = ["Found", "SampleRecord", "Task", "measure"]


@dataclass(frozen=True, slots=True)
class Task:
    """What to judge beside the numbers: task metrics, and the truth where there is one."""

    metrics: tuple[TaskMetric, ...] = ()
    truth: Truth | None = None


NO_TASK = Task()


@dataclass(frozen=True, slots=True)
class SampleRecord:
    """What one sample came to, by output.

    ``doubts``: how far the reference lies from itself computed in another way, where the sample failed (else 0).
    ``variation``: how far (relative L2) the reference's output lies from that for the first sample.
    ``top1``: the share of rows with the same best class, for a classifier's outputs. ``metrics``: by the name of the
    task metric. ``right``: how right the device and the reference are, by the user's truth. ``shown``: both answers in
    the task's terms.
    """

    name: str
    errors: Mapping[str, TensorError]
    tolerances: Mapping[str, Tolerance]
    doubts: Mapping[str, float]
    variation: Mapping[str, float]
    top1: Mapping[str, float]
    answer: AnswerPair | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    right: tuple[float, float] | None = None
    shown: SampleAnswer | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """All samples, in order, and the run that was timed: the first that gave an answer; ``warmth``, where the model was
    warmed up until its times settled. ``stopped``: why there are no more samples. ``first_ns``: the first inference
    after the model was loaded, where it was timed. ``last``: the last run, which knows how long the device was at
    it."""

    samples: tuple[SampleRecord, ...]
    timed: RunResult | None
    warmth: Warmth | None = None
    stopped: MobilekitError | None = None
    first_ns: int | None = None
    last: RunResult | None = None


def measure(
    bundle: Bundle,
    runner: Runner,
    reference: Reference,
    samples: Iterable[Sample],
    run: RunOptions,
    limits: Limits,
    progress: Progress = SILENT,
    task: Task = NO_TASK,
    *,
    settle: bool = False,
    cold: bool = False,
    partial: Partial | None = None,
) -> Found:
    """Every sample through both. The first one is timed; the others run once, on a device ahead of the reference.
    ``settle``: warm up until the times settle, instead of ``run.warmup`` times. ``cold``: the first run after loading
    is timed apart.

    ``partial`` keeps each, and knows those from before, which are not run again. With it, a device that goes away or
    stops answering after the first sample ends the work, and is told; without it, it is raised.

    Raises :class:`UsageError` where there are no samples, and what the runners raise.
    """
    once = replace(run, warmup=0, iterations=1)
    records: list[SampleRecord] = []
    timed: RunResult | None = partial.timed if partial is not None else None
    last: RunResult | None = None
    opening: Sample | None = None
    warmth: Warmth | None = None
    first: NamedTensors | None = None
    first_ns: int | None = None

    def turn_of(sample: Sample) -> Turn:
        if partial is None:
            return Turn(sample, "", None)
        digest = digest_of(sample.tensors)
        return Turn(sample, digest, partial.known(digest, sample.name))

    left = iter(samples)
    turns: Iterator[Turn] = map(turn_of, left)
    with ExitStack() as stack:

        def go_ahead(turns: Iterator[Turn]) -> Iterator[Turn]:
            """The device goes on by itself once it was timed, before anything is made of that."""
            if timed is None or isinstance(turns, RunAhead) or not isinstance(runner, StreamRunner):
                return turns
            return stack.enter_context(RunAhead(runner, left, once, turn_of))

        while True:
            turns = go_ahead(turns)
            begun = timed
            try:
                turn = next(turns, None)
                if turn is None:
                    break
                sample = turn.sample
                opening = opening or sample
                if turn.known is not None:
                    records.append(turn.known)
                    continue
                progress.step(f"running {sample.name}")
                outcome = turn.outcome
                if outcome is None:
                    try:
                        if settle and timed is None:
                            progress.step("warming up")
                            warmth = warm_up(runner, sample.tensors, run)
                            run = replace(run, warmup=0)
                            first_ns = warmth.first_ns
                        elif cold and timed is None and run.warmup:
                            first_ns = runner.run(sample.tensors, once).latencies_ns[0]
                            run = replace(run, warmup=run.warmup - 1)
                        outcome = runner.run(sample.tensors, once if timed else run)
                    except VerificationError as error:
                        outcome = error
            except UsageError as error:  # an input that cannot be read, perhaps after hundreds that could
                if partial is None or not records:
                    raise
                hint = f"then go on with --resume: what was done ({len(records)} samples) is kept"
                raise UsageError(error.message, hint=f"{error.hint}; {hint}" if error.hint else hint) from error
            except (ChildError, DeviceError) as error:
                if partial is None or not records:
                    raise
                return Found(tuple(records), timed, warmth, error, first_ns, last)
            if not isinstance(outcome, VerificationError):
                if cold and timed is None and first_ns is None:
                    first_ns = outcome.latencies_ns[0]
                last, timed = outcome, timed or outcome
                turns = go_ahead(turns)
            expected = reference.answer(sample.tensors, run.timeout_s)
            if first is None:
                first = expected if opening is sample else reference.answer(opening.tensors, run.timeout_s)
            if isinstance(outcome, VerificationError):
                records.append(_unlike(sample.name, outcome.message, expected, bundle, limits, task))
            else:
                record = _record(bundle, sample, outcome.outputs, expected, first, reference, limits, run.timeout_s)
                names = [metric.name for metric in task.metrics]
                shown = answer_of(sample, outcome.outputs, expected, bundle.manifest, bundle.labels(), names)
                records.append(replace(_judged(record, task, outcome.outputs, expected), shown=shown))
            if partial is not None:
                partial.add(turn.digest, records[-1], timed if begun is None else None)
    if not records:
        raise UsageError("there is nothing to run: no samples", hint="give --samples 1 or more")
    return Found(tuple(records), timed, warmth, first_ns=first_ns, last=last)


def _judged(record: SampleRecord, task: Task, actual: NamedTensors, expected: NamedTensors) -> SampleRecord:
    truth = task.truth
    # What differs in shape or is not finite fits no metric: nothing of it agrees, or is right.
    unlike = any(
        actual[name].shape != expected[name].shape
        or (error.mismatch and (error.nonfinite_actual or error.nonfinite_expected))
        for name, error in record.errors.items()
    )
    return replace(
        record,
        metrics={metric.name: 0.0 if unlike else metric(actual, expected) for metric in task.metrics},
        right=None
        if truth is None
        else (0.0 if unlike else truth.score(record.name, actual), truth.score(record.name, expected)),
    )


def _record(
    bundle: Bundle,
    sample: Sample,
    actual: NamedTensors,
    expected: NamedTensors,
    first: NamedTensors,
    reference: Reference,
    limits: Limits,
    timeout_s: float,
) -> SampleRecord:
    from mobilekit.metrics.tensors import compare, top1_agreement
    from mobilekit.validate.swaps import swapped
    from mobilekit.validate.tolerance import Verdict, judge

    outputs = bundle.manifest.outputs
    for answers, who in ((actual, "the device"), (expected, "the reference")):
        if missing := next((info.name for info in outputs if info.name not in answers), None):
            raise BundleError(f"{who} gave no output {missing!r}", hint="export the model again")
    errors = {info.name: compare(actual[info.name], expected[info.name]) for info in outputs}
    tolerances = limits.of(sample.tensors, errors, timeout_s)
    doubts: Mapping[str, float] = {}
    failing = {
        name: error.relative_l2
        for name, error in errors.items()
        if judge(error, tolerances[name]).verdict is Verdict.FAIL
    }
    if failing:
        doubts = reference.doubt(sample.tensors, expected, timeout_s, failing)
        found = swapped(actual, expected, tolerances)
        for name, other in found.items():
            what = f"it holds what the reference gives for the output {other!r}"
            what += ": the two are swapped" * (found.get(other) == name)
            errors[name] = replace(errors[name], mismatch=what, by_data=False)
    labels = bundle.labels()
    # A box or an embedding has no best class, though its shape may be a classifier's.
    task = bundle.manifest.task
    classifies = bool(labels) or "classification" in task or (not task and len(outputs) == 1)
    agreement = {
        info.name: top1_agreement(actual[info.name], expected[info.name]) if classifies else None for info in outputs
    }
    return SampleRecord(
        name=sample.name,
        errors=errors,
        tolerances=tolerances,
        doubts={name: doubts.get(name, 0.0) for name in errors},
        variation={info.name: _variation(expected, first, info) for info in outputs},
        top1={name: share for name, share in agreement.items() if share is not None},
        answer=_answer(sample.name, actual, expected, outputs, labels) if labels else None,
    )


def _variation(expected: NamedTensors, first: NamedTensors, info: TensorInfo) -> float:
    from mobilekit.metrics.tensors import compare

    if expected is first:
        return 0.0
    # Infinite where the shapes differ: a device cannot answer in another shape by accident.
    return compare(expected[info.name], first[info.name]).relative_l2


def _unlike(name: str, why: str, expected: NamedTensors, bundle: Bundle, limits: Limits, task: Task) -> SampleRecord:
    """The record of a sample whose answer cannot be read as the model's outputs at all."""
    from mobilekit.metrics.tensors import differs

    names = [info.name for info in bundle.manifest.outputs]
    return SampleRecord(
        name=name,
        errors={output: differs(expected[output].size, why) for output in names},
        tolerances=limits.fixed,
        doubts=dict.fromkeys(names, 0.0),
        variation=dict.fromkeys(names, 0.0),
        top1={},
        metrics={metric.name: 0.0 for metric in task.metrics},
        right=None if task.truth is None else (0.0, task.truth.score(name, expected)),
    )


def _answer(
    sample: str, actual: NamedTensors, expected: NamedTensors, outputs: Sequence[TensorInfo], labels: Sequence[str]
) -> AnswerPair | None:
    """Both sides' best class in words, from the first output that has a finite score for each label."""
    import numpy as np

    from mobilekit.metrics.classify import classify
    from mobilekit.report.model import AnswerPair

    for info in outputs:
        ours, theirs = actual[info.name], expected[info.name]
        fits = all(a.size == max(a.shape, default=0) == len(labels) and np.isfinite(a).all() for a in (ours, theirs))
        if fits:
            (best,), (wanted,) = (classify(a, labels, top=1) for a in (ours, theirs))
            return AnswerPair(
                sample=sample,
                reference_label=wanted.label,
                reference_probability=wanted.probability,
                device_label=best.label,
                device_probability=best.probability,
            )
    return None
