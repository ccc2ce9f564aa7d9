"""What int8 layers cost on one input, by :mod:`mobilekit.precision.emulate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from mobilekit.errors import ChildError, MobilekitError, ModelError, UsageError
from mobilekit.validate.rounding import LONG_NAMES, worst_of

if TYPE_CHECKING:
    from types import TracebackType

    from mobilekit.child import Child
    from mobilekit.tensors import Array
    from mobilekit.validate.rounding import Cost, NumberFormat

__all__ = ["Int8Cost", "Write"]

Shapes = Mapping[str, tuple[int, ...]]
Write = Callable[[Path, Shapes], tuple[Path, Path]]
"""Writes the exact and the emulated model for inputs of these shapes into a folder; their paths."""

_START_TIMEOUT_S = 600.0


class Int8Cost:
    """A context manager with the methods of :class:`~mobilekit.validate.rounding.RoundingCost`; nothing is cached."""

    def __init__(self, write: Write, form: NumberFormat) -> None:
        self._write, self._form = write, form
        self._child: Child | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._broken = ""

    def __enter__(self) -> Int8Cost:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None

    @property
    def unknown(self) -> str:
        """Why nothing can be measured; empty where it can, as far as is known."""
        return self._broken

    def of(self, inputs: Mapping[str, Array], timeout_s: float) -> dict[str, Cost]:
        """By output; empty where the model cannot be run with its int8 layers emulated."""
        if self._broken:
            return {}
        try:
            found = self._started(inputs).call("errors", {"inputs": dict(inputs)}, timeout_s=10 * timeout_s)
        except (ModelError, UsageError, ChildError) as error:
            self._broken = error.message
            return {}
        return {name: worst_of(draws) for name, draws in found.items()}

    def _started(self, inputs: Mapping[str, Array]) -> Child:
        from mobilekit.child import Child

        shapes = {name: array.shape for name, array in inputs.items()}
        if self._child is None or shapes != self._shapes:
            self._close()
            with TemporaryDirectory(prefix="mobilekit-int8-") as name:
                try:
                    exact, emulated = self._write(Path(name), shapes)
                except MobilekitError as error:
                    raise ModelError(error.message) from error
                self._child = Child(what="emulating int8")
                self._child.create(
                    "mobilekit.precision.emulate:EmulatedModel",
                    {"exact": str(exact), "emulated": str(emulated), "computed": LONG_NAMES[self._form.computed]},
                    timeout_s=_START_TIMEOUT_S,
                )
            self._shapes = shapes
        return self._child
