"""``mobilekit repair --target tensorrt``: a plan that is right in its number format, by nodes that stay in float32.

TensorRT is strongly typed: casts in the ONNX (fp16, bf16) and Q/DQ pairs (int8, fp8) say how each node computes. Judged
is that ONNX in ONNX Runtime, as ``validate --device prepared`` does, so that no GPU is needed.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mobilekit.errors import UsageError
from mobilekit.paths import atomic_dir
from mobilekit.pipeline.repair import RepairOptions
from mobilekit.progress import SILENT, Progress
from mobilekit.runners.base import RunOptions

if TYPE_CHECKING:
    from mobilekit.bundle import Bundle, TensorRTArtifact
    from mobilekit.graph import Graph, Node
    from mobilekit.pipeline.reference import Reference
    from mobilekit.pipeline.tensorrt import PreparedPlan
    from mobilekit.report.bisection import OutputState
    from mobilekit.report.model import DeviceFacts
    from mobilekit.report.repair import RepairReport, Trade
    from mobilekit.tensors import NamedTensors
    from mobilekit.validate.inputs import Sample
    from mobilekit.validate.limits import Limits
    from mobilekit.validate.tolerance import Judgement, Verdict

__all__ = ["plan_limits", "repair_plan"]

_REASON = "it was kept by mobilekit repair"
_CHUNK_BYTES = 256 << 20
_UNKNOWN_BYTES = 1 << 20
_PASSING = frozenset({"Clip", "Concat", "Expand", "Flatten", "Gather", "Identity", "LeakyRelu", "MaxPool", "Pad",
                      "Relu", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"})  # fmt: skip
"""What hands a rounding on as it came: to mend it, its maker has to be kept, too."""


def repair_plan(
    bundle: str | Path, output: str | Path, options: RepairOptions | None = None, progress: Progress = SILENT
) -> RepairReport:
    """Write to ``output`` the bundle with a plan some of whose nodes compute in float32, so that it passes.

    Nodes are chosen by their local error (fed the reference's values, arriving as their makers round them), the worst
    first, twice as many in each round; one that is kept already and still off has its makers kept. Nothing is written
    where the plan is right as it is, or where the budget does not suffice. Raises :class:`UsageError` for a plan with
    nothing to repair, :class:`~mobilekit.errors.BundleError` without one, and what building raises.
    """
    from mobilekit.bundle import open_bundle
    from mobilekit.pipeline.place_plan import plan_of

    options = options or RepairOptions()
    source, target = Path(bundle), Path(output)
    if target.exists() and not options.replace:
        raise UsageError(f"{target} is there already", hint="give another folder with -o, or add --force")
    opened = open_bundle(source)
    artifact = plan_of(opened)
    if artifact.precision in ("fp32", "tf32"):
        raise UsageError(f"this plan computes in {artifact.precision} already", hint="repair one of fp16, bf16 or int8")
    if options.precision not in (None, artifact.precision):
        raise UsageError("a plan computes as it was built", hint="leave --precision out, or export with it")
    with tempfile.TemporaryDirectory(prefix="mobilekit-repair-") as name, ExitStack() as stack:
        state = _PlanRepair(opened, artifact, options, Path(name), progress, stack)
        verdict = state.look()
        before = state.states
        if not state.off:
            sentence = "it is right as it is" if verdict.value == "pass" else "the outputs say nothing on these inputs"
            return state.report(verdict, f"{sentence}: nothing was changed", before)
        for number in range(options.rounds):
            if not state.choose(2**number):
                break
            state.rounds += 1
            verdict = state.look()
            if not state.off:
                break
        if state.off:
            sentence = f"{len(state.chosen)} nodes in float32 do not suffice; nothing was written"
            return state.report(verdict, sentence, before)
        trial = Path(name) / "bundle"
        trade = state.build(trial, passed=verdict.value == "pass")
        with atomic_dir(target) as folder:
            shutil.copytree(trial, folder, dirs_exist_ok=True)
        sentence = f"right with {len(state.chosen)} of {state.count} nodes in float32"
        return state.report(verdict, sentence, before, trade=trade, written=str(target))


class _PlanRepair:
    """The prepared model in float32 and in its format, the nodes chosen so far, and what the last look showed."""

    def __init__(
        self,
        bundle: Bundle,
        artifact: TensorRTArtifact,
        options: RepairOptions,
        folder: Path,
        progress: Progress,
        stack: ExitStack,
    ) -> None:
        from mobilekit.pipeline.place_plan import inputs_of_plan, sizes_of_plan
        from mobilekit.pipeline.reference import open_reference
        from mobilekit.runners.ort import OrtRunner
        from mobilekit.validate.inputs import file_samples, seeded_samples

        self.bundle, self.artifact, self.options = bundle, artifact, options
        self.folder, self.progress = folder, progress
        self.prepared = _prepare_again(bundle, artifact, folder, progress)
        self.exact = self.prepared.exact
        self.model = bundle.root / artifact.onnx
        self._require_same()
        self.reference: Reference = stack.enter_context(open_reference(bundle))
        self.inner = stack.enter_context(OrtRunner(self.exact, optimise=False, inner=True))
        self.limits = plan_limits(bundle, artifact, options.rtol, stack)
        manifest, inputs = bundle.manifest, inputs_of_plan(bundle.manifest, artifact)
        self.samples: list[Sample] = list(
            seeded_samples(
                inputs,
                seed=options.seed,
                count=options.samples,
                preprocess=manifest.preprocess,
                sizes=sizes_of_plan(artifact),
            )
            if options.inputs is None
            else file_samples(options.inputs, inputs, preprocess=manifest.preprocess)
        )
        self.count = sum(1 for node in self.prepared.graph.nodes if node.op != "Constant")
        self.chosen: dict[str, float] = {}
        self.kept: Mapping[str, str] = {}
        """All nodes in float32, those that the format keeps by itself included."""
        self.states: tuple[OutputState, ...] = ()
        self.off: tuple[str, ...] = ()
        self._faint = False
        self.sample: Sample | None = None
        self.rounds = 0
        self.facts: DeviceFacts | None = None
        self._write()
        self.model = bundle.root / artifact.onnx  # the first look is at what the user has

    def _require_same(self) -> None:
        """The prepared model, as this mobilekit makes it again, is what the bundle's plan was built from."""
        there = {node.name for node in _read_quantised(self.model, self.prepared.graph).nodes}
        if missing := [node.name for node in self.prepared.graph.nodes if node.name not in there]:
            raise UsageError(
                f"the plan was built from another model than this mobilekit prepares ({missing[0]} is not in it)",
                hint="export it again with --target tensorrt; mend what was quantised before where it was quantised",
            )

    @property
    def _half(self) -> bool:
        return self.artifact.precision in ("fp16", "bf16")

    def _into_format(self, graph: Graph, keep_nodes: Mapping[str, str]) -> Mapping[str, str]:
        from mobilekit.precision.half import to_half
        from mobilekit.targets.tensorrt.capability import unsupported_in
        from mobilekit.targets.tensorrt.prepare import part_recurrent

        precision = self.artifact.precision
        dtype = "float16" if precision == "fp16" else "bfloat16"
        half = to_half(graph, dtype, keep=unsupported_in(precision), keep_nodes=keep_nodes)  # type: ignore[arg-type]
        part_recurrent(graph)
        return half.kept

    def _write(self) -> None:
        """The model in its format, but for the nodes chosen so far."""
        from mobilekit.pipeline.tensorrt import write_model
        from mobilekit.precision.apart import without_pairs

        model = self.folder / f"round{self.rounds}.onnx"
        if self._half:
            graph = _read(self.exact)
            self.kept = self._into_format(graph, dict.fromkeys(self.chosen, _REASON))
        else:
            exact = _read(self.exact)
            graph = _read_quantised(self.bundle.root / self.artifact.onnx, exact)
            without_pairs(graph, exact, self.chosen)
            self.kept = dict.fromkeys(self.chosen, _REASON)
        write_model(graph, model)
        self.model = model

    def look(self) -> Verdict:
        """Judge every sample as a validation of the prepared model does; keep the worst."""
        import platform

        from mobilekit.pipeline.judged import judged
        from mobilekit.pipeline.measure import measure
        from mobilekit.pipeline.place_plan import PREPARED
        from mobilekit.pipeline.tensorrt import runnable
        from mobilekit.report.model import DeviceFacts
        from mobilekit.runners.ort import OrtRunner
        from mobilekit.validate.tolerance import overall

        if self.rounds:
            self._write()
        judgements: list[Judgement] = []
        worst = (False, -1.0)
        self.off = ()
        with OrtRunner(runnable(self.model, self.artifact.precision, self.folder), optimise=False) as runner:
            info = runner.info()
            self.facts = DeviceFacts(
                kind="prepared",
                serial=PREPARED,
                model="none: what the plan is built from",
                abi=platform.machine(),
                runner=info.name,
                runner_version=info.version,
            )
            for sample in self.samples:
                run = RunOptions(timeout_s=self.options.timeout_s)
                record = measure(
                    self.bundle, runner, self.reference, [sample], run, self.limits, self.progress
                ).samples[0]
                now = judged(record)
                judgements += now.judgements
                if now.badness <= worst:
                    continue
                worst = now.badness
                self.sample, self.off, self.states, self._faint = sample, now.off, now.states, now.faint
        return overall(judgements)

    def choose(self, at_least: int) -> bool:
        """Keep the worst nodes; False where nothing is left to choose."""
        self.progress.step("measuring what each node costs")
        ranked = sorted(self._local_errors().items(), key=lambda item: -item[1])
        makers = _makers(self.prepared.graph)
        worst = ranked[0][1] if ranked else 0.0
        at_least = 1 if math.isinf(worst) else at_least
        changed = 0
        for name, error in ranked:
            if changed >= at_least and not (error == worst or worst / 2 < error < math.inf):
                break
            for each in [name] if name not in self.kept else makers.get(name, ()):
                if each not in self.kept and each not in self.chosen and len(self.chosen) < self.options.most_layers:
                    self.chosen[each] = error
                    changed += 1
        return changed > 0

    def _local_errors(self) -> dict[str, float]:
        """Relative L2 by node, on the worst sample: infinite where values leave the range."""
        from mobilekit.pipeline.judged import error_of

        assert self.sample is not None
        found: dict[str, float] = {}
        known = {name for name, _ in self.inner.tensors()}
        every = known | {info.name for info in self.bundle.manifest.inputs}
        outputs = {node.label: [v.name for v in node.outputs if v is not None] for node in self.prepared.graph.nodes}
        for index, labels in enumerate(_chunks(self.prepared.graph)):
            made, expected = self._run_apart(index, labels, known, every)
            for label in labels:
                for name in outputs[label]:
                    if name not in made or name not in expected:
                        continue
                    error = error_of(made[name], expected[name], faint=self._faint)
                    if not error.mismatch and not error.evidence:
                        continue
                    value = math.inf if error.mismatch else error.relative_l2
                    found[label] = max(found.get(label, 0.0), value)
        return {label: error for label, error in found.items() if error > 0}

    def _run_apart(
        self, index: int, labels: list[str], known: set[str], every: set[str]
    ) -> tuple[NamedTensors, NamedTensors]:
        """What the nodes make of the reference's values, and the reference's results, by tensor."""
        from mobilekit.pipeline.tensorrt import runnable, write_model
        from mobilekit.precision.apart import take_apart
        from mobilekit.runners.ort import OrtRunner

        assert self.sample is not None
        wanted = set(labels)
        graph = _read(self.exact)
        if not self._half:
            graph = _read_quantised(self.model, graph)
        nodes = [node for node in graph.nodes if node.label in wanted]
        apart = take_apart(graph, nodes, every)
        if self._half:
            arriving = {label: _REASON for label, maker in apart.arriving.items() if maker in self.kept}
            self._into_format(graph, {**self.kept, **arriving})
        path = self.folder / f"apart{index}.onnx"
        write_model(graph, path)
        run = RunOptions(timeout_s=self.options.timeout_s)
        needed = {*apart.fed.values(), *(value.name for value in graph.outputs)} & known
        values = {**self.inner.some(sorted(needed), self.sample.tensors, run), **self.sample.tensors}
        with OrtRunner(runnable(path, self.artifact.precision, self.folder), optimise=False) as runner:
            made = runner.run({name: values[tensor] for name, tensor in apart.fed.items()}, run).outputs
        return made, values

    def build(self, trial: Path, *, passed: bool) -> Trade:
        """The new bundle, its plan built anew."""
        from mobilekit.bundle import write_manifest
        from mobilekit.report.repair import Trade
        from mobilekit.targets.tensorrt import MODEL, build

        shutil.copytree(self.bundle.root, trial)
        for path in (trial / "tensorrt").iterdir():
            path.unlink()
        for path in self.folder.glob(f"{self.model.name}*"):
            shutil.copyfile(path, trial / MODEL if path == self.model else trial / "tensorrt" / path.name)
        flavour = self.prepared.flavour
        self.progress.step(f"building the plan with {flavour.product} {flavour.version()}")
        options = replace(self.prepared.options, precision=self.artifact.precision)
        artifact = replace(build(trial, flavour, options, None, self.progress), verified=passed)
        write_manifest(trial, replace(self.bundle.manifest, tensorrt=artifact))
        return Trade(bytes_before=self.artifact.plan_bytes, bytes_after=artifact.plan_bytes)

    def report(
        self,
        verdict: Verdict,
        sentence: str,
        before: tuple[OutputState, ...],
        *,
        trade: Trade | None = None,
        written: str | None = None,
    ) -> RepairReport:
        from mobilekit import __version__
        from mobilekit.report.repair import KeptLayer, RepairReport

        kinds = {node.label: node.op for node in self.prepared.graph.nodes}
        assert self.facts is not None
        return RepairReport(
            mobilekit_version=__version__,
            target="tensorrt",
            model=self.bundle.manifest.model.id,
            precision=self.artifact.precision,
            device=self.facts,
            verdict=verdict,
            sentence=sentence,
            before=before,
            after=self.states if self.rounds else (),
            layers=tuple(
                KeptLayer(name=name, type=kinds[name], nodes=(name,), off=(self.artifact.precision,), local=error)
                for name, error in self.chosen.items()
            ),
            layer_count=self.count,
            rounds=self.rounds,
            trade=trade,
            bundle=written,
        )


def _prepare_again(bundle: Bundle, artifact: TensorRTArtifact, folder: Path, progress: Progress) -> PreparedPlan:
    """The graph in float32 from the original, with the options of the plan."""
    from mobilekit.importers.onnx import load
    from mobilekit.pipeline.plan_models import options_of
    from mobilekit.pipeline.tensorrt import prepare_plan
    from mobilekit.targets.tensorrt.host import LocalHost

    options = options_of(artifact)
    shapes = {info.name: info.shape for info in bundle.manifest.inputs}
    return prepare_plan(load(bundle.source, bundle.fixed()), shapes, options, progress, LocalHost, folder)


def plan_limits(
    bundle: Bundle, artifact: TensorRTArtifact, rtol: float | None, stack: ExitStack, *, atol: float | None = None
) -> Limits:
    """As a validation of the plan has them."""
    from mobilekit.pipeline.formats import plan_format
    from mobilekit.pipeline.plan_cost import cost_of_plan
    from mobilekit.validate.limits import EVERY, Limits, Overrides

    form = plan_format(artifact.precision)
    measured = cost_of_plan(bundle, artifact)
    cost = None if measured is None else stack.enter_context(measured)
    overrides = Overrides(
        rtol={} if rtol is None else {EVERY: rtol},
        atol={} if atol is None else {EVERY: atol},
    )
    names = [info.name for info in bundle.manifest.outputs]
    return Limits(names, form, cost, overrides=overrides, allowance=bundle.manifest.rtol)


def _read(path: Path) -> Graph:
    import onnx

    from mobilekit.importers.convert import from_proto
    from mobilekit.passes.infer import infer

    graph = from_proto(onnx.load(str(path), load_external_data=False), path.parent)
    infer(graph)
    return graph


def _read_quantised(path: Path, exact: Graph) -> Graph:
    """Nothing is folded, or the weights would be floats; types are those of the tensors that ``exact`` has, too."""
    import onnx

    from mobilekit.importers.convert import from_proto

    graph = from_proto(onnx.load(str(path), load_external_data=False), path.parent)
    known = {value.name: value for value in exact.values()}
    for value in graph.values():
        if (same := known.get(value.name)) is not None:
            value.dtype, value.shape = same.dtype, same.shape
    return graph


def _makers(graph: Graph) -> dict[str, list[str]]:
    """By node, the nodes whose rounding it reads: its producers, and behind those that pass it on theirs."""
    found: dict[str, list[str]] = {}
    for node in graph.nodes:
        labels: list[str] = []
        pending: list[Node] = [node]
        while pending:
            for value in pending.pop().inputs:
                maker = value.producer if value is not None else None
                if maker is not None and maker.label not in labels:
                    labels.append(maker.label)
                    pending += [maker] if maker.op in _PASSING else []
        found[node.label] = labels
    return found


def _chunks(graph: Graph) -> Iterator[list[str]]:
    """Labels of nodes that compute floats, as many at once as their tensors fit in memory."""
    labels: list[str] = []
    held = 0
    for node in graph.nodes:
        if not any(value is not None and value.dtype == "float32" for value in node.outputs):
            continue
        if not any(value is not None and value.const is None for value in node.inputs):
            continue
        size = sum(_bytes(value.shape) for value in [*node.inputs, *node.outputs] if value and value.const is None)
        if labels and held + size > _CHUNK_BYTES:
            yield labels
            labels, held = [], 0
        labels.append(node.label)
        held += size
    if labels:
        yield labels


def _bytes(shape: tuple[int | str | None, ...] | None) -> int:
    sizes = [axis for axis in shape or () if isinstance(axis, int)]
    return 4 * math.prod(sizes) if shape is not None and len(sizes) == len(shape) else _UNKNOWN_BYTES
