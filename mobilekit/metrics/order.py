"""Rows that stand in another order: what a tie does to the answer of a model that picks rows by score.

A detector keeps the best 300 of some thousand candidates. Where two scores differ by less than a rounding, another
kernel picks them in the other order, and every output has two rows exchanged that are right by themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from mobilekit.tensors import Array

__all__ = ["put_back"]

_REACH = 4
"""Ties exchange neighbours; three that tie go round. Rows further from their place are no tie's doing."""
_LARGEST_SHARE = 0.25
_NEARER = 0.1
_MOST_ELEMENTS = 10_000_000


def put_back(actual: Array, expected: Array) -> tuple[Array, int]:
    """``actual`` with its rows in ``expected``'s order, and how many of them had to move; 0 where that is no question
    of order. Both of one shape; rows lie along the one axis where few enough have moved and each is found once."""
    import numpy as np

    if not 0 < expected.size <= _MOST_ELEMENTS:
        return actual, 0
    scale = float(np.max(np.abs(expected.astype(np.float64)))) or 1.0  # squares of what is large would overflow
    for axis, count in enumerate(expected.shape):
        if count < 2:
            continue
        a, e = (np.moveaxis(one, axis, 0).reshape(count, -1).astype(np.float64) / scale for one in (actual, expected))
        places = _places(a, e)
        moved = int(np.sum(places != np.arange(count)))
        if 2 <= moved <= max(2, _LARGEST_SHARE * count) and len(np.unique(places)) == count:
            return np.take(actual, np.argsort(places), axis=axis), moved
    return actual, 0


def _places(a: np.ndarray[Any, Any], e: np.ndarray[Any, Any]) -> Array:
    """Of each row of ``a`` the row of ``e`` within reach that it is; its own unless another is far nearer."""
    import numpy as np

    count = len(a)
    places, nearest = np.arange(count), np.linalg.norm(a - e, axis=1) * _NEARER
    for shift in range(1, min(_REACH, count - 1) + 1):
        for rows, others, step in (
            (slice(shift, None), slice(None, -shift), -shift),
            (slice(None, -shift), slice(shift, None), shift),
        ):
            distance = np.linalg.norm(a[rows] - e[others], axis=1)
            better = distance < nearest[rows]
            places[rows] = np.where(better, np.arange(count)[rows] + step, places[rows])
            nearest[rows] = np.where(better, distance, nearest[rows])
    return places
