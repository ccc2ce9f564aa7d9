"""Where the values of a graph hold the samples of a batch, and what has to change for a batch of one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mobilekit.graph import Node, Value
    from mobilekit.tensors import Array

__all__ = ["Mixed", "Place", "Tracker", "cut", "shape_of"]


class Mixed(Exception):  # noqa: N818 - an answer, caught by the pass
    """Why samples do not stay apart, as a sentence."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor holds its samples: its ``axis`` counts (outer, batch, rest of the axis), row-major."""

    axis: int
    outer: int = 1


def cut(array: Array, place: Place, batch: int) -> Array | None:
    """One sample's part of ``array``; ``None`` where samples differ."""
    axis, shape = place.axis, array.shape
    inner, rest = divmod(shape[axis], batch * place.outer)
    if rest:
        return None
    split = array.reshape(*shape[:axis], place.outer, batch, inner, *shape[axis + 1 :])
    first = np.take(split, [0], axis=axis + 1)
    if not np.array_equal(split, np.broadcast_to(first, split.shape), equal_nan=array.dtype.kind == "f"):
        return None
    return first.reshape(*shape[:axis], place.outer * inner, *shape[axis + 1 :])


def shape_of(value: Value) -> tuple[int, ...]:
    return tuple(axis for axis in value.shape or () if isinstance(axis, int))


class Tracker:
    """Where each value seen so far holds its ``batch`` samples, and what has to change for a batch of one."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.places: dict[int, Place] = {}
        self.constants: list[tuple[Node, int, Array]] = []
        self.reshapes: list[Node] = []

    def place(self, value: Value | None) -> Place | None:
        return None if value is None else self.places.get(id(value))

    def sample_shape(self, value: Value) -> tuple[int, ...]:
        """The shape of one sample's part of ``value``."""
        shape, place = shape_of(value), self.place(value)
        if place is None:
            return shape
        return (*shape[: place.axis], shape[place.axis] // self.batch, *shape[place.axis + 1 :])

    def placed(self, node: Node, indices: Iterable[int] | None = None) -> list[tuple[int, Value, Place]]:
        chosen = range(len(node.inputs)) if indices is None else indices
        found = []
        for index in chosen:
            value = node.inputs[index] if index < len(node.inputs) else None
            place = self.place(value)
            if value is not None and place is not None:
                found.append((index, value, place))
        return found

    def data(self, node: Node, index: int, place: Place) -> None:
        """Input ``index`` holds its samples at ``place``, or is a constant that can be cut there, or is omitted."""
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None or self.place(value) == place:
            return
        if self.place(value) is not None:
            raise Mixed(f"its inputs hold the batch at different places ({value.name!r})")
        self._cut(node, index, value, place)

    def _cut(self, node: Node, index: int, value: Value, place: Place) -> None:
        if value.const is None:
            raise Mixed(f"{value.name!r} does not come from the batch but has its size")
        part = cut(value.const, place, self.batch)
        if part is None:
            raise Mixed(f"the constant {value.name!r} differs from sample to sample")
        self.constants.append((node, index, part))

    def weights(self, node: Node, indices: Iterable[int]) -> None:
        """Those inputs are the same for all samples."""
        for _, value, _ in self.placed(node, indices):
            raise Mixed(f"its {value.name!r} comes from the batch")

    def only(self, node: Node, index: int = 0) -> tuple[Value, Place]:
        """The place of input ``index``, all others being the same for all samples."""
        self.weights(node, (i for i in range(len(node.inputs)) if i != index))
        value = node.inputs[index]
        place = self.place(value)
        assert value is not None
        assert place is not None
        return value, place

    def broadcast(self, node: Node, indices: Sequence[int], rank: int) -> Place:
        """The place in the result (of ``rank`` axes) of inputs that broadcast against each other."""
        found = [(v, place.axis - len(shape_of(v)), place.outer) for _, v, place in self.placed(node, indices)]
        value, back, outer = found[0]
        size = shape_of(value)[back]
        if any((b, o, shape_of(v)[b]) != (back, outer, size) for v, b, o in found):
            raise Mixed("its inputs hold the batch at different places")
        for index in indices:
            other = node.inputs[index] if index < len(node.inputs) else None
            if other is None or self.place(other) is not None:
                continue
            shape = shape_of(other)
            if len(shape) >= -back and shape[back] != 1:
                self._cut(node, index, other, Place(len(shape) + back, outer))
        return Place(rank + back, outer)

    def ints(self, node: Node, index: int, what: str) -> list[int] | None:
        """A constant input's integers; ``None`` where it is omitted."""
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            return None
        if value.const is None:
            raise Mixed(f"its {what} is computed while running")
        return [int(item) for item in value.const.reshape(-1)]
