"""Both sides' outputs for one sample, read as its task has them: classes, boxes, or a class for each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mobilekit.report.answers import MASK_SIDE, Box, BoxPair, ClassPair, Mask, MaskPair, SampleAnswer

if TYPE_CHECKING:
    from mobilekit.bundle import Manifest
    from mobilekit.metrics.detect import Detections
    from mobilekit.tensors import Array, NamedTensors
    from mobilekit.validate.inputs import Sample

__all__ = ["answer_of"]

_MOST_BOXES = 40
_TOP = 3
_REGIONS = ("segmentation", "detection")
"""Detectors too: one of text, say, answers with a map of where text is."""


def _input_size(manifest: Manifest, inputs: NamedTensors) -> tuple[int, int]:
    """Height and width of the picture among ``inputs``; ``(0, 0)`` where there is none."""
    from mobilekit.validate.inputs import picture_input

    name = picture_input(manifest.inputs, manifest.preprocess)
    fitting = [array.shape for key, array in inputs.items() if key == name or (not name and len(array.shape) == 4)]
    if not fitting or len(fitting[0]) not in (3, 4):
        return 0, 0
    sides = fitting[0][-3:]
    last = manifest.preprocess is not None and manifest.preprocess.layout == "NHWC"
    return (sides[0], sides[1]) if last else (sides[1], sides[2])


def answer_of(
    sample: Sample,
    actual: NamedTensors,
    expected: NamedTensors,
    manifest: Manifest,
    labels: Sequence[str],
    metrics: Sequence[str] = (),
) -> SampleAnswer | None:
    """``None`` where the outputs are none that can be shown. The task is the manifest's, or one that one of the task
    metrics asked for is about."""
    height, width = _input_size(manifest, sample.tensors)
    if not height * width or any(actual[name].shape != array.shape for name, array in expected.items()):
        return None
    asked = {metric.partition("=")[0] for metric in metrics}
    made = SampleAnswer(sample=sample.name, width=width, height=height)
    if manifest.task == "detection" or asked & {"detect", "detect-map"}:
        pairs = _boxes(actual, expected, (height, width), labels)
        if pairs is not None:
            more = max(0, len(pairs) - _MOST_BOXES)
            return made.model_copy(update={"boxes": tuple(pairs[:_MOST_BOXES]), "more_boxes": more})
    if manifest.task in _REGIONS or "iou" in asked:
        for name, array in expected.items():
            if _is_map(array, (height, width)):
                return made.model_copy(update={"mask": _masks(actual[name], array)})
    if labels or manifest.task == "classification" or any(name.startswith("top") for name in asked):
        classes = _classes(actual, expected, labels)
        if classes:
            return made.model_copy(update={"classes": classes})
    return None


def _classes(actual: NamedTensors, expected: NamedTensors, labels: Sequence[str]) -> tuple[ClassPair, ...]:
    """The three best of either side, of the first output that has a finite score for each class."""
    import numpy as np

    from mobilekit.metrics.classify import probabilities

    for name, theirs in expected.items():
        ours = actual[name]
        count = max(theirs.shape, default=0)
        if count < 2 or theirs.size != count or (labels and count != len(labels)):
            continue
        if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
            continue
        sides: list[Any] = [probabilities(array) for array in (ours, theirs)]
        device, reference = sides
        best = [int(i) for side in (reference, device) for i in np.argsort(-side, kind="stable")[:_TOP]]
        return tuple(
            ClassPair(
                label=labels[i] if labels else f"class {i}", reference=float(reference[i]), device=float(device[i])
            )
            for i in dict.fromkeys(best)
        )
    return ()


def _boxes(
    actual: NamedTensors, expected: NamedTensors, size: tuple[int, int], labels: Sequence[str]
) -> list[BoxPair] | None:
    """Pairs of boxes of one class that overlap, and those without a partner; the best first."""
    from mobilekit.metrics.detect import decode, match

    try:
        ours, theirs = decode(actual, size), decode(expected, size)
    except ValueError:
        return None
    found = [
        BoxPair(
            label=_label(int(theirs.classes[j] if j is not None else ours.classes[i]), labels),
            reference=None if j is None else _box(theirs, j),
            device=None if i is None else _box(ours, i),
        )
        for i, j in match(ours, theirs)
    ]
    return sorted(found, key=lambda pair: -max(box.score for box in (pair.reference, pair.device) if box is not None))


def _label(number: int, labels: Sequence[str]) -> str:
    return labels[number] if 0 <= number < len(labels) else f"class {number}"


def _box(found: Detections, index: int) -> Box:
    left, top, right, bottom = (float(side) for side in found.boxes[index])
    return Box(left=left, top=top, right=right, bottom=bottom, score=float(found.scores[index]))


def _is_map(array: Array, size: tuple[int, int]) -> bool:
    """``(1, C, h, w)`` or ``(1, h, w)``, where the input is the same whole number of times as high and as wide."""
    if len(array.shape) not in (3, 4) or array.shape[0] != 1 or min(array.shape) < 1:
        return False
    height, width = array.shape[-2:]
    return min(height, width) > 1 and size[0] % height == size[1] % width == 0 and size[0] // height == size[1] // width


def _masks(actual: Array, expected: Array) -> MaskPair:
    import numpy as np

    device, reference = _regions(actual), _regions(expected)
    return MaskPair(reference=_mask(reference), device=_mask(device), agreement=float(np.mean(device == reference)))


def _regions(array: Any) -> Any:
    """The class of each pixel, ``(h, w)``: the best of its scores; of a single map 1 where it is above 0.5; of whole
    numbers they themselves."""
    import numpy as np

    planes = array.reshape(-1, *array.shape[-2:])
    if len(planes) > 1:
        return np.argmax(planes, axis=0)
    return planes[0].astype(np.int64) if array.dtype.kind in "iub" else (planes[0] > 0.5).astype(np.int64)


def _mask(regions: Any) -> Mask:
    import numpy as np

    step = -(-max(regions.shape) // MASK_SIDE)
    thin = regions[::step, ::step]
    flat = thin.ravel()
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    lengths = np.diff(np.append(starts, flat.size))
    runs = tuple((int(flat[start]), int(length)) for start, length in zip(starts, lengths, strict=True))
    return Mask(width=thin.shape[1], height=thin.shape[0], runs=runs)
