"""Two models in turns: what of the times decides, and when it is looked at. Times are scripted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

import mobilekit.pipeline.turns as turns
from mobilekit.pipeline.turns import Contender, Timed, block_length, in_turns, looks_within, rounds_of
from mobilekit.runners.base import RunOptions
from mobilekit.validate.regression import Answer

Times = Callable[[int, int], list[int]]
"""From the number of a block and its length: its latencies in ns."""


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Timed]:
    def run(a: Times, b: Times, budget_s: float = 0.0, **options: Any) -> Timed:
        blocks = {"a": 0, "b": 0}

        @contextmanager
        def place(side: str, *args: Any, **kwargs: Any) -> Iterator[tuple[Any, Any]]:
            def answer(tensors: Any, options: RunOptions) -> Any:
                blocks[side] += 1
                return SimpleNamespace(latencies_ns=(a if side == "a" else b)(blocks[side], options.iterations))

            yield SimpleNamespace(run=answer), None

        monkeypatch.setattr(turns, "open_place", place)
        sides = [Contender(cast("Any", name), {}, lambda _: RunOptions()) for name in ("a", "b")]
        return in_turns(sides, "there", margin=0.03, confidence=0.998, budget_s=budget_s, **options)

    return run


def ten_ms(block: int, count: int) -> list[int]:
    return [10_000_000 + 1000 * ((block * 7 + index) % 5) for index in range(count)]


def often_disturbed(block: int, count: int) -> list[int]:
    """Others take the processor away from four inferences of five, for as long as they like."""
    times = ten_ms(block, count)
    return [time if index % 5 == block % 5 else time + 1_000_000 * (1 + (block * index) % 37)
            for index, time in enumerate(times)]  # fmt: skip


def test_what_others_do_to_most_inferences_does_not_decide(timed: Callable[..., Timed]) -> None:
    found = timed(often_disturbed, often_disturbed, 600).found
    assert found is not None
    assert found.answer is not Answer.WORSE
    assert found.answer is not Answer.BETTER
    slower = timed(often_disturbed, lambda block, count: [time * 11 // 10 for time in often_disturbed(block, count)])
    assert slower.found is not None
    assert slower.found.answer is Answer.WORSE


def test_what_is_often_slow_is_not_the_same_though_its_fastest_is(timed: Callable[..., Timed]) -> None:
    """Two of three inferences of B take half as long again, in every block alike: no noise."""

    def jittery(block: int, count: int) -> list[int]:
        return [time * 3 // 2 if index % 3 else time for index, time in enumerate(ten_ms(block, count))]

    timing = timed(ten_ms, jittery)
    assert timing.found is not None
    assert timing.found.answer is Answer.INCONCLUSIVE
    assert timing.p50_ms[1] > 1.4 * timing.p50_ms[0]
    same = timed(ten_ms, ten_ms).found
    assert same is not None
    assert same.answer is Answer.SAME


def test_four_sessions_whatever_the_budget_or_none(timed: Callable[..., Timed]) -> None:
    assert len(timed(ten_ms, ten_ms, 0.0).sessions) == 4
    without = timed(ten_ms, ten_ms, 0.0, overrun=False)
    assert (without.found, len(without.sessions)) == (None, 0)


def test_it_goes_on_until_that_is_enough(timed: Callable[..., Timed]) -> None:
    seen: list[int] = []

    def third(found: Any) -> bool:
        seen.append(found.sessions)
        return len(seen) == 3

    assert len(timed(ten_ms, ten_ms, 1e6, enough=third).sessions) == seen[-1]
    assert seen == [6, 10, 15]


def test_a_session_takes_about_as_long_however_slow_the_model_is() -> None:
    for ns in (1e4, 1e5, 1e6, 1e7):
        iterations = block_length(ns)
        assert 4 <= rounds_of(ns, iterations) <= 16
        assert iterations >= 3
        assert 2 * rounds_of(ns, iterations) * (1 + iterations) * ns < 7e8
    assert rounds_of(2e6, block_length(2e6)) == 16
    assert rounds_of(1e9, block_length(1e9)) == 4


def test_a_short_budget_is_looked_at_less_often() -> None:
    assert looks_within(0.0, 1.0) == (4,)
    assert looks_within(3.0, 1.0) == (7,)
    assert looks_within(5.0, 1.0) == (6, 9)
    assert looks_within(1e9, 0.1) == (6, 10, 15, 25, 39, 63, 100)
    for left in range(300):
        looks = looks_within(left, 1.0)
        assert list(looks) == sorted(set(looks))
        assert looks[-1] == min(4 + left, 100)
