"""A device that runs ahead: the order, what goes wrong, and an end at any moment."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mobilekit.errors import DeviceLostError, VerificationError
from mobilekit.pipeline import ahead
from mobilekit.pipeline.ahead import RunAhead, Turn
from mobilekit.pipeline.measure import SampleRecord
from mobilekit.runners.base import RunOptions, RunResult, StreamRunner
from mobilekit.validate.inputs import Sample

if TYPE_CHECKING:
    from mobilekit.tensors import Array

ONCE = RunOptions()


class Doubler:
    """Answers twice its input, one request behind, as a session does; ``strange`` answers no model's output at that
    number, ``gone`` is lost there, ``slow`` waits there until it is interrupted."""

    def __init__(self, *, strange: int = -1, gone: int = -1, slow: int = -1) -> None:
        self.strange, self.gone, self.slow = strange, gone, slow
        self.asked: list[int] = []
        self.waits, self.interrupted = threading.Event(), threading.Event()

    def run_each(
        self, inputs: Iterable[Mapping[str, Array]], options: RunOptions
    ) -> Generator[Callable[[], RunResult], None, None]:
        before: Callable[[], RunResult] | None = None
        for number, each in enumerate(inputs):
            self.asked.append(number)
            if number == self.gone:
                raise DeviceLostError("unplugged")
            if number == self.slow:
                self.waits.set()
                assert self.interrupted.wait(120)
                raise DeviceLostError("interrupted")
            if before is not None:
                yield before
            before = self._answer(number, each["x"])
        if before is not None:
            yield before

    def _answer(self, number: int, x: Array) -> Callable[[], RunResult]:
        def answer() -> RunResult:
            if number == self.strange:
                raise VerificationError("no such shape")
            return RunResult({"y": 2 * x}, (1,))

        return answer

    def interrupt(self) -> None:
        self.interrupted.set()


def samples(count: int, size: int = 4) -> Iterator[Sample]:
    return (Sample(str(number), {"x": np.full(size, number, np.float32)}) for number in range(count))


def plain(sample: Sample) -> Turn:
    return Turn(sample, "", None)


def test_turns_come_in_order_with_their_own_answers() -> None:
    runner = Doubler()
    assert isinstance(runner, StreamRunner)
    with RunAhead(runner, samples(20), ONCE, plain) as turns:
        found = list(turns)
    assert [turn.sample.name for turn in found] == [str(number) for number in range(20)]
    for number, turn in enumerate(found):
        assert isinstance(turn.outcome, RunResult)
        np.testing.assert_array_equal(turn.outcome.outputs["y"], np.full(4, 2 * number, np.float32))


def test_samples_known_from_before_keep_their_places_and_are_not_asked() -> None:
    record = SampleRecord("old", {}, {}, {}, {}, {})

    def turn_of(sample: Sample) -> Turn:
        return Turn(sample, "", record if sample.name in ("0", "3", "4", "9") else None)

    runner = Doubler()
    with RunAhead(runner, samples(10), ONCE, turn_of) as turns:
        found = list(turns)
    assert [turn.sample.name for turn in found] == [str(number) for number in range(10)]
    assert [turn.sample.name for turn in found if turn.known is record] == ["0", "3", "4", "9"]
    assert all((turn.outcome is None) == (turn.known is not None) for turn in found)
    assert len(runner.asked) == 6


def test_an_answer_that_cannot_be_read_is_its_samples_alone() -> None:
    with RunAhead(Doubler(strange=1), samples(3), ONCE, plain) as turns:
        first, second, third = turns
    assert isinstance(first.outcome, RunResult)
    assert isinstance(second.outcome, VerificationError)
    assert isinstance(third.outcome, RunResult)


def test_a_lost_device_is_raised_behind_what_it_did() -> None:
    done = []
    with (
        RunAhead(Doubler(gone=5), samples(10), ONCE, plain) as turns,
        pytest.raises(DeviceLostError, match="unplugged"),
    ):
        for turn in turns:
            done.append(turn.sample.name)
    assert done == ["0", "1", "2", "3"]


def test_what_waits_to_be_compared_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "_MOST_BYTES", 10_000)
    runner = Doubler()
    with RunAhead(runner, samples(50, size=250), ONCE, plain) as turns:  # 2,000 bytes a turn
        ahead_of_us = []
        for number, _ in enumerate(turns):
            ahead_of_us.append(len(runner.asked) - number)
    assert len(ahead_of_us) == 50
    # Those that wait, the one taken, the one about to be put, and one request on its way.
    assert max(ahead_of_us) <= 9


def test_leaving_early_ends_the_thread_even_one_that_waits_for_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "_END_S", 0.05)
    before = set(threading.enumerate())
    runner = Doubler(slow=3)
    with RunAhead(runner, samples(10), ONCE, plain) as turns:
        next(turns)
        assert runner.waits.wait(120)
    assert runner.interrupted.is_set()
    assert set(threading.enumerate()) <= before

    quick = Doubler()
    with RunAhead(quick, samples(1000), ONCE, plain) as turns:
        next(turns)
    assert set(threading.enumerate()) <= before
