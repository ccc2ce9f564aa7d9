"""Protos to graphs and back: the same model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from mobilekit.errors import ModelError
from mobilekit.importers.convert import from_proto, to_proto
from mobilekit.importers.tensors import ExternalData, dtype_bits, dtype_name, elem_type, from_tensor, to_tensor
from tests.models import conv_classifier, of_nodes


def run(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return list(ort.InferenceSession(model.SerializeToString(), options).run(None, feeds))


def assert_round_trip(model: onnx.ModelProto, feeds: dict[str, Any]) -> onnx.ModelProto:
    back = to_proto(from_proto(model, Path()))
    for wanted, got in zip(run(model, feeds), run(back, feeds), strict=True):
        np.testing.assert_array_equal(got, wanted)
    return back


def test_round_trip_keeps_names_and_numbers() -> None:
    model = conv_classifier()
    feeds = {"serving_default_input:0": np.random.default_rng(0).random((1, 3, 8, 8), np.float32)}
    back = assert_round_trip(model, feeds)
    assert [node.name for node in back.graph.node] == [node.name for node in model.graph.node]
    assert {t.name for t in back.graph.initializer} == {t.name for t in model.graph.initializer}


def test_if_with_captured_values() -> None:
    def branch(op: str) -> onnx.GraphProto:
        return helper.make_graph(
            [helper.make_node(op, ["x", "w"], [f"{op}_out"])],
            op,
            [],
            [helper.make_tensor_value_info(f"{op}_out", TensorProto.FLOAT, [2])],
        )

    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], then_branch=branch("Add"), else_branch=branch("Mul")),
    ]
    weights = {"w": np.array([3, 5], np.float32), "zero": np.array(0, np.float32)}
    model = of_nodes(nodes, {"x": [2]}, {"y": [2]}, weights)
    graph = from_proto(model, Path())
    weight = next(value for value in graph.nodes[2].attrs["then_branch"].values() if value.name == "w")
    assert len(weight.consumers) == 2
    for sign in (1, -1):
        assert_round_trip(model, {"x": np.array([1, 2], np.float32) * sign})


def test_loop_with_a_captured_value() -> None:
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Add", ["state", "x"], ["next"]), helper.make_node("Identity", ["go"], ["go_on"])],
        "body",
        [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), info("state", TensorProto.FLOAT, [2])],
        [info("go_on", TensorProto.BOOL, []), info("next", TensorProto.FLOAT, [2])],
    )
    nodes = [helper.make_node("Loop", ["count", "", "x"], ["y"], body=body)]
    model = of_nodes(nodes, {"x": [2]}, {"y": [2]}, {"count": np.array(3)})
    assert_round_trip(model, {"x": np.array([1, 2], np.float32)})


def test_local_functions_are_inlined() -> None:
    function = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    model = of_nodes([helper.make_node("Twice", ["x"], ["y"], domain="mine")], {"x": [2]}, {"y": [2]})
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    assert [node.op for node in from_proto(model, Path()).nodes] == ["Add"]


def test_nodes_out_of_order_are_sorted() -> None:
    nodes = [helper.make_node("Relu", ["b"], ["y"]), helper.make_node("Neg", ["x"], ["b"])]
    assert [node.op for node in from_proto(of_nodes(nodes, {"x": [2]}, {"y": [2]}), Path()).nodes] == ["Neg", "Relu"]


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ([("Add", ["x", "nowhere"], ["y"])], "'nowhere', which nothing makes"),
        ([("Relu", ["x"], ["y"]), ("Neg", ["x"], ["y"])], "'y' is made twice"),
        ([("Relu", ["x"], ["x"])], "'x' is made twice"),
        ([("Add", ["x", "b"], ["a"]), ("Relu", ["a"], ["b"]), ("Relu", ["b"], ["y"])], "cycle"),
        ([("Relu", ["x"], ["z"])], "nothing in the model makes the output 'y'"),
    ],
)
def test_malformed_graphs(nodes: list[Any], says: str) -> None:
    model = of_nodes([helper.make_node(*node) for node in nodes], {"x": [2]}, {"y": [2]})
    with pytest.raises(ModelError, match=says):
        from_proto(model, Path())


_TYPES = [
    kind
    for name, kind in TensorProto.DataType.items()
    if name not in ("UNDEFINED", "STRING", "COMPLEX64", "COMPLEX128") and not name.startswith("FLOAT6")
]


@pytest.mark.parametrize("kind", _TYPES, ids=TensorProto.DataType.Name)
@pytest.mark.parametrize("raw", [True, False])
def test_every_element_type(kind: int, raw: bool) -> None:
    low = 1 if kind == TensorProto.DataType.Value("FLOAT8E8M0") else 0  # powers of two only
    numbers = [low, low + 1, low, low, low + 1]
    if raw:
        array = np.array(numbers).astype(helper.tensor_dtype_to_np_dtype(kind))
        tensor = numpy_helper.from_array(array, "t")
    else:
        try:
            tensor = helper.make_tensor("t", kind, [5], numbers)
        except (ValueError, TypeError) as error:
            pytest.skip(f"onnx cannot make one: {error}")
    read = from_tensor(tensor)
    assert read.astype(np.float32).tolist() == numbers
    assert dtype_name(elem_type(str(read.dtype))) == str(read.dtype)
    assert 1 <= dtype_bits(str(read.dtype)) <= 64
    again = from_tensor(to_tensor(read, "t"))
    assert again.dtype == read.dtype
    assert again.astype(np.float32).tolist() == numbers


def test_strings() -> None:
    tensor = helper.make_tensor("t", TensorProto.STRING, [2], [b"a", "ö".encode()])
    assert from_tensor(tensor).tolist() == ["a", "ö"]
    assert from_tensor(to_tensor(from_tensor(tensor), "t")).tolist() == ["a", "ö"]


def test_external_data_without_a_folder_is_refused() -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="w.bin")
    with pytest.raises(ModelError, match="folder is not known"):
        from_tensor(tensor)
    with pytest.raises(ModelError, match="is missing"):
        from_tensor(tensor, ExternalData(Path("/nonexistent")))


def test_light_models_round_trip_their_structure() -> None:
    folder = Path(onnx.__file__).parent / "backend/test/data/light"
    paths = sorted(folder.glob("*.onnx"))
    assert len(paths) >= 9
    for path in paths:
        model = onnx.load(path)
        constants = sum(node.op_type == "Constant" for node in model.graph.node)
        assert len(from_proto(model, folder)) == len(model.graph.node) - constants
