"""The rungs of the ladder: how the model is run at each step between the original and the device."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mobilekit.errors import ModelError, SetupError, UsageError
from mobilekit.progress import Progress
from mobilekit.runners.base import RunOptions
from mobilekit.validate.rounding import NumberFormat

if TYPE_CHECKING:
    from mobilekit.bundle import Bundle
    from mobilekit.graph import Graph
    from mobilekit.report.model import DeviceFacts
    from mobilekit.runners.base import Runner
    from mobilekit.tensors import Array, NamedTensors
    from mobilekit.validate.inputs import Sample

__all__ = ["DEVICE", "GPU", "INT8", "Answer", "Climber", "GpuAnswer", "Rung", "stage_graph"]

GPU = "device gpu"
INT8 = "ncnn host int8"
DEVICE = "device cpu"
Answer = Callable[[Mapping[str, "Array"]], "NamedTensors"]


@dataclass(frozen=True, slots=True)
class Rung:
    """A step, held against the one it stands on (``before``); ``open`` raises where it cannot be taken.

    ``form`` is ``None`` for formats whose cost is not measured: ``precision`` has fixed limits then.
    """

    name: str
    title: str
    before: str
    open: Callable[[], AbstractContextManager[Answer]]
    form: NumberFormat | None = field(default_factory=NumberFormat)
    precision: str = "fp32"


@dataclass(frozen=True, slots=True)
class GpuAnswer:
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

    def told(self, rung: Rung) -> Rung:
        from mobilekit.pipeline.formats import number_format
        from mobilekit.report.vulkan import fallback

        assert self.facts.vulkan is not None
        form = number_format(self.weights, "fp16" if self.options.fp16 else "fp32", self.facts)
        title = f"{self.facts.runner} on {self.facts.vulkan.name}, {fallback(self.on_cpu)}"
        return replace(rung, title=title, form=form)


@dataclass(frozen=True, slots=True)
class Climber:
    """What the rungs are run with: the device's ``runner`` and number format, and how a sample is run there."""

    bundle: Bundle
    runner: Runner
    facts: DeviceFacts
    device_form: NumberFormat
    run: RunOptions
    progress: Progress

    def rungs(self) -> tuple[Rung, ...]:
        manifest = self.bundle.manifest
        assert manifest.ncnn is not None
        int8 = manifest.ncnn.int8 is not None
        stored = NumberFormat() if int8 else NumberFormat(manifest.ncnn.precision)
        plan = manifest.tensorrt.precision if manifest.tensorrt is not None else "fp32"
        forms = {"fp32": NumberFormat(), "fp16": NumberFormat("fp16", "fp16")}
        prepared = NumberFormat() if plan == "tf32" else forms.get(plan)  # ONNX Runtime has no TF32 on a CPU
        return (
            Rung("simplified", "ONNX Runtime, folded and inlined", "onnx runtime", lambda: self._graph(legal=False)),
            Rung("legalised", "ONNX Runtime, what is converted", "simplified", lambda: self._graph(legal=True)),
            Rung(
                "ncnn host",
                "ncnn on this machine, the same layers in float" if int8 else "ncnn on this machine",
                "legalised",
                lambda: self._in_float(bf16=False) if int8 else self._host(bf16=False),
                stored,
            ),
            Rung(
                "ncnn host fp16",
                "ncnn on this machine, fp16",
                "ncnn host",
                lambda: _left_out("ncnn computes in fp16 on ARM only: here it would be the rung before again"),
            ),
            Rung(
                "ncnn host bf16",
                "ncnn on this machine, bf16",
                "ncnn host",
                lambda: self._in_float(bf16=True) if int8 else self._host(bf16=True),
                NumberFormat(stored.weights, "bf16"),
            ),
            Rung(
                INT8,
                "ncnn on this machine, int8",
                "ncnn host",
                lambda: self._host(bf16=False) if int8 else _left_out("the bundle holds no int8 ncnn model"),
                NumberFormat("int8"),
            ),
            Rung(
                DEVICE,
                f"{self.facts.runner} on {self.facts.model}",
                INT8 if int8 else "ncnn host",
                self._device,
                self.device_form,
            ),
            Rung(
                GPU,
                f"{self.facts.model}, Vulkan",
                "device cpu",
                self._gpu,
            ),
            Rung(
                "tensorrt prepared",
                f"ONNX Runtime, what the plan is built from ({plan})",
                "legalised",
                lambda: self._plan("prepared"),
                prepared,
                plan,
            ),
            Rung("tensorrt", "the plan", "tensorrt prepared", lambda: self._plan("gpu"), forms.get(plan), plan),
        )

    @contextmanager
    def _graph(self, *, legal: bool) -> Iterator[Answer]:
        with _GraphRung(self.bundle, legal=legal, timeout_s=self.run.timeout_s) as rung:
            yield rung.answer

    @contextmanager
    def _host(self, *, bf16: bool) -> Iterator[Answer]:
        from mobilekit.runners.batch import sample_by_sample
        from mobilekit.runners.ncnn_host import NcnnHostRunner

        root, options = self.bundle.root, RunOptions(bf16=bf16, timeout_s=self.run.timeout_s)
        with sample_by_sample(
            self.bundle.manifest, lambda one: NcnnHostRunner(root, one, timed=False, progress=self.progress)
        ) as runner:
            yield lambda inputs: runner.run(inputs, options).outputs

    @contextmanager
    def _in_float(self, *, bf16: bool) -> Iterator[Answer]:
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

        if rung != INT8:
            return on_device if rung == DEVICE else ""
        if self.facts.kind == "local" and not self.run.fp16:
            return on_device
        with suppress(ModelError):
            return wrong_layers(self.bundle, LOCAL, samples[0], RunOptions(timeout_s=self.run.timeout_s), self.progress)
        return ""

    @contextmanager
    def _device(self) -> Iterator[Answer]:
        options = replace(self.run, warmup=0, iterations=1, vulkan=False)
        yield lambda inputs: self.runner.run(inputs, options).outputs

    @contextmanager
    def _gpu(self) -> Iterator[Answer]:
        """In a session of its own: a driver may take the harness down with it."""
        from mobilekit.pipeline.place import LOCAL, open_place

        assert self.bundle.manifest.ncnn is not None
        from mobilekit.device.harness.locate import locate_vulkan

        device = LOCAL if self.facts.kind == "local" else self.facts.serial
        if device == LOCAL and locate_vulkan() is None:
            raise SetupError("no harness with Vulkan is built here: mobilekit harness build --vulkan")
        options = replace(self.run, vulkan=True, warmup=0, iterations=1)
        with open_place(self.bundle, device, target="ncnn", vulkan=True, progress=self.progress) as (runner, facts):
            yield GpuAnswer(runner, options, facts, self.bundle.manifest.ncnn.precision)

    @contextmanager
    def _plan(self, device: str) -> Iterator[Answer]:
        from mobilekit.pipeline.place_plan import open_plan

        with open_plan(self.bundle, device, progress=self.progress) as (runner, _):
            yield lambda inputs: runner.run(inputs, RunOptions(timeout_s=self.run.timeout_s)).outputs


@contextmanager
def _left_out(why: str) -> Iterator[Answer]:
    if why:
        raise UsageError(why)
    yield dict


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
        graph = stage_graph(self._bundle, shapes, legal=self._legal, one_sample=batch is not None)
        _write(graph, path)
        # Unoptimised: what is judged is this graph, not what ONNX Runtime would make of it.
        runner = OrtRunner(path, optimise=False)
        return runner if batch is None else BatchRunner(runner, manifest, batch)


def stage_graph(bundle: Bundle, shapes: Mapping[str, tuple[int, ...]], *, legal: bool, one_sample: bool) -> Graph:
    """The original at ``shapes`` (by input): simplified, or what is converted (``legal``), of one sample of its batch.

    Raises what passes raise, and :class:`UsageError` where the graph of one sample cannot be made again.
    """
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
