"""What both sides said of one sample, in the terms of the task: classes, boxes, or a region for each pixel."""

from __future__ import annotations

from pydantic import Field

from mobilekit.report.base import Frozen

__all__ = ["MASK_SIDE", "Box", "BoxPair", "ClassPair", "Mask", "MaskPair", "SampleAnswer"]

MASK_SIDE = 160


class ClassPair(Frozen):
    """A class that is among the best of either side, with both sides' probabilities, 0 to 1."""

    label: str
    reference: float
    device: float


class Box(Frozen):
    """In pixels of the model's input; ``score`` 0 to 1."""

    left: float
    top: float
    right: float
    bottom: float
    score: float


class BoxPair(Frozen):
    """One object, by the reference and by the device; ``None`` where that side has none there of this class."""

    label: str
    reference: Box | None
    device: Box | None


class Mask(Frozen):
    """The class of every pixel, row by row, as runs of (class, length), thinned to 160 pixels a side at most."""

    width: int = Field(ge=1, le=MASK_SIDE)
    height: int = Field(ge=1, le=MASK_SIDE)
    runs: tuple[tuple[int, int], ...]


class MaskPair(Frozen):
    """``agreement``: the share of the output's pixels (all of them) whose class is the same."""

    reference: Mask
    device: Mask
    agreement: float


class SampleAnswer(Frozen):
    """``width`` and ``height`` are the model's input's. ``more_boxes``: pairs that are not listed."""

    sample: str
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    classes: tuple[ClassPair, ...] = ()
    boxes: tuple[BoxPair, ...] | None = None
    more_boxes: int = 0
    mask: MaskPair | None = None
