"""Timings that take minutes: waiting for a device to cool, a sustained run, a single stream of queries."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mobilekit.errors import ChildError, DeviceError, MobilekitError
from mobilekit.progress import SILENT, Progress
from mobilekit.runners.base import Watched
from mobilekit.validate.endurance import Block, CoolDown, SingleStream, stretch_length, stretches, sustained_sentence

if TYPE_CHECKING:
    from mobilekit.report.endurance import CoolDownReport, SingleStreamReport, SustainedReport
    from mobilekit.runners.base import Runner, RunOptions
    from mobilekit.tensors import Array

__all__ = ["NOTHING_LONG", "Endurance", "LongTimings"]

_BLOCK_S = 2.0
_MOST_ITERATIONS = 10_000
_ASK_S = 2.0


@dataclass(frozen=True, slots=True)
class LongTimings:
    """What is asked for; nothing by default."""

    sustained_s: float | None = None
    single_stream: SingleStream | None = None
    cool_down: CoolDown | None = None


NOTHING_LONG = LongTimings()


@dataclass(slots=True)
class Endurance:
    """Does what ``wanted`` asks for on a runner, and keeps what came of it, also where the device goes away in between:
    ``stopped`` then says why."""

    wanted: LongTimings
    runner: Runner
    progress: Progress = SILENT
    waits: list[CoolDownReport] = field(default_factory=list)
    stream: SingleStreamReport | None = None
    sustained: SustainedReport | None = None
    stopped: MobilekitError | None = None

    def cool(self, what: str) -> None:
        """Wait before ``what`` is timed. A device without a sensor is not waited for, which is said."""
        from mobilekit.report.endurance import CoolDownReport

        wanted = self.wanted.cool_down
        if wanted is None:
            return
        begun = time.monotonic()
        before = now = _heat(self._state())
        if now is None:
            self.progress.note("--cool-down: no thermal zone can be read on this device, so nothing is waited for")
        elif now > wanted.celsius:
            with self.progress.task(f"cooling down to {wanted.celsius:g} °C", None, unit="s") as task:
                while now is not None and now > wanted.celsius and time.monotonic() - begun < wanted.timeout_s:
                    time.sleep(min(_ASK_S, wanted.timeout_s))
                    now = _heat(self._state())
                    task.describe(f"cooling down to {wanted.celsius:g} °C, now {now or 0:.1f}")
                    task.advance(_ASK_S)
        reached = now is not None and now <= wanted.celsius
        if now is not None and not reached:
            self.progress.note(f"--cool-down: still {now:.1f} °C after {wanted.timeout_s:g} s; timing begins")
        self.waits.append(
            CoolDownReport(
                what=what,
                target_celsius=wanted.celsius,
                waited_s=time.monotonic() - begun,
                before_celsius=before,
                after_celsius=now,
                reached=reached,
            )
        )

    def run(self, tensors: Mapping[str, Array], run: RunOptions, *, virtual: bool) -> None:
        """The single stream, then the sustained run, on one input."""
        try:
            if self.wanted.single_stream is not None:
                self.cool("the single stream")
                self._stream(self.wanted.single_stream, tensors, run, virtual=virtual)
            if self.wanted.sustained_s is not None:
                self.cool("the sustained run")
                self._sustain(self.wanted.sustained_s, tensors, run)
        except (DeviceError, ChildError) as error:
            self.stopped = error

    def _stream(self, wanted: SingleStream, tensors: Mapping[str, Array], run: RunOptions, *, virtual: bool) -> None:
        import numpy as np

        from mobilekit.report.endurance import SingleStreamReport

        latencies: list[int] = []
        text = f"single stream of {wanted.queries:,} queries, {wanted.seconds:g} s or more"
        with self.progress.task(text, wanted.seconds, unit="s") as task:
            for block in _blocks(self.runner, tensors, run, wanted.queries, wanted.seconds):
                latencies += block.latencies_ns
                task.advance(sum(block.latencies_ns) / 1e9)
                if len(latencies) >= wanted.queries and sum(latencies) >= wanted.seconds * 1e9:
                    break
        p50, p90, p99 = (float(value) for value in np.percentile(np.array(latencies) / 1e6, (50, 90, 99)))
        remark = "" if wanted.compliant else f"asked for {wanted.queries:,} queries and {wanted.seconds:g} s only"
        if virtual:
            remark = "an emulated processor"
        self.stream = SingleStreamReport(
            queries=len(latencies),
            seconds=sum(latencies) / 1e9,
            p50_ms=p50,
            p90_ms=p90,
            p99_ms=p99,
            compliant=not remark,
            remark=remark,
        )

    def _sustain(self, seconds: float, tensors: Mapping[str, Array], run: RunOptions) -> None:
        blocks: list[Block] = []
        said = 0.0
        try:
            with self.progress.task(f"sustained run of {seconds:g} s", seconds, unit="s") as task:
                for block in _blocks(self.runner, tensors, run, 1, seconds):
                    state = self._state()
                    khz = sum(_numbers(state, "frequencies_khz"))
                    blocks.append(replace(block, celsius=_heat(state), khz=khz or None))
                    task.advance(block.end_s - (blocks[-2].end_s if len(blocks) > 1 else 0.0))
                    if block.end_s >= said + stretch_length(seconds):
                        said = block.end_s
                        one = stretches(blocks, seconds)[-1]
                        heat = f", {one.celsius:.0f} °C" if one.celsius is not None else ""
                        self.progress.note(f"{said:.0f} s in: p50 {one.p50_ms:.3g} ms{heat}")
                    if block.end_s >= seconds:
                        break
        except (DeviceError, ChildError) as error:
            if blocks:
                self.sustained = _report(blocks, seconds, error.message)
            raise
        self.sustained = _report(blocks, seconds, "")

    def _state(self) -> Mapping[str, object]:
        return self.runner.state() if isinstance(self.runner, Watched) else {}


def _report(blocks: list[Block], seconds: float, error: str) -> SustainedReport:
    from mobilekit.report.endurance import StretchReport, SustainedReport

    found = stretches(blocks, seconds)
    throttled, sentence = sustained_sentence(found)
    return SustainedReport(
        asked_s=seconds,
        seconds=blocks[-1].end_s,
        inferences=sum(one.inferences for one in found),
        stretches=tuple(
            StretchReport(
                start_s=one.start_s,
                inferences=one.inferences,
                p50_ms=one.p50_ms,
                p90_ms=one.p90_ms,
                temperature_celsius=one.celsius,
                frequency_khz=one.khz,
            )
            for one in found
        ),
        throttled=throttled,
        sentence=sentence,
        error=error,
    )


def _blocks(
    runner: Runner, tensors: Mapping[str, Array], run: RunOptions, queries: int, seconds: float
) -> Iterator[Block]:
    """About two seconds each, without end; shorter where ``queries`` and ``seconds`` are nearly done. One untimed
    inference before them: the model may be cold, and so may the processor."""
    runner.run(tensors, replace(run, warmup=0, iterations=1, layer_times=False))
    begun = time.monotonic()
    iterations, done, busy = 1, 0, 0.0
    while True:
        start = time.monotonic() - begun
        result = runner.run(tensors, replace(run, warmup=0, iterations=iterations, layer_times=False))
        yield Block(start, time.monotonic() - begun, result.latencies_ns)
        spent = sum(result.latencies_ns) / 1e9
        done, busy = done + iterations, busy + spent
        pace = max(spent / iterations, 1e-7)
        left = max(queries - done, math.ceil((seconds - busy) / pace))
        # By steps: one slow inference says little of how long ten thousand take.
        iterations = max(1, min(round(_BLOCK_S / pace), left, 8 * iterations, _MOST_ITERATIONS))


def _heat(state: Mapping[str, object]) -> float | None:
    """The hottest zone's."""
    return max(_numbers(state, "temperatures_celsius"), default=None)


def _numbers(state: Mapping[str, object], name: str) -> list[float]:
    values = state.get(name)
    return [float(value) for value in values.values()] if isinstance(values, Mapping) else []
