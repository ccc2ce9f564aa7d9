"""Warming up ends when the times settle, or when the patience does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, repeat

import numpy as np

from mobilekit.pipeline.warm import warm_up
from mobilekit.runners.base import Runner, RunnerInfo, RunOptions, RunResult


class Cooling:
    """Implements Runner: takes the times that it is given, one a call, in ms."""

    def __init__(self, times: Iterator[float]) -> None:
        self._times = times
        self.iterations: list[int] = []

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def info(self) -> RunnerInfo:
        return RunnerInfo("cooling", "1", "here")

    def run(self, inputs: Mapping[str, np.ndarray], options: RunOptions) -> RunResult:
        self.iterations.append(options.iterations)
        assert options.warmup == 0
        return RunResult(
            {}, (round(next(self._times) * 1e6),) * options.iterations, facts={"calls": len(self.iterations)}
        )


def test_it_goes_on_until_three_blocks_agree() -> None:
    runner = Cooling(chain([90, 20, 15, 12, 10, 10.1, 10], repeat(10)))
    found = warm_up(runner, {}, RunOptions(warmup=7, iterations=50))
    assert found.stable
    assert found.facts == {"calls": 7}
    assert found.runs == sum(runner.iterations)
    assert runner.iterations[:3] == [1, 1, 2]  # blocks of 50 ms, at what an inference takes


def test_it_gives_up_in_time_and_says_so() -> None:
    runner = Cooling(iter([5, 1] * 100_000))
    found = warm_up(runner, {}, RunOptions(), most_s=0.05)
    assert not found.stable
    assert found.runs == sum(runner.iterations)
