"""``mobilekit validate``: a bundle's model on a device, held against ONNX Runtime on the original."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mobilekit.errors import BundleError, UsageError
from mobilekit.pipeline.assemble import report_of
from mobilekit.pipeline.ladder import MOST_SAMPLES, climb
from mobilekit.pipeline.measure import measure
from mobilekit.pipeline.place import open_place
from mobilekit.pipeline.reference import ONNXRUNTIME, open_reference
from mobilekit.progress import SILENT, Progress
from mobilekit.runners.base import RunOptions

if TYPE_CHECKING:
    from mobilekit.report.model import DeviceFacts, ValidationReport
    from mobilekit.validate.inputs import Sample
    from mobilekit.validate.limits import Overrides
    from mobilekit.validate.rounding import NumberFormat

__all__ = ["ValidateOptions", "number_format", "validate_bundle"]


@dataclass(frozen=True, slots=True)
class ValidateOptions:
    """How to validate. ``None`` for ``warmup`` and ``iterations``: 3 and 20, on a virtual device 1 and 3.

    ``threads=0``: as ncnn chooses; on a virtual device 1, where threads that wait for each other cost most.

    ``reference``: see :func:`~mobilekit.pipeline.reference.open_reference`; a recording brings its own inputs.
    ``inputs``: a folder of pictures or ``.npy`` files; without it ``samples`` seeded ones. ``precision`` overrides
    the arithmetic that the bundle was made for. ``rtol``, ``atol``, ``cosine`` and ``psnr_db`` are limits in place of
    those that :mod:`mobilekit.validate.tolerance` derives: a number for all outputs, or by output name (``""`` for all
    others). ``timeout_s`` bounds each run on the device. ``quota_bytes`` bounds what is kept on the device.
    ``ladder`` takes the first samples through every step between the original and the device
    (:mod:`mobilekit.pipeline.ladder`).
    """

    reference: str | Path = ONNXRUNTIME
    inputs: Path | None = None
    samples: int = 3
    seed: int = 0
    threads: int = 0
    warmup: int | None = None
    iterations: int | None = None
    precision: Literal["fp32", "fp16"] | None = None
    rtol: float | Mapping[str, float] | None = None
    atol: float | Mapping[str, float] | None = None
    cosine: float | Mapping[str, float] | None = None
    psnr_db: float | Mapping[str, float] | None = None
    timeout_s: float = 300.0
    quota_bytes: int | None = None
    ladder: bool = False


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
    from mobilekit.validate.limits import Limits
    from mobilekit.validate.rounding import RoundingCost

    options = options or ValidateOptions()
    opened = open_bundle(Path(bundle))
    manifest = opened.manifest
    if manifest.ncnn is None:
        raise BundleError(f"{bundle} holds no ncnn model", hint="export it with --target ncnn")
    arithmetic = options.precision or manifest.ncnn.precision
    overrides = _overrides(options)
    overrides.check([info.name for info in manifest.outputs])
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
        form = number_format(manifest.ncnn.precision, arithmetic, facts)
        with RoundingCost(opened, form) as cost:
            limits = Limits(
                [info.name for info in manifest.outputs], form, cost, overrides=overrides, allowance=manifest.rtol
            )
            samples = _Kept(recorded or files or seeded, MOST_SAMPLES if options.ladder else 0)
            found = measure(opened, runner, reference, samples, run, limits, progress)
            against = reference.facts
            if cost.unknown:
                progress.note(f"fixed limits hold: what {form} costs could not be measured ({cost.unknown})")
        ladder = None
        if options.ladder:
            ladder = climb(opened, runner, facts, reference, samples.first, form, run, overrides, progress)
    fed: Literal["recorded", "files", "seeded"] = "recorded" if recorded else "files" if files else "seeded"
    report = report_of(opened, options, run, facts, against, found, fed)
    return report if ladder is None else report.model_copy(update={"ladder": ladder})


class _Kept:
    """The samples as they come; the first ``count`` stay at hand."""

    def __init__(self, samples: Iterable[Sample], count: int) -> None:
        self._samples, self._count = samples, count
        self.first: list[Sample] = []

    def __iter__(self) -> Iterator[Sample]:
        for sample in self._samples:
            if len(self.first) < self._count:
                self.first.append(sample)
            yield sample


def number_format(
    weights: Literal["fp32", "fp16"], arithmetic: Literal["fp32", "fp16"], facts: DeviceFacts
) -> NumberFormat:
    """What a model is rounded to where ``facts`` says. ncnn computes in 16 bits on ARM alone; elsewhere the option has
    no effect."""
    from mobilekit.validate.rounding import NumberFormat

    narrow = arithmetic == "fp16" and facts.abi.startswith(("arm", "aarch64"))
    return NumberFormat(weights, "fp16" if narrow else "fp32")


def _overrides(options: ValidateOptions) -> Overrides:
    from mobilekit.validate.limits import EVERY, Overrides

    def by_output(given: float | Mapping[str, float] | None) -> Mapping[str, float]:
        return {} if given is None else given if isinstance(given, Mapping) else {EVERY: given}

    return Overrides(
        rtol=by_output(options.rtol),
        atol=by_output(options.atol),
        cosine=by_output(options.cosine),
        psnr_db=by_output(options.psnr_db),
    )


def _default(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else value
