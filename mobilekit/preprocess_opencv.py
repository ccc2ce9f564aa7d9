"""Resizing as OpenCV does it for 8-bit pictures, in numpy: what a C++ or Java app on the phone most likely calls.

OpenCV's ``cv::resize`` takes, for a result of ``n`` pixels from ``m``, the position ``(i + 0.5) * m / n - 0.5`` (in
float32) and the pixels around it, however much the picture shrinks: there is no filter against aliasing, other than in
Pillow, torchvision (``antialias=True``) and TensorFlow's ``antialias``. 8-bit pictures are computed in whole numbers:
weights in units of 1/2048, and for ``INTER_LINEAR`` (``imgproc/src/resize.cpp``, ``VResizeLinear``) a row's sum
shifted by 4, times a weight, shifted by 16, plus 2, shifted by 2. ncnn's ``from_pixels_resize`` computes the same.

Nearest, bilinear and grey are OpenCV's to the last bit; bicubic to within one grey level, since OpenCV takes other
ways to round there on different processors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from typing import TypeAlias

    import numpy.typing as npt

    from mobilekit.tensors import Array

    Whole: TypeAlias = npt.NDArray[np.int64]

__all__ = ["Interpolation", "opencv_gray", "opencv_resize"]

Interpolation = Literal["nearest", "bilinear", "bicubic"]

_ONE = 2048
_CUBIC = np.float32(-0.75)


def opencv_gray(pixels: Array) -> Array:
    """``cv::cvtColor(COLOR_RGB2GRAY)`` of ``(H, W, 3) uint8``: ``(H, W, 1) uint8``, weights in units of 1/32768."""
    red, green, blue = (pixels[:, :, channel].astype(np.int32) for channel in range(3))
    gray: Array = ((9798 * red + 19235 * green + 3735 * blue + (1 << 14)) >> 15).astype(np.uint8)[:, :, None]
    return gray


def opencv_resize(
    pixels: Array, width: int, height: int, interpolation: Interpolation = "bilinear", *, align_corners: bool = False
) -> Array:
    """``(h, w, C) uint8`` to ``(height, width, C) uint8``.

    ``align_corners``: the outer pixels' centres stay where they are (not OpenCV's way; older TensorFlow and PyTorch
    models were trained so): the position is ``i * (m - 1) / (n - 1)``.
    """
    rows, columns = pixels.shape[:2]
    if (columns, rows) == (width, height):
        return pixels.copy()
    at_x, weight_x = _taps(columns, width, interpolation, align_corners)
    at_y, weight_y = _taps(rows, height, interpolation, align_corners)
    if interpolation == "nearest":
        nearest: Array = pixels[at_y[:, 0]][:, at_x[:, 0]]
        return nearest
    across = np.zeros((rows, width, pixels.shape[2]), np.int64)
    for k in range(at_x.shape[1]):
        across += pixels[:, at_x[:, k]].astype(np.int64) * weight_x[None, :, k, None]
    down = np.zeros((height, *across.shape[1:]), np.int64)
    linear = interpolation == "bilinear"
    if linear:
        across >>= 4
    for k in range(at_y.shape[1]):
        product = across[at_y[:, k]] * weight_y[:, k, None, None]
        down += product >> 16 if linear else product
    down = (down + 2) >> 2 if linear else (down + (1 << 21)) >> 22
    resized: Array = np.clip(down, 0, 255).astype(np.uint8)
    return resized


def _taps(source: int, target: int, interpolation: Interpolation, align_corners: bool) -> tuple[Whole, Whole]:
    """For each of ``target`` places the source pixels that it is made of, and their weights in 1/2048:
    ``(target, taps)``, both."""
    index = np.arange(target)
    # OpenCV divides twice; the last digit of the scale decides which pixel is the nearest.
    scale = 1.0 / (target / source)
    if interpolation == "nearest":
        at = np.minimum(np.floor(index * scale).astype(np.int64), source - 1)
        return at[:, None], np.full((target, 1), _ONE, np.int64)
    if align_corners:
        position = (index * ((source - 1) / max(target - 1, 1))).astype(np.float32)
    else:
        position = ((index + 0.5) * scale - 0.5).astype(np.float32)
    first = np.floor(position).astype(np.int64)
    part = position - first.astype(np.float32)
    one = np.float32(1)
    if interpolation == "bilinear":
        weights, at = [one - part, part], first[:, None] + np.arange(2)
    else:
        before = ((_CUBIC * (part + one) - 5 * _CUBIC) * (part + one) + 8 * _CUBIC) * (part + one) - 4 * _CUBIC
        here = ((_CUBIC + 2) * part - (_CUBIC + 3)) * part * part + one
        rest = one - part
        there = ((_CUBIC + 2) * rest - (_CUBIC + 3)) * rest * rest + one
        weights, at = [before, here, there, one - before - here - there], first[:, None] + np.arange(-1, 3)
    scaled: Whole = np.rint(np.stack(weights, axis=1) * np.float32(_ONE)).astype(np.int64)
    return np.clip(at, 0, source - 1), scaled
