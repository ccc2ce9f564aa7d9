"""The TensorRT half of ``mobilekit export``: prepared, checked, put into its number format, verified, built."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mobilekit.errors import REPORT_IT, Finding, UnsupportedModelError, UsageError, VerificationError
from mobilekit.paths import Scratch
from mobilekit.pipeline.infos import tensor_info
from mobilekit.progress import SILENT, Progress

if TYPE_CHECKING:
    from mobilekit.bundle import Bundle, TensorInfo, TensorRTArtifact
    from mobilekit.graph import Graph, Value
    from mobilekit.importers.onnx import SourceModel
    from mobilekit.metrics.tensors import TensorError
    from mobilekit.preprocess import Preprocess
    from mobilekit.runners.ort import OrtRunner
    from mobilekit.targets.tensorrt import TensorRTOptions
    from mobilekit.targets.tensorrt.flavour import Flavour
    from mobilekit.targets.tensorrt.host import WorkerHost
    from mobilekit.targets.tensorrt.prepare import Profile
    from mobilekit.tensors import Array
    from mobilekit.validate.tolerance import Tolerance

__all__ = [
    "PlanBuild",
    "PlanReport",
    "PreparedPlan",
    "check_plan",
    "exact_graph",
    "prepare_plan",
    "runnable",
    "write_model",
]


@dataclass(frozen=True, slots=True)
class PreparedPlan:
    """A graph that is ready for its number format. ``inputs`` and ``outputs`` have the shapes that verification and
    calibration use: the usual size of each profile. ``exact`` is the graph as an ONNX file, in a folder that is not
    the bundle's; ``host`` the machine that builds."""

    graph: Graph
    exact: Path
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    flavour: Flavour
    options: TensorRTOptions
    host: WorkerHost


@dataclass(frozen=True, slots=True)
class PlanReport:
    """``errors`` are the worst of each output of the prepared ONNX against the original, ``rounding`` what of it the
    number format adds; both empty where verification was off. ``kept`` says which nodes stay in float32, and why."""

    artifact: TensorRTArtifact
    errors: Mapping[str, TensorError]
    kept: Mapping[str, str]


def prepare_plan(
    source: SourceModel,
    shapes: Mapping[str, tuple[int, ...]],
    options: TensorRTOptions,
    progress: Progress,
    open_host: Callable[[], WorkerHost],
    folder: Path,
) -> PreparedPlan:
    """Choose the flavour, prepare the graph, and write it to ``folder``. ``open_host`` gives the machine that builds,
    once it is known that the options make sense.

    Raises ``MissingExtraError`` where TensorRT is not installed, ``UsageError`` for shapes, profiles, precisions and
    compute capabilities that do not go together.
    """
    from mobilekit.passes.precision import single_precision
    from mobilekit.precision.quantise import is_quantised
    from mobilekit.targets.tensorrt.capability import check_capabilities, check_graph
    from mobilekit.targets.tensorrt.flavour import choose_flavour, choose_flavour_there
    from mobilekit.targets.tensorrt.prepare import prepare

    _check_options(source, options)
    host = open_host()
    if options.on is None:
        flavour = choose_flavour(options.flavour)
    else:
        flavour = choose_flavour_there(host.hello(), host.name, options.flavour)
    if options.plugins and flavour.name == "rtx":
        raise UsageError(
            f"{flavour.product} takes no plugins ({options.plugins[0]}): its networks cannot hold them",
            hint="write the operator as an ONNX local function, which runs everywhere, or build with --flavour full",
        )
    check_capabilities(flavour, options.precision, options.compute_capabilities)
    fixed = {name: shape for name, shape in shapes.items() if name not in options.profiles}
    graph = exact_graph(source, fixed, options.profiles, progress)
    check_graph(flavour, options.precision, options.compute_capabilities, graph)
    if not is_quantised(graph) and (others := single_precision(graph)):
        progress.note(f"the model computes in {', '.join(sorted(others))}; the plan does in {options.precision}")
    sized = graph
    if options.profiles:
        usual = {name: profile.best for name, profile in options.profiles.items()}
        sized = prepare(source, fixed | usual, {})
    _require_static([*sized.inputs, *sized.outputs])
    inputs, outputs = tuple(map(tensor_info, sized.inputs)), tuple(map(tensor_info, sized.outputs))
    exact = folder / "model.onnx"
    write_model(graph, exact)
    return PreparedPlan(graph, exact, inputs, outputs, flavour, options, host)


def exact_graph(
    source: SourceModel,
    shapes: Mapping[str, tuple[int, ...]],
    profiles: Mapping[str, Profile],
    progress: Progress = SILENT,
) -> Graph:
    """The graph that is put into a number format, in the types that the model has."""
    from mobilekit.passes.base import apply_rules
    from mobilekit.passes.legalise.batchnorm import FoldAffine
    from mobilekit.passes.legalise.drop import DropNoOp
    from mobilekit.passes.legalise.fourier import LowerDft, LowerStft
    from mobilekit.precision.quantise import is_quantised
    from mobilekit.targets.tensorrt.prepare import prepare

    graph = prepare(source, shapes, profiles, progress=progress)
    apply_rules(graph, [LowerDft(), LowerStft()])
    if not is_quantised(graph):
        # TensorRT folds batch norms itself; calibration must see what remains.
        apply_rules(graph, [DropNoOp(), FoldAffine()])
    return graph


def _check_options(source: SourceModel, options: TensorRTOptions) -> None:
    """What can be said before any work is done."""
    from mobilekit.precision.quantise import METHODS
    from mobilekit.targets.tensorrt.capability import PRECISIONS

    if options.precision not in PRECISIONS:
        raise UsageError(f"unknown precision {options.precision!r}", hint=f"TensorRT takes {', '.join(PRECISIONS)}")
    if options.optimization_level is not None and not 0 <= options.optimization_level <= 5:
        raise UsageError(f"there is no optimisation level {options.optimization_level}", hint="0 to 5")
    for plugin in options.plugins:
        if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", plugin):
            raise UsageError(f"{plugin!r} names no plugin", hint="--plugin module:Class, the class of its creator")
    if options.precision not in ("int8", "fp8"):
        return
    if options.calibration_method not in METHODS:
        raise UsageError(
            f"there is no calibration method {options.calibration_method!r}", hint=f"one of {', '.join(METHODS)}"
        )
    if any(node.op_type == "DequantizeLinear" and not node.domain for node in source.proto.graph.node):
        return
    if options.calibration is None:
        raise UsageError(
            f"{options.precision} takes its ranges from real inputs",
            hint="--calib DIR with pictures, .npy files or folders of them; a few hundred are usual",
        )
    if not options.calibration.is_dir():
        raise UsageError(
            f"there is no folder {options.calibration} to calibrate with",
            hint="--calib takes a folder of pictures or .npy files",
        )


def _require_static(values: Sequence[Value]) -> None:
    findings = [
        Finding(
            value.name,
            value.producer.op if value.producer is not None else "Output",
            "how large this output is depends on data, and what it is held against must be known before",
            "give what its size depends on a value with --input NAME=VALUE, or cut the model before it",
        )
        for value in values
        if value.dtype is None or value.shape is None or not all(isinstance(axis, int) for axis in value.shape)
    ]
    if findings:
        raise UnsupportedModelError("an output's shape depends on data", findings=findings)


def check_plan(prepared: PreparedPlan) -> tuple[Finding, ...]:
    """Every node that the parser does not take, before anything is written."""
    from mobilekit.targets.tensorrt import check

    findings = check(prepared.exact, prepared.flavour, prepared.options, prepared.host)
    if any("importInitializers" in finding.reason for finding in findings):  # it names neither tensor nor node
        findings = _constants(prepared.graph) or findings
    domains = {node.name: node.domain for node in prepared.graph.nodes if node.domain}
    return tuple(replace(f, op=f"{domains[f.node]}.{f.op}") if f.node in domains else f for f in findings)


def _constants(graph: Graph) -> tuple[Finding, ...]:
    """Each node that reads a constant of a type of which TensorRT's parser takes none."""
    from mobilekit.targets.tensorrt.capability import CONSTANTS

    return tuple(
        Finding(
            node.name,
            node.op,
            f"TensorRT has no constants of type {value.dtype} ({value.name})",
            "quantise to int8 or float8_e4m3fn, and store integers as int32 or int64",
        )
        for node in graph.nodes
        for value in node.inputs
        if value is not None and value.const is not None and value.dtype not in CONSTANTS
    )


class PlanBuild:
    """The folder ``tensorrt`` of the bundle at ``root``, in the making: the model in its number format is written when
    the block is entered, and with ``ahead`` the plan is built while the caller goes on, and while :meth:`finish`
    verifies what it is built from. ``original``: the model as it was, to verify with; the caller's to close, ``None``
    where nothing is verified. Leaving the block ends a build that nobody waits for any more."""

    def __init__(
        self,
        root: Path,
        prepared: PreparedPlan,
        preprocess: Preprocess | None,
        original: OrtRunner | None,
        *,
        ahead: bool,
        progress: Progress,
    ) -> None:
        self._root, self._prepared, self._preprocess, self._progress = root, prepared, preprocess, progress
        self._original = original
        self._precise: OrtRunner | None = None
        self._ahead = ahead
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._artifact: TensorRTArtifact | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> PlanBuild:
        from mobilekit.runners.ort import OrtRunner
        from mobilekit.targets.tensorrt import MODEL

        self._model = self._root / MODEL
        self._model.parent.mkdir(parents=True)
        self._kept, self._exact = _into_format(self._model, self._prepared, self._preprocess, self._progress)
        if self._original is not None:
            self._precise = OrtRunner(self._exact, optimise=False)
            if self._ahead:
                self._precise.start()
        if self._ahead:
            self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._precise is not None:
            self._precise.close()
        if self._thread.is_alive():
            self._prepared.host.__exit__(*exc)
        if self._ahead:
            self._thread.join()

    def _run(self) -> None:
        from mobilekit.targets.tensorrt import build

        prepared = self._prepared
        where = f" on {prepared.host.name}" if prepared.options.on is not None else ""
        try:
            self._progress.step(
                f"building the plan with {prepared.flavour.product} {prepared.flavour.version()}{where}"
            )
            self._artifact = build(self._root, prepared.flavour, prepared.options, prepared.host, self._progress)
        except BaseException as error:  # handed to the thread that waits for it
            self._error = error

    def finish(self, bundle: Bundle, samples: Sequence[Mapping[str, Array]], *, timeout_s: float) -> PlanReport:
        """``bundle`` holds the original; ``samples`` are what verification feeds both models.

        The graph in float32 is held against the original first, then the one in its number format: an error of the
        preparation cannot hide in the rounding. Raises :class:`VerificationError`, and what building raises.
        """
        prepared, progress = self._prepared, self._progress
        errors: dict[str, TensorError] = {}
        verified = False
        if self._original is not None and self._precise is not None:
            runners = (self._original, self._precise)
            errors, verified = _verified(
                bundle, prepared, runners, self._exact, self._model, samples, timeout_s, progress
            )
        if self._ahead:
            self._thread.join()
        else:
            self._run()
        if self._error is not None:
            raise self._error
        assert self._artifact is not None
        return PlanReport(replace(self._artifact, verified=verified), errors, self._kept)


def _verified(
    bundle: Bundle,
    prepared: PreparedPlan,
    runners: tuple[OrtRunner, OrtRunner],
    exact: Path,
    model: Path,
    samples: Sequence[Mapping[str, Array]],
    timeout_s: float,
    progress: Progress,
) -> tuple[dict[str, TensorError], bool]:
    """``runners``: the original, and the prepared model in float32, which is ``exact``; ``model`` is that in its number
    format."""
    from mobilekit.pipeline.formats import plan_format
    from mobilekit.pipeline.plan_cost import cost_of_pairs
    from mobilekit.runners.base import RunOptions
    from mobilekit.runners.ort import OrtRunner
    from mobilekit.validate.doubt import Doubt
    from mobilekit.validate.rounding import NumberFormat, RoundingCost
    from mobilekit.validate.tolerance import derived

    original, precise = runners
    expected = _run(original, samples)
    precision = prepared.options.precision
    with Doubt(lambda: OrtRunner(bundle.source)) as doubt:  # as everybody runs it, with optimisations

        def doubts(index: int) -> Mapping[str, float]:
            return doubt.of(samples[index], expected[index], RunOptions())

        def costs(index: int, form: NumberFormat | str) -> Mapping[str, Tolerance]:
            if isinstance(form, str):
                return {}
            inputs = {info.name: samples[index][info.name] for info in bundle.manifest.inputs}
            with (
                cost_of_pairs(lambda _: exact, model, form)
                if form.eight_bits
                # The files have no checksums yet, by which a cost could be found again.
                else RoundingCost(bundle, form, cache=False)
            ) as cost:
                return {name: derived(form, one) for name, one in cost.of(inputs, timeout_s).items()}

        progress.step("verifying the prepared model against ONNX Runtime")
        last = precision in ("fp32", "tf32")  # no CPU computes in TF32
        errors, verified = _judge(
            _run(precise, samples),
            expected,
            "fp32",
            doubts,
            lambda index: costs(index, NumberFormat()),
            progress if last else SILENT,
        )
        if not last:
            progress.step(f"verifying it in {precision}")
            with Scratch("tensorrt") as folder:
                in_format = _run(OrtRunner(runnable(model, precision, folder), optimise=False), samples)
            errors, verified = _judge(
                in_format, expected, precision, doubts, lambda index: costs(index, plan_format(precision)), progress
            )
    return errors, verified


def _into_format(
    model: Path, prepared: PreparedPlan, preprocess: Preprocess | None, progress: Progress
) -> tuple[Mapping[str, str], Path]:
    """Write the model in its number format. The nodes that stay in float32, and why; and where the model in float32
    is now, which may have become ``model``."""
    from mobilekit.precision.half import to_half
    from mobilekit.precision.quantise import is_quantised, quantise
    from mobilekit.targets.tensorrt.capability import unsupported_in
    from mobilekit.targets.tensorrt.prepare import part_recurrent

    precision = prepared.options.precision
    graph = prepared.graph
    if precision == "fp16" or precision == "bf16":
        half = to_half(graph, "float16" if precision == "fp16" else "bfloat16", keep=unsupported_in(precision))
        part_recurrent(graph)
        if half.kept:
            progress.note(f"{len(half.kept)} nodes stay in float32, which {precision} would leave the range of or lack")
        write_model(graph, model)
        return half.kept, prepared.exact
    if precision in ("int8", "fp8"):
        if is_quantised(graph):
            progress.note("the model is quantised already and is taken as it is")
            _move(prepared.exact, model)
            return {}, model
        progress.step(f"calibrating for {precision}")
        samples = _calibration(prepared, preprocess)
        quantise(prepared.exact, model, samples, dtype=precision, method=prepared.options.calibration_method)
        return {}, prepared.exact
    _move(prepared.exact, model)
    return {}, model


def _move(source: Path, target: Path) -> None:
    """With the file of its weights, where it has one: its name is relative to the model."""
    for path in source.parent.glob(f"{source.name}*"):
        shutil.move(path, target.parent / path.name)


def _calibration(prepared: PreparedPlan, preprocess: Preprocess | None) -> list[Mapping[str, Array]]:
    from mobilekit.validate.inputs import file_samples

    folder = prepared.options.calibration
    if folder is None:  # Q/DQ pairs that were there have gone with what they fed
        raise UsageError(f"{prepared.options.precision} takes its ranges from real inputs", hint="add --calib DIR")
    return [sample.tensors for sample in file_samples(folder, prepared.inputs, preprocess=preprocess)]


def write_model(graph: Graph, path: Path) -> None:
    """Name the nodes and write the graph; large weights stand in a file beside it."""
    from mobilekit.importers.write import write_graph
    from mobilekit.targets.tensorrt.prepare import name_nodes

    name_nodes(graph)
    write_graph(graph, path)


def runnable(model: Path, precision: str, folder: Path) -> Path:
    """A model that ONNX Runtime's CPU kernels run in that precision: itself, or 16 bits emulated by rounding."""
    if precision not in ("fp16", "bf16"):
        return model
    import onnx

    from mobilekit.importers.convert import from_proto
    from mobilekit.passes.infer import infer
    from mobilekit.precision.half import emulated

    graph = from_proto(onnx.load(str(model), load_external_data=False), model.parent)
    infer(graph)
    emulated(graph)
    path = folder / "emulated.onnx"
    write_model(graph, path)
    return path


def _run(runner: OrtRunner, samples: Sequence[Mapping[str, Array]]) -> list[Mapping[str, Array]]:
    from mobilekit.runners.base import RunOptions

    with runner:
        return [runner.run(sample, RunOptions()).outputs for sample in samples]


def _judge(
    actual: Sequence[Mapping[str, Array]],
    expected: Sequence[Mapping[str, Array]],
    precision: str,
    doubts: Callable[[int], Mapping[str, float]],
    costs: Callable[[int], Mapping[str, Tolerance]],
    progress: Progress,
) -> tuple[dict[str, TensorError], bool]:
    """``doubts``: how unsure the original is of its own answer to a sample; ``costs``: the limits that follow from
    what the number format by itself costs there. Both are asked only where the fixed limits let no sample pass: the
    wider one decides what fails, and what passes the narrower one is right even where a constant would pass the other.
    """
    from mobilekit.metrics.tensors import compare, worst
    from mobilekit.pipeline.verification import remark_silence
    from mobilekit.validate.tolerance import FAINT_FLOOR, Judgement, Verdict, judge, overall, tolerance_for

    fixed = tolerance_for(precision)
    tolerance = replace(fixed, faint=FAINT_FLOOR)
    measured: dict[str, list[TensorError]] = {name: [] for name in expected[0]}
    judged: dict[str, list[Judgement]] = {name: [] for name in expected[0]}
    for index, (ours, theirs) in enumerate(zip(actual, expected, strict=True)):
        errors = {name: compare(ours[name], theirs[name]) for name in measured}
        verdicts = {name: judge(error, tolerance) for name, error in errors.items()}
        failed = any(verdict.verdict is Verdict.FAIL for verdict in verdicts.values())
        if failed or any(
            verdict.verdict is Verdict.INCONCLUSIVE and errors[name].evidence for name, verdict in verdicts.items()
        ):
            own, derived = doubts(index) if failed else {}, costs(index)
            for name, error in errors.items():
                one = derived.get(name)
                if one is None:
                    verdicts[name] = judge(error, fixed, own.get(name, 0.0))
                    continue
                # 8 bits that are too coarse for a model are refused, however much they cost it.
                coarse = 0.0 if precision in ("int8", "fp8") else one.coarse
                wide = replace(fixed.at_least(one.rtol), cost=one.cost, form=one.form, coarse=coarse, faint=one.faint)
                found = judge(error, wide, own.get(name, 0.0))
                near = judge(error, one, own.get(name, 0.0))
                silent = found.verdict is Verdict.INCONCLUSIVE
                verdicts[name] = near if silent and near.verdict is Verdict.PASS else found
        for name, error in errors.items():
            measured[name].append(error)
            judged[name].append(verdicts[name])
    wrong = [
        f"{name}: {verdict.reason}"
        for name, every in judged.items()
        for verdict in every
        if verdict.verdict is Verdict.FAIL
    ]
    if wrong:
        hint = (
            REPORT_IT
            if precision == "fp32"
            else f"{precision} is too coarse for this model on these inputs: try real ones, or another precision"
        )
        raise VerificationError(
            f"the prepared model in {precision} does not compute what the original does; nothing was written\n  "
            + "\n  ".join(dict.fromkeys(wrong)),
            hint=hint,
        )
    remark_silence(judged, progress)
    passed = overall(verdict for every in judged.values() for verdict in every) is Verdict.PASS
    return {name: worst(every) for name, every in measured.items()}, passed
