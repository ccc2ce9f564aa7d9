"""Damaged models: our errors, never another."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from onnx import helper

from mobilekit.errors import MobilekitError, ModelError, UnsupportedModelError
from mobilekit.importers.onnx import load
from mobilekit.passes import prepare
from tests.models import conv_classifier, of_nodes
from tests.unit.passes.checks import Node, prepared


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bytes(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    data = conv_classifier().SerializeToString()
    path = tmp_path / "m.onnx"
    refused = 0
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(rng.choice([1, 2, 5, 20])):
            damaged[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            prepare(load(path), {}, simplify=False)
        except MobilekitError:
            refused += 1
    assert refused > 10


def test_an_attribute_that_the_operator_has_not(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="strides_typo"):
        prepared(
            of_nodes(
                [Node("MaxPool", ["x"], ["y"], kernel_shape=[1], strides_typo=[1])], {"x": (1, 1, 4)}, {"y": (1, 1, 4)}
            ),
            tmp_path,
        )


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    data = of_nodes([Node("Relu", ["x"], ["middle"]), Node("Neg", ["middle"], ["y"])], {"x": (2,)}, {"y": (2,)})
    path = tmp_path / "m.onnx"
    path.write_bytes(data.SerializeToString().replace(b"middle", b"midd\xff\xfe"))
    with pytest.raises(ModelError, match="not UTF-8"):
        prepare(load(path), {}, simplify=False)


def test_a_name_of_the_graph_that_is_not_utf_8(tmp_path: Path) -> None:
    data = of_nodes([Node("Relu", ["x"], ["y"])], {"x": (2,)}, {"y": (2,)})
    data.graph.name = "grapheme"
    path = tmp_path / "m.onnx"
    path.write_bytes(data.SerializeToString().replace(b"grapheme", b"graph\xffme"))
    with pytest.raises(ModelError, match="not UTF-8"):
        prepare(load(path), {}, simplify=False)


def test_a_constant_of_a_senseless_size(tmp_path: Path) -> None:
    nodes = [Node("ConstantOfShape", ["s"], ["k"]), Node("Add", ["x", "k"], ["y"])]
    model = of_nodes(nodes, {"x": (1,)}, {"y": ("n",)})
    model.graph.initializer.append(helper.make_tensor("s", 7, [2], [1 << 30, 1 << 30]))
    with pytest.raises(ModelError, match="constant of"):
        prepared(model, tmp_path)


def test_an_operator_of_too_many_inputs(tmp_path: Path) -> None:
    model = of_nodes([Node("Add", ["x", "x", "x"], ["y"])], {"x": (2,)}, {"y": (2,)})
    with pytest.raises(ModelError, match="has 3 inputs; it takes 2 to 2"):
        prepared(model, tmp_path, verify=False)


def test_an_operator_that_lacks_what_its_opset_asks(tmp_path: Path) -> None:
    model = of_nodes([Node("TopK", ["x"], ["y", "i"])], {"x": (4,)}, {"y": (2,)}, opset=9)
    with pytest.raises(ModelError, match="not what opset 9 has by that name"):
        prepared(model, tmp_path, verify=False)


def test_functions_that_call_each_other(tmp_path: Path) -> None:
    model = of_nodes([Node("F", ["x"], ["y"], domain="own")], {"x": (4,)}, {"y": (4,)})
    model.opset_import.append(helper.make_opsetid("own", 1))
    for name, other in (("F", "G"), ("G", "F")):
        call = Node(other, ["a"], ["b"], domain="own")
        model.functions.append(helper.make_function("own", name, ["a"], ["b"], [call], [helper.make_opsetid("own", 1)]))
    with pytest.raises(ModelError, match="cannot be inlined"):
        prepared(model, tmp_path, verify=False)


def test_a_tensor_larger_than_a_device(tmp_path: Path) -> None:
    model = of_nodes([Node("Relu", ["x"], ["y"])], {"x": (1 << 20, 1 << 20)}, {"y": (1 << 20, 1 << 20)})
    with pytest.raises(UnsupportedModelError) as caught:
        prepared(model, tmp_path, verify=False)
    assert "more than a device can hold" in caught.value.findings[0].reason


@pytest.mark.parametrize("axis", [2, -3, 1 << 40])
def test_an_axis_that_is_not_there(tmp_path: Path, axis: int) -> None:
    model = of_nodes([Node("Softmax", ["x"], ["y"], axis=axis)], {"x": (2, 3)}, {"y": (2, 3)})
    with pytest.raises(ModelError, match=f"axis {axis} is not one of the 2"):
        prepared(model, tmp_path, verify=False)


def test_an_attribute_of_another_type(tmp_path: Path) -> None:
    body = helper.make_graph([Node("Neg", ["x"], ["b"])], "body", [], [helper.make_tensor_value_info("b", 1, [2, 3])])
    model = of_nodes([Node("Softmax", ["x"], ["y"], axis=body)], {"x": (2, 3)}, {"y": (2, 3)})
    with pytest.raises(ModelError, match="'axis' is not of type INT"):
        prepared(model, tmp_path, verify=False)


@pytest.mark.parametrize("way", ["outputs", "count"])
def test_a_loop_whose_body_does_not_fit(tmp_path: Path, way: str) -> None:
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [Node("Add", ["h", "x"], ["h2"]), Node("Identity", ["c"], ["c2"])],
        "body",
        [info("i", 7, []), info("c", 9, []), info("h", 1, [2])],
        [info("c2", 9, []), info("h2", 1, [2])],
    )
    outputs = ["y", "z"] if way == "outputs" else ["y"]
    nodes = [Node("Loop", ["trips", "", "x"], outputs, body=body)]
    model = of_nodes(nodes, {"x": (2,)}, dict.fromkeys(outputs, (2,)))
    model.graph.initializer.append(
        helper.make_tensor("trips", 7, [] if way == "outputs" else [0], [3][way == "count" :])
    )
    with pytest.raises(UnsupportedModelError) as caught:
        prepared(model, tmp_path, verify=False)
    assert caught.value.findings[0].remedy == "export the model again"


def test_a_scan_whose_body_does_not_fit(tmp_path: Path) -> None:
    info = helper.make_tensor_value_info
    body = helper.make_graph([Node("Neg", ["a"], ["b"])], "body", [info("a", 1, [2])], [info("b", 1, [2])])
    model = of_nodes([Node("Scan", ["x"], ["y"], body=body, num_scan_inputs=3)], {"x": (4, 2)}, {"y": (4, 2)})
    with pytest.raises(UnsupportedModelError) as caught:
        prepared(model, tmp_path, verify=False)
    assert "do not fit" in caught.value.findings[0].reason
