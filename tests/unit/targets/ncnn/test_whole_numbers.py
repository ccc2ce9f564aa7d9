"""Integer arithmetic in float32, against ONNX Runtime or numpy."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.unit.targets.ncnn.oracle import agrees, model, needs_own, run_ncnn

RNG = np.random.default_rng(11)
LIMIT = 1 << 23


def whole(low: int, high: int, *shape: int, dtype: type = np.int32) -> np.ndarray:
    return RNG.integers(low, high, shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_division_truncates_even_where_the_quotient_is_whole(dtype: type) -> None:
    y = whole(1, 3000, 500, dtype=dtype) * RNG.choice([-1, 1], 500).astype(dtype)
    x = np.concatenate([y[:250] * whole(-2000, 2000, 250, dtype=dtype), whole(-LIMIT, LIMIT, 250, dtype=dtype)])
    agrees(helper.make_node("Div", ["x", "d"], ["y"]), {"x": x, "d": y})


@pytest.mark.parametrize("fmod", [0, 1])
def test_mod_of_every_sign(fmod: int) -> None:
    x, y = whole(-LIMIT, LIMIT, 400), whole(1, 5000, 400) * RNG.choice([-1, 1], 400).astype(np.int32)
    x[:100] = y[:100] * 3
    agrees(helper.make_node("Mod", ["x", "d"], ["y"], fmod=fmod), {"x": x, "d": y})


def test_mod_of_floats_by_what_is_computed_needs_our_own_layer() -> None:
    x = np.ones(3, np.float32)
    proto = model([helper.make_node("Mod", ["x", "d"], ["y"], fmod=1)], {"x": x, "d": x}, ["y"])
    proto.graph.node[0].attribute[0].i = 0
    assert needs_own(proto) == ("MkMod",)


@pytest.mark.parametrize("op", ["BitwiseAnd", "BitwiseOr", "BitwiseXor"])
def test_bits_of_negative_numbers_too(op: str) -> None:
    x, y = whole(-LIMIT, LIMIT, 3, 50), whole(-LIMIT, LIMIT, 50)
    agrees(helper.make_node(op, ["x", "m"], ["y"]), {"x": x, "m": y})


def test_bitwise_not() -> None:
    agrees(helper.make_node("BitwiseNot", ["x"], ["y"]), {"x": whole(-LIMIT, LIMIT, 40)})


@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
def test_shifts(direction: str) -> None:
    x = whole(0, 255, 60, dtype=np.uint32).astype(np.int32)
    shift = whole(0, 14, 60)
    newest = onnx.defs.onnx_opset_version()
    if "tensor(int32)" not in onnx.defs.get_schema("BitShift", newest).type_constraints[0].allowed_type_strs:
        pytest.skip("this onnx shifts unsigned integers only")
    node = helper.make_node("BitShift", ["x", "s"], ["y"], direction=direction)
    proto = model([node], {"x": x, "s": shift}, ["y"], opset=newest)
    found, _ = run_ncnn(proto, {"x": x, "s": shift})
    np.testing.assert_array_equal(found["y"], x << shift if direction == "LEFT" else x >> shift)


@pytest.mark.parametrize("op", ["And", "Or", "Xor"])
def test_booleans_broadcast(op: str) -> None:
    a, b = RNG.random((2, 3, 4)) < 0.5, RNG.random((3, 1)) < 0.5
    agrees(helper.make_node(op, ["a", "b"], ["y"]), {"a": a, "b": b})


@pytest.mark.parametrize("attrs", [{}, {"detect_negative": 0}, {"detect_positive": 0}])
def test_is_inf(attrs: dict[str, int]) -> None:
    largest = np.finfo(np.float32).max
    x = np.array([0, -0.0, 1, -1, largest, -largest, 1e-30, np.inf, -np.inf, np.nan], np.float32)
    agrees(helper.make_node("IsInf", ["x"], ["y"], **attrs), {"x": np.tile(x, 5)})


def test_is_nan() -> None:
    x = np.array([0, 1, -1, 3e38, np.inf, -np.inf, np.nan, -5], np.float32)
    agrees(helper.make_node("IsNaN", ["x"], ["y"]), {"x": np.tile(x, 5)})
