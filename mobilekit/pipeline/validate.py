"""``mobilekit validate``: a bundle's model on a device, held against ONNX Runtime on the original."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mobilekit.errors import UsageError
from mobilekit.pipeline.assemble import report_of, with_endurance
from mobilekit.pipeline.emulated import instruction_report
from mobilekit.pipeline.endurance import NOTHING_LONG, Endurance, LongTimings
from mobilekit.pipeline.formats import number_format, plan_format
from mobilekit.pipeline.ladder import MOST_SAMPLES, climb
from mobilekit.pipeline.measure import Task, measure
from mobilekit.pipeline.partial import Partial
from mobilekit.pipeline.place import choose_target, open_place
from mobilekit.pipeline.place_plan import inputs_of_plan, sizes_of_plan, worker_host
from mobilekit.pipeline.reference import ONNXRUNTIME, open_reference
from mobilekit.pipeline.settings import run_options, setting_at
from mobilekit.pipeline.sweep import sweep
from mobilekit.progress import SILENT, Progress
from mobilekit.targets.tensorrt.runner import GpuOptions

if TYPE_CHECKING:
    from mobilekit.bundle import Bundle, Manifest
    from mobilekit.pipeline.reference import Reference
    from mobilekit.report.model import DeviceFacts, ValidationReport
    from mobilekit.report.sweep import SweepRow
    from mobilekit.runners.base import RunOptions, RunResult
    from mobilekit.targets.base import TargetName
    from mobilekit.tuning import Cluster, Setting
    from mobilekit.validate.inputs import Sample
    from mobilekit.validate.limits import Overrides
    from mobilekit.validate.rounding import Costs, NumberFormat

__all__ = ["ValidateOptions", "validate_bundle"]


_ROUNDS = {"adb": (3, 20), "local": (3, 20), "virtual": (1, 3), "gpu": (3, 100), "prepared": (0, 1)}
"""Untimed and timed runs, by kind of device."""


@dataclass(frozen=True, slots=True)
class ValidateOptions:
    """How to validate. ``warmup=None``: until the times settle, on a virtual device once. ``iterations=None``: 20, on a
    virtual device 3, on a GPU 100.

    ``cluster``: the cores to run on. ``sweep``: threads and cores to time besides, in turns with one another.
    ``threads=0``: as ncnn chooses; on a virtual device 1, where threads that wait for each other cost most.

    ``reference``: see :func:`~mobilekit.pipeline.reference.open_reference`; a recording brings its own inputs.
    ``inputs``: a folder of pictures or ``.npy`` files; without it ``samples`` seeded ones. ``precision`` overrides
    the arithmetic that the bundle was made for. ``rtol``, ``atol``, ``cosine`` and ``psnr_db`` are limits in place of
    those that :mod:`mobilekit.validate.tolerance` derives: a number for all outputs, or by output name (``""`` for all
    others). ``target``: see :func:`~mobilekit.pipeline.place.choose_target`. ``streams``, ``cuda_graph``
    and ``plugins`` are for plans on a GPU: :class:`~mobilekit.targets.tensorrt.runner.GpuOptions`. ``on`` is the
    machine that has the GPU, ``"ssh://user@host"``, with one of ``remote_pythons``.
    ``timeout_s`` bounds each run on the device, ``quota_bytes`` bounds what is kept on the device.
    ``tuned``: run as ``mobilekit tune`` found fastest for such a device, where it did; ``threads`` and ``precision``
    override their part of that. ``vulkan``: on the GPU of this machine or of the device, never tuned.
    ``ladder`` takes the first samples through every step between the original and the device
    (:mod:`mobilekit.pipeline.ladder`). ``metrics``: task metrics (:mod:`mobilekit.validate.task`), ``truth``: a CSV
    file of what is right for each file of ``inputs``. ``wait_s``: how long to wait for a device that another validation
    holds. ``resume``: go on where the same validation was stopped. ``endurance``: a sustained run, a single stream of
    queries, waits for the device to cool (an ncnn model's only).
    """

    reference: str | Path = ONNXRUNTIME
    inputs: Path | None = None
    samples: int = 3
    seed: int = 0
    threads: int = 0
    cluster: Cluster | None = None
    sweep: tuple[tuple[int, Cluster], ...] = ()
    warmup: int | None = None
    iterations: int | None = None
    precision: Literal["fp32", "fp16"] | None = None
    rtol: float | Mapping[str, float] | None = None
    atol: float | Mapping[str, float] | None = None
    cosine: float | Mapping[str, float] | None = None
    psnr_db: float | Mapping[str, float] | None = None
    tuned: bool = True
    target: TargetName | None = None
    streams: tuple[int, ...] = ()
    cuda_graph: bool = True
    plugins: tuple[str, ...] = ()
    on: str | None = None
    remote_pythons: tuple[str, ...] = ()
    timeout_s: float = 300.0
    quota_bytes: int | None = None
    vulkan: bool = False
    ladder: bool = False
    metrics: tuple[str, ...] = ()
    truth: Path | None = None
    wait_s: float = 600.0
    resume: bool = False
    endurance: LongTimings = NOTHING_LONG


def validate_bundle(
    bundle: str | Path,
    device: str | None = None,
    options: ValidateOptions | None = None,
    progress: Progress = SILENT,
) -> ValidationReport:
    """Run the bundle's model on ``device`` and judge every output against ONNX Runtime on the original model.

    ``device``: an adb serial; ``"virtual"`` or ``"virtual:cortex-a76"``; ``"local"`` (the ncnn wheel on this
    machine); ``None`` for the one connected; for a TensorRT plan ``"gpu"``, ``"gpu:1"``, ``"prepared"`` or ``None``
    (:func:`~mobilekit.pipeline.place_plan.open_plan`). Raises :class:`~mobilekit.errors.BundleError`,
    :class:`UsageError` for inputs that do not fit, and any :class:`~mobilekit.errors.DeviceError` or
    :class:`~mobilekit.errors.ChildError`; a wrong result is no error but a verdict.
    """
    from mobilekit.bundle import open_bundle
    from mobilekit.pipeline.int8 import cost_of
    from mobilekit.pipeline.int8_layers import wrong_int8
    from mobilekit.pipeline.plan_cost import cost_of_plan
    from mobilekit.validate.inputs import file_samples, sample_names, seeded_samples
    from mobilekit.validate.limits import Limits

    options = options or ValidateOptions()
    opened = open_bundle(Path(bundle))
    manifest = opened.manifest
    host = None
    if options.on is not None:
        host = worker_host(
            options.on, pythons=options.remote_pythons, quota_bytes=options.quota_bytes, progress=progress
        )
    target = choose_target(opened, options.target or (None if host is None else "tensorrt"), device)
    _check(options, target)
    overrides = _overrides(options)
    overrides.check([info.name for info in manifest.outputs])
    plan = manifest.tensorrt if target == "tensorrt" else None
    inputs, sizes = manifest.inputs, manifest.sizes
    if plan is not None:
        inputs, sizes = inputs_of_plan(manifest, plan), sizes_of_plan(plan)
    task = _task(opened, options)
    files = None
    if options.inputs is not None:
        if task.truth is not None:
            task.truth.check(sample_names(options.inputs, inputs, apart=options.truth))
        files = file_samples(options.inputs, inputs, preprocess=manifest.preprocess, apart=options.truth)
    with (
        open_reference(opened, options.reference, progress) as reference,
        open_place(
            opened,
            device,
            target=target,
            gpu=GpuOptions(options.streams, options.cuda_graph, options.warmup is None, options.plugins),
            host=host,
            quota_bytes=options.quota_bytes,
            wait_s=options.wait_s,
            vulkan=options.vulkan,
            progress=progress,
        ) as (runner, facts),
    ):
        recorded = reference.samples()
        if recorded is not None and files is not None:
            raise UsageError("a recorded reference brings its own inputs", hint="leave --inputs out")
        seeded = seeded_samples(
            inputs, seed=options.seed, count=options.samples, preprocess=manifest.preprocess, sizes=sizes
        )
        setting, tuned, run = _setting(manifest, facts, options, progress)
        form: NumberFormat | str
        measured: AbstractContextManager[Costs] | None
        if plan is not None:
            form = plan_format(plan.precision)
            measured = cost_of_plan(opened, plan)
        else:
            assert manifest.ncnn is not None
            form = number_format(manifest.ncnn.precision, "fp16" if setting.fp16 else "fp32", facts)
            measured = cost_of(opened, form)
        with ExitStack() as stack:
            cost = None if measured is None else stack.enter_context(measured)
            wrong = ""
            if target == "ncnn":
                wrong = wrong_int8(opened, device, options.inputs, options.seed, run, options.quota_bytes, progress)
            limits = Limits(
                [info.name for info in manifest.outputs],
                form,
                cost,
                overrides=overrides,
                allowance=manifest.rtol,
                wrong=wrong,
                picks=manifest.picks,
            )
            partial = _partial(opened, facts, reference, options, setting, task, progress)
            samples = _Kept(recorded or files or seeded, MOST_SAMPLES if options.ladder else 1)
            # An emulator's times never settle, and a plan's runner sees to it itself.
            settle = options.warmup is None and facts.kind in ("local", "adb") and not facts.virtual
            endurance = Endurance(options.endurance, runner, progress)
            endurance.cool("the first sample")
            found = measure(
                opened,
                runner,
                reference,
                samples,
                run,
                limits,
                progress,
                task,
                settle=settle,
                cold=facts.kind in ("local", "adb"),
                partial=partial,
            )
            if found.warmth is not None:
                run = replace(run, warmup=found.warmth.runs)
            against = reference.facts
            if cost is not None and cost.unknown:
                progress.note(f"fixed limits hold: what {form} costs could not be measured ({cost.unknown})")
            if target == "ncnn":
                _require_cores(options.cluster, found.timed)
            if found.stopped is None:
                endurance.run(samples.first[0].tensors, run, virtual=facts.virtual)
            stopped = found.stopped or endurance.stopped
            if stopped is None:
                partial.discard()
        rows: tuple[SweepRow, ...] = ()
        ladder = None
        if stopped is None and manifest.ncnn is not None and target == "ncnn":
            if options.sweep:
                ways = [replace(run, threads=threads, cluster=cluster) for threads, cluster in options.sweep]
                rows = sweep(runner, samples.first[0].tensors, ways, run.iterations, progress)
            if options.ladder:
                # Of the steps on CPUs; the GPU's own is known to the ladder.
                plain = facts.model_copy(update={"vulkan": None})
                form = number_format(manifest.ncnn.precision, "fp16" if setting.fp16 else "fp32", plain)
                ladder = climb(
                    opened, runner, facts, reference, samples.first, form, run, overrides, progress, wrong=wrong
                )
    fed: Literal["recorded", "files", "seeded"] = "recorded" if recorded else "files" if files else "seeded"
    report = report_of(opened, target, options, run, facts, against, found, fed, task, tuned=tuned)
    # Not on the device, so it need not be held for that.
    counted = None
    if stopped is None:
        counted = instruction_report(opened, facts, samples.first[0].tensors, run, progress)
    return with_endurance(report, endurance).model_copy(
        update={"ladder": ladder, "instructions": counted, "sweep": rows}
    )


def _check(options: ValidateOptions, target: TargetName) -> None:
    """Raises :class:`UsageError` for options that are not about this target."""
    if target == "ncnn":
        if options.on is not None:
            raise UsageError("another machine runs TensorRT plans", hint="leave --on out, or add --target tensorrt")
        return
    if options.precision is not None:
        raise UsageError("a plan computes as it was built", hint="leave --precision out, or export with it")
    if options.ladder:
        raise UsageError("the ladder climbs to an ncnn model, and to a plan on its way", hint="leave --target out")
    if options.endurance != NOTHING_LONG:
        raise UsageError(
            "--sustained, --single-stream and --cool-down time an ncnn model",
            hint="leave them out, or --target out; --streams measures a plan's throughput",
        )


def _setting(
    manifest: Manifest, facts: DeviceFacts, options: ValidateOptions, progress: Progress
) -> tuple[Setting, bool, RunOptions]:
    """How the model runs there, whether that is the tuned way, and the same with the rounds to time."""
    setting, tuned = setting_at(
        manifest,
        facts,
        threads=options.threads,
        cluster=options.cluster,
        precision=options.precision,
        tuned=options.tuned and not options.vulkan,
        progress=progress,
    )
    warmup, iterations = _ROUNDS["virtual" if facts.virtual else facts.kind]
    run = replace(
        run_options(setting, timeout_s=options.timeout_s),
        warmup=_default(options.warmup, warmup),
        iterations=_default(options.iterations, iterations),
        vulkan=options.vulkan,
    )
    return setting, tuned, run


def _partial(
    bundle: Bundle,
    facts: DeviceFacts,
    reference: Reference,
    options: ValidateOptions,
    setting: Setting,
    task: Task,
    progress: Progress,
) -> Partial:
    """What is known of this validation from before: of no other bundle, device, reference or option that counts."""
    from mobilekit import __version__

    partial = Partial(
        __version__,
        _identity(bundle),
        _wherever(facts),
        (reference.facts, reference.digest),
        replace(options, timeout_s=0.0, quota_bytes=None, wait_s=0.0, resume=False, endurance=NOTHING_LONG),
        setting,
        task.truth,
        resume=options.resume,
    )
    if options.resume:
        progress.note(f"{partial.count} samples are known from before")
    return partial


def _require_cores(cluster: Cluster | None, timed: RunResult | None) -> None:
    """ncnn takes all cores where there are none of the kind that is asked for, and does not say so."""
    if cluster is None or cluster == "all" or timed is None:
        return
    cores = timed.facts.get("cores")
    if isinstance(cores, dict) and not (cores.get("big") and cores.get("little")):
        raise UsageError(f"there are no {cluster} cores: all are alike", hint="leave --cluster out")
    if timed.facts.get("cluster_applied") is False:
        raise UsageError(f"the system does not let us choose the {cluster} cores", hint="leave --cluster out")


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


def _identity(bundle: Bundle) -> str:
    """Tells bundles apart: every file's content, and what the manifest says, limits among it."""
    return hashlib.sha256(repr(bundle.manifest).encode()).hexdigest()


def _wherever(facts: DeviceFacts) -> DeviceFacts:
    """The device, whatever its address is now: a phone is told by its own serial, a virtual one by what it emulates."""
    serial = facts.hardware_serial or ("" if facts.virtual else facts.serial)
    return facts.model_copy(update={"serial": serial, "hardware_serial": ""})


def _task(bundle: Bundle, options: ValidateOptions) -> Task:
    from mobilekit.validate.task import parse_metric, read_truth

    if options.truth is not None and options.inputs is None:
        raise UsageError("the truth is about files", hint="--truth labels.csv goes with --inputs DIR")
    manifest = bundle.manifest
    picture = next((info.shape for info in manifest.inputs if len(info.shape) == 4), (1, 3, 0, 0))
    layout = manifest.preprocess.layout if manifest.preprocess is not None else "NCHW"
    size = (picture[1], picture[2]) if layout == "NHWC" else (picture[2], picture[3])
    metrics = tuple(parse_metric(text, size) for text in options.metrics)
    text = manifest.task == "recognition" or any(metric.name == "text" for metric in metrics)
    truth = read_truth(options.truth, bundle.labels(), text=text) if options.truth is not None else None
    return Task(metrics, truth)


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
