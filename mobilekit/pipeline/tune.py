"""``mobilekit tune``: which setting of ncnn is fastest for a bundle on a device, among those whose answers are right.

First every setting is run on all samples and judged by the limits of its own arithmetic; those that fail are out. Then
they are timed, each block beside one of the default, and the slower half is left behind, again and again (successive
halving, Jamieson and Talwalkar 2016). The fastest of what looks fastest is so by luck as well; therefore the one that
is left meets the default once more, on new measurements (:mod:`mobilekit.pipeline.turns`), and only what is clearly
faster there is chosen.

On a virtual device, whose times are the emulator's, exact instruction counts on one thread decide instead.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mobilekit.errors import ChildError, HarnessError, StorageError, UsageError
from mobilekit.pipeline.place import choose_target, open_place
from mobilekit.pipeline.reference import open_reference
from mobilekit.pipeline.settings import default_setting, place_of, remember, run_options
from mobilekit.pipeline.turns import FIRST_LOOK, Contender, as_report, block_length, harness_here, in_turns
from mobilekit.progress import SILENT, Progress
from mobilekit.tensors import digest_of
from mobilekit.tuning import Setting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mobilekit.bundle import Bundle
    from mobilekit.pipeline.reference import Reference
    from mobilekit.report.comparison import LatencyDifference
    from mobilekit.report.model import DeviceFacts, ReferenceFacts
    from mobilekit.report.tune import Outcome, SettingReport, TuneReport
    from mobilekit.runners.base import Runner, RunOptions, RunResult
    from mobilekit.tensors import Array, NamedTensors
    from mobilekit.tuning import Cluster
    from mobilekit.validate.inputs import Sample
    from mobilekit.validate.limits import Limits
    from mobilekit.validate.rounding import NumberFormat
    from mobilekit.validate.tolerance import Verdict

__all__ = ["TuneOptions", "candidates", "tune_bundle"]

_FINALISTS = 3
_MOST_TURNS = 4
_WARMUP = 2
SCREENING = 0.6
"""Of the budget; the rest is for the last comparison."""
ALIKE = 1.01
"""Of settings as near as this, the one that changes least is taken."""


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """What to try: ``threads`` (empty: powers of two up to the cores there are), ``clusters`` (empty: all, and big and
    little where the processor has both), ``precisions``, ``winograd`` and ``packing`` on and off.

    ``inputs``, ``samples``, ``seed``, ``rtol``: what the answers are judged on, and by. ``budget_s``: seconds that
    it may take from when it has the device; nothing is begun that is not expected to end in time but the first look at
    the default, without which there is nothing to tell. ``margin``: what counts as the same speed. ``write``: into the
    manifest. ``force``: on a virtual device, too. ``wait_s``: how long to wait for a device that another holds.
    """

    threads: tuple[int, ...] = ()
    clusters: tuple[Cluster, ...] = ()
    precisions: tuple[Literal["fp32", "fp16"], ...] = ("fp32", "fp16")
    winograd: tuple[bool, ...] = (True, False)
    packing: tuple[bool, ...] = (True, False)
    inputs: Path | None = None
    samples: int = 3
    seed: int = 0
    rtol: float | None = None
    budget_s: float = 300.0
    margin: float = 0.03
    confidence: float = 0.998
    timeout_s: float = 300.0
    wait_s: float = 600.0
    write: bool = True
    force: bool = False


def tune_bundle(
    bundle: str | Path, device: str | None = None, options: TuneOptions | None = None, progress: Progress = SILENT
) -> TuneReport:
    """Try settings at ``device`` (as :func:`~mobilekit.pipeline.place.open_place` takes it), and write the best into
    the bundle's manifest where it is clearly faster than the default; where none is, what was written before for such
    a device is taken out.

    The manifest changes at the very end, whole or not at all. A virtual device's times decide nothing without
    ``force``: there instructions are counted on one thread, and nothing is written where they cannot be. Raises what
    opening the bundle, the reference and the device raises, :class:`UsageError` for nothing to try.
    """
    from mobilekit.bundle import open_bundle
    from mobilekit.pipeline.tune_answer import decided, what_was_written
    from mobilekit.validate.inputs import samples_of

    options = options or TuneOptions()
    opened = open_bundle(Path(bundle))
    choose_target(opened, "ncnn")
    if options.write:
        _require_writable(opened.root)
    samples = list(samples_of(opened.manifest, options.inputs, seed=options.seed, count=options.samples))
    with ExitStack() as stack:
        reference = stack.enter_context(open_reference(opened, progress=progress))
        # What holds the device's lock stays open to the end.
        runner, facts = stack.enter_context(
            open_place(
                opened, device, target="ncnn", wait_s=options.wait_s, harness=harness_here(device), progress=progress
            )
        )
        started = time.monotonic()
        place = place_of(facts)
        assert place is not None
        with (
            open_place(opened, device, target="ncnn", harness=harness_here(device), progress=progress) as (other, _),
            Sweep(opened, facts, runner, other, _Remembered(reference), samples, options, started, progress) as sweep,
        ):
            best = sweep.screen()
        found = _met(sweep, best, device) if best is not None and sweep.promising(best) else None
    outcome, sentence = decided(sweep, best, found)
    chosen = best.setting if best is not None and outcome == "tuned" else None
    written = False
    if options.write and outcome in ("tuned", "default"):
        written = remember(opened, place, chosen)
    return sweep.report(outcome, sentence + what_was_written(outcome, written, options), chosen, found, written=written)


def candidates(
    default: Setting, chosen_threads: int, cores: Mapping[str, int], options: TuneOptions
) -> tuple[Setting, ...]:
    """All settings to try but the default, the least unlike it first. ``chosen_threads``: what ``threads=0`` comes to;
    ``cores`` by cluster, ``big`` and ``little`` where the processor has such.

    Raises :class:`UsageError` for threads or a cluster that the device does not have.
    """
    two_kinds = cores.get("little", 0) > 0 and cores.get("big", 0) > 0
    if not two_kinds and (named := [name for name in options.clusters if name != "all"]):
        raise UsageError(f"this device has no {named[0]} cores", hint="all its cores are alike: leave --cluster out")
    clusters: Sequence[Cluster] = options.clusters or (("all", "big", "little") if two_kinds else ("all",))
    most = max(cores.get(cluster, 1) for cluster in clusters)
    if too_many := [count for count in options.threads if count > most]:
        raise UsageError(f"{too_many[0]} threads on {most} cores", hint=f"--threads {most} or fewer")
    found = []
    for cluster in clusters:
        there = max(1, cores.get(cluster, 1))
        counts = options.threads or tuple(sorted({2**k for k in range(there.bit_length()) if 2**k <= there} | {there}))
        ways = product(counts, options.precisions, options.winograd, options.packing)
        for threads, precision, winograd, packing in ways:
            if threads > there:
                continue
            # ncnn's own choice by its own name, so that the default is met only once.
            named_threads = default.threads if threads == (default.threads or chosen_threads) else threads
            found.append(
                Setting(
                    threads=named_threads,
                    cluster=cluster,
                    fp16=precision == "fp16",
                    winograd=winograd,
                    packing=packing,
                )
            )
    others = [setting for setting in dict.fromkeys(found) if setting != default]
    return tuple(sorted(others, key=default.distance))


class _Remembered:
    """A reference that is asked once for each sample, however many settings are held against it."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._answers: dict[str, NamedTensors] = {}
        self._doubts: dict[str, dict[str, float]] = {}

    @property
    def facts(self) -> ReferenceFacts:
        return self._reference.facts

    @property
    def digest(self) -> str:
        return self._reference.digest

    def samples(self) -> Iterator[Sample] | None:
        return self._reference.samples()

    def answer(self, inputs: Mapping[str, Array], timeout_s: float) -> NamedTensors:
        key = digest_of(inputs)
        if key not in self._answers:
            self._answers[key] = self._reference.answer(inputs, timeout_s)
        return self._answers[key]

    def doubt(
        self,
        inputs: Mapping[str, Array],
        expected: NamedTensors,
        timeout_s: float,
        errors: Mapping[str, float] | None = None,
    ) -> dict[str, float]:
        key = digest_of(inputs)
        if key not in self._doubts:
            self._doubts[key] = self._reference.doubt(inputs, expected, timeout_s, errors)
        return self._doubts[key]


@dataclass(slots=True)
class Trial:
    """A setting, and what is known of it."""

    setting: Setting
    verdict: Verdict | None = None
    reason: str = ""
    relative_l2: float | None = None
    latencies_ns: list[int] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    instructions: int | None = None

    @property
    def ratio(self) -> float:
        return math.exp(statistics.median(self.ratios)) if self.ratios else math.inf


class _BudgetSpent(Exception):  # noqa: N818  # no error
    """There is no time to judge a setting on the samples that are left."""


class Sweep:
    """All settings at one place. ``runner`` keeps the default loaded, ``other`` has whatever stands beside it. A
    context manager, for what measures the formats' costs."""

    def __init__(
        self,
        bundle: Bundle,
        facts: DeviceFacts,
        runner: Runner,
        other: Runner,
        reference: Reference,
        samples: Sequence[Sample],
        options: TuneOptions,
        started: float,
        progress: Progress,
    ) -> None:
        self.bundle, self.facts, self.options, self.progress = bundle, facts, options, progress
        self.samples = samples
        self._runner, self._other, self._reference = runner, other, reference
        self._started = started
        self._until = started + options.budget_s * SCREENING
        self._costs = ExitStack()
        self._limits: dict[NumberFormat, Limits] = {}
        self._iterations = 1
        self._turn_s = 0.0
        """What the last turn took."""
        self.short_of_s: float | None = None
        """Where there was no time to make sure of the fastest: what that takes at least, 0 where nobody knows."""
        self.uncounted = ""
        """Why instructions are not counted."""
        self.default = Trial(default_setting(bundle.manifest, facts))
        self.trials: list[Trial] = []

    def __enter__(self) -> Sweep:
        return self

    def __exit__(self, *exc: object) -> None:
        self._costs.close()

    @property
    def decides(self) -> bool:
        """Whether times do: not on a virtual device."""
        return not self.facts.virtual or self.options.force

    @property
    def left_s(self) -> float:
        """Of the budget."""
        return max(0.0, self._started + self.options.budget_s - time.monotonic())

    def _fits(self, seconds: float) -> bool:
        """Whether that much time is left for the first look."""
        return time.monotonic() + seconds < self._until

    def screen(self) -> Trial | None:
        """Judge all, and time them by halves; the one that is left, ``None`` where no setting is worth another look."""
        from mobilekit.validate.tolerance import Verdict

        self.progress.step(f"judging the default: {self.default.setting}")
        result = self._judge(self.default, self._runner)
        if self.default.verdict is Verdict.FAIL or result is None:
            return None
        threads, cores = result.facts["threads"], result.facts["cores"]
        assert isinstance(threads, int)
        assert isinstance(cores, dict)
        options = self.options
        if not self.decides and not options.threads:
            options = replace(options, threads=(1,))
        self.trials = [Trial(s) for s in candidates(self.default.setting, threads, cores, options)]
        if not self.trials:
            raise UsageError("there is only the default to try", hint="name more --threads, or leave options out")
        if not self.decides:
            self._count(self.default)
            return self._fewest(self._first_round())
        warm = self._runner.run(self.samples[0].tensors, self._run(self.default.setting, _WARMUP, _WARMUP))
        slow = statistics.median(warm.latencies_ns)
        self._iterations = block_length(slow)
        field_ = self._first_round()
        turns = 1
        while len(field_) > 1:
            field_ = sorted(field_, key=lambda trial: trial.ratio)
            if len(field_) > _FINALISTS:
                # Of equals the one that changes least may not be lost by chance.
                plain = self._simplest(field_, lambda trial: trial.ratio)
                field_ = field_[: max(_FINALISTS, len(field_) // 2)]
                if plain is not None and plain not in field_:
                    field_[-1] = plain
            elif turns == _MOST_TURNS:
                break
            if not self._fits(self._turn_s):
                self.progress.note("the budget for a first look is spent: the fastest so far meets the default")
                break
            turns = _MOST_TURNS if len(field_) <= _FINALISTS else min(2 * turns, _MOST_TURNS)
            self._turns(field_, turns)
        return self._simplest(field_, lambda trial: trial.ratio)

    def _simplest(self, trials: Sequence[Trial], cost: Callable[[Trial], float]) -> Trial | None:
        """Of those that cost about as little as the cheapest, the one that changes least."""
        alike = [trial for trial in trials if cost(trial) <= ALIKE * min(map(cost, trials))]
        return min(alike, key=lambda trial: (self.default.setting.distance(trial.setting), cost(trial)), default=None)

    def _fewest(self, trials: Sequence[Trial]) -> Trial | None:
        """By instructions; where they are not known, any: then nothing is decided."""
        known = [trial for trial in trials if trial.instructions is not None]
        return self._simplest(known or trials, lambda trial: trial.instructions or math.inf)

    def _count(self, trial: Trial) -> None:
        """Instructions of an inference on a virtual device; there is no such number for several threads."""
        from mobilekit.pipeline.emulated import instruction_report

        if trial.setting.threads != 1 or self.uncounted:
            return
        run = self._run(trial.setting, 0, 1)
        found = instruction_report(self.bundle, self.facts, self.samples[0].tensors, run, self.progress)
        assert found is not None
        trial.instructions, self.uncounted = found.total, found.remark

    def _first_round(self) -> list[Trial]:
        """Every setting judged and, where it is right, timed once; those that are left."""
        from mobilekit.validate.tolerance import Verdict

        there: list[Trial] = []
        trial_s = 0.0
        with self.progress.task("trying settings", len(self.trials), unit="settings") as task:
            for number, trial in enumerate(self.trials):
                begun = time.monotonic()
                task.describe(f"trying {trial.setting}")
                try:
                    result = self._judge(trial, self._other) if self._fits(trial_s) else None
                    spent = not trial.reason
                except _BudgetSpent:
                    spent = True
                if spent:
                    self.progress.note(f"{len(self.trials) - number} settings are not tried: the budget is spent")
                    break
                # One that proves nothing will do where the default does not prove anything either.
                if result is not None and trial.verdict in (Verdict.PASS, self.default.verdict):
                    if self.decides:
                        self._turn(trial, first=number % 2 == 0)
                    else:
                        self._count(trial)
                    there.append(trial)
                trial_s = time.monotonic() - begun
                task.advance(1)
        return there

    def _turns(self, trials: Sequence[Trial], count: int) -> None:
        with self.progress.task(f"timing {len(trials)} settings", count * len(trials), unit="turns") as task:
            for number in range(count):
                # To and fro, so that none always comes right behind the same other one.
                for trial in trials if number % 2 == 0 else reversed(trials):
                    if not self._fits(self._turn_s):
                        return
                    self._turn(trial, first=number % 2 == 0)
                    task.advance(1)

    def _turn(self, trial: Trial, *, first: bool) -> None:
        """A block of the setting and one of the default, right after one another. Either is warmed up by itself."""
        begun = time.monotonic()
        fastest = {}
        for mine in (True, False) if first else (False, True):
            runner, setting = (self._other, trial.setting) if mine else (self._runner, self.default.setting)
            run = self._run(setting, _WARMUP, self._iterations)
            latencies = runner.run(self.samples[0].tensors, run).latencies_ns
            (trial if mine else self.default).latencies_ns.extend(latencies)
            # What else the device does only ever adds to a time.
            fastest[mine] = min(latencies)
        trial.ratios.append(math.log(max(fastest[True], 1) / max(fastest[False], 1)))
        self._turn_s = time.monotonic() - begun

    def _judge(self, trial: Trial, runner: Runner) -> RunResult | None:
        """All samples by the limits of the setting's own arithmetic; ``None`` where it does not run. Raises
        ``_BudgetSpent`` between two samples, but for the default."""
        from mobilekit.pipeline.assemble import output_reports
        from mobilekit.pipeline.measure import measure
        from mobilekit.validate.tolerance import Judgement, overall

        run = self._run(trial.setting, 0, 1)
        try:
            samples = self.samples if trial is self.default else self._in_time()
            found = measure(self.bundle, runner, self._reference, samples, run, self._limits_of(trial.setting))
        except (ChildError, HarnessError) as error:
            if trial is self.default:
                raise
            trial.reason = f"does not run: {error.message}"
            return None
        if found.timed is None or found.timed.facts.get("cluster_applied") is False:
            trial.reason = "the system does not let us choose these cores"
            return None
        outputs = output_reports(self.bundle, found.samples)
        trial.verdict = overall(Judgement(output.verdict, output.reason) for output in outputs)
        decisive = next((output for output in outputs if output.verdict is trial.verdict), outputs[0])
        trial.reason = f"{decisive.name}: {decisive.reason}"
        trial.relative_l2 = max((output.relative_l2 for output in outputs if output.evidence), default=None)
        return found.timed

    def _in_time(self) -> Iterator[Sample]:
        for sample in self.samples:
            if not self._fits(0):
                raise _BudgetSpent
            yield sample

    def _limits_of(self, setting: Setting) -> Limits:
        from mobilekit.pipeline.formats import number_format
        from mobilekit.pipeline.int8 import cost_of
        from mobilekit.validate.limits import EVERY, Limits, Overrides

        manifest = self.bundle.manifest
        assert manifest.ncnn is not None
        form = number_format(manifest.ncnn.precision, "fp16" if setting.fp16 else "fp32", self.facts)
        if form not in self._limits:
            overrides = Overrides(rtol={} if self.options.rtol is None else {EVERY: self.options.rtol})
            cost = self._costs.enter_context(cost_of(self.bundle, form))
            names = [info.name for info in manifest.outputs]
            self._limits[form] = Limits(
                names, form, cost, overrides=overrides, allowance=manifest.rtol, picks=manifest.picks
            )
        return self._limits[form]

    def _run(self, setting: Setting, warmup: int, iterations: int) -> RunOptions:
        return replace(run_options(setting, timeout_s=self.options.timeout_s), warmup=warmup, iterations=iterations)

    def promising(self, trial: Trial) -> bool:
        """Whether it is worth measuring against the default once more."""
        return self.decides and trial.ratio < 1

    def report(
        self, outcome: Outcome, sentence: str, chosen: Setting | None, found: LatencyDifference | None, *, written: bool
    ) -> TuneReport:
        from mobilekit import __version__
        from mobilekit.report.tune import TuneReport

        return TuneReport(
            mobilekit_version=__version__,
            model=self.bundle.manifest.model.id,
            device=self.facts,
            default=self.default.setting,
            settings=tuple(_reported(trial) for trial in (self.default, *self.trials)),
            outcome=outcome,
            chosen=chosen,
            latency=found,
            written=written,
            sentence=sentence,
        )


def _reported(trial: Trial) -> SettingReport:
    from mobilekit.report.tune import SettingReport
    from mobilekit.validate.latency import latency_stats

    stats = latency_stats(trial.latencies_ns)
    return SettingReport(
        setting=trial.setting,
        verdict=trial.verdict,
        reason=trial.reason,
        relative_l2=trial.relative_l2,
        p50_ms=None if stats is None else stats.p50_ms,
        p50_low_ms=None if stats is None else stats.p50_low_ms,
        p50_high_ms=None if stats is None else stats.p50_high_ms,
        ratio=trial.ratio if trial.ratios else None,
        turns=len(trial.ratios),
        instructions=trial.instructions,
    )


def _met(sweep: Sweep, best: Trial, device: str | None) -> LatencyDifference | None:
    """The default and ``best`` in turns, each loaded anew for every session; ``None`` where there is no time for it."""
    options = sweep.options

    def contender(setting: Setting) -> Contender:
        run = run_options(setting, timeout_s=options.timeout_s)
        return Contender(sweep.bundle, sweep.samples[0].tensors, lambda _: run, "ncnn")

    sweep.progress.note(f"{best.setting} meets the default")
    timed = in_turns(
        [contender(sweep.default.setting), contender(best.setting)],
        device,
        margin=options.margin,
        confidence=options.confidence,
        budget_s=sweep.left_s,
        overrun=False,
        progress=sweep.progress,
    )
    if timed.found is None:
        sweep.short_of_s = FIRST_LOOK * timed.session_s
        return None
    return as_report(timed.found, timed.sessions, interleaved=True)


def _require_writable(root: Path) -> None:
    """Said now, not after minutes of work."""
    import os

    if not os.access(root, os.W_OK):
        raise StorageError(f"{root} may not be written", hint="give --dry-run, or a copy of the bundle")
