"""Detections: out of the tensors that detectors give, and how far two sets of them agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobilekit.tensors import Array, NamedTensors

__all__ = ["Detections", "average_precision", "decode", "f1", "iou_matrix", "match"]

_SCORE = 0.25
_OVERLAP = 0.45
_MOST = 300
_YOLOX_STRIDES = (8, 16, 32)


@dataclass(frozen=True, slots=True)
class Detections:
    """``boxes``: (n, 4) float64, left, top, right, bottom; ``scores``: (n,), best first; ``classes``: (n,) integers."""

    boxes: Array
    scores: Array
    classes: Array


def decode(outputs: NamedTensors, size: tuple[int, int]) -> Detections:
    """What a detector found. ``size``: height and width of its input.

    Known layouts, each of one image:

    * ``(1, n, 6)``, ``(n, 6)``: left, top, right, bottom, score, class; already selected. Where the last column is no
      whole numbers, or there are as many rows as YOLOX has cells, it is the only class's score of the third layout;
    * ``(1, 4 + C, n)``: centre, size and ``C`` class scores along the second axis (YOLOv8 and later);
    * ``(1, n, 5 + C)``: centre, size, objectness, class scores; YOLOX's, whose rows are cells of strides 8, 16, 32,
      are told by their number;
    * ``(1, n, 4)`` and ``(1, n, C)`` or ``(1, n)`` together: corners and scores.

    Boxes below a score of 0.25 are dropped, and those that overlap a better one of their class by more than 0.45.
    Raises :class:`ValueError` for other shapes.
    """
    import numpy as np

    arrays = [np.asarray(a, dtype=np.float64) for a in outputs.values() if np.asarray(a).dtype.kind == "f"]
    shapes = [a.shape for a in arrays]
    if len(arrays) == 1:
        one = arrays[0][0] if arrays[0].ndim == 3 else arrays[0]
        cells = sum((size[0] // s) * (size[1] // s) for s in _YOLOX_STRIDES)
        if one.ndim == 2 and one.shape[1] == 6 and len(one) != cells and bool(np.all(one[:, 5] == np.rint(one[:, 5]))):
            return _kept(one[:, :4], one[:, 4], one[:, 5].astype(np.int64), suppress=False)
        if one.ndim == 2 and one.shape[0] < one.shape[1] and one.shape[0] > 4:
            scores = one[4:].T
            return _best(_corners(one[:4].T), scores)
        if one.ndim == 2 and one.shape[1] > 5:
            boxes = one[:, :4]
            if len(one) == cells and _is_raw(boxes, size):
                boxes = _yolox(boxes, size)
            return _best(_corners(boxes), one[:, 5:] * one[:, 4:5])
    if len(arrays) == 2:
        flat = [a[0] if a.ndim == 3 else a.reshape(-1, 1) for a in arrays if a.ndim in (2, 3) and len(a) == 1]
        for boxes, scores in (flat, flat[::-1]) if len(flat) == 2 else ():
            if boxes.shape[1] == 4 and len(boxes) == len(scores):
                return _best(boxes, scores)
    told = ", ".join(str(list(shape)) for shape in shapes)
    raise ValueError(f"outputs of shape {told} are none of the detectors' layouts that are known")


def _is_raw(boxes: Array, size: tuple[int, int]) -> bool:
    """Offsets within cells and logarithms of sizes, not pixels."""
    import numpy as np

    return float(np.median(np.abs(boxes))) < 0.02 * max(size)


def _yolox(boxes: Any, size: tuple[int, int]) -> Any:
    import numpy as np

    cells, steps = [], []
    for stride in _YOLOX_STRIDES:
        y, x = np.mgrid[: size[0] // stride, : size[1] // stride]
        cells.append(np.stack([x.ravel(), y.ravel()], axis=1))
        steps.append(np.full((x.size, 1), stride))
    step = np.concatenate(steps)
    return np.concatenate([(boxes[:, :2] + np.concatenate(cells)) * step, np.exp(boxes[:, 2:]) * step], axis=1)


def _corners(boxes: Any) -> Any:
    import numpy as np

    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def _best(boxes: Any, scores: Any) -> Detections:
    import numpy as np

    classes = np.argmax(scores, axis=1)
    return _kept(boxes, scores[np.arange(len(scores)), classes], classes, suppress=True)


def _kept(boxes: Any, scores: Any, classes: Any, *, suppress: bool) -> Detections:
    """Above the threshold, best first; with ``suppress``, greedily without those that a better one covers."""
    import numpy as np

    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] >= _SCORE]
    if suppress:
        order = order[: 10 * _MOST]
        overlaps = iou_matrix(boxes[order], boxes[order])
        same = classes[order][:, None] == classes[order][None, :]
        covers = same & (overlaps > _OVERLAP)
        left = np.ones(len(order), dtype=bool)
        for index in range(len(order)):
            if left[index]:
                left[index + 1 :] &= ~covers[index, index + 1 :]
        order = order[left]
    order = order[:_MOST]
    return Detections(boxes[order], scores[order], classes[order])


def iou_matrix(one: Any, other: Any) -> Any:
    """Intersection over union of every pair of boxes: (n, 4) and (m, 4) to (n, m)."""
    import numpy as np

    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(np.clip(b[:, 2:] - b[:, :2], 0, None), axis=1) for b in (one, other)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def match(found: Detections, wanted: Detections, overlap: float = 0.5) -> list[tuple[int | None, int | None]]:
    """Each box of ``found``, best first, with the free box of ``wanted`` of its class that it overlaps most, by at
    least ``overlap``, or with ``None``; then those of ``wanted`` that are left, with ``None`` before them."""
    overlaps = iou_matrix(found.boxes, wanted.boxes)
    taken: set[int] = set()
    pairs: list[tuple[int | None, int | None]] = []
    for index in range(len(found.scores)):
        free = [
            (float(overlaps[index, j]), j)
            for j in range(len(wanted.scores))
            if j not in taken and wanted.classes[j] == found.classes[index] and overlaps[index, j] >= overlap
        ]
        other = max(free)[1] if free else None
        pairs.append((index, other))
        if other is not None:
            taken.add(other)
    return pairs + [(None, j) for j in range(len(wanted.scores)) if j not in taken]


def _hits(found: Detections, wanted: Detections, overlap: float) -> list[bool]:
    """For each of ``found``, best first: is it a box of ``wanted`` that none before it took?"""
    return [other is not None for _, other in match(found, wanted, overlap)[: len(found.scores)]]


def f1(found: Detections, wanted: Detections, overlap: float = 0.5) -> float:
    """Of boxes of the same class with an overlap of ``overlap``; 1 where neither has any."""
    total = len(found.scores) + len(wanted.scores)
    return 2 * sum(_hits(found, wanted, overlap)) / total if total else 1.0


def average_precision(found: Detections, wanted: Detections, overlap: float = 0.5) -> float:
    """Mean over the classes of ``wanted`` of the area below precision over recall, precision made monotone (as PASCAL
    VOC 2010 does); 1 where neither has any, 0 where only ``found`` has."""
    import numpy as np

    classes = sorted(set(wanted.classes.tolist()))
    if not classes:
        return float(len(found.scores) == 0)
    areas = []
    for number in classes:
        ours, theirs = (
            Detections(d.boxes[d.classes == number], d.scores[d.classes == number], d.classes[d.classes == number])
            for d in (found, wanted)
        )
        hits = np.cumsum(_hits(ours, theirs, overlap))
        recall = hits / len(theirs.scores)
        precision = hits / np.arange(1, len(hits) + 1)
        best = np.maximum.accumulate(precision[::-1])[::-1]
        areas.append(float(np.sum(np.diff(recall, prepend=0.0) * best)))
    return float(np.mean(areas))
