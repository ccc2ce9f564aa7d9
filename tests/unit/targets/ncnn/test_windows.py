"""Convolutions, pools, resizes: what slides over space."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from tests.unit.targets.ncnn.oracle import agrees, findings, model, prepared, run_ncnn, run_ort

RNG = np.random.default_rng(3)


def rand(*shape: int) -> np.ndarray:
    return np.asarray(RNG.standard_normal(shape), np.float32)


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize(
    ("kernel", "attrs"),
    [
        ((1, 1), {}),
        ((3, 3), {"pads": [1, 1, 1, 1]}),
        ((3, 2), {"strides": [2, 1], "pads": [0, 1, 2, 0]}),
        ((2, 3), {"dilations": [2, 1]}),
        ((3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ((2, 4), {"auto_pad": "SAME_LOWER", "strides": [2, 3]}),
    ],
)
def test_conv_2d(group: int, kernel: tuple[int, int], attrs: dict[str, object]) -> None:
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], group=group, **attrs)
    agrees(node, {"x": rand(1, 4, 9, 10)}, {"w": rand(8, 4 // group, *kernel), "b": rand(8)})


@pytest.mark.parametrize("group", [1, 4])
def test_conv_1d(group: int) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=group, strides=[2], pads=[2, 1], dilations=[2])
    agrees(node, {"x": rand(1, 4, 17)}, {"w": rand(4, 4 // group, 3)})


@pytest.mark.parametrize("group", [1, 2])
def test_conv_3d(group: int) -> None:
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], group=group, strides=[1, 2, 1], pads=[1, 0, 1, 0, 1, 2])
    agrees(node, {"x": rand(1, 4, 5, 6, 7)}, {"w": rand(6, 4 // group, 2, 3, 3), "b": rand(6)})


@pytest.mark.parametrize("group", [1, 2, 4])
def test_conv_transpose_of_a_batch(group: int) -> None:
    attrs = {"group": group, "strides": [2, 1], "pads": [1, 0, 0, 1], "output_padding": [1, 0], "dilations": [1, 2]}
    node = helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], **attrs)
    agrees(node, {"x": rand(2, 4, 5, 6)}, {"w": rand(4, 4, 3, 2), "b": rand(4 * group)})


def test_conv_transpose_of_a_batch_of_volumes_is_refused() -> None:
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], name="/up")
    found = findings(model([node], {"x": rand(2, 4, 5, 5, 5)}, ["y"], {"w": rand(4, 4, 3, 3, 3)}))
    assert ("/up", "ConvTranspose") in [(f.node, f.op) for f in found]


def test_conv_transpose_of_a_volume() -> None:
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 1, 1], output_padding=[1, 0, 0])
    agrees(node, {"x": rand(1, 3, 4, 5, 3)}, {"w": rand(3, 2, 3, 2, 2)})


@pytest.mark.parametrize(
    ("activation", "attrs"),
    [("Relu", {}), ("LeakyRelu", {"alpha": 0.3}), ("Sigmoid", {}), ("HardSwish", {}), ("Clip", {})],
)
def test_an_activation_moves_into_the_convolution(activation: str, attrs: dict[str, float]) -> None:
    extra = ["low", "high"] if activation == "Clip" else []
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["t"]),
        helper.make_node(activation, ["t", *extra], ["y"], **attrs),
    ]
    consts = {"w": rand(4, 3, 3, 3), "low": np.float32(-0.5), "high": np.float32(1.5)}
    text = agrees(nodes, {"x": rand(1, 3, 6, 6)}, {k: v for k, v in consts.items() if k == "w" or k in extra})
    assert [line.split()[0] for line in text.splitlines()[2:]] == ["Input", "Convolution"]


def test_an_activation_stays_out_where_the_convolution_is_an_output() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["t"]), helper.make_node("Relu", ["t"], ["y"])]
    agrees(nodes, {"x": rand(1, 3, 6, 6)}, {"w": rand(4, 3, 3, 3)}, outputs=("t", "y"))


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize(
    "attrs",
    [
        {},
        {"strides": [2, 3]},
        {"strides": [2, 2], "pads": [1, 0, 0, 1]},
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
        {"dilations": [2, 1]},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
    ],
)
def test_conv_transpose(group: int, attrs: dict[str, object]) -> None:
    node = helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], group=group, **attrs)
    agrees(node, {"x": rand(1, 4, 5, 6)}, {"w": rand(4, 6 // group, 3, 3), "b": rand(6)})


@given(
    op=st.sampled_from(["MaxPool", "AveragePool"]),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pads=st.lists(st.integers(0, 3), min_size=4, max_size=4),
    size=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    ceil=st.booleans(),
    include=st.booleans(),
    batch=st.integers(1, 2),
)
@settings(max_examples=60)
def test_pools(op, kernel, strides, pads, size, ceil, include, batch) -> None:
    pads = [min(p, k - 1) for p, k in zip(pads, (*kernel, *kernel), strict=True)]
    attrs = {"count_include_pad": int(include)} if op == "AveragePool" else {}
    node = helper.make_node(
        op, ["x"], ["y"], kernel_shape=kernel, strides=strides, pads=pads, ceil_mode=int(ceil), **attrs
    )
    x = rand(batch, 2, *size)
    proto = model([node], {"x": x}, ["y"])
    want = run_ort(proto, {"x": x})["y"]
    if prepared(proto).outputs[0].shape != want.shape:
        return  # ONNX's shape inference and ONNX Runtime differ on a window that starts in the padding
    if findings(proto):
        assert "padding" in findings(proto)[0].reason
        return
    np.testing.assert_allclose(run_ncnn(proto, {"x": x})[0]["y"], want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pools_that_pad_themselves(op: str, pad: str) -> None:
    node = helper.make_node(op, ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], auto_pad=pad)
    agrees(node, {"x": rand(1, 3, 8, 11)})


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("rank", [1, 3])
def test_pools_of_other_ranks(op: str, rank: int) -> None:
    node = helper.make_node(op, ["x"], ["y"], kernel_shape=[3] * rank, strides=[2] * rank, pads=[1] * (2 * rank))
    agrees(node, {"x": rand(1, 3, *([7] * rank))})


@pytest.mark.parametrize("op", ["GlobalMaxPool", "GlobalAveragePool"])
@pytest.mark.parametrize("shape", [(1, 3, 5, 6), (2, 3, 5), (1, 2, 3, 4, 5)])
def test_global_pools(op: str, shape: tuple[int, ...]) -> None:
    agrees(helper.make_node(op, ["x"], ["y"]), {"x": rand(*shape)})


@given(
    mode=st.sampled_from(["nearest", "linear", "cubic"]),
    transform=st.sampled_from(["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"]),
    rounding=st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]),
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    target=st.tuples(st.integers(1, 12), st.integers(1, 12)),
)
@settings(max_examples=60)
def test_resize(mode, transform, rounding, size, target) -> None:
    attrs = {"nearest_mode": rounding} if mode == "nearest" else {}
    node = helper.make_node(
        "Resize", ["x", "", "", "sizes"], ["y"], mode=mode, coordinate_transformation_mode=transform, **attrs
    )
    sizes = np.array([1, 3, *target], np.int64)
    agrees(node, {"x": rand(1, 3, *size)}, {"sizes": sizes}, limit=2e-5)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_doubling_uses_interp(mode: str) -> None:
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], mode=mode)
    text = agrees(node, {"x": rand(1, 3, 5, 4)}, {"scales": np.array([1, 1, 2, 2], np.float32)})
    assert "Interp" in text


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("size", [(3, 3), (4, 9), (2, 5)])
def test_resize_with_antialias(mode: str, size: tuple[int, int]) -> None:
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode=mode, antialias=1)
    agrees(node, {"x": rand(1, 3, 9, 13)}, {"sizes": np.array([1, 3, *size], np.int64)})


@pytest.mark.parametrize("outside", [0.0, 7.5])
def test_resize_of_a_part(outside: float) -> None:
    node = helper.make_node(
        "Resize", ["x", "roi", "", "sizes"], ["y"], mode="linear", extrapolation_value=outside,
        coordinate_transformation_mode="tf_crop_and_resize",
    )  # fmt: skip
    roi = np.array([0, 0, 0.2, -0.3, 1, 1, 0.7, 1.2], np.float32)
    agrees(node, {"x": rand(1, 2, 6, 8)}, {"roi": roi, "sizes": np.array([1, 2, 4, 5], np.int64)})


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
def test_auto_pad_valid_with_ceil_mode(op: str) -> None:
    node = helper.make_node(op, ["x"], ["y"], auto_pad="VALID", ceil_mode=1, kernel_shape=[3, 3], strides=[3, 2])
    agrees(node, {"x": rand(1, 4, 8, 6)})


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
def test_pools_on_which_the_references_disagree_are_refused(op: str) -> None:
    same = helper.make_node(op, ["x"], ["y"], auto_pad="SAME_UPPER", dilations=[1, 2], kernel_shape=[1, 2])
    assert "disagree" in findings(model([same], {"x": rand(1, 4, 5, 3)}, ["y"]))[0].reason


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
def test_a_window_larger_than_its_input_is_refused(op: str) -> None:
    wide = helper.make_node(op, ["x"], ["y"], kernel_shape=[1, 2], strides=[1, 3])
    assert "larger than its padded input" in findings(model([wide], {"x": rand(1, 6, 2, 1)}, ["y"]))[0].reason


@pytest.mark.parametrize("op", ["Conv", "AveragePool", "LpPool"])
def test_same_padding_that_would_crop(op: str) -> None:
    """Strides that skip one element are padded by nothing; beyond that ONNX Runtime's operators differ."""
    weights = {"w": rand(2, 2, 1, 1)} if op == "Conv" else {}
    for stride, refused in ((2, False), (3, True)):
        node = helper.make_node(
            op, ["x", *weights], ["y"], auto_pad="SAME_UPPER", kernel_shape=[1, 1], strides=[stride, 1]
        )
        if refused:
            found = findings(model([node], {"x": rand(1, 2, 6, 4)}, ["y"], weights))
            assert "disagree about its auto_pad" in found[0].reason
        else:
            agrees(node, {"x": rand(1, 2, 6, 4)}, weights)
