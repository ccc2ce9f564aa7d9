"""``mobilekit validate``: a bundle's model on a device, held against ONNX Runtime on the original."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mobilekit.errors import BundleError, UsageError
from mobilekit.progress import SILENT, Progress
from mobilekit.runners.base import RunOptions

if TYPE_CHECKING:
    from mobilekit.bundle import Bundle, Manifest, TensorInfo
    from mobilekit.metrics.tensors import TensorError
    from mobilekit.report.model import AnswerPair, DeviceFacts, LatencyReport, OutputReport, ValidationReport
    from mobilekit.runners.base import Runner, RunResult
    from mobilekit.tensors import Array, NamedTensors
    from mobilekit.validate.doubt import Doubt
    from mobilekit.validate.inputs import Sample
    from mobilekit.validate.tolerance import Tolerance

__all__ = ["LOCAL", "ValidateOptions", "validate_bundle"]

LOCAL = "local"
_VIRTUAL_REMARK = "a virtual device"


@dataclass(frozen=True, slots=True)
class ValidateOptions:
    """How to validate. ``None`` for ``warmup`` and ``iterations``: 3 and 20, on a virtual device 1 and 3.

    ``threads=0``: as ncnn chooses; on a virtual device 1, where threads that wait for each other cost most.

    ``inputs``: a folder of pictures or ``.npy`` files; without it ``samples`` seeded ones. ``precision`` overrides
    the arithmetic that the bundle was made for; ``rtol`` and ``atol`` the limits of ``validate/tolerance.py``.
    ``timeout_s`` bounds each run on the device. ``quota_bytes`` bounds what is kept on the device.
    """

    inputs: Path | None = None
    samples: int = 3
    seed: int = 0
    threads: int = 0
    warmup: int | None = None
    iterations: int | None = None
    precision: Literal["fp32", "fp16"] | None = None
    rtol: float | None = None
    atol: float | None = None
    timeout_s: float = 300.0
    quota_bytes: int | None = None


def validate_bundle(
    bundle: str | Path,
    device: str | None = None,
    options: ValidateOptions | None = None,
    progress: Progress = SILENT,
) -> ValidationReport:
    """Run the bundle's ncnn model on ``device`` and judge every output against ONNX Runtime on the original model.

    ``device``: an adb serial; ``"virtual"`` or ``"virtual:cortex-a76"``; ``"local"`` (the ncnn wheel on this
    machine); ``None`` for the one connected. Raises :class:`BundleError`, :class:`UsageError` for inputs that do not
    fit, and any :class:`~mobilekit.errors.DeviceError` or :class:`~mobilekit.errors.ChildError`; a wrong result is
    no error but a verdict.
    """
    from mobilekit.bundle import open_bundle
    from mobilekit.runners.ort import OrtRunner
    from mobilekit.validate.doubt import Doubt
    from mobilekit.validate.inputs import file_samples, seeded_samples
    from mobilekit.validate.tolerance import tolerance_for

    options = options or ValidateOptions()
    opened = open_bundle(Path(bundle))
    manifest = opened.manifest
    if manifest.ncnn is None:
        raise BundleError(f"{bundle} holds no ncnn model", hint="export it with --target ncnn")
    arithmetic = options.precision or manifest.ncnn.precision
    loosest: Literal["fp32", "fp16"] = "fp16" if "fp16" in (arithmetic, manifest.ncnn.precision) else "fp32"
    tolerance = tolerance_for(loosest, rtol=options.rtol, atol=options.atol)
    if options.rtol is None:
        tolerance = tolerance.at_least(manifest.rtol)
    samples: Iterator[Sample]
    if options.inputs is None:
        samples = seeded_samples(
            manifest.inputs,
            seed=options.seed,
            count=options.samples,
            preprocess=manifest.preprocess,
            sizes=manifest.sizes,
        )
    else:
        samples = file_samples(options.inputs, manifest.inputs, preprocess=manifest.preprocess)

    with _runner(opened, device, options, progress) as (runner, facts):
        run = RunOptions(
            threads=options.threads or int(facts.virtual),
            warmup=_default(options.warmup, 1 if facts.virtual else 3),
            iterations=_default(options.iterations, 3 if facts.virtual else 20),
            fp16=arithmetic == "fp16",
            timeout_s=options.timeout_s,
        )
        fixed = opened.fixed()

        def ort(*, optimise: bool) -> OrtRunner:
            return OrtRunner(opened.source, fixed=fixed, free=opened.free, optimise=optimise)

        with ort(optimise=True) as reference, Doubt(lambda: ort(optimise=False)) as doubt:
            found = _measure(opened, runner, reference, samples, run, progress, tolerance, doubt)
            reference_info = reference.info()
    return _report(opened, options, run, tolerance, facts, (reference_info.name, reference_info.version), found)


def _default(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else value


@contextmanager
def _runner(
    bundle: Bundle, device: str | None, options: ValidateOptions, progress: Progress
) -> Iterator[tuple[Runner, DeviceFacts]]:
    """The runner that ``device`` asks for, started, and what it runs on."""
    from mobilekit.report.model import DeviceFacts
    from mobilekit.runners.batch import sample_by_sample

    if device == LOCAL:
        import platform

        from mobilekit.runners.ncnn_host import NcnnHostRunner

        def make(manifest: Manifest) -> Runner:
            return NcnnHostRunner(bundle.root, manifest, progress=progress)

        with sample_by_sample(bundle.manifest, make) as host:
            info = host.info()
            yield (
                host,
                DeviceFacts(
                    kind="local",
                    serial=LOCAL,
                    model=f"this machine, {platform.system()}",
                    abi=info.abi,
                    cpu_features=info.cpu_features or _host_features(),
                    runner=info.name,
                    runner_version=info.version,
                ),
            )
        return
    from mobilekit.device.select import open_device
    from mobilekit.runners.on_device import DeviceRunner

    chosen = open_device(device, progress)
    about = chosen.info()

    def on_device(manifest: Manifest) -> Runner:
        one = replace(bundle, manifest=manifest)
        return DeviceRunner(chosen, one, quota_bytes=options.quota_bytes, progress=progress)

    with sample_by_sample(bundle.manifest, on_device) as remote:
        info = remote.info()
        yield (
            remote,
            DeviceFacts(
                kind="adb",
                serial=chosen.serial,
                model=about.model,
                manufacturer=about.manufacturer,
                android=about.android,
                abi=info.abi,
                cpu_features=info.cpu_features,
                virtual=about.virtual,
                cpu_profile=about.cpu_profile,
                runner=info.name,
                runner_version=info.version,
            ),
        )


def _host_features() -> tuple[str, ...]:
    """Those of this processor that ncnn has kernels for, as Linux names them."""
    known = [
        "fma",
        "f16c",
        "avx",
        "avx2",
        "avx_vnni",
        "avx512f",
        "avx512_vnni",
        "avx512_bf16",
        "avx512_fp16",
        "asimd",
        "asimdhp",
        "asimddp",
        "asimdfhm",
        "bf16",
        "i8mm",
        "sve",
        "sve2",
    ]
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return ()
    line = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    there = set(line.partition(":")[2].split())
    return tuple(name for name in known if name in there)


@dataclass(frozen=True, slots=True)
class _Found:
    """``doubts``: how far the reference lies from itself without its optimisations, where a sample failed (else 0);
    ``variation``: how far (relative L2) the reference's outputs for the samples lie from that for the first."""

    samples: tuple[str, ...]
    errors: Mapping[str, Sequence[TensorError]]
    doubts: Mapping[str, Sequence[float]]
    top1: Mapping[str, Sequence[float]]
    variation: Mapping[str, float]
    answers: tuple[AnswerPair, ...]
    timed: RunResult


def _measure(
    bundle: Bundle,
    runner: Runner,
    reference: Runner,
    samples: Iterator[Sample],
    run: RunOptions,
    progress: Progress,
    tolerance: Tolerance,
    doubt: Doubt,
) -> _Found:
    """Every sample through both. The first one is timed; the others run once."""
    from mobilekit.metrics.tensors import compare, top1_agreement
    from mobilekit.validate.tolerance import Verdict, judge

    outputs = bundle.manifest.outputs
    once = RunOptions(threads=run.threads, fp16=run.fp16, bf16=run.bf16, timeout_s=run.timeout_s)
    errors: dict[str, list[TensorError]] = {info.name: [] for info in outputs}
    doubts: dict[str, list[float]] = {info.name: [] for info in outputs}
    top1: dict[str, list[float]] = {info.name: [] for info in outputs}
    first: NamedTensors | None = None
    variation: dict[str, float] = {info.name: 0.0 for info in outputs}
    names: list[str] = []
    answers: list[AnswerPair] = []
    timed: RunResult | None = None
    labels = bundle.labels()
    # A box or an embedding has no best class, though its shape may be a classifier's.
    task = bundle.manifest.task
    classifies = bool(labels) or "classification" in task or (not task and len(outputs) == 1)
    for sample in samples:
        progress.step(f"running {sample.name}")
        expected = reference.run(sample.tensors, RunOptions(timeout_s=run.timeout_s)).outputs
        result = runner.run(sample.tensors, once if timed else run)
        timed = timed or result
        names.append(sample.name)
        for info in outputs:
            actual, wanted = _both(result.outputs, expected, info)
            errors[info.name].append(compare(actual, wanted))
            if first is not None and first[info.name].shape != wanted.shape:
                variation[info.name] = float("inf")  # a device cannot answer in another shape by accident
            elif first is not None:
                variation[info.name] = max(variation[info.name], compare(wanted, first[info.name]).relative_l2)
            agreement = top1_agreement(actual, wanted) if classifies else None
            if agreement is not None:
                top1[info.name].append(agreement)
        failed = any(judge(found[-1], tolerance).verdict is Verdict.FAIL for found in errors.values())
        own = doubt.of(sample.tensors, expected, RunOptions(timeout_s=run.timeout_s)) if failed else {}
        for info in outputs:
            doubts[info.name].append(own.get(info.name, 0.0))
        first = first or expected
        if labels and (pair := _answer(sample.name, result.outputs, expected, outputs, labels)) is not None:
            answers.append(pair)
    if timed is None:
        raise UsageError("there is nothing to run: no samples", hint="give --samples 1 or more")
    return _Found(tuple(names), errors, doubts, top1, variation, tuple(answers), timed)


def _both(actual: NamedTensors, expected: NamedTensors, info: TensorInfo) -> tuple[Array, Array]:
    for outputs, who in ((actual, "the device"), (expected, "the reference")):
        if info.name not in outputs:
            raise BundleError(f"{who} gave no output {info.name!r}", hint="export the model again")
    return actual[info.name], expected[info.name]


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


def _report(
    bundle: Bundle,
    options: ValidateOptions,
    run: RunOptions,
    tolerance: Tolerance,
    facts: DeviceFacts,
    reference: tuple[str, str],
    found: _Found,
) -> ValidationReport:
    from mobilekit import __version__
    from mobilekit.report.model import ReferenceFacts, RunSettings, ValidationReport
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
        reference=ReferenceFacts(name=reference[0], version=reference[1]),
        settings=RunSettings(
            inputs="seeded" if options.inputs is None else "files",
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
        sentence=_sentence(outputs, f"{reference[0]} {reference[1]}", tolerance),
        latency=_latency(
            found.timed.latencies_ns, manifest.ncnn.batch.size if manifest.ncnn.batch else 1, facts.virtual
        ),
        load_ms=found.timed.load_ns / 1e6,
        peak_blob_bytes=found.timed.peak_blob_bytes,
        peak_workspace_bytes=found.timed.peak_workspace_bytes,
        answers=found.answers,
    )


def _output(info: TensorInfo, found: _Found, tolerance: Tolerance) -> OutputReport:
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
        **asdict(stats), batch=batch, comparable=not virtual, remark=_VIRTUAL_REMARK if virtual else ""
    )
