"""Resize, as what it is: a linear map along each axis.

The map is worked out as ONNX defines it; where ncnn's Interp computes the same one it is used, else the map itself
becomes a constant matrix to multiply with. Both are exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from mobilekit.targets.ncnn.emit import Blob, Emission
from mobilekit.targets.ncnn.node import NodeView, Refuse
from mobilekit.targets.ncnn.ops.choose import choose
from mobilekit.targets.ncnn.registry import emits

if TYPE_CHECKING:
    import numpy.typing as npt

    Matrix = npt.NDArray[np.float32]

_NEAREST, _LINEAR, _CUBIC = 1, 2, 3
_KINDS = {"nearest": _NEAREST, "linear": _LINEAR, "cubic": _CUBIC}
_MOST_MATRIX_ELEMENTS = 1 << 22
_SAME = 1e-5
_ROUNDING = 3e-7
"""Two and a half units in the last place of 1: of the scale, the division and the subtraction."""
_CROP = "tf_crop_and_resize"


@emits("Resize", since=19)
def resize(node: NodeView, out: Emission) -> None:
    shape, result = node.shape(), node.out_shape()
    kind = _KINDS.get(node.str("mode", "nearest"))
    if kind is None:
        raise Refuse(f"its mode {node.str('mode', '')!r} is unknown", "use nearest, linear or cubic")
    smooth = node.int("antialias", 0) != 0 and kind != _NEAREST
    beyond = node.float("extrapolation_value", 0.0)
    scales = _scales(node, shape, result)
    transform = node.str("coordinate_transformation_mode", "half_pixel")
    crops = _crops(node, len(shape)) if transform == _CROP else {}
    if transform != _CROP:
        node.ignore_input(1)
    if transform not in _TRANSFORMS and transform != _CROP:
        raise Refuse(f"its coordinate transformation {transform!r} is not supported", "use half_pixel")
    rounding = node.str("nearest_mode", "round_prefer_floor")
    cubic_a = node.float("cubic_coeff_a", -0.75)
    outside = node.int("exclude_outside", 0) != 0
    changed = [a for a in range(len(shape)) if scales[a] != 1.0 or shape[a] != result[a] or a in crops]
    if not changed:
        out.alias(node.output(), node.input(0))
        return
    if transform == "align_corners" and any(abs(shape[a] * scales[a] - result[a]) > 1e-3 for a in changed):
        raise Refuse(
            "align_corners with a scale that does not fit the sizes means different things to ONNX and ONNX Runtime",
            "give sizes instead of scales",
        )
    maps: dict[int, Matrix] = {}
    outer = np.zeros(result, bool)
    for axis in changed:
        n, m = shape[axis], result[axis]
        if n * m > _MOST_MATRIX_ELEMENTS:
            raise Refuse(f"it resizes {n} to {m} elements in one axis", "use a smaller size")
        if axis in crops:
            where = _cropped(crops[axis], n, m)
            out_of_reach = (where < 0) | (where > n - 1)
            outer |= np.expand_dims(out_of_reach, [a for a in range(len(shape)) if a != axis])
        elif transform == _CROP:
            where = _cropped((0.0, 1.0), n, m)
        else:
            where = _TRANSFORMS[transform](np.arange(m, dtype=np.float32), np.float32(scales[axis]), n, m)
        if smooth and scales[axis] < 1:
            maps[axis] = _smooth_map(kind, where.astype(np.float64), n, scales[axis], cubic_a, outside)
        else:
            maps[axis] = _map(kind, where.astype(np.float32), n, rounding, cubic_a, outside)
    rank = len(shape)
    if changed[0] >= rank - 2 and not crops:
        corners = transform == "align_corners"
        if all(_same(maps[a], _ncnn_map(kind, shape[a], result[a], corners)) for a in changed):
            _interp(node, out, kind, shape, result, corners and kind != _NEAREST)
            return
    blob: Blob | None = None
    current = list(shape)
    for axis in changed:
        dims = (math.prod(current[:axis]), current[axis], math.prod(current[axis + 1 :]))
        blob = out.view(node.input(), dims) if blob is None else out.reshape(blob, dims)
        matrix = out.memory(maps[axis], (1, *maps[axis].shape))
        blob = out.layer("MatMul", [matrix, blob], (dims[0], result[axis], dims[2]))
        current[axis] = result[axis]
    assert blob is not None
    if outer.any():
        blob = out.reshape(blob, (math.prod(result),))
        within = out.graph.constant("within", ~outer.reshape(-1))
        value = out.graph.constant("extrapolation", np.array(beyond, np.float32))
        size = (math.prod(result),)
        blob = choose(out, (within, size), (blob, size), (value, ()), size)
    out.bind(node.output(), blob)


def _same(one: Matrix, other: Matrix) -> bool:
    """Whether two maps are the same up to the rounding of float32 coordinates, which grows with the length."""
    return bool(np.allclose(one, other, atol=_SAME + _ROUNDING * max(one.shape)))


def _interp(
    node: NodeView, out: Emission, kind: int, shape: tuple[int, ...], result: tuple[int, ...], corners: bool
) -> None:
    height, width = (shape[-2], shape[-1]) if len(shape) > 1 else (1, shape[-1])
    planes = math.prod(shape) // (height * width)
    to_height = result[-2] if len(shape) > 1 else 1
    blob = out.layer(
        "Interp",
        [out.view(node.input(), (planes, height, width))],
        (planes, to_height, result[-1]),
        resize_type=kind,
        output_height=to_height,
        output_width=result[-1],
        align_corner=int(corners),
    )
    out.bind(node.output(), blob)


def _crops(node: NodeView, rank: int) -> dict[int, tuple[float, float]]:
    """The part of each axis that is looked at, in 0 to 1."""
    roi = [float(item) for item in np.asarray(node.const(1, "region")).reshape(-1)]
    given = node.ints("axes")
    axes = list(range(rank)) if given is None else [node.axis(axis) for axis in given]
    return {axis: (roi[i], roi[i + len(axes)]) for i, axis in enumerate(axes)}


def _cropped(part: tuple[float, float], n: int, m: int) -> Matrix:
    start, end = part
    if m == 1:
        return np.array([(start + end) * (n - 1) / 2], np.float32)
    return (start * (n - 1) + np.arange(m) * (end - start) * (n - 1) / (m - 1)).astype(np.float32)


def _smooth_map(
    kind: int, where: npt.NDArray[np.float64], n: int, scale: float, a: float, exclude_outside: bool
) -> Matrix:
    """With antialias the kernel is as wide as the step, and its weights are made to sum to 1."""
    matrix = np.zeros((len(where), n), np.float64)
    reach = math.ceil((1 if kind == _LINEAR else 2) / scale) + 1
    for row, centre in enumerate(where):
        taps = np.arange(math.floor(centre) - reach, math.floor(centre) + reach + 2)
        distance = np.abs(taps - centre) * scale
        if kind == _LINEAR:
            weights = np.maximum(0.0, 1 - distance)
        else:
            near, far = _cubic(distance, a)[1], _cubic(distance - 1, a)[0]
            weights = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
        if exclude_outside:
            weights = np.where((taps < 0) | (taps >= n), 0.0, weights)
        np.add.at(matrix[row], np.clip(taps, 0, n - 1), weights / weights.sum())
    return matrix.astype(np.float32)


def _scales(node: NodeView, shape: tuple[int, ...], result: tuple[int, ...]) -> list[float]:
    """One factor for each axis, from ``scales`` or ``sizes``."""
    rank = len(shape)
    given = node.ints("axes")
    axes = list(range(rank)) if given is None else [node.axis(axis) for axis in given]
    scales = [1.0] * rank
    factors = node.optional_const(2, "scales")
    sizes = node.optional_const(3, "sizes")
    policy = node.str("keep_aspect_ratio_policy", "stretch")
    if factors is not None and factors.size:
        for axis, factor in zip(axes, factors.reshape(-1), strict=True):
            scales[axis] = float(factor)
        return scales
    if sizes is None:
        raise Refuse("it has neither scales nor sizes", "repair the model")
    if policy == "stretch":
        for axis in axes:
            scales[axis] = float(np.float32(result[axis]) / np.float32(shape[axis]))
        return scales
    ratios = [float(np.float32(int(s)) / np.float32(shape[a])) for a, s in zip(axes, sizes.reshape(-1), strict=True)]
    if policy not in ("not_larger", "not_smaller"):
        raise Refuse(f"its keep_aspect_ratio_policy {policy!r} is unknown", "use stretch")
    for axis in axes:
        scales[axis] = min(ratios) if policy == "not_larger" else max(ratios)
    return scales


Transform = Callable[["Matrix", "np.float32", int, int], "Matrix"]


def _half_pixel(x: Matrix, scale: np.float32, n: int, m: int) -> Matrix:  # noqa: ARG001
    return ((x + np.float32(0.5)) / scale - np.float32(0.5)).astype(np.float32)


def _symmetric(x: Matrix, scale: np.float32, n: int, m: int) -> Matrix:
    adjustment = m / (float(scale) * n)
    return (np.float32(n / 2 * (1 - adjustment)) + _half_pixel(x, scale, n, m)).astype(np.float32)


def _pytorch(x: Matrix, scale: np.float32, n: int, m: int) -> Matrix:
    return _half_pixel(x, scale, n, m) if m > 1 else np.zeros_like(x)


def _align(x: Matrix, scale: np.float32, n: int, m: int) -> Matrix:  # noqa: ARG001
    return (x * np.float32(n - 1) / np.float32(m - 1)).astype(np.float32) if m > 1 else np.zeros_like(x)


def _asymmetric(x: Matrix, scale: np.float32, n: int, m: int) -> Matrix:  # noqa: ARG001
    return (x / scale).astype(np.float32)


def _tf_nearest(x: Matrix, scale: np.float32, n: int, m: int) -> Matrix:  # noqa: ARG001
    return ((x + np.float32(0.5)) / scale).astype(np.float32)


_TRANSFORMS: dict[str, Transform] = {
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _symmetric,
    "pytorch_half_pixel": _pytorch,
    "align_corners": _align,
    "asymmetric": _asymmetric,
    "tf_half_pixel_for_nn": _tf_nearest,
}
"""Output coordinate -> input coordinate, for output indices, the scale, and both lengths."""


def _map(kind: int, where: Matrix, n: int, rounding: str, a: float, exclude_outside: bool) -> Matrix:
    """The (outputs, n) matrix that ONNX's definition amounts to, for input coordinates ``where``."""
    rows = np.arange(len(where))
    matrix = np.zeros((len(where), n), np.float32)
    if kind == _NEAREST:
        matrix[rows, np.clip(_round(where, rounding), 0, n - 1)] = 1
        return matrix
    if kind == _LINEAR:
        where = np.clip(where, 0, n - 1)
        low = np.floor(where).astype(np.int64)
        np.add.at(matrix, (rows, low), 1 - (where - low))
        np.add.at(matrix, (rows, np.minimum(low + 1, n - 1)), where - low)
        return matrix
    low = np.floor(where).astype(np.int64)
    weights = np.stack(_cubic((where - low).astype(np.float64), a))
    positions = low + np.arange(-1, 3)[:, None]
    if exclude_outside:
        weights = np.where((positions < 0) | (positions >= n), 0.0, weights)
        weights = weights / weights.sum(axis=0)
    for tap, position in zip(weights, positions, strict=True):
        np.add.at(matrix, (rows, np.clip(position, 0, n - 1)), tap)
    return matrix


def _round(where: Matrix, rounding: str) -> npt.NDArray[np.int64]:
    match rounding:
        case "floor":
            found = np.floor(where)
        case "ceil":
            found = np.ceil(where)
        case "round_prefer_ceil":
            found = np.floor(where + np.float32(0.5))
        case "round_prefer_floor":
            found = np.ceil(where - np.float32(0.5))
        case _:
            raise Refuse(f"its nearest_mode {rounding!r} is unknown", "use round_prefer_floor")
    return found.astype(np.int64)


def _cubic(t: npt.NDArray[np.float64], a: float) -> list[npt.NDArray[np.float64]]:
    """Keys' cubic convolution: weights of the four taps around a fraction ``t``."""

    def near(d: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return [far(1 + t), near(t), near(1 - t), far(2 - t)]


def _ncnn_map(kind: int, n: int, m: int, corners: bool) -> Matrix:
    """What ncnn's Interp computes for a given output size (``src/layer/interp.cpp``)."""
    if kind == _NEAREST:
        where = np.arange(m, dtype=np.float32) * (np.float32(n) / np.float32(m))
        return _map(_NEAREST, where, n, "floor", 0.0, False)
    x = np.arange(m, dtype=np.float64)
    where64 = x * ((n - 1) / (m - 1) if m > 1 else 0.0) if corners else (x + 0.5) * (n / m) - 0.5
    return _map(kind, where64.astype(np.float32), n, "floor", -0.75, False)
