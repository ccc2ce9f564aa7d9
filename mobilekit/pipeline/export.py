"""``mobilekit export``: a model becomes a bundle, verified against ONNX Runtime before it is called done."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mobilekit.errors import MobilekitError, UnsupportedModelError, UsageError
from mobilekit.paths import Scratch, atomic_dir
from mobilekit.pipeline.blame import blamed
from mobilekit.pipeline.clock import StageClock, peak_bytes
from mobilekit.pipeline.export_manifest import batch_in_manifest, copy_source, freed, manifest_of, preprocess_of
from mobilekit.pipeline.infos import tensor_info
from mobilekit.pipeline.verification import original, verify
from mobilekit.progress import SILENT, Progress

if TYPE_CHECKING:
    from mobilekit.bundle import Manifest, NcnnArtifact, NcnnInt8, TensorInfo
    from mobilekit.child import Child
    from mobilekit.errors import Finding
    from mobilekit.graph import Graph, Value
    from mobilekit.importers.onnx import SourceModel
    from mobilekit.metrics.tensors import TensorError
    from mobilekit.passes.batch import Batch, Mixing
    from mobilekit.passes.verify import PassVerifier
    from mobilekit.pipeline.dynamic import DynamicModel, DynamicShape
    from mobilekit.pipeline.int8 import Calibration
    from mobilekit.pipeline.tensorrt import PlanBuild, PlanReport, PreparedPlan
    from mobilekit.runners.ort import OrtRunner
    from mobilekit.targets.base import TargetName
    from mobilekit.targets.ncnn.emit import Model
    from mobilekit.targets.tensorrt import TensorRTOptions
    from mobilekit.targets.tensorrt.host import WorkerHost
    from mobilekit.tensors import Array, FixedValue
    from mobilekit.zoo import ResolvedModel

__all__ = ["ExportOptions", "ExportReport", "export_model"]

_OVERLAP_BYTES = 500_000_000


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What to make of a model.

    ``targets``: what to convert to; ``tensorrt`` holds that target's own options, ``precision`` is ncnn's.
    ``shapes`` fixes the shapes of inputs by ONNX name; with ``dynamic`` they are but the default, and the symbolic
    axes (but the batch) stay free, or those that ``dynamic_shapes`` names (which implies ``dynamic``). ``fixed`` gives
    inputs a value (an array, a ``.npy`` file, a number, a list): the converted model does not have them.
    ``drop_fake_quant`` leaves out the roundings of a quantised model: far fewer layers, results that differ by them.
    ``precision`` is how weights are stored and which arithmetic a device may use; int8 needs ``calibration``.
    ``labels`` is a text file, one class a line, and ``preprocess`` a TOML file with the fields of
    :class:`~mobilekit.preprocess.Preprocess` (a zoo entry brings its own).
    ``verify=False`` is recorded in the manifest; ``seed`` and ``samples`` say what verification feeds the model.
    ``replace`` allows to overwrite a folder that is no bundle. ``verify_passes`` holds every rewrite against ONNX
    Runtime, to find the rule behind a wrong result: slow, and it keeps every tensor in memory.
    """

    targets: tuple[TargetName, ...] = ("ncnn",)
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    calibration: Calibration | None = None
    tensorrt: TensorRTOptions | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dynamic: bool = False
    dynamic_shapes: Mapping[str, DynamicShape] = field(default_factory=dict)
    fixed: Mapping[str, FixedValue] = field(default_factory=dict)
    labels: Path | None = None
    preprocess: Path | None = None
    simplify: bool = True
    stock_only: bool = False
    drop_fake_quant: bool = False
    verify: bool = True
    verify_passes: bool = False
    seed: int = 0
    samples: int = 2
    replace: bool = False
    timeout_s: float = 600.0


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What came of it. ``errors`` holds the worst error of each output, empty where verification was off.

    ``tensorrt_errors`` are those of the ONNX that was prepared for TensorRT, ``tensorrt_kept`` its nodes that stay in
    float32 though another precision was asked for, and why. ``peak_rss_bytes``: the most memory that one process had
    resident during ``conversion``, and until the end of ``verification`` (ONNX Runtime and ncnn run in processes of
    their own), mapped files included.
    """

    bundle: Path
    manifest: Manifest
    errors: Mapping[str, TensorError]
    seconds: Mapping[str, float]
    tensorrt_errors: Mapping[str, TensorError] = field(default_factory=dict)
    tensorrt_kept: Mapping[str, str] = field(default_factory=dict)
    peak_rss_bytes: Mapping[str, int] = field(default_factory=dict)


def export_model(
    model: str | Path, output: str | Path, options: ExportOptions | None = None, progress: Progress = SILENT
) -> ExportReport:
    """Convert ``model`` (a path or a zoo id) and write the bundle ``output``, whole or not at all.

    Raises :class:`~mobilekit.errors.UnsupportedModelError` with every finding, :class:`VerificationError` where the
    ncnn model computes something else than ONNX Runtime on the original, :class:`UsageError` for an output folder
    that holds something else, and what the rooms below raise.
    """
    options = options or ExportOptions()
    folder = Path(output)
    _check_output(folder, replace=options.replace)
    if _is_dynamic(options) and options.targets != ("ncnn",):
        raise UsageError(
            "free sizes are for the ncnn target alone", hint="TensorRT takes sizes as --profile; export it on its own"
        )
    if options.drop_fake_quant and options.verify_passes:
        raise UsageError("what leaves roundings out changes numbers", hint="use --verify-passes without it")
    if "ncnn" in options.targets and options.precision == "int8":
        from mobilekit.pipeline.int8 import check_calibration

        check_calibration(options.calibration)
    if _is_dynamic(options) and options.verify_passes:
        raise UsageError("passes are verified at one size", hint="use --verify-passes without --dynamic")

    from mobilekit import zoo

    with ExitStack() as background:
        here = _start_tensorrt(options, background) if "tensorrt" in options.targets else None
        return _export(folder, zoo.resolve(str(model), progress), options, progress, background, here)


def _export(
    folder: Path,
    resolved: ResolvedModel,
    options: ExportOptions,
    progress: Progress,
    background: ExitStack,
    here: WorkerHost | None,
) -> ExportReport:
    clock = StageClock()
    with clock("imports"):  # only now, for they take long: a wrong name was said at once
        from mobilekit.importers.onnx import load

    with clock("load"):
        progress.step("reading the model")
        source = load(resolved.path, _fixed(resolved, options))
        source = replace(source, fake_quant=not options.drop_fake_quant)
    with blamed(source.path, source.fixed):
        return _converted(folder, source, resolved, options, clock, progress, background, here)


def _converted(
    folder: Path,
    source: SourceModel,
    resolved: ResolvedModel,
    options: ExportOptions,
    clock: StageClock,
    progress: Progress,
    background: ExitStack,
    here: WorkerHost | None,
) -> ExportReport:
    reference: OrtRunner | None = None
    process: Child | None = None
    if "ncnn" in options.targets and options.verify:
        from mobilekit.runners.ncnn_host import start_process

        process = start_process(timed=False)
        background.callback(process.close)
    early = "ncnn" in options.targets and options.verify and not _is_dynamic(options)
    if early and source.size_bytes <= _OVERLAP_BYTES:
        # ONNX Runtime loads the original while we convert it, unless both at once need much memory.
        reference = original(source)
        background.callback(reference.close)
        reference.start()
    plain: OrtRunner | None = None
    if "tensorrt" in options.targets and options.verify:
        from mobilekit.runners.ort import OrtRunner

        # ONNX Runtime's own rewrites of Q/DQ graphs fail on some valid ones, and there is nothing to gain here.
        plain = OrtRunner(source.path, optimise=False)
        background.callback(plain.close)
        if source.size_bytes <= _OVERLAP_BYTES:
            plain.start()
    if "ncnn" in options.targets:
        with clock("imports"):
            from mobilekit.passes import legalise, prepare, schemas  # noqa: F401 - imported here to be counted here
            from mobilekit.targets.ncnn import emit, ops, writer  # noqa: F401

            schemas.load_schemas()
    # Both come before the folder appears: a model that cannot be converted leaves no trace.
    plan = None
    if "tensorrt" in options.targets:
        plan = _prepare_tensorrt(source, resolved, options, clock, progress, background, here)
    ncnn = _prepare_ncnn(source, resolved, options, clock, progress) if "ncnn" in options.targets else None
    with atomic_dir(folder) as temporary, ExitStack() as building:
        build = None
        if plan is not None:
            from mobilekit.pipeline.tensorrt import PlanBuild

            # TensorRT builds while the rest is written and verified, unless both at once need much memory.
            ahead = plan.host is here and source.size_bytes <= _OVERLAP_BYTES
            build = PlanBuild(temporary, plan, preprocess_of(resolved, options), plain, ahead=ahead, progress=progress)
            with clock("tensorrt"):
                building.enter_context(build)
        artifact = _write_ncnn(ncnn, temporary, options, clock, progress) if ncnn is not None else None
        with clock("bundle"):
            hashes = copy_source(source, temporary)
            inputs, outputs = _tensor_infos(ncnn, plan)
            manifest = replace(
                manifest_of(inputs, outputs, source, resolved, options, temporary, hashes), ncnn=artifact
            )
            if ncnn is not None and ncnn.dynamic is not None:
                manifest = freed(manifest, ncnn.dynamic)
        errors: Mapping[str, TensorError] = {}
        peaks = {"conversion": peak_bytes()}
        if options.verify and ncnn is not None:
            with clock("verify"):
                progress.step("verifying against ONNX Runtime")
                reference = reference or original(source, manifest)
                errors, verified = verify(temporary, manifest, source, reference, options, progress, process)
                manifest = replace(manifest, verified=verified)
            peaks["verification"] = peak_bytes()
        elif ncnn is not None:
            from mobilekit.passes.nonfinite import listed, nonfinite_weights

            if bad := nonfinite_weights(ncnn.graph):
                progress.note(f"the model's weights are not all finite, and nothing is verified: {listed(bad)}")
        made = _finish_plan(build, plan, temporary, manifest, source, options, clock) if build and plan else None
        if made is not None:
            manifest = replace(manifest, tensorrt=made.artifact)
        plan_errors = made.errors if made is not None else {}
        with clock("bundle"):
            from mobilekit.bundle import RUN, write_manifest

            manifest = write_manifest(temporary, manifest, hashes)
            run = {
                "seconds": clock.seconds,
                "cpu_seconds": clock.cpu_seconds,
                "peak_rss_bytes": peaks,
                "errors": {name: asdict(error) for name, error in errors.items()},
                "tensorrt_errors": {name: asdict(error) for name, error in plan_errors.items()},
            }
            (temporary / RUN).write_text(json.dumps(run, indent=1) + "\n")
    kept = made.kept if made is not None else {}
    return ExportReport(folder, manifest, errors, clock.seconds, plan_errors, kept, peaks)


def _is_dynamic(options: ExportOptions) -> bool:
    return bool(options.dynamic or options.dynamic_shapes)


@dataclass(frozen=True, slots=True)
class _PreparedNcnn:
    """A model that the ncnn target takes. ``batch``: it is that of one sample; ``dynamic``: of many sizes."""

    graph: Graph
    model: Model
    batch: Batch | None = None
    dynamic: DynamicModel | None = None
    int8: NcnnInt8 | None = None


def _prepare_ncnn(
    source: SourceModel, resolved: ResolvedModel, options: ExportOptions, clock: StageClock, progress: Progress
) -> _PreparedNcnn:
    prepared = _prepare_float(source, resolved, options, clock, progress)
    if options.precision != "int8":
        return prepared
    from mobilekit.pipeline.int8 import check_calibration, in_int8

    with clock("int8"):
        inputs = [tensor_info(value) for value in prepared.graph.inputs]
        calibration, preprocess = check_calibration(options.calibration), preprocess_of(resolved, options)
        model, record = in_int8(prepared.graph, prepared.model, inputs, calibration, preprocess, progress)
    return replace(prepared, model=model, int8=record)


def _prepare_float(
    source: SourceModel, resolved: ResolvedModel, options: ExportOptions, clock: StageClock, progress: Progress
) -> _PreparedNcnn:
    from mobilekit.passes import prepare
    from mobilekit.pipeline.batch import choose_batch
    from mobilekit.targets.ncnn.emit import emit

    shapes = _shapes(source, resolved, options)
    if _is_dynamic(options):
        from mobilekit.pipeline.dynamic import convert_dynamic

        with clock("prepare"):
            dynamic = convert_dynamic(
                source, shapes, options.dynamic_shapes, stock_only=options.stock_only, progress=progress
            )
        return _PreparedNcnn(dynamic.graph, dynamic.model, dynamic=dynamic)
    with clock("prepare"):
        progress.step("simplifying")
        with _pass_verifier(resolved, options) as verifier:
            graph = prepare(
                source,
                shapes,
                simplify=options.simplify,
                stock_only=options.stock_only,
                progress=progress,
                verifier=verifier,
            )
        with _pass_verifier(resolved, options) as verifier:
            graph, batch, mixing = choose_batch(
                graph, source, shapes, simplify=options.simplify, stock_only=options.stock_only, verifier=verifier
            )
    if batch is not None:
        progress.note(f"ncnn computes one sample at a time: the batch of {batch.size} is run sample by sample")
    with clock("emit"):
        model = emit(graph, stock_only=options.stock_only)
        _refuse_unsupported("ncnn", model.findings, source, mixing)
    return _PreparedNcnn(graph, model, batch)


def _write_ncnn(
    prepared: _PreparedNcnn, root: Path, options: ExportOptions, clock: StageClock, progress: Progress
) -> NcnnArtifact:
    from mobilekit.targets.ncnn import NcnnOptions, NcnnTarget

    with clock("write"):
        progress.step("converting to ncnn")
        (root / "ncnn").mkdir()
        settings = NcnnOptions(options.precision, options.stock_only, fixed_sizes=prepared.dynamic is None)
        artifact = NcnnTarget().write(prepared.model, root / "ncnn", settings)
        int8 = artifact.int8
        if int8 is not None and prepared.int8 is not None:
            int8 = replace(prepared.int8, scales=int8.scales)
        return replace(artifact, batch=batch_in_manifest(prepared.batch), int8=int8)


def _start_tensorrt(options: ExportOptions, background: ExitStack) -> WorkerHost | None:
    """This machine's builder, which loads its libraries while the model is read; ``None`` where another builds, or
    where there is none, which is said once the rest of what was asked for is known to make sense."""
    from mobilekit.targets.tensorrt.flavour import choose_flavour
    from mobilekit.targets.tensorrt.host import LocalHost

    settings = options.tensorrt
    if settings is not None and settings.on is not None:
        return None
    host = background.enter_context(LocalHost())
    with suppress(MobilekitError):
        host.start(choose_flavour(settings.flavour if settings is not None else None).module)
    return host


def _prepare_tensorrt(
    source: SourceModel,
    resolved: ResolvedModel,
    options: ExportOptions,
    clock: StageClock,
    progress: Progress,
    background: ExitStack,
    here: WorkerHost | None,
) -> PreparedPlan:
    from mobilekit.pipeline.place_plan import worker_host
    from mobilekit.pipeline.tensorrt import check_plan, prepare_plan
    from mobilekit.targets.tensorrt import TensorRTOptions

    with clock("tensorrt"):
        progress.step("preparing the model for TensorRT")
        settings = options.tensorrt or TensorRTOptions()
        if settings.plugins and options.verify:
            raise UsageError(
                "what a plugin computes cannot be verified: ONNX Runtime does not know its operator",
                hint="add --no-verify",
            )

        def open_host() -> WorkerHost:
            if settings.on is None:
                assert here is not None
                return here
            host = worker_host(
                settings.on,
                pythons=settings.remote_pythons,
                quota_bytes=settings.remote_quota_bytes,
                progress=progress,
            )
            return background.enter_context(host)

        folder = background.enter_context(Scratch("tensorrt"))
        plan = prepare_plan(source, _shapes(source, resolved, options), settings, progress, open_host, folder)
        _refuse_unsupported("tensorrt", check_plan(plan), source)
    return plan


def _finish_plan(
    build: PlanBuild,
    plan: PreparedPlan,
    root: Path,
    manifest: Manifest,
    source: SourceModel,
    options: ExportOptions,
    clock: StageClock,
) -> PlanReport:
    from mobilekit.bundle import Bundle

    samples: list[Mapping[str, Array]] = []
    if options.verify:
        from mobilekit.validate.inputs import seeded_samples

        seeded = seeded_samples(plan.inputs, seed=options.seed, count=options.samples, preprocess=manifest.preprocess)
        samples = [{**sample.tensors, **source.fixed} for sample in seeded]
    with clock("tensorrt"):
        return build.finish(Bundle(root, manifest), samples, timeout_s=options.timeout_s)


def _pass_verifier(
    resolved: ResolvedModel, options: ExportOptions
) -> AbstractContextManager[PassVerifier] | AbstractContextManager[None]:
    """What holds each rewrite against ONNX Runtime on the seeded inputs of verification, where that is wanted."""
    if not options.verify_passes:
        return nullcontext()
    from mobilekit.passes.verify import PassVerifier
    from mobilekit.validate.inputs import seeded_inputs

    preprocess = preprocess_of(resolved, options)

    def feeds(values: Sequence[Value]) -> Mapping[str, Array]:
        return seeded_inputs([tensor_info(value) for value in values], seed=options.seed, preprocess=preprocess)

    return PassVerifier(feeds)


def _check_output(folder: Path, *, replace: bool) -> None:
    from mobilekit.bundle import check_outside, is_bundle

    check_outside(folder)
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"{folder} is not a folder", hint="give another folder with -o")
    if folder.is_dir() and any(folder.iterdir()) and not is_bundle(folder) and not replace:
        raise UsageError(
            f"{folder} holds something that is not a bundle", hint="give another folder with -o, or add --force"
        )


def _shapes(source: SourceModel, resolved: ResolvedModel, options: ExportOptions) -> dict[str, tuple[int, ...]]:
    """The zoo entry's default shapes where the model leaves one open, under what the user says."""
    shapes: dict[str, tuple[int, ...]] = {}
    if resolved.entry is not None:
        open_inputs = {spec.name for spec in source.inputs if not spec.is_static}
        shapes = {name: shape for name, shape in resolved.entry.inputs.items() if name in open_inputs}
    return shapes | dict(options.shapes)


def _fixed(resolved: ResolvedModel, options: ExportOptions) -> dict[str, FixedValue]:
    given: dict[str, FixedValue] = {**resolved.entry.fixed} if resolved.entry is not None else {}
    return given | dict(options.fixed)


def _refuse_unsupported(
    target: str, findings: Sequence[Finding], source: SourceModel, mixing: Mixing | None = None
) -> None:
    if findings:
        count = f"{len(findings)} thing{'s' if len(findings) > 1 else ''}"
        raise UnsupportedModelError(
            f"{source.path.name} has {count} that the {target} target cannot take; nothing was written",
            findings=findings,
            # A graph network's nodes are no batch: only where the batch is in the way.
            hint=""
            if mixing is None or not any("batch" in finding.reason for finding in findings)
            else f"nor can the batch be run sample by sample: {mixing.op} at {mixing.node}: {mixing.reason}",
        )


def _tensor_infos(
    ncnn: _PreparedNcnn | None, plan: PreparedPlan | None
) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    """Inputs and outputs, as ncnn has them where it is a target, else as the plan's usual sizes are."""
    if ncnn is None:
        assert plan is not None
        return plan.inputs, plan.outputs
    inputs, outputs = ncnn.graph.inputs, ncnn.graph.results
    return tuple(tensor_info(v, ncnn.batch) for v in inputs), tuple(tensor_info(v, ncnn.batch) for v in outputs)
