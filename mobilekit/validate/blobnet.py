"""An ncnn model seen as the tensors of the ONNX graph that its blobs hold, and the layers between them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mobilekit.targets.ncnn.reader import ParamLayer
    from mobilekit.targets.ncnn.trace import Trace

__all__ = ["BlobNet", "Unit"]

_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Unit:
    """A blob that holds a tensor which the reference can give, and what makes it.

    ``layers`` are those between it and its ``parents`` (blobs that hold such tensors, too): one as a rule, several
    where an ONNX node became several and what lies between them is no tensor of the graph. ``rank``: place in the
    order of computing. ``size_bytes`` of the blob in float32.
    """

    blob: str
    tensor: str
    dims: tuple[int, ...]
    layers: tuple[ParamLayer, ...]
    parents: tuple[str, ...]
    rank: int

    @property
    def size_bytes(self) -> int:
        return _FLOAT_BYTES * math.prod(self.dims)


@dataclass(frozen=True)
class BlobNet:
    """``units`` by blob, in the order of computing."""

    units: dict[str, Unit]
    aliases: dict[str, str] = field(repr=False)
    """Copies (of ``Split``) by the blob that they are of."""

    @classmethod
    def of(cls, layers: Sequence[ParamLayer], trace: Trace, tensors: Collection[str]) -> BlobNet:
        """``tensors``: those that the reference can give."""
        producer = {blob: (number, layer) for number, layer in enumerate(layers) for blob in layer.outputs}
        aliases: dict[str, str] = {}
        for layer in layers:
            if layer.type == "Split":
                aliases |= dict.fromkeys(layer.outputs, aliases.get(layer.inputs[0], layer.inputs[0]))
        units: dict[str, Unit] = {}
        for layer in layers:
            if layer.type in ("Split", "MemoryData"):
                continue
            for blob in layer.outputs:
                found = trace.blobs.get(blob)
                if found is None or found.tensor not in tensors:
                    continue
                between, parents = _segment(blob, producer, aliases, units)
                units[blob] = Unit(blob, found.tensor, found.dims, between, parents, len(units))
        return cls(units, aliases)

    def find(self, blob: str) -> Unit | None:
        """The unit of ``blob``, or of what it is a copy of."""
        return self.units.get(self.aliases.get(blob, blob))

    def ancestors(self, blobs: Iterable[str]) -> set[str]:
        """Those of ``blobs``, themselves included."""
        seen: set[str] = set()
        pending = [blob for blob in blobs if blob in self.units]
        while pending:
            blob = pending.pop()
            if blob not in seen:
                seen.add(blob)
                pending += self.units[blob].parents
        return seen

    def cuts(self, target: str, region: Collection[str]) -> set[str]:
        """The dominators of ``target`` in ``region``: blobs that every way through it to ``target`` passes."""
        inside = sorted((self.units[blob] for blob in region), key=lambda unit: unit.rank)
        # The number of ways from the region's beginnings to each blob, and from each to the target.
        here: dict[str, int] = {}
        for unit in inside:
            here[unit.blob] = sum(here.get(parent, 0) for parent in unit.parents) or 1
        there = {target: 1}
        for unit in reversed(inside):
            ways = there.get(unit.blob, 0)
            for parent in unit.parents:
                if parent in here:
                    there[parent] = there.get(parent, 0) + ways
        # A beginning inside a branch (its parents are outside) adds ways of its own, that do not pass the others.
        return {blob for blob in here if here[blob] * there.get(blob, 0) == here.get(target, -1)}


def _segment(
    last: str, producer: dict[str, tuple[int, ParamLayer]], aliases: dict[str, str], units: dict[str, Unit]
) -> tuple[tuple[ParamLayer, ...], tuple[str, ...]]:
    """The layers from the nearest units down to the blob ``last``, in order, and those units."""
    between: dict[int, ParamLayer] = {}
    parents: dict[str, None] = {}
    pending = [producer[last]]
    while pending:
        number, layer = pending.pop()
        if number in between:
            continue
        between[number] = layer
        for blob in layer.inputs:
            source = aliases.get(blob, blob)
            if source in units:
                parents[source] = None
            else:
                pending.append(producer[source])
    return tuple(between[number] for number in sorted(between)), tuple(
        sorted(parents, key=lambda blob: units[blob].rank)
    )
