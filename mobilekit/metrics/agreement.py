"""How far two answers agree in the terms of the task, 0 to 1: classes, regions, text, embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobilekit.tensors import Array

__all__ = ["cosine_rows", "ctc_greedy", "edit_distance", "mean_iou", "text_agreement", "top_k_agreement"]


def top_k_agreement(actual: Array, expected: Array, k: int) -> float:
    """Share of the ``k`` best classes that both have, a mean over the rows of ``(N, classes)`` (axes of 1 aside).

    For ``k`` = 1, classes that tie for the best in ``expected`` are all right. Raises :class:`ValueError` where the
    tensors are no lists of class scores.
    """
    import numpy as np

    from mobilekit.metrics.tensors import class_scores

    a: Any = class_scores(actual)
    e: Any = class_scores(expected)
    if a is None or e is None or a.shape != e.shape:
        raise ValueError(f"shape {list(expected.shape)} is no list of class scores")
    k = min(k, a.shape[1])
    chosen = np.argsort(-a, axis=1, kind="stable")[:, :k]
    # Whatever reaches the k-th best score of the reference is among its k best, ties included.
    least = -np.sort(-e, axis=1)[:, k - 1 : k]
    return float(np.mean(np.take_along_axis(e, chosen, axis=1) >= least))


def cosine_rows(actual: Array, expected: Array) -> float:
    """The least cosine between rows, the last axis being the embedding's; 1 where both are zero, 0 where one is."""
    import numpy as np

    a = actual.reshape(-1, actual.shape[-1]).astype(np.float64)
    e = expected.reshape(-1, expected.shape[-1]).astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(e, axis=1)
    dots = np.sum(a * e, axis=1)
    both_zero = (np.linalg.norm(a, axis=1) == 0) & (np.linalg.norm(e, axis=1) == 0)
    cosines = np.where(norms > 0, dots / np.where(norms > 0, norms, 1), both_zero.astype(np.float64))
    return float(np.min(np.clip(cosines, -1, 1), initial=1.0))


def mean_iou(actual: Any, expected: Any) -> float:
    """Intersection over union of regions, a mean over the classes that either has; 1 where neither has any.

    ``(N, C, H, W)`` with ``C`` > 1: the class of a pixel is the best of its scores. Anything else: one region, where
    the value is above 0.5.
    """
    import numpy as np

    if expected.ndim == 4 and expected.shape[1] > 1:
        a, e = np.argmax(actual, axis=1), np.argmax(expected, axis=1)
        classes: Sequence[int] = np.union1d(a, e).tolist()
    else:
        a, e = (actual > 0.5).astype(np.int64), (expected > 0.5).astype(np.int64)
        classes = [1]
    shares = []
    for number in classes:
        union = int(np.sum((a == number) | (e == number)))
        if union:
            shares.append(int(np.sum((a == number) & (e == number))) / union)
    return float(np.mean(shares)) if shares else 1.0


def ctc_greedy(scores: Array, blank: int = 0) -> tuple[int, ...]:
    """The best path of ``(1, time, classes)`` or ``(time, 1, classes)``: repeats merged, then blanks dropped."""
    import numpy as np

    best = np.argmax(scores.reshape(-1, scores.shape[-1]), axis=1)
    kept = best[np.concatenate([[True], best[1:] != best[:-1]])] if best.size else best
    return tuple(int(c) for c in kept if c != blank)


def edit_distance(one: Sequence[object], other: Sequence[object]) -> int:
    """Insertions, deletions and replacements that turn ``one`` into ``other`` (Levenshtein), in O(len * len)."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        last, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (a != b))
    return row[-1]


def text_agreement(actual: Sequence[object], expected: Sequence[object]) -> float:
    """1 less the edit distance per character of the longer text; 1 where both are empty."""
    longest = max(len(actual), len(expected))
    return 1.0 - edit_distance(actual, expected) / longest if longest else 1.0
