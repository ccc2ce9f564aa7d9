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
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

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
from mobilekit.progress import SILENT, Progress
from mobilekit.runners.base import RunOptions
from mobilekit.validate.rounding import NumberFormat

if TYPE_CHECKING:
    from mobilekit.bundle import Bundle
    from mobilekit.graph import Graph
    from mobilekit.metrics.tensors import TensorError
    from mobilekit.pipeline.reference import Reference
    from mobilekit.report.ladder import LadderReport, RungOutput, RungReport
    from mobilekit.report.model import DeviceFacts
    from mobilekit.runners.base import Runner
    from mobilekit.tensors import Array, NamedTensors
    from mobilekit.validate.inputs import Sample
    from mobilekit.validate.limits import Limits, Overrides
    from mobilekit.validate.tolerance import Judgement, Tolerance

__all__ = ["MOST_SAMPLES", "climb"]

MOST_SAMPLES = 3
_GPU = "device gpu"
_INT8 = "ncnn host int8"
_DEVICE = "device cpu"
_FLOAT64_MACS = 5_000_000_000
"""Convolutions take a second for 2e8 to 5e8 of them; what other operators take is up to the time limit."""
_FLOAT64_S = 120.0

_Answer = Callable[[Mapping[str, "Array"]], "NamedTensors"]

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


@dataclass(frozen=True, slots=True)
class _Rung:
    """``form`` is ``None`` for formats whose cost is not measured: ``precision`` has fixed limits then."""

    name: str
    title: str
    before: str
    open: Callable[[], AbstractContextManager[_Answer]]
    form: NumberFormat | None = field(default_factory=NumberFormat)
    precision: str = "fp32"


@dataclass(frozen=True, slots=True)
class _GpuAnswer:
    """An answer, and what is known of its rung once the GPU is: :meth:`told` adds it."""

    runner: Runner
    options: RunOptions
    facts: DeviceFacts
    weights: Literal["fp32", "fp16", "int8"]
    on_cpu: dict[str, int] = field(default_factory=dict)

    def __call__(self, inputs: Mapping[str, Array]) -> NamedTensors:
        result = self.runner.run(inputs, self.options)
        self.on_cpu.update(result.layers_on_cpu)
        return result.outputs

    def told(self, rung: _Rung) -> _Rung:
        from mobilekit.pipeline.formats import number_format
        from mobilekit.report.vulkan import fallback

        assert self.facts.vulkan is not None
        form = number_format(self.weights, "fp16" if self.options.fp16 else "fp32", self.facts)
        title = f"{self.facts.runner} on {self.facts.vulkan.name}, {fallback(self.on_cpu)}"
        return replace(rung, title=title, form=form)


@dataclass(frozen=True, slots=True)
class _Climber:
    bundle: Bundle
    runner: Runner
    facts: DeviceFacts
    device_form: NumberFormat
    run: RunOptions
    progress: Progress

    def rungs(self) -> tuple[_Rung, ...]:
        manifest = self.bundle.manifest
        assert manifest.ncnn is not None
        int8 = manifest.ncnn.int8 is not None
        stored = NumberFormat() if int8 else NumberFormat(manifest.ncnn.precision)
        plan = manifest.tensorrt.precision if manifest.tensorrt is not None else "fp32"
        forms = {"fp32": NumberFormat(), "fp16": NumberFormat("fp16", "fp16")}
        prepared = NumberFormat() if plan == "tf32" else forms.get(plan)  # ONNX Runtime has no TF32 on a CPU
        return (
            _Rung("simplified", "ONNX Runtime, folded and inlined", "onnx runtime", lambda: self._graph(legal=False)),
            _Rung("legalised", "ONNX Runtime, what is converted", "simplified", lambda: self._graph(legal=True)),
            _Rung(
                "ncnn host",
                "ncnn on this machine, the same layers in float" if int8 else "ncnn on this machine",
                "legalised",
                lambda: self._in_float(bf16=False) if int8 else self._host(bf16=False),
                stored,
            ),
            _Rung(
                "ncnn host fp16",
                "ncnn on this machine, fp16",
                "ncnn host",
                lambda: _left_out("ncnn computes in fp16 on ARM only: here it would be the rung before again"),
            ),
            _Rung(
                "ncnn host bf16",
                "ncnn on this machine, bf16",
                "ncnn host",
                lambda: self._in_float(bf16=True) if int8 else self._host(bf16=True),
                NumberFormat(stored.weights, "bf16"),
            ),
            _Rung(
                _INT8,
                "ncnn on this machine, int8",
                "ncnn host",
                lambda: self._host(bf16=False) if int8 else _left_out("the bundle holds no int8 ncnn model"),
                NumberFormat("int8"),
            ),
            _Rung(
                _DEVICE,
                f"{self.facts.runner} on {self.facts.model}",
                _INT8 if int8 else "ncnn host",
                self._device,
                self.device_form,
            ),
            _Rung(
                _GPU,
                f"{self.facts.model}, Vulkan",
                "device cpu",
                self._gpu,
            ),
            _Rung(
                "tensorrt prepared",
                f"ONNX Runtime, what the plan is built from ({plan})",
                "legalised",
                lambda: self._plan("prepared"),
                prepared,
                plan,
            ),
            _Rung("tensorrt", "the plan", "tensorrt prepared", lambda: self._plan("gpu"), forms.get(plan), plan),
        )

    @contextmanager
    def _graph(self, *, legal: bool) -> Iterator[_Answer]:
        with _GraphRung(self.bundle, legal=legal, timeout_s=self.run.timeout_s) as rung:
            yield rung.answer

    @contextmanager
    def _host(self, *, bf16: bool) -> Iterator[_Answer]:
        from mobilekit.runners.batch import sample_by_sample
        from mobilekit.runners.ncnn_host import NcnnHostRunner

        root, options = self.bundle.root, RunOptions(bf16=bf16, timeout_s=self.run.timeout_s)
        with sample_by_sample(
            self.bundle.manifest, lambda one: NcnnHostRunner(root, one, progress=self.progress)
        ) as runner:
            yield lambda inputs: runner.run(inputs, options).outputs

    @contextmanager
    def _in_float(self, *, bf16: bool) -> Iterator[_Answer]:
        """The bundle's ncnn model before its layers became int8."""
        from mobilekit.pipeline.int8 import legal_graph
        from mobilekit.targets.ncnn import NcnnOptions, NcnnTarget

        manifest = self.bundle.manifest
        assert manifest.ncnn is not None
        if self.bundle.free:
            raise UsageError("the float model of many sizes is not made again")
        graph = legal_graph(self.bundle, {info.name: info.shape for info in manifest.inputs}, whole=False)
        with tempfile.TemporaryDirectory(prefix="mobilekit-ladder-") as name:
            artifact = NcnnTarget().build(graph, Path(name) / "ncnn", NcnnOptions(fixed_sizes=True))
            artifact = replace(artifact, batch=manifest.ncnn.batch)
            bundle = replace(self.bundle, root=Path(name), manifest=replace(manifest, ncnn=artifact))
            with replace(self, bundle=bundle)._host(bf16=bf16) as answer:
                yield answer

    def wrong(self, rung: str, samples: Sequence[Sample], on_device: str) -> str:
        """What is wrong with the int8 layers of ``rung`` by themselves; ``on_device`` is known already."""
        from mobilekit.pipeline.int8_layers import wrong_layers
        from mobilekit.pipeline.place import LOCAL

        if rung != _INT8:
            return on_device if rung == _DEVICE else ""
        if self.facts.kind == "local" and not self.run.fp16:
            return on_device
        with suppress(ModelError):
            return wrong_layers(self.bundle, LOCAL, samples[0], RunOptions(timeout_s=self.run.timeout_s), self.progress)
        return ""

    @contextmanager
    def _device(self) -> Iterator[_Answer]:
        options = replace(self.run, warmup=0, iterations=1, vulkan=False)
        yield lambda inputs: self.runner.run(inputs, options).outputs

    @contextmanager
    def _gpu(self) -> Iterator[_Answer]:
        """In a session of its own: a driver may take the harness down with it."""
        from mobilekit.pipeline.place import LOCAL, open_place

        assert self.bundle.manifest.ncnn is not None
        from mobilekit.device.harness.locate import locate_vulkan

        device = LOCAL if self.facts.kind == "local" else self.facts.serial
        if device == LOCAL and locate_vulkan() is None:
            raise SetupError("no harness with Vulkan is built here: mobilekit harness build --vulkan")
        options = replace(self.run, vulkan=True, warmup=0, iterations=1)
        with open_place(self.bundle, device, target="ncnn", vulkan=True, progress=self.progress) as (runner, facts):
            yield _GpuAnswer(runner, options, facts, self.bundle.manifest.ncnn.precision)

    @contextmanager
    def _plan(self, device: str) -> Iterator[_Answer]:
        from mobilekit.pipeline.place_plan import open_plan

        with open_plan(self.bundle, device, progress=self.progress) as (runner, _):
            yield lambda inputs: runner.run(inputs, RunOptions(timeout_s=self.run.timeout_s)).outputs


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
    climber = _Climber(bundle, runner, facts, form, run, progress)
    title = f"{reference.facts.name} {reference.facts.version}, the original"
    reports = [_float64(bundle, samples, first, run, progress), _report("onnx runtime", title)]
    with ExitStack() as stack:
        judge = _Judge(bundle, reference, samples, first, overrides, run.timeout_s, stack)
        for rung in climber.rungs():
            progress.step(f"ladder: {rung.name}")
            try:
                with rung.open() as answer:
                    found = [answer(sample.tensors) for sample in samples]
                    rung = answer.told(rung) if isinstance(answer, _GpuAnswer) else rung
            except HarnessError as error:
                if rung.name != _GPU:
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


@contextmanager
def _left_out(why: str) -> Iterator[_Answer]:
    if why:
        raise UsageError(why)
    yield dict


def _report(name: str, title: str, *, before: str = "", omitted: str = "") -> RungReport:
    from mobilekit.report.ladder import RungReport

    return RungReport(name=name, title=title, before=before, omitted=omitted)


def _unlike(rung: _Rung, bundle: Bundle, why: str) -> RungReport:
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
        self, rung: _Rung, found: Sequence[NamedTensors], before: Sequence[NamedTensors], wrong: str = ""
    ) -> RungReport:
        from mobilekit.metrics.tensors import compare
        from mobilekit.report.ladder import RungReport
        from mobilekit.validate.tolerance import Judgement, Verdict, judge, overall

        outputs = [info.name for info in self._bundle.manifest.outputs]
        missing = [name for name in outputs if any(name not in one for one in found)]
        if missing:
            return _report(rung.name, rung.title, before=rung.before, omitted=f"it gave no output {missing[0]!r}")
        judged: dict[str, list[tuple[float, float, Tolerance, Judgement]]] = {name: [] for name in outputs}
        for sample, one, wanted, last in zip(self._samples, found, self._first, before, strict=True):
            errors = {name: compare(one[name], wanted[name]) for name in outputs}
            limits = {
                name: replace(limit, wrong=wrong) for name, limit in self._tolerances(rung, sample, errors).items()
            }
            doubts: Mapping[str, float] = {}
            if any(judge(errors[name], limits[name]).verdict is Verdict.FAIL for name in outputs):
                doubts = self._reference.doubt(sample.tensors, wanted, self._timeout_s)
            for name in outputs:
                judgement = judge(errors[name], limits[name], doubts.get(name, 0.0))
                step = compare(one[name], last[name]).relative_l2
                judged[name].append((errors[name].relative_l2, step, limits[name], judgement))
        reports = tuple(_output(name, every) for name, every in judged.items())
        return RungReport(
            name=rung.name,
            title=rung.title,
            before=rung.before,
            format=str(rung.form) if rung.form is not None else rung.precision,
            outputs=reports,
            verdict=overall(Judgement(output.verdict, "") for output in reports),
        )

    def _tolerances(self, rung: _Rung, sample: Sample, errors: Mapping[str, TensorError]) -> Mapping[str, Tolerance]:
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


def _output(name: str, every: Sequence[tuple[float, float, Tolerance, Judgement]]) -> RungOutput:
    """The worst over the samples."""
    from mobilekit.report.ladder import RungOutput
    from mobilekit.validate.tolerance import overall

    judgements = [judgement for *_, judgement in every]
    verdict = overall(judgements)
    bad = max(range(len(every)), key=lambda i: (judgements[i].verdict is verdict, every[i][0]))
    error, step, tolerance, _ = every[bad]
    return RungOutput(
        name=name,
        relative_l2=error,
        step=step,
        rtol=tolerance.rtol,
        verdict=verdict,
        reason=judgements[bad].reason,
    )


class _GraphRung:
    """A graph on the way to the target, in ONNX Runtime; made again for each set of input shapes."""

    def __init__(self, bundle: Bundle, *, legal: bool, timeout_s: float) -> None:
        self._bundle, self._legal, self._timeout_s = bundle, legal, timeout_s
        self._stack = ExitStack()
        self._runners: dict[tuple[tuple[str, tuple[int, ...]], ...], Runner] = {}

    def __enter__(self) -> _GraphRung:
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="mobilekit-ladder-")))
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def answer(self, inputs: Mapping[str, Array]) -> NamedTensors:
        key = tuple(sorted((name, array.shape) for name, array in inputs.items()))
        if key not in self._runners:
            self._runners[key] = self._stack.enter_context(self._runner(dict(key)))
        return self._runners[key].run(inputs, RunOptions(timeout_s=self._timeout_s)).outputs

    def _runner(self, shapes: Mapping[str, tuple[int, ...]]) -> Runner:
        from mobilekit.runners.batch import BatchRunner
        from mobilekit.runners.ort import OrtRunner

        manifest = self._bundle.manifest
        batch = manifest.ncnn.batch if manifest.ncnn is not None and self._legal else None
        path = self._folder / f"{len(self._runners)}.onnx"
        graph = _graph(self._bundle, shapes, legal=self._legal, one_sample=batch is not None)
        _write(graph, path)
        # Unoptimised: what is judged is this graph, not what ONNX Runtime would make of it.
        runner = OrtRunner(path, optimise=False)
        return runner if batch is None else BatchRunner(runner, manifest, batch)


def _graph(bundle: Bundle, shapes: Mapping[str, tuple[int, ...]], *, legal: bool, one_sample: bool) -> Graph:
    from mobilekit.importers.onnx import load
    from mobilekit.passes import lifted, prepare, prepare_sample

    source = replace(load(bundle.source, bundle.fixed()), fake_quant=bundle.manifest.fake_quant)
    resize = bool(bundle.free)
    if not legal:
        return lifted(source, shapes, resize=resize)
    if not one_sample:
        return prepare(source, shapes, resize=resize)
    found = prepare_sample(source, shapes)
    if not isinstance(found, tuple):
        raise UsageError("the model of one sample cannot be made again")
    return found[0]


def _write(graph: Graph, path: Path) -> None:
    import onnx

    from mobilekit.importers.convert import to_proto

    onnx.save(to_proto(graph), path)


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

    return sum(macs(_graph(bundle, shapes, legal=False, one_sample=False)).values())
