"""How sure the reference is of itself: ONNX Runtime without its optimisations, and on inputs changed in the last digit.

A quantised model is asked with its scales changed in the last digits as well, and with what it quantises while it runs
moved by up to half a step: token ids cannot be disturbed, and what an optimiser saved is already as it will run.

Where a value lies on an edge (two scores that tie, a box at the threshold) either changes the answer, and a device that
answers the other way is not wrong. A model that rounds to 8 bits while it runs is changed by as much as that instead:
its conversion keeps those digits, and a recurrent network can carry one of them anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

from mobilekit.errors import ModelError, UsageError

if TYPE_CHECKING:
    from types import TracebackType

    from mobilekit.runners.base import Runner, RunOptions
    from mobilekit.tensors import Array, NamedTensors

__all__ = ["Doubt", "input_step", "rounds_while_running"]

_FLOAT_STEP = 2.0**-23
_EIGHT_BITS = 2.0**-9
"""Half a step of 1/255."""
_ROUNDS_WHILE_RUNNING = 0.1


def input_step(allowance: float | None) -> float:
    """By how much, relative to itself, an input may be changed without meaning anything else to the model.

    ``allowance``: a manifest's ``rtol``; from 0.1 on the original rounds tensors to 8 bits that the conversion keeps.
    """
    return _EIGHT_BITS if rounds_while_running(allowance) else _FLOAT_STEP


def rounds_while_running(allowance: float | None) -> bool:
    """Whether a manifest's ``rtol`` is that of an original whose 8-bit roundings the conversion leaves out."""
    return allowance is not None and allowance >= _ROUNDS_WHILE_RUNNING


class Doubt:
    """A context manager around the reference without optimisations, which ``start`` makes when it is first asked for:
    rarely. ``step``: as of :func:`input_step`. ``rescaled`` makes a quantised model's reference whose values fall to
    other sides of the edges between steps (:mod:`mobilekit.runners.steps`), by a seed from 1 on."""

    def __init__(
        self,
        start: Callable[[], Runner],
        step: float = _FLOAT_STEP,
        rescaled: Callable[[int], Runner] | None = None,
    ) -> None:
        self._start = start
        self._step = step
        self._rescaled = rescaled
        self._open = ExitStack()
        self._runners: list[Runner] = []

    def __enter__(self) -> Doubt:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, value, trace)

    def of(
        self,
        inputs: Mapping[str, Array],
        expected: NamedTensors,
        options: RunOptions,
        errors: Mapping[str, float] | None = None,
    ) -> dict[str, float]:
        """The largest relative L2 between ``expected`` and each output computed in another way; none where that cannot
        be had. What differs in shape is infinitely far off.

        ``errors``: relative L2 of the result that is doubted, by output. While one is beyond twice its doubt, a
        quantised model is asked with more scales: a single value on an edge is moved over it by one seed in three.
        """
        from mobilekit.metrics.tensors import compare

        found: dict[str, float] = {}

        def ask(runner: Runner, given: Mapping[str, Array]) -> None:
            other = runner.run(given, options).outputs
            for name in expected.keys() & other.keys():
                found[name] = max(found.get(name, 0.0), compare(other[name], expected[name]).relative_l2)

        try:
            if not self._runners:
                self._runners.append(self._open.enter_context(self._start()))
                if self._rescaled is not None:
                    made = (self._rescaled(seed) for seed in range(1, _RESCALED + 1))
                    self._runners += [self._open.enter_context(runner) for runner in made]
            for draw in range(_DRAWS + 1):
                ask(self._runners[0], _disturbed(inputs, draw, self._step) if draw else inputs)
            for runner in self._runners[1:]:
                ask(runner, inputs)
            for seed in range(_RESCALED + 1, _MOST_RESCALED + 1):
                if self._rescaled is None or not any(
                    error > 2 * found.get(name, 0.0) for name, error in (errors or {}).items()
                ):
                    break
                with self._rescaled(seed) as runner:
                    ask(runner, inputs)
        except (ModelError, UsageError):
            return found
        return found


_DRAWS = 2
_RESCALED = 4
_MOST_RESCALED = 16


def _disturbed(inputs: Mapping[str, Array], seed: int, step: float) -> dict[str, Array]:
    """Every float32 a step up, down, or left as it is."""
    import numpy as np

    rng = np.random.default_rng(seed)

    def other(array: Array) -> Array:
        if array.dtype != np.float32:
            return array
        result: Array = (array.astype(np.float64) * (1 + step * rng.integers(-1, 2, array.shape))).astype(np.float32)
        return result

    return {name: other(array) for name, array in inputs.items()}
