"""The faint part of a tensor: slices so small that an error of theirs does not show in the error of the whole.

A detector's output may hold boxes in pixels (hundreds) beside scores (0 to 1). All scores gone are a relative L2 of
1e-4 over the whole. Where the sizes of the slices along an axis fall apart into large and small ones, with a wide gap
between, the small ones have a relative L2 of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mobilekit.tensors import Array

__all__ = ["Faint", "faint_part"]

_GAP = 30.0
"""The least ratio between neighbouring sizes that parts large from small: boxes of 320 pixels beside sure scores have
over a hundred, what one layer computes at another place or in another channel differs step by step."""

_LEAST_SHARE = 1 / 16
"""Of the slices: one score among boxes and landmarks. A few of many that happen to be near zero (units of an LSTM's
state) are what is left of larger numbers, whose rounding they carry."""

_LONGEST = 1024
"""An axis of more slices is a place (anchors, pixels, time), not a meaning."""


@dataclass(frozen=True, slots=True)
class Faint:
    """``slices`` of the ``of`` along ``axis`` are faint; ``relative_l2`` is norm(a - e) / norm(e) over them."""

    axis: int
    slices: int
    of: int
    relative_l2: float


def faint_part(actual: Array, expected: Array) -> Faint | None:
    """The faint part of ``expected`` and its error, of floating-point tensors of one shape; ``None`` where it has none.

    Of several axes (the first does not count: it is the batch) the one with the widest gap below its largest slices.
    What is not finite is left out.
    """
    import numpy as np

    if expected.ndim < 2 or expected.dtype.kind != "f" or actual.shape != expected.shape or not expected.size:
        return None
    found: tuple[float, int, NDArray[np.bool_]] | None = None
    valid = np.isfinite(actual) & np.isfinite(expected)
    e = np.where(valid, expected, 0).astype(np.float64)
    squares = np.square(e)
    for axis in range(1, e.ndim):
        if not 2 <= e.shape[axis] <= _LONGEST:
            continue
        sizes = np.sqrt(np.mean(squares, axis=tuple(other for other in range(e.ndim) if other != axis)))
        gap, faint = _parted(sizes)
        if gap >= _GAP and (found is None or gap > found[0]):
            found = gap, axis, faint
    if found is None:
        return None
    _, axis, faint = found
    of = np.compress(faint, e, axis=axis)
    off = np.compress(faint, np.where(valid, actual, 0), axis=axis).astype(np.float64) - of
    return Faint(axis, int(faint.sum()), len(faint), float(np.linalg.norm(off) / np.linalg.norm(of)))


def _parted(sizes: NDArray[np.float64]) -> tuple[float, NDArray[np.bool_]]:
    """The uppermost wide gap between neighbouring sizes that are not zero, as a ratio, and which sizes are below it."""
    import numpy as np

    ranked = np.sort(sizes[sizes > 0])
    ratios = ranked[1:] / ranked[:-1]
    wide = np.flatnonzero(ratios >= _GAP)
    wide = wide[wide + 1 >= _LEAST_SHARE * len(sizes)]
    if not len(wide):
        return 1.0, np.zeros(len(sizes), bool)
    return float(ratios[wide[-1]]), sizes <= ranked[wide[-1]]
