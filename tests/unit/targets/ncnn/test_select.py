"""Positions of extremes, sorting, picking, sampling."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tests.unit.targets.ncnn.oracle import agrees, model, needs_own, run_ncnn, run_ort

RNG = np.random.default_rng(23)


def rand(*shape: int) -> np.ndarray:
    return np.asarray(RNG.standard_normal(shape), np.float32)


def ties(*shape: int) -> np.ndarray:
    return RNG.integers(-2, 3, shape).astype(np.float32)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize(("shape", "axis"), [((7,), 0), ((1, 5), 1), ((1, 4, 6, 5), 1), ((2, 4, 6), -1), ((3, 4), 0)])
def test_position_of_the_extreme(op: str, last: int, shape: tuple[int, ...], axis: int) -> None:
    node = helper.make_node(op, ["x"], ["y"], axis=axis, select_last_index=last, keepdims=last)
    agrees(node, {"x": ties(*shape)})
    agrees(node, {"x": rand(*shape)})


def test_positions_of_integers() -> None:
    agrees(helper.make_node("ArgMax", ["x"], ["y"], axis=1), {"x": RNG.integers(-9, 9, (1, 6, 5))})


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_hardmax(axis: int) -> None:
    agrees(helper.make_node("Hardmax", ["x"], ["y"], axis=axis), {"x": ties(2, 4, 3)})


@pytest.mark.parametrize("k", [1, 3, 6])
@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize(("shape", "axis"), [((1, 6), 1), ((2, 6, 3), 1), ((6, 4), 0), ((9,), 0)])
def test_top_k(k: int, largest: int, shape: tuple[int, ...], axis: int) -> None:
    node = helper.make_node("TopK", ["x", "k"], ["y", "i"], axis=axis, largest=largest)
    for x in (ties(*shape), rand(*shape)):
        agrees(node, {"x": x}, {"k": np.array([k])}, outputs=("y", "i"))


def test_a_large_sort_needs_our_own_layer() -> None:
    node = helper.make_node("TopK", ["x", "k"], ["y", "i"])
    assert needs_own(model([node], {"x": rand(1, 8400)}, ["y", "i"], {"k": np.array([300])})) == ("MkTopK",)


def test_a_middling_sort_can_do_without() -> None:
    node = helper.make_node("TopK", ["x", "k"], ["y", "i"])
    proto = model([node], {"x": (x := rand(1, 400))}, ["y", "i"], {"k": np.array([30])})
    actual, text = run_ncnn(proto, {"x": x}, stock_only=True)
    assert "Mk" not in text
    for name, expected in run_ort(proto, {"x": x}).items():
        np.testing.assert_array_equal(actual[name], expected)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("values", [[0.0, 1.0], [0.25, -3.0]])
def test_one_hot(axis: int, values: list[float]) -> None:
    node = helper.make_node("OneHot", ["x", "d", "v"], ["y"], axis=axis)
    consts = {"d": np.array([5]), "v": np.array(values, np.float32)}
    agrees(node, {"x": RNG.integers(-5, 7, (2, 3))}, consts)


@pytest.mark.parametrize(("shape", "axis", "count"), [((3, 5), 1, 2), ((2, 6, 3), 1, 4), ((5,), 0, 7), ((4, 3), 0, 2)])
def test_gather_elements(shape: tuple[int, ...], axis: int, count: int) -> None:
    wanted = tuple(count if i == axis else size for i, size in enumerate(shape))
    indices = RNG.integers(-shape[axis], shape[axis], wanted)
    node = helper.make_node("GatherElements", ["x", "i"], ["y"], axis=axis)
    agrees(node, {"x": rand(*shape), "i": indices})
    agrees(node, {"x": rand(*shape)}, {"i": indices})


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("k", [None, -1, 0, 2])
@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 4, 4)])
def test_triangle(upper: int, k: int | None, shape: tuple[int, ...]) -> None:
    names = ["x"] if k is None else ["x", "k"]
    node = helper.make_node("Trilu", names, ["y"], upper=upper)
    agrees(node, {"x": rand(*shape)}, {} if k is None else {"k": np.array(k)})


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("axis", [1, -1])
def test_lp_normalization(p: int, axis: int) -> None:
    x = rand(1, 4, 5)
    x[0, :, 2] = 0
    x[0, 1, :] = 0
    agrees(helper.make_node("LpNormalization", ["x"], ["y"], axis=axis, p=p), {"x": x})


@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("corners", [0, 1])
def test_grid_sample(mode: str, padding: str, corners: int) -> None:
    node = helper.make_node("GridSample", ["x", "g"], ["y"], mode=mode, padding_mode=padding, align_corners=corners)
    grid = np.asarray(RNG.uniform(-1.3, 1.3, (1, 5, 7, 2)), np.float32)
    agrees(node, {"x": rand(1, 3, 6, 8), "g": grid})
    # Positions that lie just between two elements.
    steps = np.linspace(-1.25, 1.25, 11, dtype=np.float32)
    between = np.stack(np.meshgrid(steps, steps), -1)[None]
    agrees(node, {"x": rand(1, 2, 4, 4), "g": between})


def test_sampling_a_volume() -> None:
    node = helper.make_node("GridSample", ["x", "g"], ["y"], mode="linear")
    grid = np.asarray(RNG.uniform(-1.2, 1.2, (1, 2, 3, 4, 3)), np.float32)
    agrees(node, {"x": rand(1, 2, 4, 5, 6), "g": grid})


@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
@pytest.mark.parametrize("corners", [0, 1])
def test_reflection_as_often_as_it_takes_for_a_batch(mode: str, corners: int) -> None:
    node = helper.make_node(
        "GridSample", ["x", "g"], ["y"], padding_mode="reflection", mode=mode, align_corners=corners
    )
    agrees(node, {"x": rand(2, 3, 5, 7), "g": 3 * rand(2, 4, 6, 2)})


@pytest.mark.parametrize("infinite", ["masked", "padded"])
@pytest.mark.parametrize("pick", ["TopK", "GatherElements", "Gather"])
def test_infinities_beside_what_is_picked(infinite: str, pick: str) -> None:
    """Not by products with zeros, which would be NaN; a pitch tracker pads its scores like this."""
    made = {
        "masked": helper.make_node("Where", ["known", "x", "endless"], ["scores"]),
        "padded": helper.make_node("Pad", ["x", "pads", "endless"], ["scores"]),
    }[infinite]
    nodes = [
        helper.make_node("Less", ["x", "two"], ["known"]),
        made,
        helper.make_node("TopK", ["scores", "k"], ["best", "at"]),
    ]
    if pick != "TopK":
        rows = "at" if pick == "GatherElements" else "row"
        nodes += [
            helper.make_node("Gather", ["at", "first"], ["row"], axis=0),
            helper.make_node(pick, ["scores", rows], ["y"], axis=1),
        ]
    consts = {
        "two": np.float32(2),
        "endless": np.float32(-np.inf),
        "pads": np.array([0, 1, 0, 1]),
        "k": np.array([2]),
        "first": np.array(0),
    }
    x = np.array([[3, 1, -1, 0.5, -2, 1.5]], np.float32)
    outputs = ("best", "at") if pick == "TopK" else ("y",)
    proto = model(nodes, {"x": x}, outputs, consts)
    assert needs_own(proto)
    agrees(nodes, {"x": x}, consts, outputs=outputs)
