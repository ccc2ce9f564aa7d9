"""What a layer's wrong output looks like: each rule compares it with the right one and says a likely cause, or not.

Rules see the output of the layer fed right values, so that what they see is this layer's doing alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mobilekit.tensors import Array

    Floats = NDArray[np.float64]

__all__ = ["Seen", "likely_causes"]

_FP16_MAX = 65504.0
_SMALL = 1e-3
_MOST_CHANNELS = 2048


@dataclass(frozen=True, slots=True)
class Seen:
    """``actual`` and ``expected`` as the blob's Mat: (w), (h, w), (c, h, w) or (c, d, h, w), float64.

    ``saturates``: the layer ends in an activation that cuts values off. ``fp16``: it may compute in half precision.
    """

    actual: Floats
    expected: Floats
    saturates: bool
    fp16: bool


def likely_causes(actual: Array, expected: Array, *, saturates: bool = False, fp16: bool = False) -> tuple[str, ...]:
    """Sentences, the most telling first; empty where nothing is recognised."""
    if actual.shape != expected.shape:
        if actual.size == expected.size:
            return (f"its shape is {list(actual.shape)} instead of {list(expected.shape)}",)
        return (f"it has {actual.size} elements of {list(actual.shape)} instead of {list(expected.shape)}",)
    seen = Seen(actual.astype(np.float64), expected.astype(np.float64), saturates, fp16)
    if not np.isfinite(seen.actual).all():
        return tuple(text for text in (_overflow(seen),) if text)
    return tuple(text for rule in _RULES if (text := rule(seen)))[:3]


def _close(a: Floats, b: Floats) -> bool:
    scale = float(np.linalg.norm(b))
    return scale > 0 and float(np.linalg.norm(a - b)) <= _SMALL * scale


def _explains(seen: Seen, a: Floats, b: Floats) -> bool:
    """Whether ``a`` is ``b`` to within a tenth of what there is to explain: of a small error all else is near, too."""
    left = float(np.linalg.norm(a - b))
    return _close(a, b) and left <= 0.1 * float(np.linalg.norm(seen.actual - seen.expected))


def _rows(array: Floats) -> Floats:
    """(channels, the rest); a vector's elements are its channels."""
    return array.reshape(array.shape[0], -1)


def _overflow(seen: Seen) -> str:
    largest = float(np.abs(seen.expected[np.isfinite(seen.expected)]).max(initial=0.0))
    count = int((~np.isfinite(seen.actual)).sum())
    if largest > _FP16_MAX:
        return (
            f"overflow: right values reach {largest:.3g}, half precision ends at 65504; {count} elements are not finite"
        )
    if seen.fp16:
        return f"overflow inside the layer: {count} elements are not finite, though right values end at {largest:.3g}"
    return f"{count} elements are NaN or infinite"


def _nothing(seen: Seen) -> str:
    return "it gives zeros only" if not seen.actual.any() and seen.expected.any() else ""


def _saturated(seen: Seen) -> str:
    largest = float(np.abs(seen.expected).max(initial=0.0))
    return f"saturation: right values reach {largest:.3g}, half precision ends at 65504" if largest > _FP16_MAX else ""


def _activation(seen: Seen) -> str:
    low, high = float(seen.expected.min()), float(seen.expected.max())
    for bound, cut, past in (
        (low, seen.expected <= low, seen.actual < low - _SMALL * max(abs(low), abs(high))),
        (high, seen.expected >= high, seen.actual > high + _SMALL * max(abs(low), abs(high))),
    ):
        if past.any() and cut.mean() > 0.01 and _explains(seen, np.clip(seen.actual, low, high), seen.expected):
            return f"an activation is missing: right values end at {bound:.4g}, these do not"
    limit = float(seen.actual.max())
    capped = seen.expected > limit
    if capped.any() and _explains(seen, np.minimum(seen.expected, limit), seen.actual):
        return f"an activation too much: values end at {limit:.4g}"
    floor = float(seen.actual.min())
    if (seen.expected < floor).any() and _explains(seen, np.maximum(seen.expected, floor), seen.actual):
        return f"an activation too much: values begin at {floor:.4g}"
    return ""


def _scale(seen: Seen) -> str:
    norm = float(np.vdot(seen.expected, seen.expected))
    factor = float(np.vdot(seen.actual, seen.expected)) / norm if norm else 1.0
    if abs(factor - 1) > 2 * _SMALL and abs(factor) > _SMALL and _close(seen.actual, factor * seen.expected):
        return f"scale: every value is {factor:.5g} times the right one"
    return ""


def _bias(seen: Seen) -> str:
    """A difference that is constant in each channel; what an activation cut off says nothing."""
    if seen.actual.ndim < 2:
        return ""
    actual, expected = _rows(seen.actual), _rows(seen.expected)
    free = np.ones(actual.shape, bool)
    if seen.saturates:
        low, high = float(expected.min()), float(expected.max())
        for side in (actual, expected):
            free &= (side > low) & (side < high)
    off, spread, total = 0.0, 0.0, 0
    for channel in range(actual.shape[0]):
        mask = free[channel]
        if mask.sum() < 2:
            continue
        difference = (actual[channel] - expected[channel])[mask]
        off += abs(float(difference.mean())) * mask.sum()
        spread += float(np.abs(difference - difference.mean()).sum())
        total += int(mask.sum())
    if total and off > 0 and spread <= 1e-2 * off:
        return "bias: the difference is constant in each channel (a bias missing, added twice, or of another layer)"
    return ""


def _weights(seen: Seen) -> str:
    """In each channel a straight line of the right values, with the same slope in all: the bias is right."""
    if seen.actual.ndim < 2:
        return ""
    actual, expected = _rows(seen.actual), _rows(seen.expected)
    low, high = (float(expected.min()), float(expected.max())) if seen.saturates else (-np.inf, np.inf)
    slopes, misfit, size = [], 0.0, 0.0
    for a, e in zip(actual, expected, strict=True):
        free = (a > low) & (a < high) & (e > low) & (e < high)
        if free.sum() < 4 or float(np.ptp(e[free])) == 0:
            continue
        slope, offset = np.polyfit(e[free], a[free], 1)
        slopes.append(float(slope))
        misfit += float(np.square(slope * e[free] + offset - a[free]).sum())
        size += float(np.square(a[free] - e[free]).sum())
    if not slopes or misfit > 1e-4 * size or max(slopes) - min(slopes) > 1e-2 * abs(slopes[0]):
        return ""
    slope = float(np.median(slopes))
    return f"its weights are {slope:.4g} times the right ones" if abs(slope - 1) > _SMALL else ""


def _channels(seen: Seen) -> str:
    """A permutation of channels, or few channels wrong and the rest right."""
    actual, expected = _rows(seen.actual), _rows(seen.expected)
    count = actual.shape[0]
    if not 1 < count <= _MOST_CHANNELS:
        return ""
    size = float(np.abs(expected).max()) * np.sqrt(expected.shape[1])
    wrong = np.flatnonzero(np.linalg.norm(actual - expected, axis=1) > _SMALL * size)
    if len(wrong) < 2 or expected.shape[1] < 2:
        if 0 < len(wrong) < count / 4:
            return (
                f"only channel {', '.join(map(str, wrong[:8]))} of {count} {'is' if len(wrong) == 1 else 'are'} wrong"
            )
        return ""
    distance = np.stack([np.linalg.norm(expected[wrong] - actual[one], axis=1) for one in wrong])
    best = distance.argmin(axis=1)
    if len(set(best.tolist())) == len(wrong) and (distance.min(axis=1) <= _SMALL * size).all():
        shown = ", ".join(f"{there} where {here} belongs" for here, there in zip(wrong, wrong[best], strict=True))
        return f"channels stand in another order: {shown if len(wrong) <= 4 else f'{len(wrong)} of {count}'}"
    if len(wrong) < count / 4:
        return f"only {len(wrong)} of {count} channels are wrong: {', '.join(map(str, wrong[:8]))}"
    return ""


def _shift(seen: Seen) -> str:
    """The right picture moved by a step: padding on the other side."""
    if seen.actual.ndim < 2 or min(seen.actual.shape[-2:]) < 4:
        return ""
    for axis, name in ((-1, "w"), (-2, "h")):
        for step in (1, -1):
            moved = np.roll(seen.expected, step, axis)
            inner = [slice(None)] * seen.actual.ndim
            inner[axis] = slice(2, -2)
            if _close(seen.actual[tuple(inner)], moved[tuple(inner)]):
                return f"it is moved by one along {name}: padding on the wrong side, or a slice off by one"
    return ""


def _border(seen: Seen) -> str:
    if seen.actual.ndim < 2 or min(seen.actual.shape[-2:]) < 5:
        return ""
    error = np.square(seen.actual - seen.expected)
    total = float(error.sum())
    sides = {
        "first rows": error[..., :2, 2:-2],
        "last rows": error[..., -2:, 2:-2],
        "first columns": error[..., 2:-2, :2],
        "last columns": error[..., 2:-2, -2:],
    }
    inside = float(error[..., 2:-2, 2:-2].sum())
    if total == 0 or inside > 1e-4 * total:
        return ""
    where = [name for name, part in sides.items() if float(part.sum()) > 0.1 * total]
    return f"only the border is wrong ({', '.join(where)}): padding, or what is counted there"


def _transposed(seen: Seen) -> str:
    a, e = seen.actual, seen.expected
    if e.ndim >= 2 and e.shape[-1] == e.shape[-2] and e.shape[-1] > 1 and _close(a, e.swapaxes(-1, -2)):
        return "the last two axes are swapped"
    return ""


def _sign(seen: Seen) -> str:
    return "the sign is turned round" if _close(-seen.actual, seen.expected) else ""


_RULES: tuple[Callable[[Seen], Any], ...] = (
    _nothing, _saturated, _sign, _scale, _activation, _bias, _weights, _channels, _shift, _border, _transposed,
)  # fmt: skip
