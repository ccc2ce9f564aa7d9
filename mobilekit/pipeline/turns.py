"""Two ways of running a model, timed in turns on one device until there is an answer."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from mobilekit.pipeline.place import LOCAL, Target, open_place
from mobilekit.progress import SILENT, Progress

if TYPE_CHECKING:
    from mobilekit.bundle import Bundle
    from mobilekit.report.comparison import LatencyDifference
    from mobilekit.report.model import DeviceFacts
    from mobilekit.runners.base import Runner, RunOptions
    from mobilekit.tensors import NamedTensors
    from mobilekit.validate.regression import Difference

__all__ = ["LOOKS", "Contender", "as_report", "block_length", "harness_here", "in_turns"]

LOOKS = (6, 9, 13, 20)
"""After so many sessions the data is looked at."""
_FEWEST = 4
_ROUNDS = 4
_BLOCK_NS = 60_000_000
_MOST_ITERATIONS = 200
_WARMUP = 3


@dataclass(frozen=True, slots=True)
class Contender:
    """A bundle, what it is fed, and how it is run where it is (``warmup`` and ``iterations`` of that do not count)."""

    bundle: Bundle
    tensors: NamedTensors
    run: Callable[[DeviceFacts], RunOptions]
    target: Target | None = None


def in_turns(
    sides: Sequence[Contender],
    device: str | None,
    *,
    margin: float,
    confidence: float,
    budget_s: float,
    progress: Progress = SILENT,
) -> tuple[Difference, Sequence[Sequence[float]], tuple[float, float]]:
    """Time both ``sides`` in turns until there is an answer, or the budget is spent; at least four sessions.

    Gives the answer, every session's log ratios (the second side's time over the first's), and each one's median in ms.
    """
    from mobilekit.validate.regression import Answer, difference

    deadline = time.monotonic() + budget_s
    sessions: list[list[float]] = []
    medians: tuple[list[float], list[float]] = ([], [])
    found: Difference | None = None
    harness = harness_here(device)
    with progress.task("timing in turns", LOOKS[-1], unit="sessions") as task:
        while len(sessions) < LOOKS[-1]:
            rounds = _session(sides, device, progress, first=len(sessions) % 2, harness=harness)
            sessions.append([math.log(max(y, 1) / max(x, 1)) for x, y in rounds])
            for side, values in enumerate(medians):
                values.extend(pair[side] / 1e6 for pair in rounds)
            task.advance(1)
            spent = time.monotonic() > deadline
            if len(sessions) in LOOKS or (spent and len(sessions) >= _FEWEST):
                found = difference(sessions, margin=margin, confidence=confidence, looks=len(LOOKS))
                if spent or found.answer is not Answer.INCONCLUSIVE:
                    break
    assert found is not None
    return found, sessions, (statistics.median(medians[0]), statistics.median(medians[1]))


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
    """How many inferences a block has: as many for both, the fewer the more its median scatters."""
    return max(3, min(_MOST_ITERATIONS, round(_BLOCK_NS / max(slower_ns, 1))))


def as_report(found: Difference, sessions: Sequence[Sequence[float]] = (), *, interleaved: bool) -> LatencyDifference:
    from mobilekit.report.comparison import LatencyDifference

    return LatencyDifference(
        answer=found.answer,
        ratio=found.ratio,
        low=found.low,
        high=found.high,
        confidence=found.confidence,
        detectable=found.detectable,
        margin=found.margin,
        interleaved=interleaved,
        sessions=tuple(tuple(rounds) for rounds in sessions),
    )


def _session(
    sides: Sequence[Contender], device: str | None, progress: Progress, first: int, *, harness: bool
) -> list[tuple[float, float]]:
    """Both models loaded anew, then a few rounds of a block of each; every round's two medians, in ns."""
    with ExitStack() as stack:
        blocks: list[Callable[[int, int], Sequence[int]]] = []
        for side in sides:
            place = open_place(side.bundle, device, target=side.target, harness=harness, progress=progress)
            runner, facts = stack.enter_context(place)
            blocks.append(partial(_block, runner, side.tensors, side.run(facts)))
        iterations = block_length(max(statistics.median(block(_WARMUP, _WARMUP)) for block in blocks))
        rounds = []
        for number in range(_ROUNDS):
            pair = [0.0, 0.0]
            for side_number in (0, 1) if (number + first) % 2 == 0 else (1, 0):
                pair[side_number] = statistics.median(blocks[side_number](1, iterations))
            rounds.append((pair[0], pair[1]))
        return rounds


def _block(runner: Runner, tensors: NamedTensors, run: RunOptions, warmup: int, iterations: int) -> Sequence[int]:
    return runner.run(tensors, replace(run, warmup=warmup, iterations=iterations)).latencies_ns
