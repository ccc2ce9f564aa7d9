"""How sure the reference is of itself: ONNX Runtime without its optimisations, and on inputs changed in the last digit.

Where a value lies on an edge (two scores that tie, a box at the threshold) either changes the answer, and a device that
answers the other way is not wrong. A model that rounds to 8 bits while it runs is changed by as much as that instead:
its conversion keeps those digits, and a recurrent network can carry one of them anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    rarely. ``step``: as of :func:`input_step`."""

    def __init__(self, start: Callable[[], Runner], step: float = _FLOAT_STEP) -> None:
        self._start = start
        self._step = step
        self._runner: Runner | None = None

    def __enter__(self) -> Doubt:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            self._runner.__exit__(kind, value, trace)

    def of(self, inputs: Mapping[str, Array], expected: NamedTensors, options: RunOptions) -> dict[str, float]:
        """The largest relative L2 between ``expected`` and each output computed in another way; none where that cannot
        be had. What differs in shape is infinitely far off."""
        from mobilekit.metrics.tensors import compare

        found: dict[str, float] = {}
        try:
            if self._runner is None:
                self._runner = self._start().__enter__()
            for draw in range(_DRAWS + 1):
                other = self._runner.run(_disturbed(inputs, draw, self._step) if draw else inputs, options).outputs
                for name in expected.keys() & other.keys():
                    error = compare(other[name], expected[name])
                    found[name] = max(found.get(name, 0.0), error.relative_l2)
        except (ModelError, UsageError):
            return found
        return found


_DRAWS = 2


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
