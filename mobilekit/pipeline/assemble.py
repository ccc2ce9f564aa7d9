"""From what a validation measured to its report: each output judged, the verdict, one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mobilekit.bundle import Bundle, TensorInfo
    from mobilekit.metrics.tensors import TensorError
    from mobilekit.pipeline.validate import ValidateOptions
    from mobilekit.report.model import (
        AnswerPair,
        DeviceFacts,
        LatencyReport,
        OutputReport,
        ReferenceFacts,
        ValidationReport,
    )
    from mobilekit.runners.base import RunOptions, RunResult
    from mobilekit.validate.tolerance import Tolerance

__all__ = ["Found", "report_of"]

_VIRTUAL_REMARK = "a virtual device"


@dataclass(frozen=True, slots=True)
class Found:
    """``doubts``: how far the reference lies from itself without its optimisations, where a sample failed (else 0);
    ``variation``: how far (relative L2) the reference's outputs for the samples lie from that for the first."""

    samples: tuple[str, ...]
    errors: Mapping[str, Sequence[TensorError]]
    doubts: Mapping[str, Sequence[float]]
    top1: Mapping[str, Sequence[float]]
    variation: Mapping[str, float]
    answers: tuple[AnswerPair, ...]
    timed: RunResult


def report_of(
    bundle: Bundle,
    options: ValidateOptions,
    run: RunOptions,
    tolerance: Tolerance,
    facts: DeviceFacts,
    reference: ReferenceFacts,
    found: Found,
    fed: Literal["seeded", "files", "recorded"],
) -> ValidationReport:
    """The verdict on ``found``, as data. ``fed``: where the inputs came from."""
    from mobilekit import __version__
    from mobilekit.report.model import RunSettings, ValidationReport
    from mobilekit.validate.tolerance import Judgement, overall

    manifest = bundle.manifest
    assert manifest.ncnn is not None
    outputs = tuple(_output(info, found, tolerance) for info in manifest.outputs)
    verdict = overall(Judgement(output.verdict, output.reason) for output in outputs)
    return ValidationReport(
        mobilekit_version=__version__,
        model=manifest.model.id,
        model_sha256=manifest.model.sha256,
        model_license=manifest.model.license,
        precision=manifest.ncnn.precision,
        device=facts,
        reference=reference,
        settings=RunSettings(
            inputs=fed,
            seed=options.seed,
            threads=run.threads,
            warmup=run.warmup,
            iterations=run.iterations,
            precision="fp16" if run.fp16 else "fp32",
            rtol=tolerance.rtol,
            atol=tolerance.atol,
        ),
        samples=found.samples,
        outputs=outputs,
        verdict=verdict,
        sentence=_sentence(outputs, f"{reference.name} {reference.version}", tolerance),
        latency=_latency(
            found.timed.latencies_ns, manifest.ncnn.batch.size if manifest.ncnn.batch else 1, facts.virtual
        ),
        load_ms=found.timed.load_ns / 1e6,
        peak_blob_bytes=found.timed.peak_blob_bytes,
        peak_workspace_bytes=found.timed.peak_workspace_bytes,
        answers=found.answers,
    )


def _output(info: TensorInfo, found: Found, tolerance: Tolerance) -> OutputReport:
    from mobilekit.metrics.tensors import worst
    from mobilekit.report.model import OutputReport
    from mobilekit.validate.tolerance import Judgement, Verdict, judge, overall

    errors = found.errors[info.name]
    # Each sample is judged alone: one whose reference is blank must not be excused by one whose is not.
    doubts = found.doubts[info.name]
    judgements = [judge(error, tolerance, doubt) for error, doubt in zip(errors, doubts, strict=True)]
    verdict = overall(judgements)
    # Where all is well, samples that say nothing have no say in the figures either.
    telling = [error for error in errors if error.evidence]
    total = worst(errors if verdict is Verdict.FAIL or not telling else telling)
    bad = max(range(len(errors)), key=lambda i: (judgements[i].verdict is Verdict.FAIL, errors[i].relative_l2))
    deciding = judgements[bad] if verdict is Verdict.FAIL else judge(total, tolerance, max(doubts))
    if verdict is Verdict.PASS and len(errors) > 1 and found.variation[info.name] <= tolerance.rtol:
        verdict = Verdict.INCONCLUSIVE
        deciding = Judgement(
            verdict, "the reference gives the same for every sample, so a device that ignores its inputs would pass"
        )
    agreement = found.top1[info.name]
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
        worst_sample=found.samples[bad],
        top1_agreement=sum(agreement) / len(agreement) if agreement else None,
    )


def _sentence(outputs: Sequence[OutputReport], reference: str, tolerance: Tolerance) -> str:
    from mobilekit.validate.tolerance import Verdict

    failed = [output for output in outputs if output.verdict is Verdict.FAIL]
    if failed:
        first = max(failed, key=lambda o: o.relative_l2)
        count = f"{len(failed)} of {len(outputs)} outputs differ" if len(outputs) > 1 else "the output differs"
        return f"{count} from {reference}; worst is {first.name}: {first.reason} (sample {first.worst_sample})"
    proven = [output for output in outputs if output.verdict is Verdict.PASS]
    if not proven:
        reasons = "; ".join(dict.fromkeys(output.reason for output in outputs)) or "the model has no outputs"
        return f"nothing is proven against {reference}: {reasons}. Try real inputs with --inputs DIR"
    worst = max(proven, key=lambda o: o.relative_l2)
    all_outputs = "the output is" if len(outputs) == 1 else f"all {len(outputs)} outputs are"
    if len(proven) < len(outputs):
        all_outputs = f"{len(proven)} of {len(outputs)} outputs are, and the others say nothing,"
    return (
        f"{all_outputs} within relative L2 {tolerance.rtol:g} of {reference} "
        f"(worst {worst.relative_l2:.2e}, {worst.name})"
    )


def _latency(latencies_ns: Sequence[int], batch: int, virtual: bool) -> LatencyReport | None:
    from mobilekit.report.model import LatencyReport
    from mobilekit.validate.latency import latency_stats

    stats = latency_stats(latencies_ns)
    if stats is None:
        return None
    return LatencyReport(
        **asdict(stats),
        batch=batch,
        comparable=not virtual,
        remark=_VIRTUAL_REMARK if virtual else "",
        values_ms=tuple(round(value / 1e6, 5) for value in latencies_ns),
    )
