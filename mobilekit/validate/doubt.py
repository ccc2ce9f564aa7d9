"""How sure the reference is of itself: ONNX Runtime with and without its optimisations on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from mobilekit.errors import ModelError, UsageError

if TYPE_CHECKING:
    from types import TracebackType

    from mobilekit.runners.base import Runner, RunOptions
    from mobilekit.tensors import Array, NamedTensors

__all__ = ["Doubt"]


class Doubt:
    """A context manager around the reference without optimisations, which ``start`` makes when it is first asked for:
    rarely."""

    def __init__(self, start: Callable[[], Runner]) -> None:
        self._start = start
        self._runner: Runner | None = None

    def __enter__(self) -> Doubt:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            self._runner.__exit__(kind, value, trace)

    def of(self, inputs: Mapping[str, Array], expected: NamedTensors, options: RunOptions) -> dict[str, float]:
        """Relative L2 between ``expected`` and each output without optimisations; none where that cannot be had."""
        from mobilekit.metrics.tensors import compare

        try:
            if self._runner is None:
                self._runner = self._start().__enter__()
            plain = self._runner.run(inputs, options).outputs
        except (ModelError, UsageError):
            return {}
        return {name: compare(plain[name], array).relative_l2 for name, array in expected.items() if name in plain}
