"""Write ``opencv_golden.npz``: what OpenCV itself makes of a few pictures.

In an environment with opencv-python-headless, from the root: ``python tests/unit/preprocess/opencv_golden.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[3]))
from tests.pictures import photo

SIZES = ((37, 53, 24, 20), (20, 31, 41, 64), (48, 64, 24, 32), (7, 1, 5, 9), (64, 30, 64, 11))
"""Height and width of the picture, and of what it is resized to."""


def main() -> None:
    import cv2

    filters = {"nearest": cv2.INTER_NEAREST, "bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
    made = {"version": np.array(cv2.__version__)}
    for number, (height, width, to_height, to_width) in enumerate(SIZES):
        pixels = photo(height, width, number)
        made[f"gray {number}"] = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        for name, flag in filters.items():
            made[f"{name} {number}"] = cv2.resize(pixels, (to_width, to_height), interpolation=flag)
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **made)


if __name__ == "__main__":
    main()
