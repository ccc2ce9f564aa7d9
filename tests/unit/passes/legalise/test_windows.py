from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models import of_nodes
from tests.unit.passes.checks import Node, assert_same, ops, prepared, rewritten

RNG = np.random.default_rng(8)


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"])
@pytest.mark.parametrize("op", ["Conv", "MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize(("size", "kernel", "stride"), [(8, 3, 2), (7, 2, 2), (9, 4, 1), (5, 1, 2)])
def test_auto_pad_is_worked_out(tmp_path: Path, auto: str, op: str, size: int, kernel: int, stride: int) -> None:
    attrs: dict[str, Any] = {"auto_pad": auto, "strides": [stride, stride]}
    if op == "Conv":
        node = Node(op, ["x", "w"], ["y"], **attrs)
        weights = {"w": RNG.standard_normal((4, 3, kernel, kernel)).astype(np.float32)}
    else:
        node, weights = Node(op, ["x"], ["y"], kernel_shape=[kernel, kernel], **attrs), {}
    model = of_nodes([node], {"x": (1, 3, size, size)}, {"y": ("n", "c", "h", "w")}, weights)
    graph = prepared(model, tmp_path)
    assert_same(model, graph)
    made = graph.nodes[0]
    assert "auto_pad" not in made.attrs
    assert {"pads", "strides", "kernel_shape", "dilations"} <= made.attrs.keys()


@pytest.mark.parametrize("attrs", [{"auto_pad": "SAME_UPPER"}, {"output_shape": [13, 14]}, {"output_padding": [1, 0]}])
def test_transposed_conv_pads(tmp_path: Path, attrs: dict[str, Any]) -> None:
    node = Node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], **attrs)
    weights = {"w": RNG.standard_normal((3, 4, 3, 3)).astype(np.float32)}
    model = of_nodes([node], {"x": (1, 3, 6, 7)}, {"y": ("n", "c", "h", "w")}, weights)
    graph = prepared(model, tmp_path)
    assert_same(model, graph)
    assert not {"auto_pad", "output_shape"} & graph.nodes[0].attrs.keys()


def pad(pads: list[int], *, value: float | None = None, mode: str = "constant", source: str = "x") -> list[Any]:
    return [Node("Pad", [source, "pads", *(["value"] if value is not None else [])], ["p"], mode=mode)]


def constants(pads: list[int], value: float | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"pads": np.array(pads)}
    return found if value is None else found | {"value": np.array(value, np.float32)}


SPATIAL = [0, 0, 1, 2, 0, 0, 2, 1]


def test_pad_into_conv(tmp_path: Path) -> None:
    nodes = [*pad(SPATIAL), Node("Conv", ["p", "w"], ["y"], pads=[1, 0, 0, 1])]
    weights = constants(SPATIAL) | {"w": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)}
    assert rewritten(nodes, tmp_path, weights, y=("n", "c", "h", "w")) == {"Conv": 1}


@pytest.mark.parametrize(
    ("pads", "value", "mode"),
    [(SPATIAL, 1.0, "constant"), (SPATIAL, None, "reflect"), ([0, 1, 0, 0, 0, 0, 0, 0], None, "constant")],
)
def test_pads_that_a_conv_cannot_do_stay(tmp_path: Path, pads: list[int], value: float | None, mode: str) -> None:
    nodes = [*pad(pads, value=value, mode=mode), Node("Conv", ["p", "w"], ["y"])]
    weights = constants(pads, value) | {"w": RNG.standard_normal((4, 3 + pads[1], 3, 3)).astype(np.float32)}
    assert rewritten(nodes, tmp_path, weights, y=("n", "c", "h", "w")) == {"Pad": 1, "Conv": 1}


def test_a_pad_with_two_readers_stays(tmp_path: Path) -> None:
    nodes = [*pad(SPATIAL), Node("Conv", ["p", "w"], ["y"]), Node("Softmax", ["p"], ["z"])]
    weights = constants(SPATIAL) | {"w": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)}
    model = of_nodes(nodes, {"x": (1, 3, 8, 8)}, {"y": ("n", "c", "h", "w"), "z": ("n", "c", "h", "w")}, weights)
    graph = prepared(model, tmp_path)
    assert_same(model, graph)
    assert ops(graph)["Pad"] == 1


def test_pad_of_the_lowest_number_into_max_pool(tmp_path: Path) -> None:
    nodes = [*pad(SPATIAL, value=-np.inf), Node("MaxPool", ["p"], ["y"], kernel_shape=[3, 3], strides=[2, 2])]
    assert rewritten(nodes, tmp_path, constants(SPATIAL, -np.inf), y=("n", "c", "h", "w")) == {"MaxPool": 1}


def test_pad_of_zero_into_max_pool_only_behind_relu(tmp_path: Path) -> None:
    pool = Node("MaxPool", ["p"], ["y"], kernel_shape=[3, 3], strides=[2, 2])
    zero = [*pad(SPATIAL), pool]
    assert rewritten(zero, tmp_path, constants(SPATIAL), y=("n", "c", "h", "w")) == {"Pad": 1, "MaxPool": 1}
    behind = [Node("Relu", ["x"], ["r"]), *pad(SPATIAL, source="r"), pool]
    assert rewritten(behind, tmp_path, constants(SPATIAL), y=("n", "c", "h", "w")) == {"Relu": 1, "MaxPool": 1}


def test_a_window_all_in_the_padding_stays(tmp_path: Path) -> None:
    wide = [0, 0, 3, 3, 0, 0, 3, 3]
    nodes = [*pad(wide, value=-np.inf), Node("MaxPool", ["p"], ["y"], kernel_shape=[2, 2])]
    assert rewritten(nodes, tmp_path, constants(wide, -np.inf), y=("n", "c", "h", "w")) == {"Pad": 1, "MaxPool": 1}


@pytest.mark.parametrize(
    ("attrs", "folds"),
    [({}, True), ({"pads": [1, 1, 1, 1]}, False), ({"pads": [1, 1, 1, 1], "count_include_pad": 1}, True)],
)
def test_pad_into_average_pool(tmp_path: Path, attrs: dict[str, Any], folds: bool) -> None:
    nodes = [*pad(SPATIAL), Node("AveragePool", ["p"], ["y"], kernel_shape=[4, 4], **attrs)]
    found = rewritten(nodes, tmp_path, constants(SPATIAL), y=("n", "c", "h", "w"))
    assert found == ({"AveragePool": 1} if folds else {"Pad": 1, "AveragePool": 1})
