"""OpenCV's arithmetic in numpy, against what OpenCV made (``opencv_golden.py``), and itself where it is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mobilekit.preprocess_opencv import opencv_gray, opencv_resize
from tests.pictures import photo
from tests.unit.preprocess.opencv_golden import SIZES

GOLDEN = np.load(Path(__file__).with_name("opencv_golden.npz"))
FILTERS = {"nearest": 0, "bilinear": 0, "bicubic": 1}
"""How many grey levels may be between."""


@pytest.mark.parametrize("number", range(len(SIZES)))
@pytest.mark.parametrize("name", FILTERS)
def test_resizes_as_opencv_does(name: str, number: int) -> None:
    height, width, to_height, to_width = SIZES[number]
    made = opencv_resize(photo(height, width, number), to_width, to_height, name)  # type: ignore[arg-type]
    golden = GOLDEN[f"{name} {number}"]
    assert made.shape == golden.shape
    assert np.abs(made.astype(int) - golden.astype(int)).max() <= FILTERS[name]


@pytest.mark.parametrize("number", range(len(SIZES)))
def test_is_grey_as_opencv_is(number: int) -> None:
    height, width, *_ = SIZES[number]
    np.testing.assert_array_equal(opencv_gray(photo(height, width, number))[:, :, 0], GOLDEN[f"gray {number}"])


def test_opencv_itself_where_it_is_installed() -> None:
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(5)
    for trial in range(60):
        height, width, to_height, to_width = (int(n) for n in rng.integers(1, 70, 4))
        pixels = photo(height, width, trial)
        expected = cv2.resize(pixels, (to_width, to_height), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_array_equal(opencv_resize(pixels, to_width, to_height), expected)


def test_aligned_corners_keep_the_corners() -> None:
    pixels = photo(20, 30)
    made = opencv_resize(pixels, 13, 9, align_corners=True)
    for row, column in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        np.testing.assert_array_equal(made[row, column], pixels[row, column])
    assert (opencv_resize(pixels, 13, 9)[0, 0] != pixels[0, 0]).any()


def test_the_same_size_is_the_same_picture() -> None:
    pixels = photo(9, 11)
    np.testing.assert_array_equal(opencv_resize(pixels, 11, 9), pixels)
