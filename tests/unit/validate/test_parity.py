"""Tensors that were prepared otherwise: how far apart they are, and that the right cause is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mobilekit.errors import UsageError
from mobilekit.preprocess import Preprocess, canvas_of, tensor_of
from mobilekit.preprocess_opencv import opencv_resize
from mobilekit.validate.parity import Explainer, difference, opencv_canvas
from tests.pictures import photo

SIDE = 40
IMAGENET = Preprocess(
    scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize="shorter", resize_to=46
)
BOX = Preprocess(resize="letterbox", color="BGR", scale=1 / 255, mean=(0.0,), std=(1.0,))
PICTURES = [photo(90, 131, 1), photo(117, 76, 2)]


def shape_of(spec: Preprocess) -> tuple[int, ...]:
    channels = 1 if spec.color == "GRAY" else 3
    return (1, channels, SIDE, SIDE) if spec.layout == "NCHW" else (1, SIDE, SIDE, channels)


def pillow(pixels: np.ndarray, spec: Preprocess) -> np.ndarray:
    return tensor_of(canvas_of(pixels, spec, SIDE, SIDE), spec, shape_of(spec))


def opencv(pixels: np.ndarray, spec: Preprocess) -> np.ndarray:
    return tensor_of(opencv_canvas(pixels, spec, SIDE, SIDE), spec, shape_of(spec))


def aligned(pixels: np.ndarray, spec: Preprocess) -> np.ndarray:
    canvas = opencv_resize(pixels, SIDE, SIDE, align_corners=True).astype(np.float32)
    return tensor_of(canvas, spec, shape_of(spec))


def interleaved(pixels: np.ndarray, spec: Preprocess) -> np.ndarray:
    return pillow(pixels, spec).transpose(0, 2, 3, 1).reshape(shape_of(spec))


def by_area(pixels: np.ndarray, spec: Preprocess) -> np.ndarray:
    box = np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)
    return tensor_of(box, spec, shape_of(spec))


def changed(**changes: Any):
    return lambda pixels, spec: pillow(pixels, replace(spec, **changes))


STRETCH = replace(IMAGENET, resize="stretch", resize_to=None)
PLANTED = {
    "BGR": (IMAGENET, changed(color="BGR"), {"BGR for RGB"}),
    "RGB": (BOX, changed(color="RGB"), {"RGB for BGR"}),
    "mean": (IMAGENET, changed(mean=(0.0,)), {"the mean not subtracted"}),
    "std": (IMAGENET, changed(std=(1.0,)), {"not divided by the std"}),
    "neither": (IMAGENET, changed(mean=(0.0,), std=(1.0,)), {"neither mean nor std"}),
    "range": (IMAGENET, changed(scale=1.0), {"not scaled: mean and std of another range than the pixels'"}),
    "twice": (IMAGENET, changed(scale=1 / 255**2), {"scaled by 1/255 once too often"}),
    "raw": (IMAGENET, changed(scale=1.0, mean=(0.0,), std=(1.0,)), {"pixels as they are, 0 to 255"}),
    "signed": (BOX, changed(scale=2 / 255, mean=(1.0,)), {"pixels scaled to -1 to 1"}),
    "other order of mean": (
        IMAGENET,
        changed(mean=IMAGENET.mean[::-1], std=IMAGENET.std[::-1]),
        {"mean and std in the other order of channels"},
    ),
    "stretched": (BOX, changed(resize="stretch"), {"stretched"}),
    "letterboxed": (STRETCH, changed(resize="letterbox"), {"letterboxed in the middle"}),
    "top left": (BOX, changed(anchor="top-left"), {"letterboxed at the top left"}),
    "black bars": (BOX, changed(pad_value=0.0), {"padded with 0"}),
    "plain": (IMAGENET, opencv, {"resized without antialiasing (INTER_LINEAR of OpenCV, from_pixels_resize of ncnn)"}),
    "corners": (STRETCH, aligned, {"resized with aligned corners"}),
    "area": (STRETCH, by_area, {"resized by area (INTER_AREA)"}),
    "nearest": (STRETCH, lambda p, s: opencv(p, replace(s, interpolation="nearest")), {"resized to the nearest pixel"}),
    "interleaved": (IMAGENET, interleaved, {"channels interleaved (HWC)"}),
    "two at once": (
        IMAGENET,
        lambda p, s: opencv(p, replace(s, color="BGR")),
        {"BGR for RGB", "resized without antialiasing (INTER_LINEAR of OpenCV, from_pixels_resize of ncnn)"},
    ),
    "three at once": (
        BOX,
        lambda p, s: opencv(p, replace(s, color="RGB", resize="stretch", scale=1.0)),
        {
            "RGB for BGR",
            "stretched",
            "resized without antialiasing (INTER_LINEAR of OpenCV, from_pixels_resize of ncnn)",
            "not scaled: mean and std of another range than the pixels'",
        },
    ),
    "channels last": (
        replace(IMAGENET, layout="NHWC"),
        changed(layout="NHWC", color="BGR"),
        {"BGR for RGB"},
    ),
    "alike": (IMAGENET, pillow, set()),
}


@pytest.mark.parametrize("name", PLANTED)
def test_the_planted_cause_is_named(name: str) -> None:
    spec, made, wanted = PLANTED[name]
    explainer = Explainer(spec, shape_of(spec))
    for pixels in PICTURES:
        explainer.add(pixels, made(pixels, spec))
    found = explainer.cause()
    assert set(found.deviations) == wanted
    assert found.known
    assert found.left_levels < 0.1
    if wanted:
        assert found.explained > 0.99
        assert found.levels > 1


def test_a_grey_picture_has_no_order() -> None:
    spec = Preprocess(color="GRAY", scale=1 / 255, mean=(0.5,), std=(0.5,))
    explainer = Explainer(spec, shape_of(spec))
    for pixels in PICTURES:
        explainer.add(pixels, pillow(pixels, replace(spec, mean=(0.0,))))
    assert explainer.cause().deviations == ("the mean not subtracted",)


def test_what_nobody_thought_of_is_not_given_a_name() -> None:
    rng = np.random.default_rng(0)
    explainer = Explainer(IMAGENET, shape_of(IMAGENET))
    for pixels in PICTURES:
        explainer.add(pixels, 5 * rng.standard_normal(shape_of(IMAGENET)).astype(np.float32))
    found = explainer.cause()
    assert not found.known
    assert found.deviations == ()


def test_a_difference_is_told_in_grey_levels_and_placed() -> None:
    first = pillow(PICTURES[0], IMAGENET)
    second = first.copy()
    second[0, 2, 5, 7] += np.float32(10 / 255 / 0.225)
    found = difference(first, second, IMAGENET, first.shape)
    assert (found.channel, found.row, found.column) == (2, 5, 7)
    assert found.max_levels == pytest.approx(10, abs=1e-3)
    assert found.mean_levels == pytest.approx(10 / first.size, rel=1e-3)
    assert found.second_level - found.first_level == pytest.approx(10, abs=1e-3)
    assert found.relative_l2 == pytest.approx(np.linalg.norm(second - first) / np.linalg.norm(first), rel=1e-4)
    assert difference(first, first, IMAGENET, first.shape).max_levels == 0


def test_a_scale_of_zero_has_no_levels() -> None:
    spec = replace(IMAGENET, scale=0.0)
    tensor = np.zeros(shape_of(spec), np.float32)
    with pytest.raises(UsageError, match="by 0"):
        difference(tensor, tensor, spec, tensor.shape)
