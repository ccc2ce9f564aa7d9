"""``mobilekit bisect``: the first layer of a bundle's ncnn model that goes wrong, on this machine or on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mobilekit.errors import BundleError, HarnessError, UsageError
from mobilekit.pipeline.intermediates import Intermediates
from mobilekit.pipeline.place import open_blobs
from mobilekit.pipeline.reference import open_reference
from mobilekit.progress import SILENT, Progress
from mobilekit.runners.base import RunOptions

if TYPE_CHECKING:
    from mobilekit.bundle import Bundle, Manifest, NcnnArtifact
    from mobilekit.metrics.tensors import TensorError
    from mobilekit.pipeline.int8_layers import Int8Answers
    from mobilekit.pipeline.reference import Reference
    from mobilekit.report.bisection import BisectionReport, OutputState
    from mobilekit.report.model import DeviceFacts, ReferenceFacts
    from mobilekit.runners.base import BlobRunner
    from mobilekit.targets.base import TargetName
    from mobilekit.targets.ncnn.reader import ParamLayer
    from mobilekit.targets.ncnn.trace import Trace
    from mobilekit.tensors import Array
    from mobilekit.validate.blobnet import BlobNet, Unit
    from mobilekit.validate.firstbad import Found, Mode, Search
    from mobilekit.validate.inputs import Sample
    from mobilekit.validate.limits import Limits
    from mobilekit.validate.rounding import Costs, NumberFormat
    from mobilekit.validate.tolerance import Judgement, Tolerance, Verdict

__all__ = [
    "BisectOptions",
    "Session",
    "arithmetic_of",
    "bisect_bundle",
    "failing_sample",
    "open_traced",
    "traced",
]

Precision = Literal["fp32", "fp16", "bf16"]


def arithmetic_of(artifact: NcnnArtifact) -> Literal["fp32", "fp16"]:
    """What a bundle's layers compute in, but those that are int8."""
    return "fp16" if artifact.precision == "fp16" else "fp32"


@dataclass(frozen=True, slots=True)
class BisectOptions:
    """``inputs``, ``samples`` and ``seed`` as for validation: the sample that fails worst is looked into. ``precision``
    overrides the arithmetic the bundle was made for. ``runs``: inferences on the device at most, but that half of
    them are for the search, however many samples were run before; ``run_bytes``: what
    one of them may feed and capture. ``rtol``: the tolerance of the outputs. ``repro``: a folder for a reproduction.
    ``vulkan``: on the GPU. ``on``: another machine that runs a plan, with one of ``remote_pythons``.
    """

    inputs: Path | None = None
    samples: int = 3
    seed: int = 0
    threads: int = 0
    precision: Precision | None = None
    vulkan: bool = False
    mode: Mode = "auto"
    rtol: float | None = None
    atol: float | None = None
    runs: int = 15
    run_bytes: int = 64 * 1024 * 1024
    timeout_s: float = 300.0
    quota_bytes: int | None = None
    repro: Path | None = None
    whole_cost: bool = False
    """Of int8 layers count what rounding costs them, too, not only what is wrong with them."""
    on: str | None = None
    remote_pythons: tuple[str, ...] = ()


def open_traced(path: Path) -> tuple[Bundle, NcnnArtifact, Trace, tuple[ParamLayer, ...]]:
    """A bundle with an ncnn model whose blobs are known; :class:`BundleError` where it has none."""
    from mobilekit.bundle import open_bundle

    return traced(open_bundle(path))


def traced(bundle: Bundle) -> tuple[Bundle, NcnnArtifact, Trace, tuple[ParamLayer, ...]]:
    """:func:`open_traced`, of one that is open."""
    from mobilekit.targets.ncnn.reader import read_param
    from mobilekit.targets.ncnn.trace import read_trace

    path, artifact = bundle.root, bundle.manifest.ncnn
    if artifact is None:
        raise BundleError(f"{path} holds no ncnn model", hint="export it with --target ncnn")
    if artifact.trace is None:
        raise BundleError(
            f"{path} does not say what its inner blobs hold: an older mobilekit wrote it", hint="export the model again"
        )
    return bundle, artifact, read_trace(bundle.root / artifact.trace), read_param(bundle.root / artifact.param)


def bisect_bundle(
    bundle: str | Path,
    device: str | None = None,
    options: BisectOptions | None = None,
    progress: Progress = SILENT,
    *,
    target: TargetName | None = None,
) -> BisectionReport:
    """Find the first layer whose output is beyond tolerance while its inputs are within.

    ``target``: see :func:`~mobilekit.pipeline.place.choose_target`; a plan is
    :func:`~mobilekit.pipeline.bisect_plan.bisect_plan`'s. ``device`` as for
    :func:`~mobilekit.pipeline.validate.validate_bundle`. Raises :class:`BundleError`, :class:`UsageError` for inputs
    that do not fit, any :class:`~mobilekit.errors.DeviceError` or :class:`~mobilekit.errors.ChildError`.
    """
    from mobilekit.bundle import open_bundle
    from mobilekit.pipeline.place import choose_target
    from mobilekit.validate.firstbad import Found

    options = options or BisectOptions()
    on = "gpu" if options.on is not None and device is None else device
    if choose_target(open_bundle(Path(bundle)), target, on) == "tensorrt":
        from mobilekit.pipeline.bisect_plan import bisect_plan
        from mobilekit.pipeline.place_plan import worker_host

        host = None
        if options.on is not None:
            host = worker_host(options.on, pythons=options.remote_pythons, progress=progress)
        return bisect_plan(Path(bundle), on, options, progress, host)
    if options.on is not None:
        raise UsageError("--on is where a TensorRT plan is run", hint="name another device with --device")
    with failing_sample(Path(bundle), device, options, progress) as (session, reference):
        if not session.off:
            return session.report(Found(None, False, "gradual"), reference)
        with session.compared():
            progress.step("looking for the first layer that goes wrong")
            found = session.search(options.mode)
            report = session.report(found, reference)
            if options.repro is not None and report.first is not None:
                from mobilekit.pipeline.repro import write_repro

                write_repro(session, report, options.repro)
                report = report.model_copy(update={"repro": str(options.repro)})
    return report


@contextmanager
def failing_sample(
    path: Path, device: str | None, options: BisectOptions, progress: Progress
) -> Iterator[tuple[Session, ReferenceFacts]]:
    """The bundle at its place, with the sample that is furthest off, or the last one where none is.

    Once one is off, others are looked at until a quarter of the runs is spent.
    """
    from mobilekit.pipeline.int8 import cost_of
    from mobilekit.pipeline.int8_layers import wrong_int8
    from mobilekit.validate.inputs import samples_of

    if options.runs < 1 or options.run_bytes < 1:
        raise UsageError("nothing can be found without a run", hint="give --runs 1 or more")
    opened, artifact, trace, layers = open_traced(path)
    with (
        open_blobs(opened, device, quota_bytes=options.quota_bytes, vulkan=options.vulkan, progress=progress) as (
            runner,
            facts,
        ),
        open_reference(opened) as reference,
    ):
        session = Session(opened, artifact, trace, layers, runner, facts, options, progress)
        wrong = wrong_int8(opened, device, options.inputs, options.seed, session.run, options.quota_bytes, progress)
        with cost_of(opened, session.form) as cost:
            limits = _limits(opened, session.form, cost, options, wrong)
            for sample in samples_of(opened.manifest, options.inputs, seed=options.seed, count=options.samples):
                session.begin(sample, reference, limits)
                if session.off and 4 * session.runs >= options.runs:
                    break
        if session.sample is None:
            raise UsageError("there is nothing to run: no samples", hint="give --samples 1 or more")
        yield session, reference.facts


class Session:
    """One bundle at one place: what a search asks for, and how it is answered.

    :meth:`begin` runs a sample and judges the outputs, and the worst so far stays; inside :meth:`compared` inner blobs
    can be measured on it.
    """

    def __init__(
        self,
        bundle: Bundle,
        artifact: NcnnArtifact,
        trace: Trace,
        layers: tuple[ParamLayer, ...],
        runner: BlobRunner,
        facts: DeviceFacts,
        options: BisectOptions,
        progress: Progress,
    ) -> None:
        from mobilekit.runners.batch import of_one_sample

        self.bundle, self.artifact, self.trace, self.layers = bundle, artifact, trace, layers
        self.facts, self.options, self.progress = facts, options, progress
        self.manifest: Manifest = of_one_sample(bundle.manifest)
        self.precision: Precision = options.precision or arithmetic_of(artifact)
        self.run = RunOptions(
            threads=options.threads or int(facts.virtual),
            fp16=self.precision == "fp16",
            bf16=self.precision == "bf16",
            vulkan=options.vulkan,
            timeout_s=options.timeout_s,
        )
        self.form = _form(artifact.precision, self.precision, facts)
        self.tolerances: Mapping[str, Tolerance] = {}
        self.runs = 0
        self.sample: Sample | None = None
        self.inputs: Mapping[str, Array] = {}
        """Of one sample of a batch."""
        self.states: tuple[OutputState, ...] = ()
        self._judgements: list[Judgement] = []
        self._badness = (False, 0.0)
        self._faint = False
        self.off: tuple[str, ...] = ()
        """As of :class:`~mobilekit.pipeline.judged.Judged`."""
        self.search_: Search | None = None
        self._runner = runner
        self._fed: dict[str, Array] = {}
        self._dims: dict[str, tuple[int, ...]] = {}
        self._inner: Intermediates | None = None
        self._answers: Int8Answers | None = None
        self._net: BlobNet | None = None

    # a sample

    def begin(self, sample: Sample, reference: Reference, limits: Limits) -> None:
        """Run ``sample`` through both and judge every output, as a validation does; keep it if it is the worst."""
        from mobilekit.pipeline.judged import judged
        from mobilekit.pipeline.measure import measure
        from mobilekit.runners.batch import BatchRunner

        batch = self.artifact.batch
        runner = self._runner if batch is None else BatchRunner(self._runner, self.bundle.manifest, batch)
        found = measure(self.bundle, runner, reference, [sample], self.run, limits, self.progress)
        self.runs += 1 if batch is None else batch.size
        now = judged(found.samples[0])
        self._judgements += now.judgements
        if self.off and now.badness <= self._badness:
            return
        self.off, self._badness, self.states, self._faint = now.off, now.badness, now.states, now.faint
        self.take(sample)
        self.tolerances = found.samples[0].tolerances

    def take(self, sample: Sample) -> None:
        """Inner blobs are measured on ``sample`` from now on; of a batch, on its first one."""
        from mobilekit.runners.batch import split
        from mobilekit.runners.blobs import input_blobs

        batch = self.artifact.batch
        self.sample, self.inputs = sample, dict(sample.tensors)
        if batch is not None:
            self.inputs = {name: split(array, batch.places.get(name), batch.size)[0]
                           for name, array in sample.tensors.items()}  # fmt: skip
        self._fed = input_blobs(self.inputs, self.manifest)

    @property
    def verdict(self) -> Verdict:
        """The sample's, where it is off; else over all samples."""
        from mobilekit.validate.tolerance import Judgement, overall

        return overall(
            (Judgement(state.verdict, state.reason) for state in self.states) if self.off else self._judgements
        )

    def _compute(self, fed: Mapping[str, Array], wanted: Sequence[str]) -> dict[str, Array]:
        self.runs += 1
        return self._runner.blobs(fed, wanted, self.run)

    # inner blobs

    @contextmanager
    def compared(self) -> Iterator[None]:
        """Opens the reference's inner tensors for the sample."""
        from mobilekit.validate.blobnet import BlobNet

        assert self.sample is not None
        shapes = {name: array.shape for name, array in self.sample.tensors.items()}
        wanted = sorted({blob.tensor for blob in self.trace.blobs.values()})
        with Intermediates(self.bundle, wanted, shapes, self.progress) as inner:
            self._inner = inner
            self._net = BlobNet.of(self.layers, self.trace, inner.names)
            if self.artifact.int8 is None or self.options.whole_cost:
                yield
                return
            from mobilekit.pipeline.int8_layers import Int8Answers

            with Int8Answers(self.bundle, self._net.units, shapes) as self._answers:
                yield

    @property
    def net(self) -> BlobNet:
        assert self._net is not None, "use compared() in a with statement"
        return self._net

    @property
    def inner(self) -> Intermediates:
        assert self._inner is not None, "use compared() in a with statement"
        return self._inner

    def search(self, mode: Mode) -> Found:
        """From the outputs that fail to the first layer."""
        from mobilekit.validate.firstbad import Found, Search, inner_limit, local_limit, noise_of

        failed = [state for state in self.states if state.name in self.off]
        blobs = {info.tensor: info.blob for info in self.artifact.outputs}
        units = {state.name: unit for state in failed if (unit := self.net.find(blobs[state.name])) is not None}
        worst = max(state.relative_l2 for state in failed)
        tolerances = [self.tolerances[state.name] for state in failed]
        noise = noise_of(self.form)
        search = self.search_ = Search(
            net=self.net,
            measure=self.measure,
            measure_local=self.measure_local,
            limit=inner_limit(noise, worst),
            local_limit=local_limit(noise),
            atol=max(each.atol for each in tolerances),
            # Of many samples the one that fails may come late: half of the runs are for looking into it.
            runs_left=max(self.options.runs // 2, self.options.runs - self.runs),
            run_bytes=self.options.run_bytes,
            measure_through=self.measure_through,
        )
        if units and search.runs_left:
            search.runs_left -= 1
            search.accumulated |= self.measure(list(units.values()))
        # An output may be taken from a blob that is right, and another tensor.
        wrong = [
            units[state.name].blob
            for state in failed
            if state.name in units and self._explains(search.accumulated.get(units[state.name].blob), state)
        ]
        if not wrong:
            return Found(None, False, "gradual")
        # Accumulated, what int8 costs is as large as a fault.
        return search.run(wrong, "local" if self._answers is not None else mode)

    def int8_errors(self) -> dict[str, TensorError]:
        """The local error of each layer in int8, by blob."""
        from mobilekit.pipeline.int8_layers import int8_units
        from mobilekit.validate.firstbad import Search, local_limit, noise_of

        noise = noise_of(self.form)
        search = self.search_ = Search(
            net=self.net,
            measure=self.measure,
            measure_local=self.measure_local,
            limit=local_limit(noise),
            local_limit=local_limit(noise),
            atol=0.0,
            runs_left=self.options.runs,
            run_bytes=self.options.run_bytes,
        )
        search.each(int8_units(self.bundle, self.net.units))
        return search.local

    @staticmethod
    def _explains(error: TensorError | None, state: OutputState) -> bool:
        """The blob is off by what the output is off by."""
        return error is not None and (bool(error.mismatch) or not error.relative_l2 < state.relative_l2 / 4)

    def expected(self, units: Sequence[Unit]) -> dict[str, Array]:
        """The reference's values by blob, flat, float32 where ncnn has floats."""
        names, answers = list(dict.fromkeys(unit.tensor for unit in units)), self._answers
        if answers is not None:
            return self._flat(units, answers.exact(self.inputs, names, self.run.timeout_s))
        return self._flat(units, self.inner.values(self.inputs, names, self.run.timeout_s))

    def answers(self, units: Sequence[Unit]) -> dict[str, Array]:
        """What ``units`` have to give where they are fed the reference's values, as :meth:`expected`: of layers in
        int8, what their integers give."""
        if self._answers is None:
            return self.expected(units)
        names = list(dict.fromkeys(unit.tensor for unit in units))
        return self._flat(units, self._answers.answers(self.inputs, names, self.run.timeout_s))

    @staticmethod
    def _flat(units: Sequence[Unit], named: Mapping[str, Array]) -> dict[str, Array]:
        import numpy as np

        found: dict[str, Array] = {}
        for unit in units:
            array = named.get(unit.tensor)
            if array is not None and array.dtype.kind in "fiub":
                found[unit.blob] = np.ascontiguousarray(array.reshape(-1), dtype=np.float32)
        return found

    def measure(self, units: Sequence[Unit]) -> dict[str, TensorError]:
        """Accumulated errors of ``units``: one run."""
        # What is computed first is taken first: ncnn lets go of a blob that all its readers have had.
        made = self._compute(self._fed, [unit.blob for unit in by_rank(units)])
        self._dims |= {name: array.shape for name, array in made.items()}
        return self._errors(units, made, self.expected)

    def measure_local(self, units: Sequence[Unit]) -> dict[str, TensorError]:
        """Errors of ``units`` computed from the reference's values: one run."""
        return self._errors(units, self.compute_local(units), self.answers)

    def measure_through(self, units: Sequence[Unit]) -> TensorError | None:
        """The error of the last of ``units``, which follow one another, where what the others do not make is the
        reference's: one run. ``None`` where that cannot be fed."""
        last, made = units[-1], {unit.blob for unit in units}
        outside = dict.fromkeys(parent for unit in units for parent in unit.parents if parent not in made)
        fed = self._right(outside)
        if fed.keys() != outside.keys():
            return None
        try:
            computed = self._compute(fed, [last.blob])
        except HarnessError:
            return None
        return self._errors([last], computed, self.expected).get(last.blob)

    def _right(self, blobs: Iterable[str]) -> dict[str, Array]:
        """The reference's values of those ``blobs`` that can be fed, as ncnn takes them."""
        parents = [self.net.units[blob] for blob in blobs]
        values = self.expected([unit for unit in parents if unit.blob not in self._fed])
        fed: dict[str, Array] = {}
        for unit in parents:
            dims = self._dims.get(unit.blob, unit.dims)
            if unit.blob in self._fed:
                fed[unit.blob] = self._fed[unit.blob]
            elif (value := values.get(unit.blob)) is not None:
                for shape in (unit.dims, dims):
                    if value.size == _product(shape):
                        fed[unit.blob] = value.reshape(shape)
                        break
        return fed

    def compute_local(self, units: Sequence[Unit]) -> dict[str, Array]:
        """Those of ``units`` whose parents can be fed, as ncnn makes them of the reference's values."""
        fed = self._right(dict.fromkeys(parent for unit in units for parent in unit.parents))
        able = [unit for unit in units if all(parent in fed for parent in unit.parents)]
        if not able:
            return {}
        needed = {parent for unit in able for parent in unit.parents}
        try:
            return self._compute({name: fed[name] for name in needed}, [unit.blob for unit in by_rank(able)])
        except HarnessError:
            if len(units) > 1:
                raise
            return {}  # the layer does not take what it should be given: the accumulated error has to do

    def _errors(
        self,
        units: Sequence[Unit],
        made: Mapping[str, Array],
        right_of: Callable[[Sequence[Unit]], Mapping[str, Array]],
    ) -> dict[str, TensorError]:
        import numpy as np

        there = [unit for unit in units if unit.blob in made]
        wanted = right_of(there)
        fixed = not any(info.free for info in self.manifest.inputs)
        errors = {}
        for unit in there:
            if (right := wanted.get(unit.blob)) is None:
                continue
            array = np.ascontiguousarray(made[unit.blob])
            if self._faint and array.size == right.size:
                # A faint part lies along an axis behind that of the batch, which a blob does not have.
                errors[unit.blob] = self.error(array[None], right.reshape(1, *array.shape))
                continue
            # Dims tell more than a count, but of a model of many sizes they are known for one.
            told = fixed and right.size == _product(unit.dims)
            right = right.reshape(unit.dims) if told else right
            errors[unit.blob] = self.error(array if told else array.reshape(-1), right)
        return errors

    def error(self, actual: Array, expected: Array) -> TensorError:
        from mobilekit.pipeline.judged import error_of

        return error_of(actual, expected, faint=self._faint)

    # the answer

    def report(self, found: Found, reference: ReferenceFacts) -> BisectionReport:
        from mobilekit.pipeline.suspects import report_of

        return report_of(self, found, reference)


def by_rank(units: Sequence[Unit]) -> list[Unit]:
    return sorted(units, key=lambda unit: unit.rank)


def _product(dims: Sequence[int]) -> int:
    import math

    return math.prod(dims)


def _form(weights: Literal["fp32", "fp16", "int8"], precision: Precision, facts: DeviceFacts) -> NumberFormat:
    from mobilekit.pipeline.formats import number_format
    from mobilekit.validate.rounding import NumberFormat

    if precision == "bf16":
        return NumberFormat(weights, "bf16")
    return number_format(weights, precision, facts)


def _limits(bundle: Bundle, form: NumberFormat, cost: Costs, options: BisectOptions, wrong: str) -> Limits:
    from mobilekit.validate.limits import EVERY, Limits, Overrides

    manifest = bundle.manifest
    overrides = Overrides(
        rtol={} if options.rtol is None else {EVERY: options.rtol},
        atol={} if options.atol is None else {EVERY: options.atol},
    )
    names = [info.name for info in manifest.outputs]
    return Limits(names, form, cost, overrides=overrides, allowance=manifest.rtol, wrong=wrong, picks=manifest.picks)
