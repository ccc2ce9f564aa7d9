"""Elements picked by constant indices, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tests.unit.targets.ncnn.oracle import agrees, findings, model, needs_own

RNG = np.random.default_rng(7)


def rand(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("many", [False, True])
def test_gather_elements(axis: int, many: bool) -> None:
    shape = (9, 8, 7) if many else (3, 2, 4)
    indices = RNG.integers(-shape[axis], shape[axis], shape)
    text = agrees(helper.make_node("GatherElements", ["x", "i"], ["y"], axis=axis), {"x": rand(*shape)}, {"i": indices})
    assert ("GridSample" in text) == many


def test_gather_nd_with_batch_dims() -> None:
    indices = RNG.integers(0, 3, (2, 5, 1))
    agrees(helper.make_node("GatherND", ["x", "i"], ["y"], batch_dims=1), {"x": rand(2, 3, 4)}, {"i": indices})


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_scatter_elements_with_duplicates(reduction: str) -> None:
    node = helper.make_node("ScatterElements", ["x", "i", "u"], ["y"], axis=1, reduction=reduction)
    indices = RNG.permuted(np.tile(np.arange(6), (3, 1)), axis=1)[:, :4]
    if reduction != "none":  # the order of writes to one element is not defined
        indices = indices % 3
    agrees(node, {"x": rand(3, 6), "u": rand(3, 4)}, {"i": indices})


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_scatter_nd(reduction: str) -> None:
    node = helper.make_node("ScatterND", ["x", "i", "u"], ["y"], reduction=reduction)
    indices = np.array([[[3], [0]], [[2], [5]]]) if reduction == "none" else np.array([[[3], [0]], [[3], [5]]])
    agrees(node, {"x": rand(6, 4), "u": rand(2, 2, 4)}, {"i": indices})


@pytest.mark.parametrize("op", ["ScatterND", "ScatterElements"])
def test_booleans_are_scattered(op: str) -> None:
    indices = np.array([[0, 2], [3, 1], [2, 2]]) if op == "ScatterND" else np.array([[0, 2], [3, 1], [2, 0]])
    nodes = [
        helper.make_node("Greater", ["x", "half"], ["b"]),
        helper.make_node("Less", ["u", "half"], ["c"]),
        helper.make_node(op, ["b", "i", "c"], ["d"]),
        helper.make_node("Where", ["d", "x", "half"], ["y"]),
    ]
    feeds = {"x": rand(4, 3), "u": rand(3) if op == "ScatterND" else rand(3, 2)}
    agrees(nodes, feeds, {"half": np.array(0.5, np.float32), "i": indices})


def test_infinities_are_copied() -> None:
    x = np.array([[np.inf, 1, -np.inf], [2, 3, 4]], np.float32)
    node = helper.make_node("GatherElements", ["x", "i"], ["y"], axis=1)
    from tests.unit.targets.ncnn.oracle import run_ncnn

    proto = model([node], {"x": x}, ["y"], {"i": np.tile([2, 0, 1, 1], (2, 20))})
    found, text = run_ncnn(proto, {"x": x})
    assert "GridSample" in text
    np.testing.assert_array_equal(found["y"], np.tile(x[:, [2, 0, 1, 1]], (1, 20)))


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_compress(axis: int | None) -> None:
    attrs = {} if axis is None else {"axis": axis}
    condition = np.array([True, False, True])
    agrees(helper.make_node("Compress", ["x", "c"], ["y"], **attrs), {"x": rand(3, 4)}, {"c": condition})


@pytest.mark.parametrize("time_axis", [0, 1])
def test_reverse_sequence(time_axis: int) -> None:
    node = helper.make_node("ReverseSequence", ["x", "n"], ["y"], time_axis=time_axis, batch_axis=1 - time_axis)
    agrees(node, {"x": rand(4, 4, 2)}, {"n": np.array([1, 4, 2, 3])})


def test_max_unpool() -> None:
    x = rand(1, 2, 4, 4)
    indices = np.array([[[[0, 2], [9, 10]], [[21, 18], [24, 31]]]])
    node = helper.make_node("MaxUnpool", ["x", "i"], ["y"], kernel_shape=[2, 2], strides=[2, 2])
    agrees(node, {"x": x[:, :, :2, :2]}, {"i": indices})


@pytest.mark.parametrize("attrs", [{}, {"strides": [2, 1]}, {"pads": [1, 0, 1, 2]}, {"dilations": [1, 2]}])
def test_col2im(attrs: dict[str, list[int]]) -> None:
    image, block = np.array([5, 6]), np.array([2, 3])
    stride, pads, dilation = attrs.get("strides", [1, 1]), attrs.get("pads", [0] * 4), attrs.get("dilations", [1, 1])
    places = 1
    for i in range(2):
        places *= (int(image[i]) + pads[i] + pads[i + 2] - dilation[i] * (int(block[i]) - 1) - 1) // stride[i] + 1
    node = helper.make_node("Col2Im", ["x", "n", "b"], ["y"], **attrs)
    agrees(node, {"x": rand(2, 12, places)}, {"n": image, "b": block})


def test_too_scattered_needs_our_own_layer() -> None:
    size = 70000
    node = helper.make_node("GatherElements", ["x", "i"], ["y"], axis=0)
    proto = model([node], {"x": rand(size)}, ["y"], {"i": RNG.permutation(size)})
    assert needs_own(proto) == ("MkGather",)


def test_an_index_out_of_range_is_refused() -> None:
    node = helper.make_node("GatherND", ["x", "i"], ["y"])
    proto = model([node], {"x": rand(3)}, ["y"], {"i": np.array([[3]])})
    assert "outside" in findings(proto)[0].reason


def test_indices_of_another_shape_are_refused() -> None:
    node = helper.make_node("GatherElements", ["x", "i"], ["y"], axis=1)
    proto = model([node], {"x": rand(2, 3)}, ["y"], {"i": np.zeros((4, 3), np.int64)})
    assert "do not fit" in findings(proto)[0].reason
