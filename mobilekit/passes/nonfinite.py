"""Weights that are NaN or infinite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mobilekit.graph import Graph, Value

__all__ = ["NonFinite", "listed", "nonfinite_weights"]

_PIECE = 1 << 20
"""Elements looked at together: weights may be mapped from files larger than memory."""


@dataclass(frozen=True, slots=True)
class NonFinite:
    """How many of the ``size`` elements of the weight ``name`` are NaN, and how many infinite."""

    name: str
    size: int
    nan: int
    infinite: int

    def __str__(self) -> str:
        counts = [f"{count} {what}" for count, what in ((self.nan, "NaN"), (self.infinite, "infinite")) if count]
        return f"{self.name!r} ({', '.join(counts)} of {self.size})"


def nonfinite_weights(graph: Graph) -> tuple[NonFinite, ...]:
    """Those that a node reads, in bodies too, in the order of the graph. Reads every weight.

    One of nothing but NaN that every reader is a ``Where`` of is left out: it marks what does not count.
    """
    found = []
    seen: set[int] = set()
    for value in _constants(graph):
        array = value.const
        if id(value) in seen or array is None or array.dtype.kind != "f":
            continue
        seen.add(id(value))
        flat = array.reshape(-1)
        nan = infinite = 0
        for start in range(0, flat.size, _PIECE):
            piece = flat[start : start + _PIECE]
            with np.errstate(all="ignore"):
                total = piece.sum()  # several times faster than asking each; finite only if all are
            if not np.isfinite(total):
                nan += int(np.isnan(piece).sum())
                infinite += int(np.isinf(piece).sum())
        if nan == flat.size and all(node.op == "Where" and not node.domain for node in value.consumers):
            continue
        if nan or infinite:
            found.append(NonFinite(value.name, flat.size, nan, infinite))
    return tuple(found)


def listed(weights: Sequence[NonFinite], most: int = 5) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(weights) - most} more" if len(weights) > most else ""
    return ", ".join(map(str, weights[:most])) + more


def _constants(graph: Graph) -> Iterator[Value]:
    yield from graph.values()
    for node in graph.nodes:
        for body in node.bodies():
            yield from _constants(body)
