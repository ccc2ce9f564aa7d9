"""What moves elements: reshapes, transposes, cuts, joins, pads, repeats, gathers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from tests.unit.targets.ncnn.oracle import agrees, findings, model, needs_own, run_ncnn, run_ort

RNG = np.random.default_rng(7)


def rand(*shape: int) -> np.ndarray:
    return np.asarray(RNG.standard_normal(shape), np.float32)


shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)


@given(shapes, st.data())
@settings(max_examples=80)
def test_transpose(shape, data) -> None:
    perm = data.draw(st.permutations(range(len(shape))))
    agrees(helper.make_node("Transpose", ["x"], ["y"], perm=perm), {"x": rand(*shape)})


@pytest.mark.parametrize(
    ("shape", "perm"),
    [
        ((1, 2, 3, 4, 5), (0, 2, 3, 4, 1)),
        ((2, 3, 4, 5, 6), (0, 1, 4, 2, 3)),
        ((3, 4, 5, 2, 2, 2), (2, 0, 1, 3, 4, 5)),
        ((2, 3, 2, 4, 3), (4, 2, 0, 3, 1)),
        ((4, 5, 3, 2, 6), (2, 0, 3, 1, 4)),
        ((2, 3, 2, 4, 3, 2), (0, 2, 4, 3, 5, 1)),
        ((2, 3, 2, 3, 2, 3, 2, 3), (7, 5, 3, 1, 6, 4, 2, 0)),
    ],
)
def test_transpose_of_more_axes_than_ncnn_has(shape: tuple[int, ...], perm: tuple[int, ...]) -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "s"], ["t"]),
        helper.make_node("Transpose", ["t"], ["u"], perm=perm),
        helper.make_node("Reshape", ["u", "flat"], ["y"]),
    ]
    agrees(nodes, {"x": rand(int(np.prod(shape)))}, {"s": np.array(shape), "flat": np.array([-1])})


def test_transpose_of_nine_separate_axes_is_refused() -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "s"], ["t"]),
        helper.make_node("Transpose", ["t"], ["u"], name="/turn"),
        helper.make_node("Reshape", ["u", "flat"], ["y"]),
    ]
    found = findings(model(nodes, {"x": rand(512)}, ["y"], {"s": np.array([2] * 9), "flat": np.array([-1])}))
    assert [f.node for f in found] == ["/turn"]
    assert "9 separate axes" in found[0].reason


@given(shapes, st.data())
@settings(max_examples=60)
def test_reshape_then_transpose(shape, data) -> None:
    total = int(np.prod(shape))
    factors = [f for f in range(1, total + 1) if total % f == 0]
    first = data.draw(st.sampled_from(factors))
    nodes = [
        helper.make_node("Reshape", ["x", "s"], ["t"]),
        helper.make_node("Transpose", ["t"], ["y"], perm=[1, 0, 2]),
    ]
    agrees(nodes, {"x": rand(*shape)}, {"s": np.array([first, 1, total // first])})


def test_reshapes_that_keep_the_order_cost_nothing() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Reshape", ["a", "s"], ["b"]),
        helper.make_node("Unsqueeze", ["b", "axes"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("Sigmoid", ["d"], ["e"]),
        helper.make_node("Reshape", ["e", "back"], ["y"]),
    ]
    consts = {"s": np.array([3, 20]), "axes": np.array([0]), "back": np.array([1, 3, 4, 5])}
    text = agrees(nodes, {"x": rand(1, 3, 4, 5)}, consts)
    assert "Reshape" not in [line.split()[0] for line in text.splitlines()[2:]]


@st.composite
def slices(draw: st.DrawFn) -> tuple[tuple[int, ...], list[slice]]:
    shape = draw(st.lists(st.integers(1, 7), min_size=1, max_size=4).map(tuple))
    parts = []
    for size in shape:
        start, stop = sorted(draw(st.lists(st.integers(0, size), min_size=2, max_size=2, unique=True)))
        step = draw(st.sampled_from([1, 1, 1, 2, 3, -1, -2]))
        parts.append(slice(start, stop, step) if step > 0 else slice(stop - 1, start - size - 1, step))
    return shape, parts


@given(slices())
@settings(max_examples=150)
def test_slice(case) -> None:
    shape, parts = case
    consts = {
        "starts": np.array([p.start for p in parts]),
        "ends": np.array([p.stop for p in parts]),
        "axes": np.arange(len(parts)),
        "steps": np.array([p.step for p in parts]),
    }
    agrees(helper.make_node("Slice", ["x", *consts], ["y"]), {"x": rand(*shape)}, consts)


def test_slice_to_the_very_beginning_backwards() -> None:
    consts = {"s": np.array([-1]), "e": np.array([-100]), "a": np.array([1]), "t": np.array([-2])}
    agrees(helper.make_node("Slice", ["x", *consts], ["y"]), {"x": rand(2, 7, 3)}, consts)


@given(shapes, st.integers(0, 3), st.lists(st.integers(1, 3), min_size=1, max_size=4))
@settings(max_examples=60)
def test_concat_and_split(shape, axis, sizes) -> None:
    axis %= len(shape)
    parts = {f"x{i}": rand(*shape[:axis], size, *shape[axis + 1 :]) for i, size in enumerate(sizes)}
    agrees(helper.make_node("Concat", list(parts), ["y"], axis=axis), parts)
    whole = np.concatenate(list(parts.values()), axis)
    names = [f"y{i}" for i in range(len(sizes))]
    node = helper.make_node("Split", ["x", "sizes"], names, axis=axis - len(shape))
    agrees(node, {"x": whole}, {"sizes": np.array(sizes)}, outputs=names)


def test_concat_with_a_constant() -> None:
    node = helper.make_node("Concat", ["c", "x"], ["y"], axis=1)
    agrees(node, {"x": rand(1, 3, 4)}, {"c": rand(1, 1, 4)})


@given(
    st.sampled_from(["constant", "edge", "reflect"]),
    st.lists(st.integers(3, 5), min_size=1, max_size=4),
    st.data(),
)
@settings(max_examples=80)
def test_pad(mode, shape, data) -> None:
    low = -1 if mode == "constant" else 0
    pads = data.draw(st.lists(st.integers(low, 2), min_size=2 * len(shape), max_size=2 * len(shape)))
    consts = {"pads": np.array(pads)}
    if mode == "constant":
        consts["value"] = np.float32(1.5)
    node = helper.make_node("Pad", ["x", *consts], ["y"], mode=mode)
    agrees(node, {"x": rand(*shape)}, consts)


def test_pad_wraps() -> None:
    node = helper.make_node("Pad", ["x", "pads"], ["y"], mode="wrap")
    agrees(node, {"x": rand(2, 3, 4)}, {"pads": np.array([0, 1, 2, 1, 2, 0])})


def test_pad_with_an_infinity() -> None:
    node = helper.make_node("Pad", ["x", "pads", "v"], ["y"])
    consts = {"pads": np.array([1, 0, 0, 2]), "v": np.array(-np.inf, np.float32)}
    proto = model([node], {"x": rand(2, 3)}, ["y"], consts)
    inputs = {"x": rand(2, 3)}
    np.testing.assert_array_equal(run_ncnn(proto, inputs)[0]["y"], run_ort(proto, inputs)["y"])


@given(shapes, st.data())
@settings(max_examples=40)
def test_tile_and_expand(shape, data) -> None:
    repeats = data.draw(st.lists(st.integers(1, 3), min_size=len(shape), max_size=len(shape)))
    agrees(helper.make_node("Tile", ["x", "r"], ["y"]), {"x": rand(*shape)}, {"r": np.array(repeats)})
    single = [1 if data.draw(st.booleans()) else size for size in shape]
    agrees(helper.make_node("Expand", ["x", "s"], ["y"]), {"x": rand(*single)}, {"s": np.array(shape)})


@pytest.mark.parametrize("indices", [1, -1, [2, 0], [[0, 1], [3, 2]], [1, 2, 3]])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather_by_constants(indices: object, axis: int) -> None:
    node = helper.make_node("Gather", ["x", "i"], ["y"], axis=axis)
    agrees(node, {"x": rand(4, 4, 4)}, {"i": np.array(indices)})


@pytest.mark.parametrize("shape", [(5,), (1, 5), (2, 3)])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_embedding(shape: tuple[int, ...], dtype: type) -> None:
    ids = RNG.integers(0, 10, shape).astype(dtype)
    text = agrees(helper.make_node("Gather", ["table", "x"], ["y"]), {"x": ids}, {"table": rand(10, 6)})
    assert "Embed" in text


def test_ids_that_are_computed() -> None:
    nodes = [helper.make_node("Add", ["x", "one"], ["i"]), helper.make_node("Gather", ["table", "i"], ["y"])]
    agrees(nodes, {"x": np.array([3, -1, 8, -4])}, {"table": rand(10, 6), "one": np.int64(1)})
    huge = {"table": np.zeros((1 << 20, 2), np.float32), "one": np.int64(1)}
    assert needs_own(model(nodes, {"x": np.zeros(32, np.int64)}, ["y"], huge)) == ("MkGather",)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gather_by_computed_positions(axis: int) -> None:
    nodes = [
        helper.make_node("ArgMax", ["s"], ["i"], axis=1, keepdims=0),
        helper.make_node("Gather", ["x", "i"], ["y"], axis=axis),
    ]
    agrees(nodes, {"x": rand(4, 5, 6), "s": rand(3, 4)})


def test_ids_that_are_also_computed_with() -> None:
    """As RoBERTa does: the embedding of the ids, and a mask of those that are padding."""
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["e"]),
        helper.make_node("Equal", ["x", "pad"], ["p"]),
        helper.make_node("Cast", ["p"], ["m"], to=1),
        helper.make_node("Reshape", ["m", "column"], ["c"]),
        helper.make_node("Add", ["e", "c"], ["y"]),
    ]
    consts = {"table": rand(10, 6), "pad": np.int64(1), "column": np.array([0, 0, 1])}
    agrees(nodes, {"x": np.array([[3, 1, 9, 0, 1]])}, consts)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_inputs_and_outputs_of_other_float_types(dtype: type) -> None:
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=1), helper.make_node("Relu", ["f"], ["y"])]
    agrees(nodes, {"x": rand(2, 3).astype(dtype)})


def test_casts_to_bytes_where_the_range_is_known() -> None:
    nodes = [helper.make_node("Clip", ["x", "low", "high"], ["c"]), helper.make_node("Cast", ["c"], ["y"], to=2)]
    agrees(nodes, {"x": 200 * rand(3, 7)}, {"low": np.float32(0), "high": np.float32(255)})
    found = findings(model(nodes, {"x": rand(3, 7)}, ["y"], {"low": np.float32(0), "high": np.float32(256)}))
    assert "exactly" in found[0].reason


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(mode: str) -> None:
    agrees(helper.make_node("DepthToSpace", ["x"], ["y"], blocksize=2, mode=mode), {"x": rand(1, 12, 3, 4)})


def test_space_to_depth() -> None:
    agrees(helper.make_node("SpaceToDepth", ["x"], ["y"], blocksize=2), {"x": rand(1, 3, 4, 6)})


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.bool_])
def test_integers_and_booleans_pass_exactly(dtype: type) -> None:
    x = RNG.integers(0, 2, (1, 3, 4)).astype(dtype) if dtype == np.bool_ else RNG.integers(-(2**24), 2**24, (1, 3, 4))
    agrees(helper.make_node("Transpose", ["x"], ["y"], perm=[2, 0, 1]), {"x": x.astype(dtype)})


@pytest.mark.parametrize(("source", "target"), [(np.int64, 6), (np.bool_, 1), (np.int32, 1), (np.float32, 7)])
def test_casts(source: type, target: int) -> None:
    x = (3 * rand(2, 5)).astype(source)
    agrees(helper.make_node("Cast", ["x"], ["y"], to=target), {"x": x})


def test_an_input_may_be_an_output() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Reshape", ["x", "s"], ["z"])]
    agrees(nodes, {"x": rand(1, 3, 4)}, {"s": np.array([4, 3])}, outputs=("y", "z"))
