"""Up to which input size a tensor suffices that does not grow with it: a table of positions, cut to the length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mobilekit.targets.ncnn.unify import Cut

__all__ = ["most_steps"]


def most_steps(cut: Cut, points: Sequence[tuple[int, ...]]) -> tuple[int, int] | None:
    """The free axis that ``cut`` follows, and how many steps of it the tensor suffices for at most; ``None`` where it
    follows several, or not by so many elements a step. ``points``: the counts of steps at each size."""
    found: list[tuple[int, int]] = []
    for bounds, room in ((cut.end, cut.size), (cut.start, 0)):
        if len(set(bounds)) == 1:
            continue
        index = next((i for i in range(len(points[0])) if _line([p[i] for p in points], bounds) is not None), None)
        if index is None:
            return None
        slope, offset = _line([p[index] for p in points], bounds) or (0, 0)
        if (slope > 0) == (bounds is cut.end):
            found.append((index, (room - offset) // slope))
    if len({index for index, _ in found}) != 1:
        return None
    return min(found, key=lambda each: each[1])


def _line(counts: Sequence[int], values: Sequence[int]) -> tuple[int, int] | None:
    """``(slope, offset)`` in whole numbers with ``value == slope * count + offset`` everywhere, if there are any."""
    first, other = counts[0], next((count for count in counts if count != counts[0]), None)
    if other is None:
        return None
    slope, rest = divmod(values[counts.index(other)] - values[0], other - first)
    offset = values[0] - slope * first
    exact = rest == 0 and all(value == slope * count + offset for count, value in zip(counts, values, strict=True))
    return (slope, offset) if exact else None
