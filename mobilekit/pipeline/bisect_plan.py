"""``mobilekit bisect --target tensorrt``: the first node of what a plan is built from that goes wrong.

The search is that of ncnn (:mod:`mobilekit.validate.firstbad`). What is measured is the prepared ONNX of the bundle, in
its number format: with inner tensors as further outputs for accumulated errors, cut apart and fed the reference's
values for local ones. Without a GPU ONNX Runtime runs these models; on a GPU each becomes a plan and runs there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mobilekit.errors import UsageError
from mobilekit.paths import Scratch
from mobilekit.pipeline.bisect import BisectOptions
from mobilekit.pipeline.plan_models import Marked, Prepared, exact_model
from mobilekit.progress import SILENT, Progress
from mobilekit.runners.base import RunOptions

if TYPE_CHECKING:
    from mobilekit.bundle import Bundle, TensorRTArtifact
    from mobilekit.metrics.tensors import TensorError
    from mobilekit.pipeline.reference import Reference
    from mobilekit.report.bisection import BisectionReport, OutputState
    from mobilekit.report.model import DeviceFacts, ReferenceFacts
    from mobilekit.runners.base import Runner
    from mobilekit.runners.ort import OrtRunner
    from mobilekit.targets.tensorrt.host import WorkerHost
    from mobilekit.tensors import Array
    from mobilekit.validate.blobnet import Unit
    from mobilekit.validate.firstbad import Found, Search
    from mobilekit.validate.inputs import Sample
    from mobilekit.validate.limits import Limits
    from mobilekit.validate.tolerance import Judgement, Tolerance, Verdict

__all__ = ["PlanSession", "bisect_plan"]

_NOISE = {"tf32": 1e-3, "int8": 2e-2, "fp8": 4e-2}
"""Relative L2 that one right node may cost in formats that :data:`~mobilekit.validate.firstbad.NOISE` has not: units of
2^-11, of 1/127 of the range, and of 2^-4."""

_PREPARATION_RTOL = 1e-3


def bisect_plan(
    path: Path,
    device: str | None,
    options: BisectOptions,
    progress: Progress = SILENT,
    host: WorkerHost | None = None,
) -> BisectionReport:
    """As :func:`~mobilekit.pipeline.bisect.bisect_bundle`, of the bundle's TensorRT plan.

    ``device`` and ``host`` as for :func:`~mobilekit.pipeline.place_plan.open_plan`. Raises :class:`UsageError` for what
    only an ncnn model has, and what opening and running the plan raise.
    """
    from mobilekit.bundle import open_bundle
    from mobilekit.pipeline.place_plan import plan_of
    from mobilekit.pipeline.suspects_plan import report_of
    from mobilekit.validate.firstbad import Found

    for given, name in ((options.precision, "--precision"), (options.vulkan, "--vulkan"), (options.repro, "a repro")):
        if given:
            raise UsageError(f"a plan computes as it was built: {name} is for ncnn models", hint="leave it out")
    bundle = open_bundle(path)
    artifact = plan_of(bundle)
    with _session(bundle, artifact, device, options, progress, host) as (session, reference):
        found = Found(None, False, "gradual")
        if session.off:
            progress.step("looking for the first node that goes wrong")
            found = session.search()
        return report_of(session, found, reference)


@contextmanager
def _session(
    bundle: Bundle,
    artifact: TensorRTArtifact,
    device: str | None,
    options: BisectOptions,
    progress: Progress,
    host: WorkerHost | None,
) -> Iterator[tuple[PlanSession, ReferenceFacts]]:
    from mobilekit.pipeline.place_plan import inputs_of_plan, open_plan, sizes_of_plan
    from mobilekit.pipeline.plan_models import executor
    from mobilekit.pipeline.reference import open_reference
    from mobilekit.pipeline.repair_plan import plan_limits
    from mobilekit.runners.ort import OrtRunner
    from mobilekit.validate.inputs import file_samples, seeded_samples

    manifest, inputs = bundle.manifest, inputs_of_plan(bundle.manifest, artifact)
    with ExitStack() as stack:
        folder = stack.enter_context(Scratch("tensorrt"))
        runner, facts = stack.enter_context(open_plan(bundle, device, None, progress, host))
        reference = stack.enter_context(open_reference(bundle))
        limits = plan_limits(bundle, artifact, options.rtol, stack, atol=options.atol)
        run = executor(bundle, artifact, runner, folder, progress)
        exact = stack.enter_context(OrtRunner(exact_model(bundle, artifact, folder), optimise=False, inner=True))
        session = PlanSession(bundle, artifact, runner, facts, run, exact, options, progress)
        samples = (
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
        for sample in samples:
            session.begin(sample, reference, limits)
            if session.off and 4 * session.runs >= options.runs:
                break
        if session.sample is None:
            raise UsageError("there is nothing to run: no samples", hint="give --samples 1 or more")
        yield session, reference.facts


class PlanSession:
    """One plan at one place: the sample that is furthest off, and what a search asks of it."""

    def __init__(
        self,
        bundle: Bundle,
        artifact: TensorRTArtifact,
        runner: Runner,
        facts: DeviceFacts,
        run: Marked,
        exact: OrtRunner,
        options: BisectOptions,
        progress: Progress,
    ) -> None:
        self.bundle, self.artifact, self.facts = bundle, artifact, facts
        self.options, self.progress = options, progress
        self.exact = exact
        self.marked = run
        self.runs = 0
        self.sample: Sample | None = None
        self.states: tuple[OutputState, ...] = ()
        self.off: tuple[str, ...] = ()
        self.tolerances: Mapping[str, Tolerance] = {}
        self.search_: Search | None = None
        self._runner = runner
        self._judgements: list[Judgement] = []
        self._badness = (False, 0.0)
        self._faint = False
        known = {name for name, kind in exact.tensors() if kind in ("tensor(float)", "tensor(float16)")}
        self.model = Prepared.read(run.model, known | {info.name for info in bundle.manifest.inputs}, run.typed)
        self.net = self.model.net

    @property
    def verdict(self) -> Verdict:
        """The sample's, where it is off; else over all samples."""
        from mobilekit.validate.tolerance import Judgement, overall

        states = (Judgement(state.verdict, state.reason) for state in self.states)
        return overall(states if self.off else self._judgements)

    def begin(self, sample: Sample, reference: Reference, limits: Limits) -> None:
        """Run ``sample`` through both and judge every output, as a validation does; keep it if it is the worst."""
        from mobilekit.pipeline.judged import judged
        from mobilekit.pipeline.measure import measure

        run = RunOptions(timeout_s=self.options.timeout_s)
        record = measure(self.bundle, self._runner, reference, [sample], run, limits, self.progress).samples[0]
        self.runs += 1
        now = judged(record)
        self._judgements += now.judgements
        if self.sample is not None and now.badness <= self._badness:
            return
        self.off, self._badness, self.states, self._faint = now.off, now.badness, now.states, now.faint
        self.sample, self.tolerances = sample, record.tolerances

    def search(self) -> Found:
        """From the outputs that are off to the first node."""
        from mobilekit.validate.firstbad import NOISE, Found, Search, inner_limit, local_limit

        off = [state for state in self.states if state.name in self.off]
        precision = self.artifact.precision
        noise = _NOISE.get(precision) or NOISE[precision]
        search = self.search_ = Search(
            net=self.net,
            measure=self.measure,
            measure_local=self.measure_local,
            limit=inner_limit(noise, max(state.relative_l2 for state in off)),
            local_limit=local_limit(noise),
            atol=max(self.tolerances[state.name].atol for state in off),
            runs_left=max(0, self.options.runs - self.runs),
            run_bytes=self.options.run_bytes,
        )
        units = [unit for state in off if (unit := self.net.find(state.name)) is not None]
        if not units or not search.runs_left:
            return Found(None, False, "gradual", not search.runs_left)
        search.runs_left -= 1
        search.accumulated |= self.measure(units)
        by_name = {state.name: state for state in off}
        wrong = [unit.blob for unit in units if _explains(search.accumulated.get(unit.blob), by_name[unit.blob])]
        return search.run(wrong, self.options.mode) if wrong else Found(None, False, "gradual")

    def changed_by_preparation(self) -> str:
        """The first output that the prepared model in float32 computes unlike the original; empty where none is."""
        from mobilekit.runners.ort import OrtRunner

        assert self.sample is not None
        run = RunOptions(timeout_s=self.options.timeout_s)
        ours = self.expected(self.off)
        with OrtRunner(self.bundle.source, fixed=self.bundle.fixed(), optimise=False) as original:
            right = original.run(self.sample.tensors, run).outputs
        for name in self.off:
            if name in ours and not self.error(ours[name], right[name]).relative_l2 <= _PREPARATION_RTOL:
                return name
        return ""

    def expected(self, names: Sequence[str]) -> Mapping[str, Array]:
        """What the prepared model computes in float32 proper."""
        assert self.sample is not None
        there = {name for name, _ in self.exact.tensors()}
        run = RunOptions(timeout_s=self.options.timeout_s)
        inner = [name for name in names if name in there]
        found = dict(self.exact.some(inner, self.sample.tensors, run)) if inner else {}
        return {**found, **{name: self.sample.tensors[name] for name in names if name in self.sample.tensors}}

    def measure(self, units: Sequence[Unit]) -> dict[str, TensorError]:
        """Accumulated errors: one run of the whole model."""
        assert self.sample is not None
        self.runs += 1
        whole = self.model.with_outputs([unit.blob for unit in units])
        return self._errors(units, self.marked.run(whole, self.sample.tensors, self.options.timeout_s, whole=True))

    def measure_local(self, units: Sequence[Unit]) -> dict[str, TensorError]:
        """Errors of nodes that are fed the reference's values: one run."""
        return self._errors(units, self.compute_local(units))

    def compute_local(self, units: Sequence[Unit]) -> Mapping[str, Array]:
        """What the nodes of ``units`` make of the reference's values, by tensor."""
        values = self.expected(list(dict.fromkeys(parent for unit in units for parent in unit.parents)))
        able = [unit for unit in units if all(parent in values for parent in unit.parents)]
        apart, fed = self.model.cut([unit for unit in able if self.model.can_be_cut(unit)], values)
        self.runs += 1
        return self.marked.run(apart, fed, self.options.timeout_s, whole=False) if apart.graph.output else {}

    def _errors(self, units: Sequence[Unit], made: Mapping[str, Array]) -> dict[str, TensorError]:
        right = self.expected([unit.blob for unit in units if unit.blob in made])
        return {name: self.error(made[name], value.astype("float32")) for name, value in right.items() if name in made}

    def error(self, actual: Array, expected: Array) -> TensorError:
        from mobilekit.pipeline.judged import error_of

        return error_of(actual, expected, faint=self._faint)


def _explains(error: TensorError | None, state: OutputState) -> bool:
    """The tensor is off by what the output is off by."""
    return error is not None and (
        bool(error.mismatch) or not math.isfinite(error.relative_l2) or error.relative_l2 >= state.relative_l2 / 4
    )
