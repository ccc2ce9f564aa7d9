"""A device that runs ahead of whoever compares its answers, so that it never waits for the reference."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mobilekit.errors import VerificationError

if TYPE_CHECKING:
    from mobilekit.pipeline.measure import SampleRecord
    from mobilekit.runners.base import RunOptions, RunResult, StreamRunner
    from mobilekit.tensors import NamedTensors
    from mobilekit.validate.inputs import Sample

__all__ = ["RunAhead", "Turn"]

_MOST_BYTES = 256 << 20
"""Of inputs and outputs that wait to be compared."""
_END_S = 1.0


@dataclass(frozen=True, slots=True)
class Turn:
    """A sample, the digest of its inputs, and its record from before or else what the device answered, once it did:
    ``RunResult``, or why the answer cannot be read."""

    sample: Sample
    digest: str
    known: SampleRecord | None
    outcome: RunResult | VerificationError | None = None


class RunAhead:
    """Every sample's turn, in order, computed once each by a thread that goes on meanwhile, until 256 MiB wait.

    Iterating raises what ``samples`` and ``runner`` raise, behind the turns before it. Leaving the block ends the
    thread.
    """

    def __init__(
        self, runner: StreamRunner, samples: Iterator[Sample], run: RunOptions, turn_of: Callable[[Sample], Turn]
    ) -> None:
        self._box = _Box()
        self._runner = runner
        self._thread = threading.Thread(target=_produce, args=(self._box, runner, samples, run, turn_of), daemon=True)

    def __enter__(self) -> RunAhead:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._box.stop()
        self._thread.join(_END_S)
        if self._thread.is_alive():
            self._runner.interrupt()
            self._thread.join()

    def __iter__(self) -> RunAhead:
        return self

    def __next__(self) -> Turn:
        turn = self._box.take()
        if turn is None:
            raise StopIteration
        return turn


class _Box:
    """What is done and not yet taken."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._turns: deque[Turn] = deque()
        self._bytes = 0
        self._ended = self._stopped = False
        self._error: BaseException | None = None

    def put(self, turn: Turn) -> bool:
        """False where nobody wants more."""
        with self._change:
            self._turns.append(turn)
            self._bytes += _size(turn)
            self._change.notify_all()
            self._change.wait_for(lambda: self._stopped or self._bytes <= _MOST_BYTES)
            return not self._stopped

    def end(self, error: BaseException | None) -> None:
        with self._change:
            self._ended, self._error = True, error
            self._change.notify_all()

    def take(self) -> Turn | None:
        with self._change:
            self._change.wait_for(lambda: self._turns or self._ended)
            if self._turns:
                turn = self._turns.popleft()
                self._bytes -= _size(turn)
                self._change.notify_all()
                return turn
            if self._error is not None:
                raise self._error
            return None

    def stop(self) -> None:
        with self._change:
            self._stopped = True
            self._change.notify_all()


def _produce(
    box: _Box, runner: StreamRunner, samples: Iterator[Sample], run: RunOptions, turn_of: Callable[[Sample], Turn]
) -> None:
    begun: deque[Turn] = deque()

    def inputs() -> Iterator[NamedTensors]:
        for sample in samples:
            turn = turn_of(sample)
            begun.append(turn)
            if turn.known is None:
                yield sample.tensors

    def told(turns: deque[Turn]) -> bool:
        """The turns at the front that need no answer."""
        while turns and turns[0].known is not None:
            if not box.put(turns.popleft()):
                return False
        return True

    try:
        with closing(runner.run_each(inputs(), run)) as answers:
            for answer in answers:
                if not told(begun):
                    return
                turn = begun.popleft()
                try:
                    outcome: RunResult | VerificationError = answer()
                except VerificationError as error:
                    outcome = error
                if not box.put(Turn(turn.sample, turn.digest, None, outcome)):
                    return
        told(begun)
    except BaseException as error:  # handed to the thread that waits for it
        box.end(error)
    else:
        box.end(None)


def _size(turn: Turn) -> int:
    arrays = [*turn.sample.tensors.values()]
    if turn.outcome is not None and not isinstance(turn.outcome, VerificationError):
        arrays += turn.outcome.outputs.values()
    return sum(array.nbytes for array in arrays)
