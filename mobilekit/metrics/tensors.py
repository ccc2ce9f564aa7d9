"""How far one tensor is from another: the numbers every verdict is made of.

All sums run in float64. With ``a`` the actual and ``e`` the expected tensor, over the elements finite in both:

=============  ==================================================================================
max_abs        max abs(a - e)
max_rel        max abs(a - e) / max(abs(e), 1e-3 * max abs(e)); the floor keeps elements near zero from ruling
relative_l2    norm(a - e) / norm(e); 0 where both are zero, infinite where only ``e`` is
cosine         a·e / (norm(a) * norm(e)); 1 where both are zero, 0 where one is
psnr_db        10 * log10((max e - min e)^2 / mean((a - e)^2)); infinite where a equals e
=============  ==================================================================================

An element that is NaN or infinite in one tensor and not the same in the other makes every error infinite.

Elements that a mask has set to its constant (-1e9, the lowest float32 and their like) are left out where both tensors
have it and it is a thousand times the largest of the others: in the norm of ``e`` it would hide any error of theirs.

Whole numbers of 32 bits or more are names (classes, indices, tokens): 281 is no nearer to 282 than to 5. Their relative
L2 and cosine are those of their one-hot encodings: sqrt(2 s) and 1 - s, where ``s`` is the share that differs.
Whole numbers of 8 and 16 bits are taken for amounts (pictures, quantised values).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mobilekit.tensors import Array

__all__ = ["TensorError", "class_scores", "compare", "differs", "top1_agreement", "worst"]

_REL_FLOOR = 1e-3
_NEAR_ZERO = 1e-12
_CONSTANT = 1e-6
_NAME_BYTES = 4


@dataclass(frozen=True, slots=True)
class TensorError:
    """The distance of an actual tensor from the expected one; formulas at the top of this module.

    ``mismatch`` says in words what differs before any value does (shape or dtype); the errors are infinite then.
    ``by_data``: that may depend on the data and not on the computation alone: the length of one axis, what is finite.
    ``evidence`` is False where the expected tensor is empty, zero, constant or not finite: agreement with it says
    nothing about the computation. ``expected_spread`` is the relative L2 error that the expected tensor's own mean
    would have, were it given everywhere; 1 for a single number. ``constant_psnr_db`` is the PSNR of the same.
    ``nonfinite_actual`` and ``nonfinite_expected`` count NaN and infinities. ``moved`` rows stand in another place,
    near by; ``in_order_l2`` is the relative L2 with them put back (:mod:`mobilekit.metrics.order`). ``faint`` says
    which part is too small to show in the whole, and ``faint_l2`` is its relative L2 (:mod:`mobilekit.metrics.faint`).
    """

    max_abs: float
    max_rel: float
    relative_l2: float
    cosine: float
    psnr_db: float
    expected_max_abs: float
    elements: int
    nonfinite_actual: int = 0
    nonfinite_expected: int = 0
    evidence: bool = True
    mismatch: str = ""
    expected_spread: float = 1.0
    constant_psnr_db: float = -math.inf
    by_data: bool = False
    moved: int = 0
    in_order_l2: float = math.inf
    faint: str = ""
    faint_l2: float = 0.0

    def in_faint_part(self) -> TensorError:
        """This one, with the relative L2 of its faint part for that of the whole where it is more."""
        return replace(self, relative_l2=self.faint_l2) if self.faint_l2 > self.relative_l2 else self


def differs(
    elements: int, mismatch: str, *, bad_actual: int = 0, bad_expected: int = 0, by_data: bool = False
) -> TensorError:
    """The error of a tensor that cannot be compared, and why (``mismatch``): everything is infinite."""
    return TensorError(
        max_abs=math.inf,
        max_rel=math.inf,
        relative_l2=math.inf,
        cosine=0.0,
        psnr_db=-math.inf,
        expected_max_abs=math.nan,
        elements=elements,
        nonfinite_actual=bad_actual,
        nonfinite_expected=bad_expected,
        mismatch=mismatch,
        by_data=by_data,
    )


def _other_shape(actual: Array, expected: Array) -> TensorError:
    axes = [axis for axis, (a, e) in enumerate(zip(actual.shape, expected.shape, strict=False)) if a != e]
    if actual.ndim != expected.ndim or len(axes) != 1:
        return differs(expected.size, f"shape {list(actual.shape)} instead of {list(expected.shape)}")
    # A length that depends on data (how many boxes are left) is a result of its own.
    (axis,) = axes
    what = f"{actual.shape[axis]} instead of {expected.shape[axis]} elements along axis {axis}"
    return differs(expected.size, what, by_data=actual.dtype == expected.dtype)


def compare(actual: Array, expected: Array) -> TensorError:
    """Measure ``actual`` against ``expected``, both of any shape and any real dtype (bool counts as 0 and 1)."""
    measured = _measure(actual, expected)
    if not 0 < measured.relative_l2 < math.inf:
        return measured
    from mobilekit.metrics.faint import faint_part

    if (part := faint_part(actual, expected)) is not None:
        what = f"the {part.slices} of {part.of} along axis {part.axis} that are far smaller than the others"
        measured = replace(measured, faint=what, faint_l2=part.relative_l2)
    if measured.relative_l2 <= _DISORDER:
        return measured
    from mobilekit.metrics.order import put_back

    back, moved = put_back(actual, expected)
    return replace(measured, moved=moved, in_order_l2=_measure(back, expected).relative_l2) if moved else measured


_DISORDER = 1e-5


def _measure(actual: Array, expected: Array) -> TensorError:
    import numpy as np

    if actual.shape != expected.shape:
        return _other_shape(actual, expected)
    if actual.dtype != expected.dtype:
        return differs(expected.size, f"dtype {actual.dtype} instead of {expected.dtype}")
    a = actual.astype(np.float64).ravel()
    e = expected.astype(np.float64).ravel()
    finite_a, finite_e = np.isfinite(a), np.isfinite(e)
    bad_a, bad_e = int(a.size - finite_a.sum()), int(e.size - finite_e.sum())
    both = finite_a & finite_e
    if bad_a or bad_e:
        same = np.where(np.isnan(e), np.isnan(a), a == e)
        wrong = int(np.sum(~both & ~same))
        if wrong:
            what = f"{wrong} elements are NaN or infinite on one side only"
            return differs(expected.size, what, bad_actual=bad_a, bad_expected=bad_e, by_data=True)
        a, e = a[both], e[both]
    if e.size == 0:
        return TensorError(
            0.0, 0.0, 0.0, 1.0, math.inf, 0.0, expected.size, bad_a, bad_e, evidence=False
        )  # nothing finite to compare
    answers = _answers(a, e)
    if answers is not None:
        a, e = a[answers], e[answers]
    # Scaled by the largest magnitude, so that squares of huge or tiny values neither overflow nor vanish.
    peak = float(np.max(np.abs(e)))
    scale = max(peak, float(np.max(np.abs(a)))) or 1.0
    a_s, e_s = a / scale, e / scale
    difference = a_s - e_s
    max_abs = float(np.max(np.abs(a - e)))
    norm_d, norm_e, norm_a = (float(np.linalg.norm(v)) for v in (difference, e_s, a_s))
    floor = np.maximum(np.abs(e), _REL_FLOOR * peak)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        relative = np.abs(a - e) / floor
    spread = float(np.max(e_s) - np.min(e_s))
    around_mean = float(np.linalg.norm(e_s - np.mean(e_s)))
    measured = TensorError(
        max_abs=max_abs,
        max_rel=0.0 if max_abs == 0 else (float(np.max(relative)) if peak else math.inf),
        relative_l2=_ratio(norm_d, norm_e),
        cosine=_cosine(float(np.dot(a_s, e_s)), norm_a, norm_e),
        psnr_db=_psnr(norm_d, spread, e.size),
        expected_max_abs=peak,
        elements=expected.size,
        nonfinite_actual=bad_a,
        nonfinite_expected=bad_e,
        evidence=_evidence(peak, float(np.max(e) - np.min(e)), e.size),
        expected_spread=_ratio(around_mean, norm_e) if e.size > 1 else 1.0,
        constant_psnr_db=_psnr(around_mean, spread, e.size) if e.size > 1 else -math.inf,
    )
    return _as_names(measured, actual, expected) if _names(expected) else measured


def _names(array: Array) -> bool:
    return array.dtype.kind in "iu" and array.dtype.itemsize >= _NAME_BYTES


def _as_names(measured: TensorError, actual: Array, expected: Array) -> TensorError:
    import numpy as np

    share = float(np.mean(actual != expected))
    _, counts = np.unique(expected, return_counts=True)
    others = 1 - float(counts.max()) / expected.size
    return replace(
        measured,
        relative_l2=math.sqrt(2 * share),
        cosine=1 - share,
        expected_spread=math.sqrt(2 * others) if expected.size > 1 else 1.0,
    )


_HIDES = 1e3


def _answers(a: Array, e: Array) -> Array | None:
    """Where ``e`` is no mask's constant; ``None`` where it has none that hides the others, or ``a`` has another."""
    import numpy as np

    extreme = float(e[np.argmax(np.abs(e))])
    where = e == extreme
    if abs(extreme) < _SMALLEST_MASK or where.all() or not (a[where] == extreme).all():
        return None
    lowest = [float(np.finfo(np.float32).max), float(np.finfo(np.float16).max), *_BFLOAT16_MAX]
    constants = [*(float(np.float32(10.0**power)) for power in range(4, 39)), *lowest]
    if abs(extreme) not in {value / half for value in constants for half in (1, 2)}:
        return None
    others: Array = ~where
    return others if float(np.max(np.abs(e[others]))) * _HIDES <= abs(extreme) else None


_SMALLEST_MASK = 5e3
_BFLOAT16_MAX = (3.3895313892515355e38,)


def _psnr(norm: float, spread: float, elements: int) -> float:
    """In dB, of a difference with this norm; ``spread`` is the expected tensor's."""
    if norm == 0:
        return math.inf
    return 20 * math.log10(spread / norm) + 10 * math.log10(elements) if spread else -math.inf


def _ratio(difference: float, reference: float) -> float:
    if difference == 0:
        return 0.0
    return difference / reference if reference else math.inf


def _cosine(dot: float, norm_a: float, norm_e: float) -> float:
    if norm_a == 0 and norm_e == 0:
        return 1.0
    if norm_a == 0 or norm_e == 0:
        return 0.0
    return max(-1.0, min(1.0, dot / norm_a / norm_e))


def _evidence(peak: float, spread: float, size: int) -> bool:
    """A single number is evidence unless it is zero; several are unless they are all the same."""
    if peak <= _NEAR_ZERO:
        return False
    return size == 1 or spread > _CONSTANT * peak


def worst(errors: Iterable[TensorError]) -> TensorError:
    """The errors of several samples of one output as one: the worst of each number, counts added up.

    It carries evidence where any sample does. Raises :class:`ValueError` for no errors at all.
    """
    every = tuple(errors)
    if not every:
        raise ValueError("no errors to take the worst of")
    return TensorError(
        max_abs=max(e.max_abs for e in every),
        max_rel=max(e.max_rel for e in every),
        relative_l2=max(e.relative_l2 for e in every),
        cosine=min(e.cosine for e in every),
        psnr_db=min(e.psnr_db for e in every),
        expected_max_abs=max((e.expected_max_abs for e in every if not math.isnan(e.expected_max_abs)), default=0.0),
        elements=every[0].elements,
        nonfinite_actual=sum(e.nonfinite_actual for e in every),
        nonfinite_expected=sum(e.nonfinite_expected for e in every),
        evidence=any(e.evidence for e in every),
        mismatch=next((e.mismatch for e in every if e.mismatch), ""),
        expected_spread=max(e.expected_spread for e in every),
        constant_psnr_db=min(e.constant_psnr_db for e in every),
        by_data=all(e.by_data for e in every if e.mismatch),
        moved=max(e.moved for e in every),
        faint=next((e.faint for e in every if e.faint), ""),
        faint_l2=max(e.faint_l2 for e in every),
    )


def class_scores(array: Array) -> Array | None:
    """A classifier's output as ``(N, K)`` scores, or ``None`` where the tensor does not look like one.

    Taken for one: a floating-point tensor of rank 2 or more in which, after the first axis, exactly one axis is
    longer than 1 (``(1, 1000)``, ``(1, 1000, 1, 1)``).
    """
    import numpy as np

    if array.ndim < 2 or not np.issubdtype(array.dtype, np.floating) or array.shape[0] == 0:
        return None
    long = [axis for axis in array.shape[1:] if axis != 1]
    if len(long) != 1 or long[0] < 2:
        return None
    return array.reshape(array.shape[0], long[0])


def top1_agreement(actual: Array, expected: Array) -> float | None:
    """Share of rows whose best class is the same, 0 to 1; ``None`` where the output is no classifier's.

    Classes that tie for the best in ``expected`` are all right.
    """
    import numpy as np

    if actual.shape != expected.shape:
        return None
    a, e = class_scores(actual), class_scores(expected)
    if a is None or e is None:
        return None
    chosen = np.argmax(a, axis=1)
    right = e[np.arange(len(e)), chosen] == np.max(e, axis=1)
    return float(np.mean(right))
