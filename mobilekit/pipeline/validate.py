"""``mobilekit validate``: a bundle's model on a device, held against ONNX Runtime on the original."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mobilekit.errors import BundleError, UsageError
from mobilekit.pipeline.assemble import Found, report_of
from mobilekit.pipeline.place import open_place
from mobilekit.pipeline.reference import ONNXRUNTIME, open_reference
from mobilekit.progress import SILENT, Progress
from mobilekit.runners.base import RunOptions

if TYPE_CHECKING:
    from mobilekit.bundle import Bundle, TensorInfo
    from mobilekit.metrics.tensors import TensorError
    from mobilekit.pipeline.reference import Reference
    from mobilekit.report.model import AnswerPair, ValidationReport
    from mobilekit.runners.base import Runner, RunResult
    from mobilekit.tensors import Array, NamedTensors
    from mobilekit.validate.inputs import Sample
    from mobilekit.validate.tolerance import Tolerance

__all__ = ["ValidateOptions", "validate_bundle"]


@dataclass(frozen=True, slots=True)
class ValidateOptions:
    """How to validate. ``None`` for ``warmup`` and ``iterations``: 3 and 20, on a virtual device 1 and 3.

    ``threads=0``: as ncnn chooses; on a virtual device 1, where threads that wait for each other cost most.

    ``reference``: see :func:`~mobilekit.pipeline.reference.open_reference`; a recording brings its own inputs.
    ``inputs``: a folder of pictures or ``.npy`` files; without it ``samples`` seeded ones. ``precision`` overrides
    the arithmetic that the bundle was made for; ``rtol`` and ``atol`` the limits of ``validate/tolerance.py``.
    ``timeout_s`` bounds each run on the device. ``quota_bytes`` bounds what is kept on the device.
    """

    reference: str | Path = ONNXRUNTIME
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
    files = None
    if options.inputs is not None:
        files = file_samples(options.inputs, manifest.inputs, preprocess=manifest.preprocess)
    with (
        open_reference(opened, options.reference) as reference,
        open_place(opened, device, quota_bytes=options.quota_bytes, progress=progress) as (runner, facts),
    ):
        recorded = reference.samples()
        if recorded is not None and files is not None:
            raise UsageError("a recorded reference brings its own inputs", hint="leave --inputs out")
        seeded = seeded_samples(
            manifest.inputs,
            seed=options.seed,
            count=options.samples,
            preprocess=manifest.preprocess,
            sizes=manifest.sizes,
        )
        run = RunOptions(
            threads=options.threads or int(facts.virtual),
            warmup=_default(options.warmup, 1 if facts.virtual else 3),
            iterations=_default(options.iterations, 3 if facts.virtual else 20),
            fp16=arithmetic == "fp16",
            timeout_s=options.timeout_s,
        )
        found = _measure(opened, runner, reference, recorded or files or seeded, run, progress, tolerance)
        against = reference.facts
    fed: Literal["recorded", "files", "seeded"] = "recorded" if recorded else "files" if files else "seeded"
    return report_of(opened, options, run, tolerance, facts, against, found, fed)


def _default(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else value


def _measure(
    bundle: Bundle,
    runner: Runner,
    reference: Reference,
    samples: Iterator[Sample],
    run: RunOptions,
    progress: Progress,
    tolerance: Tolerance,
) -> Found:
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
        expected = reference.answer(sample.tensors, run.timeout_s)
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
        own = reference.doubt(sample.tensors, expected, run.timeout_s) if failed else {}
        for info in outputs:
            doubts[info.name].append(own.get(info.name, 0.0))
        first = first or expected
        if labels and (pair := _answer(sample.name, result.outputs, expected, outputs, labels)) is not None:
            answers.append(pair)
    if timed is None:
        raise UsageError("there is nothing to run: no samples", hint="give --samples 1 or more")
    return Found(tuple(names), errors, doubts, top1, variation, tuple(answers), timed)


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
