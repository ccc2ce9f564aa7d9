"""Comparisons, logic and selection as arithmetic; batches; running sums."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tests.unit.targets.ncnn.oracle import agrees, findings, model, run_ncnn

RNG = np.random.default_rng(17)


def rand(*shape: int) -> np.ndarray:
    return np.asarray(RNG.standard_normal(shape), np.float32)


@pytest.mark.parametrize("op", ["Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
@pytest.mark.parametrize("const", [False, True])
def test_comparisons(op: str, dtype: type, const: bool) -> None:
    a, b = RNG.integers(-3, 4, (2, 3, 4)).astype(dtype), RNG.integers(-3, 4, (3, 1)).astype(dtype)
    node = helper.make_node(op, ["a", "b"], ["y"])
    agrees(node, {"a": a} if const else {"a": a, "b": b}, {"b": b} if const else {})


@pytest.mark.parametrize("op", ["And", "Or", "Xor"])
def test_logic(op: str) -> None:
    a, b = RNG.random((2, 3, 4)) < 0.5, RNG.random((3, 4)) < 0.5
    agrees(helper.make_node(op, ["a", "b"], ["y"]), {"a": a, "b": b})


def test_not() -> None:
    agrees(helper.make_node("Not", ["a"], ["y"]), {"a": RNG.random((2, 5)) < 0.5})


@pytest.mark.parametrize("const", [(), ("a",), ("b",), ("c",), ("a", "b")])
@pytest.mark.parametrize("shapes", [((2, 3, 4), (2, 3, 4), (2, 3, 4)), ((3, 1), (2, 1, 4), (1,)), ((1, 4), (), (3, 1))])
def test_where(shapes: tuple[tuple[int, ...], ...], const: tuple[str, ...]) -> None:
    inputs = {"c": RNG.random(shapes[0]) < 0.5, "a": rand(*shapes[1]), "b": rand(*shapes[2])}
    consts = {name: inputs.pop(name) for name in const}
    agrees(helper.make_node("Where", ["c", "a", "b"], ["y"]), inputs, consts)


def test_where_does_not_mix_in_an_infinity_it_does_not_select() -> None:
    inputs = {
        "c": np.array([True, False, True, False]),
        "a": np.array([1, np.inf, 3, -np.inf], np.float32),
        "b": np.array([np.inf, 2, -np.inf, 4], np.float32),
    }
    agrees(helper.make_node("Where", ["c", "a", "b"], ["y"]), inputs)


@pytest.mark.parametrize("fill", [-np.inf, np.inf])
@pytest.mark.parametrize("swap", [False, True])
def test_where_with_a_constant_infinity(fill: float, swap: bool) -> None:
    names = ["c", "b", "a"] if swap else ["c", "a", "b"]
    inputs = {"c": RNG.random((2, 1, 4)) < 0.5, "a": rand(2, 3, 4)}
    node = helper.make_node("Where", names, ["y"])
    agrees(node, inputs, {"b": np.float32(fill)}, limit=0)
    agrees(node, {"c": inputs["c"]}, {"a": np.float32(0), "b": np.float32(fill)}, limit=0)


@pytest.mark.parametrize("fill", [-np.inf, np.inf, -1e9, 0.0, 2.5])
@pytest.mark.parametrize("swap", [False, True])
def test_where_a_constant_mask_has_a_constant(fill: float, swap: bool) -> None:
    names = ["c", "b", "a"] if swap else ["c", "a", "b"]
    mask = np.tril(np.ones((4, 4), np.bool_))
    agrees(helper.make_node("Where", names, ["y"]), {"a": rand(2, 4, 4)}, {"c": mask, "b": np.float32(fill)})


def test_where_with_some_infinities_among_numbers() -> None:
    node = helper.make_node("Where", ["c", "a", "b"], ["y"])
    consts = {"b": np.array([1, -np.inf, 0], np.float32)}
    inputs = {"c": np.array([[True, False, True], [False, True, False]]), "a": rand(2, 3)}
    found, _ = run_ncnn(model([node], inputs, ["y"], consts), inputs)
    np.testing.assert_array_equal(found["y"], np.where(inputs["c"], inputs["a"], consts["b"]))


@pytest.mark.parametrize("const", [(), ("c",), ("a",)])
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("wide", [False, True])
def test_where_marks_what_does_not_count_with_nan(wide: bool, swap: bool, const: tuple[str, ...]) -> None:
    inputs = {"c": RNG.random((3, 4)) < 0.5, "a": rand(3, 4)}
    consts = {name: inputs.pop(name) for name in const} | {"b": np.full((2, 3, 4) if wide else (), np.nan, np.float32)}
    node = helper.make_node("Where", ["c", "b", "a"] if swap else ["c", "a", "b"], ["y"])
    every = inputs | consts
    found, _ = run_ncnn(model([node], inputs, ["y"], consts), inputs)
    choices = (every["b"], every["a"]) if swap else (every["a"], every["b"])
    np.testing.assert_array_equal(found["y"], np.where(every["c"], *choices))


def test_casts_to_booleans() -> None:
    agrees(helper.make_node("Cast", ["x"], ["y"], to=9), {"x": np.array([[0, 0.5, -3, 0]], np.float32)})


def test_integer_arithmetic() -> None:
    for op in ("Add", "Sub", "Mul"):
        inputs = {"a": RNG.integers(-1000, 1000, (2, 3)), "b": RNG.integers(-1000, 1000, (3,))}
        agrees(helper.make_node(op, ["a", "b"], ["y"]), inputs)


def test_small_integers_wrap_in_onnx_and_are_refused() -> None:
    node = helper.make_node("Add", ["a", "a"], ["y"])
    assert "uint8" in findings(model([node], {"a": np.ones(3, np.uint8)}, ["y"]))[0].reason


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("rank", [1, 2])
def test_convolution_of_a_batch(group: int, rank: int) -> None:
    node = helper.make_node(
        "Conv", ["x", "w", "b"], ["y"], group=group, strides=[2] * rank, pads=[1] * rank + [0] * rank
    )
    consts = {"w": rand(8, 4 // group, *([3] * rank)), "b": rand(8)}
    agrees(node, {"x": rand(3, 4, *([7] * rank))}, consts)


def test_group_normalisation_of_a_batch() -> None:
    node = helper.make_node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2)
    agrees(node, {"x": rand(3, 4, 3, 3)}, {"s": rand(4), "b": rand(4)})


@pytest.mark.parametrize("axis", [-1, 1])
def test_layer_normalisation_tells_mean_and_deviation(axis: int) -> None:
    x = rand(2, 3, 4)
    node = helper.make_node("LayerNormalization", ["x", "s"], ["y", "m", "d"], axis=axis)
    agrees(node, {"x": x}, {"s": rand(*x.shape[axis:])}, outputs=("y", "m", "d"))


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_running_sum(axis: int, reverse: int) -> None:
    node = helper.make_node("CumSum", ["x", "a"], ["y"], reverse=reverse)
    agrees(node, {"x": rand(3, 4, 5)}, {"a": np.array(axis)})


def test_channel_shuffle_is_one_layer() -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "a"], ["t"]),
        helper.make_node("Transpose", ["t"], ["u"], perm=[0, 2, 1, 3, 4]),
        helper.make_node("Reshape", ["u", "b"], ["y"]),
    ]
    text = agrees(nodes, {"x": rand(1, 6, 3, 4)}, {"a": np.array([1, 2, 3, 3, 4]), "b": np.array([1, 6, 3, 4])})
    assert [line.split()[0] for line in text.splitlines()[2:]] == ["Input", "ShuffleChannel"]


def test_thresholded_relu() -> None:
    agrees(helper.make_node("ThresholdedRelu", ["x"], ["y"], alpha=0.4), {"x": rand(3, 5)}, opset=22)


def test_constants_that_the_emission_makes_are_not_mistaken_for_each_other() -> None:
    """Each Trilu makes a mask; a freed one's id is soon another's."""
    nodes = [helper.make_node("Trilu", ["x", f"k{k}"], [f"y{k}"], upper=k % 2) for k in range(24)]
    constants = {f"k{k}": np.array(k // 2 - 6, np.int64) for k in range(24)}
    x = np.random.default_rng(0).standard_normal((5, 5)).astype(np.float32)
    agrees(nodes, {"x": x}, constants, outputs=[f"y{k}" for k in range(24)])
