"""Two ways of preparing one picture: how far apart their tensors are, and which difference of method explains it.

Distances are in grey levels: with a tensor's ``t = (p * scale - mean) / std`` as the manifest says, a difference of
``d`` is one of ``d * std / scale`` in pixel values of 0 to 255, whatever the normalisation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mobilekit.errors import UsageError
from mobilekit.preprocess import Preprocess, canvas_of, on_canvas, picture_size, placement
from mobilekit.preprocess_opencv import opencv_gray, opencv_resize

if TYPE_CHECKING:
    from typing import Any, TypeAlias

    import numpy.typing as npt

    from mobilekit.tensors import Array

    Floats: TypeAlias = npt.NDArray[np.floating[Any]]

__all__ = ["Cause", "Difference", "Explainer", "difference", "levels_of", "opencv_canvas"]

_POSITIONS = 40_000
"""Pixels of a picture that hypotheses are tried on: each n-th row and column."""

_ROUNDING = 0.1
"""Grey levels (RMS) that are no method's but rounding's."""

_CLOSE = 1.25
"""A simpler hypothesis is preferred where what it leaves is at most this times what the best one leaves."""


@dataclass(frozen=True, slots=True)
class Difference:
    """``relative_l2``: of the tensors, norm(second - first) / norm(first). ``levels`` are grey levels: the largest,
    the mean of the absolute values, and the two values where it is largest (``channel`` in the model's order)."""

    max_levels: float
    mean_levels: float
    relative_l2: float
    channel: int
    row: int
    column: int
    first_level: float
    second_level: float


@dataclass(frozen=True, slots=True)
class Cause:
    """What makes the difference: ``deviations`` in words, none where it is rounding alone or where nothing that was
    tried explains half of it (``known`` is False then).

    ``levels``: the difference, RMS; ``left_levels``: what is left of it once the deviations are made here, too;
    ``explained``: 1 - (left_levels / levels)².
    """

    deviations: tuple[str, ...]
    known: bool
    explained: float
    levels: float
    left_levels: float


def opencv_canvas(pixels: Array, spec: Preprocess, height: int, width: int) -> Array:
    """As :func:`~mobilekit.preprocess.canvas_of`, resized (and made grey, first) as OpenCV does."""
    return _canvas(pixels, spec, height, width, lambda p, w, h: opencv_resize(p, w, h, spec.interpolation))


def levels_of(tensor: Array, spec: Preprocess, shape: tuple[int, ...]) -> Floats:
    """A tensor of ``shape`` as pixel values ``(H, W, C)``, channels in the model's order."""
    factor, offset = _affine(spec)
    return (_channels_last(tensor, spec, shape) - offset) / factor


def difference(first: Array, second: Array, spec: Preprocess, shape: tuple[int, ...]) -> Difference:
    """Of two tensors of ``shape``. Raises :class:`UsageError` where ``spec`` makes every picture the same."""
    one, other = levels_of(first, spec, shape), levels_of(second, spec, shape)
    apart = np.abs(other - one)
    row, column, channel = (int(i) for i in np.unravel_index(int(np.argmax(apart)), apart.shape))
    a, b = first.astype(np.float64).ravel(), second.astype(np.float64).ravel()
    norm = float(np.linalg.norm(a))
    distance = float(np.linalg.norm(b - a))
    return Difference(
        max_levels=float(apart[row, column, channel]),
        mean_levels=float(apart.mean()),
        relative_l2=distance / norm if norm else (math.inf if distance else 0.0),
        channel=channel,
        row=row,
        column=column,
        first_level=float(one[row, column, channel]),
        second_level=float(other[row, column, channel]),
    )


_Resize = Callable[["Array", int, int], "Array"]


def _canvas(pixels: Array, spec: Preprocess, height: int, width: int, resize: _Resize) -> Array:
    place = placement(spec, (pixels.shape[1], pixels.shape[0]), height, width)
    if spec.color == "GRAY":
        pixels = opencv_gray(pixels)
    return on_canvas(resize(pixels, place.width, place.height), spec, place, height, width)


def _affine(spec: Preprocess) -> tuple[Floats, Floats]:
    """Factor and offset of each channel, in the model's order: ``t = factor * p + offset``."""
    channels = 1 if spec.color == "GRAY" else 3
    mean, std = (np.resize(np.asarray(v, np.float64), channels) for v in (spec.mean, spec.std))
    if spec.scale == 0:
        raise UsageError("the preprocessing multiplies every pixel by 0", hint="correct its scale, and export again")
    return spec.scale / std, -mean / std


def _channels_last(tensor: Array, spec: Preprocess, shape: tuple[int, ...]) -> Floats:
    channels, height, width = picture_size(spec, shape)
    values: Floats = tensor.astype(np.float64)
    if spec.layout == "NHWC":
        return values.reshape(height, width, channels)
    return values.reshape(channels, height, width).transpose(1, 2, 0)


@dataclass(frozen=True, slots=True)
class _Way:
    """One value of something that preprocessing can do in several ways; an empty ``deviation`` is the manifest's."""

    deviation: str
    value: Any


class Explainer:
    """Tries ways to prepare the same pictures, and tells which one a device (or an app) took.

    The ways: channels in the other order or interleaved; mean or std left out, scaled twice or not at all, other usual
    means; other filters, with or without antialiasing, corners aligned; stretched, letterboxed or cut, other padding;
    and all of these together. Of those that leave about as little, the one with the fewest deviations is named.
    """

    def __init__(self, spec: Preprocess, shape: tuple[int, ...]) -> None:
        self._spec, self._shape = spec, shape
        self._channels, self._height, self._width = picture_size(spec, shape)
        step = max(1, math.isqrt(self._height * self._width // _POSITIONS))
        self._some = (slice(None, None, step), slice(None, None, step))
        self._factor, self._offset = _affine(spec)
        self._geometries = _geometries(spec, self._height, self._width)
        self._norms = _normalisations(spec)
        self._squares: dict[tuple[str, ...], float] = {}
        self._count = 0

    def add(self, pixels: Array, actual: Array) -> None:
        """Another picture ``(H, W, 3) uint8`` RGB, and the tensor that was made of it."""
        arranged = _channels_last(actual, self._spec, self._shape)
        layouts = [_Way("", arranged[self._some])]
        if self._channels > 1:
            # The same memory, read as if its channels were interleaved (or, for NHWC, in planes).
            other = replace(self._spec, layout="NCHW" if self._spec.layout == "NHWC" else "NHWC")
            size = (self._height, self._width)
            turned = (self._channels, *size) if other.layout == "NCHW" else (*size, self._channels)
            word = "channels in planes, not interleaved" if other.layout == "NCHW" else "channels interleaved (HWC)"
            layouts.append(_Way(word, _channels_last(actual, other, turned)[self._some]))
        for geometry, (name, resize) in itertools.product(self._geometries, _FILTERS.items()):
            spec: Preprocess = geometry.value
            word = "" if name == "own" else name.format(spec.interpolation)
            canvas = resize(pixels, spec, self._height, self._width).astype(np.float64)[self._some]
            ordered = canvas[:, :, ::-1] if spec.color == "BGR" else canvas
            orders = [_Way("", ordered)]
            if self._channels == 3:
                swapped = "BGR for RGB" if spec.color == "RGB" else "RGB for BGR"
                orders.append(_Way(swapped, ordered[:, :, ::-1]))
            for layout, order in itertools.product(layouts, orders):
                self._weigh((layout.deviation, order.deviation, geometry.deviation, word), order.value, layout.value)
        self._count += arranged[self._some].size

    def _weigh(self, deviations: tuple[str, ...], made: Floats, actual: Floats) -> None:
        """Squares of what each normalisation leaves, by its moments: no tensor is made for it."""
        p, t = made.reshape(-1, self._channels), actual.reshape(-1, self._channels)
        pp, pt, tt = (np.einsum("ij,ij->j", a, b) for a, b in ((p, p), (p, t), (t, t)))
        sum_p, sum_t, count = p.sum(axis=0), t.sum(axis=0), len(p)
        for norm in self._norms:
            a, b = norm.value
            squares = a * a * pp + 2 * a * b * sum_p - 2 * a * pt - 2 * b * sum_t + count * b * b + tt
            key = (*deviations, norm.deviation)
            left = float(np.sum(np.maximum(squares, 0.0) / self._factor**2))
            self._squares[key] = self._squares.get(key, 0.0) + left

    def cause(self) -> Cause:
        """Of what was added; at least one picture."""
        left = {key: math.sqrt(squares / self._count) for key, squares in self._squares.items()}
        apart = left[("",) * 5]
        best = min(left.values())
        by_number: dict[int, tuple[float, tuple[str, ...]]] = {}
        for key, rest in left.items():
            number = sum(map(bool, key))
            if number not in by_number or rest < by_number[number][0]:
                by_number[number] = rest, key
        enough = _CLOSE * best + _ROUNDING
        rest, key = next(found for _, found in sorted(by_number.items()) if found[0] <= enough)
        explained = 1 - (rest / apart) ** 2 if apart else 1.0
        if apart <= enough and apart > 10 * _ROUNDING:
            return Cause((), False, 0.0, apart, apart)
        if any(key) and explained < 0.5:
            return Cause((), False, explained, apart, rest)
        return Cause(tuple(word for word in key if word), True, explained if any(key) else 1.0, apart, rest)


def _with_pillow(pixels: Array, spec: Preprocess, height: int, width: int) -> Array:
    return canvas_of(pixels, spec, height, width)


def _area(pixels: Array, spec: Preprocess, height: int, width: int) -> Array:
    """Means of the pixels that each new one covers: Pillow's box filter, near OpenCV's ``INTER_AREA``."""
    from PIL import Image

    def resize(p: Array, w: int, h: int) -> Array:
        image = Image.fromarray(p[:, :, 0] if p.shape[2] == 1 else p)
        made: Array = np.asarray(image.resize((w, h), Image.Resampling.BOX)).reshape(h, w, -1)
        return made

    return _canvas(pixels, spec, height, width, resize)


def _corners(pixels: Array, spec: Preprocess, height: int, width: int) -> Array:
    return _canvas(pixels, spec, height, width, lambda p, w, h: opencv_resize(p, w, h, "bilinear", align_corners=True))


def _nearest(pixels: Array, spec: Preprocess, height: int, width: int) -> Array:
    return _canvas(pixels, spec, height, width, lambda p, w, h: opencv_resize(p, w, h, "nearest"))


def _plain(pixels: Array, spec: Preprocess, height: int, width: int) -> Array:
    return _canvas(pixels, spec, height, width, lambda p, w, h: opencv_resize(p, w, h, "bilinear"))


def _smooth(pixels: Array, spec: Preprocess, height: int, width: int) -> Array:
    other = replace(spec, interpolation="bilinear" if spec.interpolation == "bicubic" else "bicubic")
    return canvas_of(pixels, other, height, width)


_FILTERS: Mapping[str, Callable[[Array, Preprocess, int, int], Array]] = {
    "own": _with_pillow,
    "resized without antialiasing (INTER_LINEAR of OpenCV, from_pixels_resize of ncnn)": _plain,
    "resized with aligned corners": _corners,
    "resized to the nearest pixel": _nearest,
    "resized by area (INTER_AREA)": _area,
    "resized by another filter than {} with antialiasing": _smooth,
}


def _geometries(spec: Preprocess, height: int, width: int) -> list[_Way]:
    """Ways to fit the picture in, each once; the manifest's first."""
    plain = replace(spec, resize_to=None)
    short = max(height, width)
    ways = [
        _Way("", spec),
        _Way("stretched", replace(plain, resize="stretch")),
        _Way("letterboxed in the middle", replace(plain, resize="letterbox", anchor="center")),
        _Way("letterboxed at the top left", replace(plain, resize="letterbox", anchor="top-left")),
        _Way("cut in the middle, shorter side to the input's", replace(plain, resize="shorter")),
    ]
    if spec.resize != "shorter":
        larger = short * 8 // 7  # 256 for 224, the usual ratio
        ways.append(
            _Way(f"cut in the middle, shorter side to {larger}", replace(spec, resize="shorter", resize_to=larger))
        )
    if spec.resize in ("letterbox", "height"):
        ways += [_Way(f"padded with {pad:g}", replace(spec, pad_value=pad)) for pad in (0.0, 114.0, 128.0, 255.0)]
    found: dict[tuple[object, ...], _Way] = {}
    for way in ways:
        s: Preprocess = way.value
        anchor, pad = s.anchor if s.resize == "letterbox" else "", s.pad_value if s.resize != "stretch" else 0
        found.setdefault((s.resize, s.resize_to or short, anchor, pad), way)
    return list(found.values())


def _normalisations(spec: Preprocess) -> list[_Way]:
    """Factor and offset by channel of the usual mistakes, each once; the manifest's first."""
    third = 1 / 255
    imagenet = {"scale": third, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    zero, one = (0.0,), (1.0,)
    variants: Sequence[tuple[str, Mapping[str, Any]]] = (
        ("", {}),
        ("the mean not subtracted", {"mean": zero}),
        ("not divided by the std", {"std": one}),
        ("neither mean nor std", {"mean": zero, "std": one}),
        ("not scaled: mean and std of another range than the pixels'", {"scale": 1.0}),
        ("pixels as they are, 0 to 255", {"scale": 1.0, "mean": zero, "std": one}),
        ("scaled by 1/255 once too often", {"scale": spec.scale / 255}),
        ("scaled by 255 once too often", {"scale": spec.scale * 255}),
        ("pixels scaled to 0 to 1 alone", {"scale": third, "mean": zero, "std": one}),
        ("pixels scaled to -1 to 1", {"scale": 2 * third, "mean": one, "std": one}),
        ("the mean and std of ImageNet", imagenet),
        ("mean and std in the other order of channels", {"mean": spec.mean[::-1], "std": spec.std[::-1]}),
    )
    found: list[_Way] = []
    for word, changes in variants:
        factor, offset = _affine(replace(spec, **changes))
        if all(not np.allclose((factor, offset), way.value, rtol=1e-6, atol=0) for way in found):
            found.append(_Way(word, (factor, offset)))
    return found
