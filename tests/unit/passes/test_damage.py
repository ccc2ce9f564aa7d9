"""Damaged models: our errors, never another."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from mobilekit.errors import MobilekitError, ModelError, UnsupportedModelError
from mobilekit.importers.onnx import load
from mobilekit.passes import prepare
from tests.models import conv_classifier, of_nodes, save
from tests.unit.passes.checks import Node, ops, prepared


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
    with pytest.raises(UnsupportedModelError) as caught:
        prepared(model, tmp_path)
    assert "out of a few numbers" in caught.value.findings[0].reason


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


INT = np.int64
MAKERS: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray]]] = {
    "HannWindow": ([Node("HannWindow", ["n"], ["big"])], {"n": np.array(400_000_000, INT)}),
    "Range": (
        [Node("Range", ["zero", "n", "one"], ["big"])],
        {"zero": np.array(0, INT), "n": np.array(400_000_000, INT), "one": np.array(1, INT)},
    ),
    "Tile": ([Node("Tile", ["row", "n"], ["big"])], {"row": np.ones((1, 4)), "n": np.array([1 << 40, 1 << 40])}),
    "Tile of Tile": (
        [Node("Tile", [f"t{i}", "n"], [f"t{i + 1}"]) for i in range(15)] + [Node("Identity", ["t15"], ["big"])],
        {"t0": np.ones((1, 4), np.float32), "n": np.array([2, 2])},
    ),
    "Concat of itself": (
        [Node("Concat", [f"t{i}", f"t{i}"], [f"t{i + 1}"], axis=0) for i in range(40)]
        + [Node("Identity", ["t40"], ["big"])],
        {"t0": np.ones((1, 4), np.float32)},
    ),
    "Expand": ([Node("Expand", ["one", "n"], ["big"])], {"one": np.ones(1), "n": np.array([1 << 62, 1 << 62])}),
    "what follows Expand": (
        [Node("Expand", ["one", "n"], ["e"]), Node("Neg", ["e"], ["big"])],
        {"one": np.ones(1, np.float32), "n": np.array([400_000_000])},
    ),
    "outer product": (
        [Node("MatMul", ["a", "b"], ["big"])],
        {"a": np.ones((30_000, 1), np.float32), "b": np.ones((1, 30_000), np.float32)},
    ),
    "Where of three": (
        [Node("Where", ["c", "a", "b"], ["big"])],
        {"a": np.ones((4096, 1, 1)), "b": np.ones((4096, 1)), "c": np.ones(4096, bool)},
    ),
    "Pad": (
        [Node("Pad", ["a", "n"], ["big"])],
        {"a": np.ones((2, 2), np.float32), "n": np.array([1 << 20, 0, 1 << 20, 1 << 20])},
    ),
    "OneHot": (
        [Node("OneHot", ["a", "n", "b"], ["big"])],
        {"a": np.zeros(1, INT), "n": np.array(400_000_000), "b": np.zeros(2)},
    ),
    "EyeLike": (
        [Node("ConstantOfShape", ["n"], ["e"]), Node("EyeLike", ["e"], ["big"])],
        {"n": np.array([20_000, 20_000])},
    ),
    "MelWeightMatrix": (
        [Node("MelWeightMatrix", ["a", "a", "r", "low", "high"], ["big"])],
        {"a": np.array(1 << 20), "r": np.array(16000), "low": np.array(0.0, np.float32), "high": np.array(8e3, "f")},
    ),
    "DeformConv": (
        [Node("DeformConv", ["a", "w", "o"], ["big"])],
        {"a": np.ones((1, 8, 34, 34), "f"), "w": np.ones((8, 8, 3, 3), "f"), "o": np.zeros((1, 18, 32, 32), "f")},
    ),
    "RegexFullMatch": (
        [Node("RegexFullMatch", ["a"], ["match"], pattern="(a+)+$"), Node("Cast", ["match"], ["big"], to=1)],
        {"a": np.array(["a" * 60 + "b"], object)},
    ),
}


@pytest.mark.parametrize("name", MAKERS)
def test_constants_out_of_nothing_cost_nothing(tmp_path: Path, name: str) -> None:
    """A few bytes ask for gigabytes or minutes: it is refused, or left to be computed at run time."""
    nodes, weights = MAKERS[name]
    ends = [
        Node("Cast", ["big"], ["f"], to=1),
        Node("ReduceMean", ["f"], ["m"], keepdims=0),
        Node("Add", ["x", "m"], ["y"]),
    ]
    path = save(of_nodes([*nodes, *ends], {"x": (4,)}, {"y": (4,)}, weights, opset=22), tmp_path / "m.onnx")
    tracemalloc.start()
    try:
        left = _left(path)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert left
    assert most < 1 << 30


def _left(path: Path) -> list[str]:
    """The operators that compute from constants alone, or those that were refused, with all that is to be said."""
    try:
        graph = prepare(load(path), {}, simplify=False)
    except UnsupportedModelError as error:
        return [finding.op for finding in error.findings if finding.node and finding.reason and finding.remedy]
    return [node.op for node in graph.nodes if all(value is None or value.const is not None for value in node.inputs)]


def test_weights_made_of_a_few_numbers_are_constants_still(tmp_path: Path) -> None:
    """As in the light models of the onnx package: what is refused is far larger."""
    nodes = [Node("ConstantOfShape", ["s"], ["k"]), Node("MatMul", ["x", "k"], ["y"])]
    model = of_nodes(nodes, {"x": (1, 5000)}, {"y": (1, 5000)}, {"s": np.array([5000, 5000])})
    graph = prepared(model, tmp_path, verify=False)
    assert ops(graph) == {"MatMul": 1}


def test_loops_in_loops(tmp_path: Path) -> None:
    info = helper.make_tensor_value_info

    def body(depth: int) -> onnx.GraphProto:
        h, out, go = f"h{depth}", f"o{depth}", f"c{depth}"
        inner = Node("Loop", ["trips", "go", h], [out], body=body(depth - 1)) if depth else Node("Neg", [h], [out])
        return helper.make_graph(
            [inner, Node("Identity", [go], [f"{go}_out"])],
            f"body{depth}",
            [info(f"i{depth}", 7, []), info(go, 9, []), info(h, 1, [2])],
            [info(f"{go}_out", 9, []), info(out, 1, [2])],
        )

    loop = Node("Loop", ["trips", "go", "x"], ["y"], body=body(3))
    model = of_nodes([loop], {"x": (2,)}, {"y": (2,)}, {"trips": np.array(1000), "go": np.array(True)})
    with pytest.raises(UnsupportedModelError) as caught:
        prepared(model, tmp_path, verify=False)
    (finding,) = caught.value.findings
    assert "nodes" in finding.reason


def test_functions_that_double(tmp_path: Path) -> None:
    model = of_nodes([Node("F40", ["x"], ["y"], domain="own")], {"x": (4,)}, {"y": (4,)})
    model.opset_import.append(helper.make_opsetid("own", 1))
    imports = [helper.make_opsetid("", model.opset_import[0].version), helper.make_opsetid("own", 1)]
    for level in range(41):
        inner, domain = (f"F{level - 1}", "own") if level else ("Neg", "")
        calls = [Node(inner, ["a"], ["t"], domain=domain), Node(inner, ["t"], ["b"], domain=domain)]
        model.functions.append(helper.make_function("own", f"F{level}", ["a"], ["b"], calls, imports))
    with pytest.raises(ModelError, match="call each other too often"):
        prepared(model, tmp_path, verify=False)
