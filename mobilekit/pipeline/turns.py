"""Two ways of running a model, timed in turns on one device until there is an answer."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from mobilekit.pipeline.place import LOCAL, open_place
from mobilekit.progress import SILENT, Progress

if TYPE_CHECKING:
    from mobilekit.bundle import Bundle
    from mobilekit.report.comparison import LatencyDifference
    from mobilekit.report.model import DeviceFacts
    from mobilekit.runners.base import Runner, RunOptions
    from mobilekit.targets.base import TargetName
    from mobilekit.tensors import NamedTensors
    from mobilekit.validate.regression import Difference

__all__ = [
    "FIRST_LOOK",
    "Contender",
    "Timed",
    "answers",
    "as_report",
    "block_length",
    "harness_here",
    "in_turns",
    "looks_within",
    "rounds_of",
]

FIRST_LOOK = 6
"""After so many sessions the data is first looked at."""
_MOST_SESSIONS = 100
_BETWEEN_LOOKS = 1.6
"""Each look sees so many times what the one before saw."""
_FEWEST = 4
_ROUNDS = (4, 16)
_SESSION_NS = 400_000_000
_BLOCK_NS = 10_000_000
_MOST_ITERATIONS = 200
_WARMUP = 3


@dataclass(frozen=True, slots=True)
class Contender:
    """A bundle, what it is fed, and how it is run where it is (``warmup`` and ``iterations`` of that do not count)."""

    bundle: Bundle
    tensors: NamedTensors
    run: Callable[[DeviceFacts], RunOptions]
    target: TargetName | None = None


@dataclass(frozen=True, slots=True)
class Timed:
    """``found``: the answer, the second side's time over the first's; ``None`` where the budget did not allow even
    four sessions. ``sessions``: each one's rounds, as log ratios of the fastest inferences; ``typical``: of the median
    ones. ``p50_ms``: of each side. ``session_s``: what one session took, at least."""

    found: Difference | None
    sessions: Sequence[Sequence[float]]
    typical: Sequence[Sequence[float]]
    p50_ms: tuple[float, float]
    session_s: float


@dataclass(frozen=True, slots=True)
class _Round:
    """Of a block of either side, in ns: the fastest inference, and the median."""

    fastest: tuple[float, float]
    typical: tuple[float, float]


def answers(found: Difference) -> bool:
    """Whether there is an answer."""
    from mobilekit.validate.regression import Answer

    return found.answer is not Answer.INCONCLUSIVE


def in_turns(
    sides: Sequence[Contender],
    device: str | None,
    *,
    margin: float,
    confidence: float,
    budget_s: float,
    overrun: bool = True,
    enough: Callable[[Difference], bool] = answers,
    progress: Progress = SILENT,
) -> Timed:
    """Time both ``sides`` in turns until that is ``enough``, or the budget is spent. With ``overrun`` four sessions are
    measured whatever the budget; without, none is begun that cannot lead to an answer in time.

    The data is looked at as often as the budget allows (:func:`looks_within`), since each look widens the interval.
    """
    deadline = time.monotonic() + budget_s
    rounds: list[list[_Round]] = []
    found: Difference | None = None
    harness = harness_here(device)
    looks: tuple[int, ...] = ()
    session_s = 0.0
    with progress.task("timing in turns", _MOST_SESSIONS, unit="sessions") as task:
        while overrun or len(rounds) >= _FEWEST or time.monotonic() + session_s * (_FEWEST - len(rounds)) < deadline:
            before = time.monotonic()
            rounds.append(_session(sides, device, progress, first=len(rounds) % 2, harness=harness))
            task.advance(1)
            now = time.monotonic()
            session_s = min(session_s or math.inf, now - before)
            if len(rounds) < _FEWEST:
                continue
            looks = looks or looks_within(deadline - now, session_s)
            spent = now + (0 if overrun else session_s) > deadline
            if spent or len(rounds) in looks:
                found = _look(rounds, margin=margin, confidence=confidence, looks=len(looks))
                if spent or len(rounds) >= looks[-1] or enough(found):
                    break
    every = [each for session in rounds for each in session]
    p50 = [statistics.median([each.typical[side] / 1e6 for each in every] or [math.nan]) for side in (0, 1)]
    fastest, typical = ([_ratios(session, what) for session in rounds] for what in _KINDS)
    return Timed(found, fastest, typical, (p50[0], p50[1]), session_s)


_Kind = Literal["fastest", "typical"]
_KINDS: tuple[_Kind, _Kind] = ("fastest", "typical")


def _ratios(session: Sequence[_Round], what: _Kind) -> list[float]:
    pairs = [getattr(each, what) for each in session]
    return [math.log(max(y, 1) / max(x, 1)) for x, y in pairs]


def _look(rounds: Sequence[Sequence[_Round]], *, margin: float, confidence: float, looks: int) -> Difference:
    """By the fastest inferences. Where the typical ones clearly differ, what is slow now and then is no longer noise:
    then nobody may say *same*."""
    from mobilekit.validate.regression import Answer, difference

    fastest, typical = (
        difference([_ratios(session, what) for session in rounds], margin=margin, confidence=confidence, looks=looks)
        for what in _KINDS
    )
    if fastest.answer is Answer.SAME and typical.answer in (Answer.BETTER, Answer.WORSE):
        return replace(fastest, answer=Answer.INCONCLUSIVE)
    return fastest


def looks_within(left_s: float, session_s: float) -> tuple[int, ...]:
    """After how many sessions the data is looked at, ``left_s`` seconds after the fourth where one takes ``session_s``:
    the first look after six, each further one on 1.6 times as many, the last one when the time is over.

    It depends on how long a session takes and not on what it says, so looking costs no more than each look's part.
    """
    most = _FEWEST + int(max(0.0, left_s) / max(session_s, 1e-3))
    most = min(most, _MOST_SESSIONS)
    found, count = [], float(FIRST_LOOK)
    while round(count * math.sqrt(_BETWEEN_LOOKS)) < most:
        found.append(round(count))
        count *= _BETWEEN_LOOKS
    return (*found, most)


def harness_here(device: str | None) -> bool:
    """Whether ``device`` is this machine, and a harness for it is built: that starts and reloads faster than the
    wheel."""
    import platform
    import sys

    from mobilekit.device.harness.locate import locate_harness
    from mobilekit.device.harness.toolchains import ABIS

    if device != LOCAL or sys.platform != "linux":
        return False
    abi = next((abi for abi, machine in ABIS.items() if machine == platform.machine()), None)
    return abi is not None and locate_harness(abi, static_only=True) is not None


def block_length(slower_ns: float) -> int:
    """How many inferences a block has: as many for both, the fewer the more its fastest one scatters."""
    return max(3, min(_MOST_ITERATIONS, round(_BLOCK_NS / max(slower_ns, 1))))


def rounds_of(slower_ns: float, iterations: int) -> int:
    """How many rounds a session has: many short ones rather than few long ones, so that what one block meets the other
    does, too; few where an inference is long."""
    fewest, most = _ROUNDS
    return max(fewest, min(most, round(_SESSION_NS / max(2 * (1 + iterations) * slower_ns, 1))))


def as_report(found: Difference, sessions: Sequence[Sequence[float]] = (), *, interleaved: bool) -> LatencyDifference:
    from mobilekit.report.comparison import LatencyDifference

    return LatencyDifference(
        answer=found.answer,
        ratio=found.ratio,
        low=found.low,
        high=found.high,
        confidence=found.confidence,
        same_low=found.same_low,
        same_high=found.same_high,
        same_confidence=found.same_confidence,
        detectable=found.detectable,
        margin=found.margin,
        interleaved=interleaved,
        sessions=tuple(tuple(rounds) for rounds in sessions),
    )


def _session(
    sides: Sequence[Contender], device: str | None, progress: Progress, first: int, *, harness: bool
) -> list[_Round]:
    """Both models loaded anew, then a few rounds of a block of each."""
    with ExitStack() as stack:
        blocks: list[Callable[[int, int], Sequence[int]]] = []
        for side in sides:
            place = open_place(side.bundle, device, target=side.target, harness=harness, progress=progress)
            runner, facts = stack.enter_context(place)
            blocks.append(partial(_block, runner, side.tensors, side.run(facts)))
        slower = max(min(block(_WARMUP, _WARMUP)) for block in blocks)
        iterations = block_length(slower)
        rounds = []
        for number in range(rounds_of(slower, iterations)):
            times: list[Sequence[int]] = [(), ()]
            for side_number in (0, 1) if (number + first) % 2 == 0 else (1, 0):
                times[side_number] = blocks[side_number](1, iterations)
            a, b = times
            rounds.append(_Round((min(a), min(b)), (statistics.median(a), statistics.median(b))))
        return rounds


def _block(runner: Runner, tensors: NamedTensors, run: RunOptions, warmup: int, iterations: int) -> Sequence[int]:
    return runner.run(tensors, replace(run, warmup=warmup, iterations=iterations)).latencies_ns
