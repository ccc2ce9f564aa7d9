"""Arithmetic with broadcasting, and functions of one tensor."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from tests.unit.targets.ncnn.oracle import agrees, findings, model, needs_own

RNG = np.random.default_rng(5)


def rand(*shape: int) -> np.ndarray:
    return np.asarray(RNG.standard_normal(shape), np.float32)


@st.composite
def broadcasting(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    full = draw(st.lists(st.integers(1, 4), min_size=0, max_size=5))

    def one() -> tuple[int, ...]:
        kept = [size if draw(st.booleans()) else 1 for size in full]
        return tuple(kept[draw(st.integers(0, len(kept))) if draw(st.booleans()) else 0 :])

    return one(), one()


@given(
    op=st.sampled_from(["Add", "Sub", "Mul", "Div", "Max", "Min"]),
    shapes=broadcasting(),
    const=st.sampled_from(["none", "left", "right"]),
)
@settings(max_examples=150)
def test_broadcasting(op, shapes, const) -> None:
    a, b = (np.asarray(np.abs(rand(*shape)) + np.float32(0.5)) for shape in shapes)
    node = helper.make_node(op, ["a", "b"], ["y"])
    inputs, consts = {"a": a, "b": b}, {}
    if const != "none":
        name = "a" if const == "left" else "b"
        consts[name] = inputs.pop(name)
    out = np.broadcast_shapes(*shapes)
    if any(found := findings(model([node], inputs, ["y"], consts))):
        assert "dims" in found[0].reason
        assert len([size for size in out if size > 1]) > 4
        return
    agrees(node, inputs, consts)


@given(st.lists(broadcasting(), min_size=1, max_size=3), st.sampled_from(["Max", "Min", "Sum", "Mean"]))
@settings(max_examples=30)
def test_many_operands(pairs, op) -> None:
    shape = pairs[0][0]
    inputs = {"x0": rand(*shape), "x1": rand(*shape), "x2": rand()}
    agrees(helper.make_node(op, list(inputs), ["y"]), inputs)


UNARY = [
    *("Abs", "Neg", "Floor", "Ceil", "Exp", "Sin", "Cos", "Tan", "Atan", "Tanh", "Round", "Sign", "Sinh", "Cosh"),
    *("Asinh", "Relu", "Sigmoid", "Erf", "Elu", "Selu", "Celu", "HardSigmoid", "HardSwish", "Mish", "Gelu"),
    *("Softplus", "Softsign", "LeakyRelu"),
]


@pytest.mark.parametrize("op", UNARY)
@pytest.mark.parametrize("shape", [(), (5,), (1, 3, 4, 5), (2, 3, 2, 2, 2)])
def test_unary(op: str, shape: tuple[int, ...]) -> None:
    scale = 0.4 if op == "Tan" else 3  # near its poles a tangent magnifies the rounding of its argument
    if len(shape) == 5:
        nodes = [helper.make_node("Reshape", ["x", "s"], ["t"]), helper.make_node(op, ["t"], ["u"])]
        nodes.append(helper.make_node("Reshape", ["u", "flat"], ["y"]))
        consts = {"s": np.array(shape), "flat": np.array([-1])}
        agrees(nodes, {"x": scale * rand(6, 8)}, consts)
    else:
        agrees(helper.make_node(op, ["x"], ["y"]), {"x": scale * rand(*shape)})


@pytest.mark.parametrize("op", ["Sqrt", "Log", "Reciprocal", "Acosh"])
def test_unary_of_positive_numbers(op: str) -> None:
    agrees(helper.make_node(op, ["x"], ["y"]), {"x": np.abs(rand(1, 3, 4, 5)) + 1.1})


@pytest.mark.parametrize("op", ["Asin", "Acos", "Atanh"])
def test_unary_of_fractions(op: str) -> None:
    agrees(helper.make_node(op, ["x"], ["y"]), {"x": np.clip(rand(3, 4), -0.9, 0.9)})


def test_softplus_of_large_numbers() -> None:
    agrees(helper.make_node("Softplus", ["x"], ["y"]), {"x": np.array([-200, -90, 0, 90, 200], np.float32)})


@pytest.mark.parametrize(
    ("op", "attrs"),
    [
        ("LeakyRelu", {"alpha": 0.25}),
        ("Elu", {"alpha": 2.5}),
        ("Selu", {"alpha": 1.3, "gamma": 2.0}),
        ("Celu", {"alpha": 0.5}),
        ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}),
        ("Gelu", {"approximate": "tanh"}),
    ],
)
def test_attributes(op: str, attrs: dict[str, object]) -> None:
    agrees(helper.make_node(op, ["x"], ["y"], **attrs), {"x": 3 * rand(1, 3, 4, 5)})


@pytest.mark.parametrize("bounds", [(-0.5, 0.7), (None, 0.3), (0.1, None), (0.7, -0.5)])
def test_clip(bounds: tuple[float | None, float | None]) -> None:
    given_bounds = {n: np.float32(v) for n, v in zip(("low", "high"), bounds, strict=True) if v is not None}
    inputs = ["x", *(name if name in given_bounds else "" for name in ("low", "high"))]
    while not inputs[-1]:
        inputs.pop()
    agrees(helper.make_node("Clip", inputs, ["y"]), {"x": rand(2, 3, 4)}, given_bounds)


@pytest.mark.parametrize("slope", [(1,), (3, 1, 1), (5,), (3, 4, 5), (1, 1, 1, 1)])
def test_prelu(slope: tuple[int, ...]) -> None:
    agrees(helper.make_node("PRelu", ["x", "s"], ["y"]), {"x": rand(1, 3, 4, 5)}, {"s": rand(*slope)})


@pytest.mark.parametrize("power", [0.5, 1, 1.5, 2, 3, 5, 7.5, -1, -2, -0.5])
def test_powers(power: float) -> None:
    x = np.abs(rand(2, 3, 4)) + 0.2
    if power == int(power):
        x[0] *= -1
    agrees(helper.make_node("Pow", ["x", "p"], ["y"]), {"x": x}, {"p": np.float32(power)})


@pytest.mark.parametrize("power", [2.2, 0.0, 65.0])
def test_powers_that_ncnn_gets_wrong_from_zero_down(power: float) -> None:
    node = helper.make_node("Pow", ["x", "p"], ["y"])
    assert needs_own(model([node], {"x": rand(2, 3)}, ["y"], {"p": np.float32(power)})) == ("MkPow",)


def test_a_constant_to_a_power() -> None:
    agrees(helper.make_node("Pow", ["b", "x"], ["y"]), {"x": rand(2, 3)}, {"b": np.float32(2)})


def test_a_scalar_constant_costs_no_blob() -> None:
    text = agrees(helper.make_node("Sub", ["c", "x"], ["y"]), {"x": rand(1, 3, 4, 4)}, {"c": np.float32(2)})
    assert "MemoryData" not in text
    assert "Reshape" not in text


def test_what_only_float32_can_do_is_refused_for_others() -> None:
    node = helper.make_node("MatMul", ["x", "z"], ["y"])
    numbers = {"x": np.ones((2, 3), np.int64), "z": np.ones((3, 2), np.int64)}
    found = findings(model([node], numbers, ["y"]))
    assert any("int64" in f.reason for f in found)


@pytest.mark.parametrize("power", [0.75, 1 / 3, 2.2, 9.0])
def test_a_power_of_what_is_never_negative(power: float) -> None:
    """As in a generalised mean: clip, power, mean, root."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Pow", ["r", "p"], ["a"]),
        helper.make_node("GlobalAveragePool", ["a"], ["m"]),
        helper.make_node("Pow", ["m", "q"], ["y"]),
    ]
    agrees(nodes, {"x": rand(1, 3, 4, 5)}, {"p": np.float32(power), "q": np.float32(1 / power)}, outputs=("a", "y"))
    alone = model([nodes[1]], {"r": rand(2, 3)}, ["a"], {"p": np.float32(0.75)})
    assert needs_own(alone) == ("MkPow",)
    assert "positive" in findings(alone, stock_only=True)[0].reason
