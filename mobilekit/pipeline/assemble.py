"""From what a validation measured to its report: each output judged, the verdict, one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mobilekit.bundle import Bundle, TensorInfo
    from mobilekit.metrics.tensors import TensorError
    from mobilekit.pipeline.endurance import Endurance
    from mobilekit.pipeline.measure import Found, SampleRecord, Task
    from mobilekit.pipeline.validate import ValidateOptions
    from mobilekit.report.device_time import DeviceTimeReport
    from mobilekit.report.limits import LimitReport, PartReport
    from mobilekit.report.metrics import AccuracyReport, MetricReport
    from mobilekit.report.model import (
        DeviceFacts,
        LatencyReport,
        OutputReport,
        ReferenceFacts,
        SampleErrors,
        ValidationReport,
    )
    from mobilekit.report.stopped import StoppedReport
    from mobilekit.runners.base import RunOptions, RunResult
    from mobilekit.targets.base import TargetName
    from mobilekit.validate.tolerance import Tolerance, Verdict

__all__ = ["output_reports", "report_of", "with_endurance"]

_VIRTUAL_REMARK = "a virtual device"
_NO_GPU_REMARK = "a Vulkan driver without a GPU"


def report_of(
    bundle: Bundle,
    target: TargetName,
    options: ValidateOptions,
    run: RunOptions,
    facts: DeviceFacts,
    reference: ReferenceFacts,
    found: Found,
    fed: Literal["seeded", "files", "recorded"],
    task: Task,
    *,
    tuned: bool = False,
) -> ValidationReport:
    """The verdict on ``found``, as data. ``fed``: where the inputs came from; ``tuned``: ``run`` is
    as the bundle was tuned."""
    from mobilekit import __version__
    from mobilekit.pipeline.gpu_report import gpu_report
    from mobilekit.report.model import RunSettings, ValidationReport
    from mobilekit.report.worst import WORST, worst_samples
    from mobilekit.validate.tolerance import Judgement, Verdict, overall

    manifest = bundle.manifest
    artifact = manifest.ncnn if target == "ncnn" else manifest.tensorrt
    assert artifact is not None
    batch = manifest.ncnn.batch if target == "ncnn" and manifest.ncnn is not None else None
    timed = found.timed
    errors = tuple(_errors(sample) for sample in found.samples)
    worst = {one.name for one in worst_samples(errors)[:WORST]}
    outputs = output_reports(bundle, found.samples)
    verdict = overall(Judgement(output.verdict, output.reason) for output in outputs)
    metrics = _metrics(found.samples, {metric.name: metric.least for metric in task.metrics})
    sentence = _sentence(outputs, f"{reference.name} {reference.version}")
    short = [metric for metric in metrics if not metric.passes]
    if short:
        verdict = Verdict.FAIL
        sentence = f"{short[0].name} is {short[0].mean:.4g}, below {short[0].least:g}; {sentence}"
    if found.stopped is not None:
        verdict = Verdict.FAIL if verdict is Verdict.FAIL else Verdict.INCONCLUSIVE
        sentence = f"stopped after {len(found.samples)} samples; of those: {sentence}"
    return ValidationReport(
        mobilekit_version=__version__,
        model=manifest.model.id,
        model_sha256=manifest.model.sha256,
        model_license=manifest.model.license,
        target=target,
        precision=artifact.precision,
        device=facts,
        reference=reference,
        settings=RunSettings(
            inputs=fed,
            seed=options.seed,
            threads=run.threads,
            warmup=run.warmup,
            iterations=run.iterations,
            precision=artifact.precision if target == "tensorrt" else "fp16" if run.fp16 else "fp32",
            cluster=run.cluster,
            winograd=run.winograd,
            packing=run.packing,
            tuned=tuned,
        ),
        samples=tuple(sample.name for sample in found.samples),
        sample_errors=errors,
        outputs=outputs,
        verdict=verdict,
        sentence=_not_executed(facts, verdict) + sentence,
        metrics=metrics,
        stopped=_stopped(found),
        device_time=_device_time(found.last),
        accuracy=_accuracy(found.samples),
        latency=None
        if facts.kind == "prepared"
        else _latency(found, batch.size if batch is not None else 1, _not_comparable(facts)),
        load_ms=timed.load_ns / 1e6 if timed is not None else None,
        first_ms=found.first_ns / 1e6 if found.first_ns is not None else None,
        peak_blob_bytes=timed.peak_blob_bytes if timed is not None else None,
        peak_workspace_bytes=timed.peak_workspace_bytes if timed is not None else None,
        answers=tuple(sample.answer for sample in found.samples if sample.answer is not None),
        shown=tuple(s.shown for s in found.samples if s.shown is not None and s.name in worst),
        preprocess=manifest.preprocess,
        layers_on_cpu={} if timed is None else dict(timed.layers_on_cpu),
        gpu=None if timed is None or manifest.tensorrt is None else gpu_report(timed, manifest.tensorrt.flavour),
    )


def with_endurance(report: ValidationReport, done: Endurance) -> ValidationReport:
    """``report`` with its long timings. A device that went away during them leaves the verdict as it is."""
    from mobilekit.report.stopped import StoppedReport

    stopped, error = report.stopped, done.stopped
    if error is not None:
        hint = "every sample was validated; time again with --resume" + (f"; {error.hint}" if error.hint else "")
        stopped = StoppedReport(done=len(report.samples), error=error.message, hint=hint, exit_code=error.exit_code)
    found = {"sustained": done.sustained, "single_stream": done.stream, "cool_downs": tuple(done.waits)}
    return report.model_copy(update={**found, "stopped": stopped})


def _stopped(found: Found) -> StoppedReport | None:
    from mobilekit.report.stopped import StoppedReport

    error = found.stopped
    if error is None:
        return None
    hint = "what was done is kept: go on with --resume" + (f"; {error.hint}" if error.hint else "")
    return StoppedReport(done=len(found.samples), error=error.message, hint=hint, exit_code=error.exit_code)


def _device_time(last: RunResult | None) -> DeviceTimeReport | None:
    from mobilekit.report.device_time import DeviceTimeReport

    if last is None or not last.session_ns:
        return None
    return DeviceTimeReport(wall_ms=last.session_ns / 1e6, inference_ms=last.session_inference_ns / 1e6)


def _metrics(samples: Sequence[SampleRecord], least: Mapping[str, float | None]) -> tuple[MetricReport, ...]:
    from mobilekit.report.metrics import MetricReport

    found = []
    for name, wanted in least.items():
        values = [sample.metrics[name] for sample in samples]
        worst = min(range(len(values)), key=values.__getitem__)
        found.append(
            MetricReport(
                name=name,
                mean=sum(values) / len(values),
                worst=values[worst],
                worst_sample=samples[worst].name,
                least=wanted,
            )
        )
    return tuple(found)


def _accuracy(samples: Sequence[SampleRecord]) -> AccuracyReport | None:
    from mobilekit.report.metrics import AccuracyReport

    right = [sample.right for sample in samples if sample.right is not None]
    if not right:
        return None
    device, reference = (sum(side) / len(right) for side in zip(*right, strict=True))
    return AccuracyReport(samples=len(right), device=device, reference=reference)


def _errors(sample: SampleRecord) -> SampleErrors:
    from mobilekit.report.model import SampleErrors
    from mobilekit.validate.tolerance import judge, overall

    judged = (judge(error, sample.tolerances[name], sample.doubts[name]) for name, error in sample.errors.items())
    errors = {name: error.relative_l2 for name, error in sample.errors.items()}
    return SampleErrors(name=sample.name, verdict=overall(judged), relative_l2=errors)


def _not_executed(facts: DeviceFacts, verdict: Verdict) -> str:
    if facts.kind != "prepared":
        return ""
    done = "verified" if verdict.exit_code == 0 else "not verified"
    return f"prepared model {done}; engine not executed: "


def output_reports(bundle: Bundle, samples: Sequence[SampleRecord]) -> tuple[OutputReport, ...]:
    """Each output, judged over all samples."""
    return tuple(_output(info, samples) for info in bundle.manifest.outputs)


def _output(info: TensorInfo, samples: Sequence[SampleRecord]) -> OutputReport:
    from mobilekit.metrics.tensors import worst
    from mobilekit.report.model import OutputReport
    from mobilekit.validate.tolerance import Judgement, Verdict, judge, overall

    errors = [sample.errors[info.name] for sample in samples]
    limits = [sample.tolerances[info.name] for sample in samples]
    # Each sample is judged alone: one whose reference is blank must not be excused by one whose is not.
    judgements = [
        judge(error, limit, sample.doubts[info.name])
        for error, limit, sample in zip(errors, limits, samples, strict=True)
    ]
    verdict = overall(judgements)
    # Where all is well, samples that say nothing have no say in the figures either.
    telling = [error for error in errors if error.evidence]
    total = worst(errors if verdict is Verdict.FAIL or not telling else telling)

    def weight(index: int) -> tuple[bool, float, float]:
        limit, error = limits[index].rtol, errors[index].relative_l2
        return judgements[index].verdict is verdict, error / limit if limit else error, error

    bad = max(range(len(errors)), key=weight)
    deciding = judgements[bad]
    if (
        verdict is Verdict.PASS
        and len(errors) > 1
        and max(sample.variation[info.name] for sample in samples) <= limits[bad].reach
    ):
        verdict = Verdict.INCONCLUSIVE
        deciding = Judgement(
            verdict, "the reference gives the same for every sample, so a device that ignores its inputs would pass"
        )
    failed = sum(judgement.verdict is Verdict.FAIL for judgement in judgements)
    if verdict is Verdict.FAIL and len(judgements) > 1:
        deciding = Judgement(verdict, f"{deciding.reason}; {failed} of {len(judgements)} samples fail")
    if verdict is Verdict.PASS and errors[bad].relative_l2 < total.relative_l2:
        # It is nearest to its own limit, and another one's error is the largest.
        deciding = Judgement(verdict, f"{deciding.reason} (sample {samples[bad].name})")
    beyond = sum(judgement.beyond for judgement in judgements)
    passed = sum(judgement.verdict is Verdict.PASS for judgement in judgements)
    if verdict is Verdict.PASS and beyond:
        counted = f"{passed} of {len(judgements)} samples pass, {beyond} are beyond the limit and prove nothing"
        if beyond > passed:
            example = next(judgement.reason for judgement in judgements if judgement.beyond)
            deciding = Judgement(Verdict.INCONCLUSIVE, f"{counted}: {example}")
            bad = next(index for index, judgement in enumerate(judgements) if judgement.beyond)
            verdict, total = Verdict.INCONCLUSIVE, worst(errors)
        else:
            deciding = Judgement(verdict, f"{deciding.reason}; {counted}")
    agreement = [sample.top1[info.name] for sample in samples if info.name in sample.top1]
    return OutputReport(
        name=info.name,
        dtype=info.dtype,
        shape=info.shape,
        verdict=verdict,
        reason=deciding.reason,
        max_abs=total.max_abs,
        max_rel=total.max_rel,
        relative_l2=total.relative_l2,
        cosine=total.cosine,
        psnr_db=total.psnr_db,
        nonfinite_actual=total.nonfinite_actual,
        nonfinite_expected=total.nonfinite_expected,
        evidence=total.evidence,
        worst_sample=samples[bad].name,
        limits=_limits(limits[bad]),
        top1_agreement=sum(agreement) / len(agreement) if agreement else None,
        part=_part(errors[bad], limits[bad]) if judgements[bad].faint else None,
    )


def _part(error: TensorError, tolerance: Tolerance) -> PartReport:
    from mobilekit.report.limits import PartReport

    return PartReport(what=error.faint, relative_l2=error.faint_l2, limit=tolerance.faint_limit or 0.0)


def _limits(tolerance: Tolerance) -> LimitReport:
    from mobilekit.report.limits import LimitReport

    return LimitReport(
        rtol=tolerance.rtol,
        cosine=tolerance.cosine,
        psnr_db=tolerance.psnr_db,
        atol=tolerance.atol,
        basis=tolerance.basis,
        format=tolerance.form,
        format_cost=tolerance.cost,
    )


def _sentence(outputs: Sequence[OutputReport], reference: str) -> str:
    from mobilekit.validate.tolerance import Verdict

    failed = [output for output in outputs if output.verdict is Verdict.FAIL]
    if failed:
        first = max(failed, key=lambda o: o.relative_l2)
        count = f"{len(failed)} of {len(outputs)} outputs differ" if len(outputs) > 1 else "the output differs"
        return f"{count} from {reference}; worst is {first.name!r}: {first.reason} (sample {first.worst_sample})"
    proven = [output for output in outputs if output.verdict is Verdict.PASS]
    if not proven:
        reasons = "; ".join(dict.fromkeys(output.reason for output in outputs)) or "the model has no outputs"
        return f"nothing is proven against {reference}: {reasons}. Try real inputs with --inputs DIR"
    nearest = max(proven, key=lambda o: o.relative_l2 / (o.limits.rtol or 1.0))
    right = "the output is" if len(outputs) == 1 else f"all {len(outputs)} outputs are"
    right += f" right by {reference}"
    if silent := [output.name for output in outputs if output.verdict is not Verdict.PASS]:
        named = repr(silent[0]) if len(silent) == 1 else f"{len(silent)} others"
        say = "says" if len(silent) == 1 else "say"
        right = f"{len(proven)} of {len(outputs)} outputs {'is' if len(proven) == 1 else 'are'} right by {reference}"
        right += f", {named} {say} nothing"
    limits = nearest.limits
    cost = f"; {limits.format} costs {limits.format_cost:.1e} by itself" if limits.format_cost is not None else ""
    return f"{right}; nearest to its limit is {nearest.name!r}: {nearest.reason}{cost}"


def _not_comparable(facts: DeviceFacts) -> str:
    """Why times there say nothing of a device; empty where they do."""
    if facts.virtual:
        return _VIRTUAL_REMARK
    return _NO_GPU_REMARK if facts.vulkan is not None and facts.vulkan.type == "cpu" else ""


def _latency(found: Found, batch: int, remark: str) -> LatencyReport | None:
    from mobilekit.report.model import LatencyReport
    from mobilekit.validate.latency import latency_stats

    stats = latency_stats(found.timed.latencies_ns if found.timed is not None else ())
    if found.timed is None or stats is None:
        return None
    warmth = found.warmth
    before, after = (warmth.facts if warmth is not None else {}), found.timed.facts
    heat = tuple(max(_numbers(facts, "temperatures_celsius"), default=None) for facts in (before, after))
    speed = tuple(sum(_numbers(facts, "frequencies_khz")) for facts in (before, after))
    return LatencyReport(
        **asdict(stats),
        warmup_stable=None if warmth is None else warmth.stable,
        temperatures_celsius=None if heat[0] is None or heat[1] is None else (heat[0], heat[1]),
        frequencies_khz=(round(speed[0]), round(speed[1])) if all(speed) else None,
        batch=batch,
        comparable=not remark,
        remark=remark,
        values_ms=tuple(round(value / 1e6, 5) for value in found.timed.latencies_ns),
    )


def _numbers(facts: Mapping[str, object], name: str) -> list[float]:
    values = facts.get(name)
    return [float(value) for value in values.values()] if isinstance(values, Mapping) else []
