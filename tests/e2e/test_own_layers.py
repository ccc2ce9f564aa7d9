"""Our own ncnn layers against ONNX Runtime and numpy, in the harness: on this machine, and as arm64 under qemu."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from mobilekit.device.harness.protocol import LoadOptions
from mobilekit.errors import HarnessError
from tests.e2e.own_layer_lab import Lab, layer, onnx

pytestmark = pytest.mark.timeout(3600)  # the first to run may have to build the harness


def _random(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _ties(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)


def _same(found: Any, expected: Any) -> None:
    np.testing.assert_array_equal(np.asarray(found).ravel(), np.asarray(expected, np.float32).ravel())


# shape as a Mat, the factors that see it (outer, axis, inner), the ONNX shape and axis
_FACTORED = [
    ((7,), (1, 7, 1), (7,), 0),
    ((5, 9), (5, 9, 1), (5, 9), 1),
    ((5, 9), (1, 5, 9), (5, 9), 0),
    ((3, 5, 7), (3, 5, 7), (3, 5, 7), 1),
    ((3, 5, 7), (15, 7, -1), (3, 5, 7), 2),
    ((2, 3, 5, 3), (6, -1, 3), (2, 3, 5, 3), 2),
    ((35, 6), (2, 3, 35), (2, 3, 5, 7), 1),  # a Mat whose dims are others than the tensor's
    ((3, 1, 257), (1, 771, 1), (771,), 0),
]


@pytest.mark.parametrize(("mat", "factors", "shape", "axis"), _FACTORED)
@pytest.mark.parametrize("values", ["random", "ties", "special"])
def test_top_k(
    lab: Lab, mat: tuple[int, ...], factors: tuple[int, ...], shape: tuple[int, ...], axis: int, values: str
) -> None:
    x = _random(*shape) if values == "random" else _ties(*shape)
    if values == "special":
        x.ravel()[::3] = np.resize(np.array([np.nan, np.inf, -np.inf, -0.0, 0.0], np.float32), x.ravel()[::3].size)
    length = shape[axis]
    for k in {1, 2, length // 2, length}:
        for largest in (0, 1):
            expected = onnx("TopK", {"x": x, "k": np.array([k])}, 2, axis=axis, largest=largest)
            params = {0: factors[0], 1: factors[1], 2: factors[2], 3: k, 4: largest}
            found = lab.run("MkTopK", [x.reshape(mat)], params, 2)
            _same(found[0], expected[0])
            _same(found[1], expected[1])


def test_top_k_of_many(lab: Lab) -> None:
    """Long enough for several threads and for the heap."""
    x = np.round(_random(8, 20_011), 2)
    expected = onnx("TopK", {"x": x, "k": np.array([100])}, 2, axis=1)
    found = lab.run("MkTopK", [x], {0: 8, 1: -1, 3: 100, 20: [2, 4, 100], 21: [8, 1, 100]}, 2)
    assert found[0].shape == (2, 4, 100)
    assert found[1].shape == (8, 1, 100)
    _same(found[0], expected[0])
    _same(found[1], expected[1])
    (alone,) = lab.run("MkTopK", [x], {0: 8, 1: -1, 3: 100}, 1)
    _same(alone, expected[0])


@pytest.mark.parametrize(("mat", "factors", "shape", "axis"), _FACTORED)
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize(("op", "largest"), [("ArgMax", 1), ("ArgMin", 0)])
def test_arg(
    lab: Lab,
    mat: tuple[int, ...],
    factors: tuple[int, ...],
    shape: tuple[int, ...],
    axis: int,
    last: int,
    op: str,
    largest: int,
) -> None:
    for x in (_random(*shape), _ties(*shape)):
        (expected,) = onnx(op, {"x": x}, axis=axis, select_last_index=last)
        params = {0: factors[0], 1: factors[1], 2: factors[2], 3: largest, 4: last}
        _same(lab.run("MkArg", [x.reshape(mat)], params)[0], expected)


@pytest.mark.parametrize(("mat", "factors", "shape", "axis"), _FACTORED)
def test_gather(lab: Lab, mat: tuple[int, ...], factors: tuple[int, ...], shape: tuple[int, ...], axis: int) -> None:
    x = _random(*shape)
    length = shape[axis]
    positions = np.random.default_rng(1).integers(-length, length, 11)
    (expected,) = onnx("Gather", {"x": x, "i": positions}, axis=axis)
    params = {0: factors[0], 1: factors[1], 2: factors[2]}
    _same(lab.run("MkGather", [x.reshape(mat), positions], params)[0], expected)


_ELEMENTS = [
    ((7,), (5,), 0),
    ((4, 6), (3, 6), 1),
    ((4, 6), (4, 5), 0),
    ((3, 5, 7), (3, 4, 6), 1),
    ((3, 5, 7), (2, 5, 9), 2),
    ((3, 5, 7), (8, 5, 7), 0),
    ((2, 3, 2, 3, 2), (2, 2, 2, 3, 1), 3),
    ((64, 257), (64, 300), 1),
]


def _mat(array: Any) -> Any:
    """The same elements in at most three dims, so that channels are padded where there are three."""
    return array if array.ndim < 4 else array.reshape(array.shape[0], array.shape[1], -1)


@pytest.mark.parametrize(("data", "indices", "axis"), _ELEMENTS)
def test_gather_elements(lab: Lab, data: tuple[int, ...], indices: tuple[int, ...], axis: int) -> None:
    x = _random(*data)
    positions = np.random.default_rng(2).integers(-data[axis], data[axis], indices)
    (expected,) = onnx("GatherElements", {"x": x, "i": positions}, axis=axis)
    params = {10: data, 11: indices, 12: axis}
    _same(lab.run("MkGatherElements", [_mat(x), _mat(positions)], params)[0], expected)


@pytest.mark.parametrize(("data", "indices", "axis"), _ELEMENTS)
@pytest.mark.parametrize(("code", "reduction"), list(enumerate(["none", "add", "mul", "max", "min"])))
def test_scatter_elements(
    lab: Lab, data: tuple[int, ...], indices: tuple[int, ...], axis: int, code: int, reduction: str
) -> None:
    x, updates = _random(*data), _random(*indices, seed=3)
    positions = np.random.default_rng(4).integers(-data[axis], data[axis], indices)  # with duplicates
    (expected,) = onnx("ScatterElements", {"x": x, "i": positions, "u": updates}, axis=axis, reduction=reduction)
    params = {10: data, 11: indices, 12: axis, 3: code}
    _same(lab.run("MkScatterElements", [_mat(x), _mat(positions), _mat(updates)], params)[0], expected)


@pytest.mark.parametrize(
    ("shape", "batch_dims", "width", "counts"),
    [
        ((7,), 0, 1, (5,)),
        ((4, 5, 6), 0, 2, (3, 3)),
        ((4, 5, 3), 0, 3, (9,)),
        ((2, 4, 5, 6), 1, 2, (7,)),
        ((3, 5, 7), 2, 1, ()),
    ],
)
def test_gather_nd(lab: Lab, shape: tuple[int, ...], batch_dims: int, width: int, counts: tuple[int, ...]) -> None:
    x = _random(*shape)
    axes = shape[batch_dims : batch_dims + width]
    tuples = (*shape[:batch_dims], *counts)
    rng = np.random.default_rng(5)
    positions = np.stack([rng.integers(-size, size, tuples) for size in axes], axis=-1)
    (expected,) = onnx("GatherND", {"x": x, "i": positions}, batch_dims=batch_dims)
    params = {0: int(np.prod(shape[:batch_dims], dtype=int)), 10: axes, 2: -1}
    _same(lab.run("MkGatherND", [_mat(x), _mat(positions)], params)[0], expected)


@pytest.mark.parametrize(
    ("shape", "width", "count"), [((7,), 1, 9), ((4, 5, 3), 2, 30), ((4, 5, 3), 3, 40), ((9, 33), 1, 4)]
)
@pytest.mark.parametrize(("code", "reduction"), list(enumerate(["none", "add", "mul", "max", "min"])))
def test_scatter_nd(lab: Lab, shape: tuple[int, ...], width: int, count: int, code: int, reduction: str) -> None:
    rng = np.random.default_rng(6)
    positions = np.stack([rng.integers(-size, size, count) for size in shape[:width]], axis=-1)
    x, updates = _random(*shape), _random(count, *shape[width:], seed=7)
    expected = x.copy()
    combine = [lambda _, new: new, np.add, np.multiply, np.maximum, np.minimum][code]
    for where, update in zip(positions, updates, strict=True):  # ONNX Runtime's order of duplicates is not fixed
        expected[tuple(where)] = combine(expected[tuple(where)], update)
    params = {10: shape[:width], 2: int(np.prod(shape[width:], dtype=int)), 3: code}
    _same(lab.run("MkScatterND", [_mat(x), positions, _mat(updates)], params)[0], expected)
    if code == 0:
        unique = np.unique(positions % shape[:width], axis=0)
        (runtime,) = onnx("ScatterND", {"x": x, "i": unique, "u": updates[: len(unique)]})
        _same(lab.run("MkScatterND", [_mat(x), unique, _mat(updates[: len(unique)])], params)[0], runtime)


def _boxes(batch: int, count: int, center: bool, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    first, size = rng.uniform(0, 20, (batch, count, 2)), rng.uniform(0.5, 10, (batch, count, 2))
    if center:
        return np.concatenate([first, size], axis=2).astype(np.float32)
    second = np.where(rng.random((batch, count, 1)) < 0.5, first + size, first - size)  # corners in any order
    return np.concatenate([first, second], axis=2).astype(np.float32)


@pytest.mark.parametrize("center", [0, 1])
@pytest.mark.parametrize(("batch", "classes", "count"), [(1, 1, 1), (1, 3, 50), (2, 2, 37), (1, 2, 700)])
@pytest.mark.parametrize(
    ("most", "iou", "threshold"), [(5, 0.5, None), (1000, 0.1, 0.4), (20, 0.0, 0.0), (3, 1.0, 2.0)]
)
def test_non_max_suppression(
    lab: Lab, center: int, batch: int, classes: int, count: int, most: int, iou: float, threshold: float | None
) -> None:
    boxes = _boxes(batch, count, bool(center), seed=count)
    scores = np.round(np.random.default_rng(8).random((batch, classes, count)), 2).astype(np.float32)  # with ties
    inputs = {
        "b": boxes,
        "s": scores,
        "m": np.array([most]),
        "i": np.array([iou], np.float32),
        "t": None if threshold is None else np.array([threshold], np.float32),
    }
    (expected,) = onnx("NonMaxSuppression", inputs, center_point_box=center)
    params = {
        0: batch,
        1: classes,
        2: count,
        3: most,
        4: iou,
        5: threshold or 0.0,
        6: int(threshold is not None),
        7: center,
    }
    rows, found = lab.run("MkNonMaxSuppression", [boxes, scores], params, 2)
    bound = batch * classes * min(most, count)
    assert rows.size == bound * 3
    assert found.tolist() == [len(expected)]
    rows = rows.reshape(bound, 3)
    _same(rows[: len(expected)], expected)
    assert not rows[len(expected) :].any()


def test_boxes_without_area_suppress_nothing(lab: Lab) -> None:
    boxes = np.array([[[0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 1, 1], [2, 2, 2, 2]]], np.float32)
    scores = np.array([[[0.5, 0.9, 0.8, 0.5, 0.1]]], np.float32)
    inputs = {"b": boxes, "s": scores, "m": np.array([9]), "i": np.array([0.5], np.float32)}
    (expected,) = onnx("NonMaxSuppression", inputs)
    rows, found = lab.run("MkNonMaxSuppression", [boxes, scores], {2: 5, 3: 9, 4: 0.5, 20: [5, 3]}, 2)
    assert rows.shape == (5, 3)
    assert found.tolist() == [len(expected)]
    _same(rows[: len(expected)], expected)


@pytest.mark.parametrize("shape", [(9,), (4, 7), (3, 5, 7), (2, 3, 2, 3, 2)])
@pytest.mark.parametrize("kind", ["some", "none", "all", "nan"])
def test_non_zero(lab: Lab, shape: tuple[int, ...], kind: str) -> None:
    x = _ties(*shape) if kind == "some" else np.full(shape, {"none": 0, "all": 2, "nan": np.nan}[kind], np.float32)
    expected = np.array(np.nonzero(x))
    positions, count = lab.run("MkNonZero", [_mat(x)], {10: shape}, 2)
    assert count.tolist() == [expected.shape[1]]
    positions = positions.reshape(len(shape), x.size)
    _same(positions[:, : expected.shape[1]], expected)
    assert not positions[:, expected.shape[1] :].any()


_OPERANDS = [
    ((12,), (12,)),
    ((3, 5, 7), (1,)),
    ((3, 5, 7), (5, 1)),
    ((4, 1, 3), (2, 1)),
    ((2, 1, 3, 1, 2), (2, 3, 1, 5, 1)),
    ((1,), (3, 70_001)),
]


def _broadcast_params(a: Any, b: Any) -> dict[int, Any]:
    return {10: a.shape, 11: b.shape}


@pytest.mark.parametrize(("left", "right"), _OPERANDS)
def test_pow(lab: Lab, left: tuple[int, ...], right: tuple[int, ...]) -> None:
    a, b = _random(*left) * 2, _ties(*right, seed=1)
    expected = np.power(a.astype(np.float64), b.astype(np.float64))
    found = lab.run("MkPow", [_mat(a), _mat(b)], _broadcast_params(a, b))[0]
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-6)


def test_signs_and_edges_of_pow_div_and_mod(lab: Lab) -> None:
    special = np.array([0.0, -0.0, 1, -1, 2, -2.5, 3, 0.5, np.inf, -np.inf, np.nan], np.float32)
    a, b = (grid.ravel().copy() for grid in np.meshgrid(special, special))
    with np.errstate(all="ignore"):
        _same(lab.run("MkDiv", [a, b])[0], a / b)
        _same(lab.run("MkMod", [a, b], {3: 1})[0], np.fmod(a, b))
        _same(lab.run("MkMod", [a, b])[0], np.where(np.isinf(b) & np.isfinite(a) & (a * b < 0), b, np.mod(a, b)))
        np.testing.assert_allclose(lab.run("MkPow", [a, b])[0], np.power(a, b), rtol=1e-6)


@pytest.mark.parametrize(("left", "right"), _OPERANDS[:5])
def test_division_of_integers(lab: Lab, left: tuple[int, ...], right: tuple[int, ...]) -> None:
    rng = np.random.default_rng(9)
    a = rng.integers(-(2**24) + 1, 2**24, left)
    b = rng.choice([-(2**23), -7, -3, -1, 1, 2, 3, 2**24 - 1], right)
    (divided,) = onnx("Div", {"a": a, "b": b})
    _same(lab.run("MkDiv", [_mat(a), _mat(b)], {**_broadcast_params(a, b), 3: 1})[0], divided)
    (rest,) = onnx("Mod", {"a": a, "b": b})
    _same(lab.run("MkMod", [_mat(a), _mat(b)], _broadcast_params(a, b))[0], rest)
    (rest,) = onnx("Mod", {"a": a, "b": b}, fmod=1)
    _same(lab.run("MkMod", [_mat(a), _mat(b)], {**_broadcast_params(a, b), 3: 1})[0], rest)


@pytest.mark.parametrize(("mat", "factors", "shape", "axis"), _FACTORED)
@pytest.mark.parametrize(("exclusive", "reverse"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_cum_sum(
    lab: Lab,
    mat: tuple[int, ...],
    factors: tuple[int, ...],
    shape: tuple[int, ...],
    axis: int,
    exclusive: int,
    reverse: int,
) -> None:
    x = _ties(*shape)
    inputs = {"x": x, "axis": np.array(axis)}
    (expected,) = onnx("CumSum", inputs, exclusive=exclusive, reverse=reverse)
    params = {0: factors[0], 1: factors[1], 2: factors[2], 3: exclusive, 4: reverse}
    _same(lab.run("MkCumSum", [x.reshape(mat)], params)[0], expected)
    shifted = np.flip(x, axis) if reverse else x
    if exclusive:
        ones = np.ones_like(shifted.take([0], axis))
        shifted = np.concatenate([ones, np.delete(shifted, -1, axis)], axis)
    product = np.cumprod(shifted, axis)
    _same(lab.run("MkCumSum", [x.reshape(mat)], {**params, 5: 1})[0], np.flip(product, axis) if reverse else product)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize(("ratio", "half_pixel"), [(0, 1), (2, 1), (0, 0), (3, 0)])
def test_roi_align(lab: Lab, ratio: int, half_pixel: int, mode: str) -> None:
    x = _random(2, 3, 13, 9)
    rois = np.array([[0.5, 1, 8, 12], [-3, -4, 5, 30], [2, 3, 2.2, 3.1], [20, 20, 40, 30]], np.float32)
    batch = np.array([0, 1, 1, 0])
    kind = "half_pixel" if half_pixel else "output_half_pixel"
    (expected,) = onnx(
        "RoiAlign", {"x": x, "r": rois, "b": batch}, mode=mode, output_height=3, output_width=2, sampling_ratio=ratio,
        spatial_scale=0.8, coordinate_transformation_mode=kind,
    )  # fmt: skip
    params = {0: 2, 1: 3, 2: 13, 3: 9, 4: 3, 5: 2, 6: ratio, 7: 0.8, 8: half_pixel}
    found = lab.run("MkRoiAlign" if mode == "avg" else "MkRoiAlignMax", [x, rois, batch], params)[0]
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-5)


_POOLS = [
    ((9,), (3,), (2,), (1, 1), (1,)),
    ((7, 10), (3, 2), (2, 1), (1, 0, 1, 1), (1, 1)),
    ((9, 9), (2, 3), (2, 2), (0, 2, 1, 1), (2, 1)),
    ((4, 5, 6), (2, 2, 3), (1, 2, 1), (1, 0, 1, 0, 1, 1), (1, 1, 2)),
]


def _pool_params(
    shape: tuple[int, ...], kernel: Any, strides: Any, pads: Any, dilations: Any, out: Any
) -> dict[int, Any]:
    return {0: 6, 10: shape, 11: kernel, 12: strides, 13: pads[: len(shape)], 14: out, 15: dilations}


@pytest.mark.parametrize(("shape", "kernel", "strides", "pads", "dilations"), _POOLS)
@pytest.mark.parametrize("storage_order", [0, 1])
def test_max_pool_indices(
    lab: Lab, shape: tuple[int, ...], kernel: Any, strides: Any, pads: Any, dilations: Any, storage_order: int
) -> None:
    for x in (_random(2, 3, *shape), _ties(2, 3, *shape)):
        values, positions = onnx(
            "MaxPool", {"x": x}, 2, kernel_shape=kernel, strides=strides, pads=pads, dilations=dilations,
            storage_order=storage_order,
        )  # fmt: skip
        params = {**_pool_params(shape, kernel, strides, pads, dilations, values.shape[2:]), 3: storage_order}
        found = lab.run("MkMaxPoolIndices", [x.reshape(6, *shape)], params, 2)
        _same(found[0], values)
        _same(found[1], positions)


@pytest.mark.parametrize(("shape", "kernel", "strides", "pads", "dilations"), _POOLS)
@pytest.mark.parametrize("p", [1, 2, 3])
def test_lp_pool(
    lab: Lab, shape: tuple[int, ...], kernel: Any, strides: Any, pads: Any, dilations: Any, p: int
) -> None:
    x = _random(2, 3, *shape)
    (expected,) = onnx("LpPool", {"x": x}, kernel_shape=kernel, strides=strides, pads=pads, dilations=dilations, p=p)
    params = {**_pool_params(shape, kernel, strides, pads, dilations, expected.shape[2:]), 3: p}
    found = lab.run("MkLpPool", [x.reshape(6, *shape)], params)[0]
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-5)


@pytest.mark.parametrize("is_sorted", [0, 1])
@pytest.mark.parametrize(("shape", "axis"), [((12,), None), ((3, 4), None), ((9, 2), 0), ((2, 9), 1), ((2, 7, 2), 1)])
def test_unique(lab: Lab, shape: tuple[int, ...], axis: int | None, is_sorted: int) -> None:
    x = np.random.default_rng(10).integers(0, 2, shape).astype(np.float32)
    attributes = {} if axis is None else {"axis": axis}
    expected = onnx("Unique", {"x": x}, 4, sorted=is_sorted, **attributes)
    outer = int(np.prod(shape[: axis or 0], dtype=int))
    length = x.size if axis is None else shape[axis]
    values, first, inverse, counts, count = lab.run("MkUnique", [x], {0: outer, 1: length, 2: -1, 3: is_sorted}, 5)
    number = len(expected[1])
    assert count.tolist() == [number]
    _same(values.reshape(outer, length, -1)[:, :number], expected[0])
    _same(first[:number], expected[1])
    _same(inverse, expected[2])
    _same(counts[:number], expected[3])


@pytest.mark.parametrize(("code", "mode"), list(enumerate(["TF", "IDF", "TFIDF"])))
@pytest.mark.parametrize(("shortest", "longest", "skips"), [(1, 1, 0), (2, 2, 0), (2, 2, 5), (1, 2, 1), (1, 3, 2)])
def test_tf_idf(lab: Lab, code: int, mode: str, shortest: int, longest: int, skips: int) -> None:
    x = np.array([[1, 1, 3, 3, 3, 7], [8, 6, 7, 5, 6, 8]], np.int32)
    attributes = {
        "ngram_counts": [0, 4, 10],
        "ngram_indexes": [0, 1, 2, 3, 4, 5, 6, 7],
        "pool_int64s": [2, 3, 5, 4, 5, 6, 7, 8, 6, 7, 3, 3, 7],
    }
    weights = [1.0, 2.0, 0.5, 3.0, 1.5, 0.25, 4.0, 0.75]
    (expected,) = onnx(
        "TfIdfVectorizer", {"x": x}, mode=mode, min_gram_length=shortest, max_gram_length=longest,
        max_skip_count=skips, weights=weights, **attributes,
    )  # fmt: skip
    params = {
        0: 2,
        1: 6,
        3: code,
        4: shortest,
        5: longest,
        6: skips,
        7: 8,
        10: attributes["pool_int64s"],
        11: attributes["ngram_counts"],
        12: attributes["ngram_indexes"],
        13: weights,
    }
    _same(lab.run("MkTfIdf", [x], params)[0], expected)


_OUT_OF_RANGE = [
    ("MkGather", [np.zeros(5), np.array([5])], {1: 5}),
    ("MkGather", [np.zeros(5), np.array([0, 0, 0, 0, -6])], {1: 5}),
    ("MkGather", [np.zeros(5), np.array([0.5])], {1: 5}),
    ("MkGather", [np.zeros(5), np.array([0, 1, 2, np.nan])], {1: 5}),
    ("MkGather", [np.zeros(5), np.array([0, 1, 2, np.inf, 1, 1])], {1: 5}),
    ("MkGather", [np.zeros(5), np.array([2.0**31, 0, 0, 0])], {1: 5}),
    ("MkGatherElements", [np.zeros(5), np.array([1e30])], {10: [5], 11: [1]}),
    ("MkGatherND", [np.zeros((4, 5)), np.array([0, 5])], {10: [4, 5]}),
    ("MkScatterElements", [np.zeros(5), np.array([5]), np.zeros(1)], {10: [5], 11: [1]}),
    ("MkScatterND", [np.zeros((4, 5)), np.array([-5, 0]), np.zeros(1)], {10: [4, 5]}),
    ("MkRoiAlignMax", [np.zeros((2, 4)), np.zeros(4), np.array([1])], {2: 2, 3: 4}),
    ("MkRoiAlign", [np.zeros((2, 4)), np.array([0, 0, 1e9, 1]), np.array([0])], {2: 2, 3: 4}),
    ("MkDiv", [np.ones(3), np.array([1, 0, 2])], {3: 1}),
    ("MkNonZero", [np.ones(5)], {3: 4}),
]


@pytest.mark.parametrize(("kind", "inputs", "params"), _OUT_OF_RANGE)
def test_what_has_no_result_is_an_error_that_names_the_layer(lab: Lab, kind: str, inputs: Any, params: Any) -> None:
    with pytest.raises(HarnessError) as caught:
        lab.run(kind, inputs, params)
    assert f"{kind} layer 'layer'" in caught.value.hint
    _same(lab.run("MkArg", [np.array([1, 3, 2])], {1: 3})[0], [1])  # and the harness goes on


_MISFITS = [
    ("MkTopK", [np.zeros(5)], {1: 5, 3: 6}),
    ("MkTopK", [np.zeros(5)], {1: 4, 3: 1}),
    ("MkTopK", [np.zeros(6)], {0: -1, 1: -1, 3: 1}),
    ("MkTopK", [np.zeros(6)], {0: 2147483647, 1: 2147483647, 2: 2147483647}),
    ("MkTopK", [np.zeros(6), np.zeros(6)], {1: 6}),
    ("MkTopK", [np.zeros(6)], {1: 6, 3: 2, 20: [3]}),
    ("MkGather", [np.zeros(6)], {1: 6}),
    ("MkGatherElements", [np.zeros((2, 3)), np.zeros((3, 3))], {10: [2, 3], 11: [3, 3], 12: 1}),
    ("MkGatherElements", [np.zeros(6), np.zeros(6)], {10: [6], 11: [6], 12: 1}),
    ("MkGatherElements", [np.zeros(6), np.zeros(6)], {}),
    ("MkGatherND", [np.zeros(6), np.zeros(3)], {10: [2, 3]}),
    ("MkGatherND", [np.zeros(6), np.zeros(3)], {10: [65536, 65536]}),
    ("MkScatterElements", [np.zeros(6), np.zeros(6), np.zeros(6)], {10: [6], 11: [6], 3: 7}),
    ("MkScatterND", [np.zeros(6), np.zeros(2), np.zeros(3)], {10: [6]}),
    ("MkNonMaxSuppression", [np.zeros((3, 4)), np.zeros(4)], {3: 1}),
    ("MkNonMaxSuppression", [np.zeros((3, 4)), np.zeros(3)], {3: 0}),
    ("MkNonZero", [np.zeros(6)], {10: [7]}),
    ("MkPow", [np.zeros(6), np.zeros(4)], {}),
    ("MkPow", [np.zeros(6), np.zeros(6)], {10: [6]}),
    ("MkPow", [np.zeros(6), np.zeros(6)], {10: [1.5], 11: [6]}),
    ("MkMaxPoolIndices", [np.zeros(6)], {}),
    ("MkMaxPoolIndices", [np.zeros(6)], {0: 1, 10: [6], 11: [2, 2], 14: [5]}),
    ("MkLpPool", [np.zeros(6)], {0: 1, 10: [6], 11: [2147483647], 14: [5], 15: [2147483647]}),
    ("MkRoiAlign", [np.zeros((2, 4)), np.zeros(4), np.zeros(1)], {2: 2, 3: 4, 6: 2147483647}),
    ("MkGridSample", [np.zeros((3, 4)), np.zeros((5, 2))], {10: [3, 5]}),
    ("MkGridSample", [np.zeros((3, 4)), np.zeros((5, 3))], {10: [3, 4]}),
    ("MkGridSample", [np.zeros((3, 4)), np.zeros((5, 2))], {10: [3, 4], 3: 3}),
    ("MkGridSample", [np.zeros((3, 4)), np.zeros((5, 2))], {0: 2147483647, 1: 2147483647, 10: [2147483647, 2]}),
    ("MkGridSample", [np.zeros((3, 4)), np.zeros((4, 3))], {3: 2, 10: [3, 2, 2]}),
    ("MkTfIdf", [np.zeros(6)], {7: 2, 10: [1, 2], 11: [0], 12: [0, 5]}),
    ("MkTfIdf", [np.zeros(6)], {7: 2, 10: [1, 2], 11: [0, 3], 12: [0, 1]}),
]


@pytest.mark.parametrize(("kind", "inputs", "params"), _MISFITS)
def test_params_that_do_not_fit_are_errors(lab: Lab, kind: str, inputs: Any, params: Any) -> None:
    with pytest.raises(HarnessError) as caught:
        lab.run(kind, inputs, params)
    assert kind in caught.value.hint


@pytest.mark.parametrize("seed", range(4))
def test_damaged_params_never_end_the_harness(lab: Lab, seed: int) -> None:
    """The script asan_harness.py builds a harness that also notices what happens to do no harm."""
    rng = random.Random(seed)
    numbers = [-(2**31), -7, -1, 0, 1, 2, 3, 5, 65536, 2**31 - 1]
    for _ in range(50):
        kind, inputs, params = rng.choice(_OUT_OF_RANGE + _MISFITS)
        damaged: dict[int, Any] = dict(params)
        for key in rng.sample([*params, *range(16)], 2):
            old = damaged.get(key, 1)
            damaged[key] = [rng.choice([*old, *numbers]) for _ in old] if isinstance(old, list) else rng.choice(numbers)
        given = rng.choice([inputs, inputs[::-1], [*inputs, np.ones((2, 3))]])
        refused: HarnessError | None = None
        try:
            lab.run(kind, given, damaged, rng.randint(1, 3))
        except HarnessError as error:
            refused = error
        assert refused is None or (type(refused) is HarnessError and "ended" not in refused.message), (kind, damaged)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_masked_layers_carry_positions_exactly_in_half_precision(lab: Lab, precision: str) -> None:
    """Positions above 2048 (fp16) and 256 (bf16), through a Split and a BinaryOp that hold the mask."""
    x = _random(1, 5000)
    positions = np.array([2049, 4097, 4999, 3333, 257, 0], np.float32)
    lines = [
        layer("MkGather", "gather", ["in0", "in1"], ["found"], {1: 5000}),
        layer("MkTopK", "top", ["found"], ["values", "top_positions"], {1: 6, 3: 6}),
        layer("MkGather", "back", ["in2", "top_positions"], ["where"], {1: 6}),
        layer("Split", "split", ["where"], ["where0", "where1"], {31: 7}),
        layer("BinaryOp", "next", ["where0"], ["shifted"], {0: 1, 1: 1, 2: 1.0, 31: 7}),
        layer("MkFloat32", "keep0", ["where1"], ["kept"]),
        layer("MkFloat32", "keep1", ["shifted"], ["kept_shifted"]),
    ]
    options = LoadOptions.for_precision(precision, threads=2)
    kept, shifted = lab.graph(lines, [x, positions, positions], ["kept", "kept_shifted"], options)
    # Values may be rounded on their way in (the graph's input is not), positions may not.
    order = positions[np.argsort(-x[0, positions.astype(int)], kind="stable")]
    _same(kept, order)
    _same(shifted, order - 1)


def test_an_unmasked_layer_rounds_positions_in_half_precision(lab: Lab) -> None:
    """The reason for the masks: without them the same graph moves the positions."""
    positions = np.array([2049, 4097], np.float32)
    lines = [
        layer("MkFloat32", "first", ["in0"], ["exact"]),
        layer("UnaryOp", "neg", ["exact"], ["negated"], {0: 1}),
        layer("MkFloat32", "last", ["negated"], ["out"]),
    ]
    (found,) = lab.graph(lines, [positions], ["out"], LoadOptions.for_precision("bf16", threads=1))
    _same(found, [-2048, -4096])


def test_layers_take_what_half_precision_layers_give(lab: Lab) -> None:
    """A packed, half-precision blob arrives as plain float32, whatever the dims."""
    x = np.abs(_ties(16, 3, 5))
    lines = [
        layer("ReLU", "relu", ["in0"], ["relu"]),
        layer("MkTopK", "top", ["relu"], ["values", "positions"], {0: 16, 1: 15, 3: 4}),
    ]
    expected = onnx("TopK", {"x": x.reshape(16, 15), "k": np.array([4])}, 2, axis=1)
    for precision in ("fp32", "fp16", "bf16"):
        found = lab.graph(lines, [x], ["values", "positions"], LoadOptions.for_precision(precision, threads=1))
        _same(found[0], expected[0])
        _same(found[1], expected[1])


def test_a_masked_layer_of_ours_is_refused(lab: Lab) -> None:
    x = np.ones((16, 3, 5), np.float32)
    lines = [layer("ReLU", "relu", ["in0"], ["relu"]), layer("MkFloat32", "own", ["relu"], ["out"], {31: 7})]
    with pytest.raises(HarnessError) as caught:
        lab.graph(lines, [x], ["out"], LoadOptions.for_precision("bf16", threads=1))
    assert "feature mask" in caught.value.hint


def test_an_own_layer_that_the_harness_does_not_know(lab: Lab) -> None:
    with pytest.raises(HarnessError) as caught:
        lab.run("MkFromTheFuture", [np.zeros(4)])
    assert "no layer type 'MkFromTheFuture'" in caught.value.message
    assert "mobilekit harness build" in caught.value.message


def test_the_harness_says_which_layers_it_has(lab: Lab) -> None:
    types = lab.session.hello.own_layers
    assert {"MkTopK", "MkGather", "MkNonMaxSuppression", "MkTfIdf"} <= set(types)
    assert lab.session.info().own_layers == types
