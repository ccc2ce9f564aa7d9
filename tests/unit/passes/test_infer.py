"""Constant folding and inference: what is computed, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mobilekit.errors import ModelError, UnsupportedModelError
from mobilekit.importers.convert import from_proto
from mobilekit.passes.infer import infer
from tests.models import of_nodes
from tests.unit.passes.checks import Node, assert_same, ops, prepared

ANY = ("a", "b", "c", "d")


def test_the_arithmetic_of_a_flatten_is_folded(tmp_path: Path) -> None:
    nodes = [
        Node("Shape", ["x"], ["shape"]),
        Node("Gather", ["shape", "zero"], ["batch"], axis=0),
        Node("Unsqueeze", ["batch", "axes"], ["batch1"]),
        Node("Concat", ["batch1", "minus"], ["target"], axis=0),
        Node("Reshape", ["x", "target"], ["y"]),
    ]
    weights = {"zero": np.array(0), "axes": np.array([0]), "minus": np.array([-1])}
    model = of_nodes(nodes, {"x": ("n", 3, 4)}, {"y": ("n", 12)}, weights)
    graph = prepared(model, tmp_path, {"x": (2, 3, 4)})
    assert_same(model, graph)
    assert ops(graph) == {"Reshape": 1}
    assert graph.outputs[0].shape == (2, 12)


def test_a_constant_output_is_an_identity_of_a_constant(tmp_path: Path) -> None:
    model = of_nodes([Node("Exp", ["w"], ["y"]), Node("Neg", ["x"], ["z"])], {"x": (2,)}, {"y": (2,), "z": (2,)})
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT, [2], [0.5, 1]))
    graph = prepared(model, tmp_path)
    assert_same(model, graph)
    assert ops(graph) == {"Identity": 1, "Neg": 1}


def _branch(nodes: list[Any], output: str) -> Any:
    return helper.make_graph(nodes, output, [], [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)])


@pytest.mark.parametrize("rank", [2, 3])
def test_ifs_on_shapes_are_resolved_even_nested(tmp_path: Path, rank: int) -> None:
    inner = Node(
        "If",
        ["same"],
        ["inner"],
        then_branch=_branch([Node("Relu", ["x"], ["same_name"])], "same_name"),
        else_branch=_branch([Node("Abs", ["x"], ["same_name"])], "same_name"),
    )
    nodes = [
        Node("Shape", ["x"], ["s"]),
        Node("Size", ["s"], ["rank"]),
        Node("Equal", ["rank", "two"], ["same"]),
        Node(
            "If",
            ["same"],
            ["y"],
            then_branch=_branch([inner, Node("Neg", ["inner"], ["t"])], "t"),
            else_branch=_branch([Node("Relu", ["x"], ["same_name"]), Node("Exp", ["same_name"], ["e"])], "e"),
        ),
    ]
    shape = (2, 3, 4)[:rank]
    model = of_nodes(nodes, {"x": shape}, {"y": shape}, {"two": np.array(2)})
    graph = prepared(model, tmp_path)
    assert_same(model, graph)
    assert ops(graph) == ({"Relu": 1, "Neg": 1} if rank == 2 else {"Relu": 1, "Exp": 1})


def test_shapes_that_depend_on_data_are_findings(tmp_path: Path) -> None:
    nodes = [Node("Cast", ["x"], ["s"], to=7), Node("Reshape", ["x", "s"], ["r"]), Node("Relu", ["r"], ["y"])]
    nodes += [Node("Range", ["a", "x0", "b"], ["u"]), Node("Relu", ["u"], ["z"])]
    nodes.insert(0, Node("Squeeze", ["x"], ["x0"]))
    consts = {"a": np.float32(0), "b": np.float32(1)}
    model = of_nodes(nodes, {"x": (1,)}, {"y": ("n",), "z": ("m",)}, consts)
    with pytest.raises(UnsupportedModelError) as caught:
        prepared(model, tmp_path)
    assert [finding.op for finding in caught.value.findings] == ["Reshape", "Range"]
    assert all("depends on data" in finding.reason for finding in caught.value.findings)


def test_a_custom_operator_is_a_finding(tmp_path: Path) -> None:
    model = of_nodes([Node("Magic", ["x"], ["m"], domain="acme"), Node("Relu", ["m"], ["y"])], {"x": (4,)}, {"y": (4,)})
    model.opset_import.append(helper.make_opsetid("acme", 1))
    with pytest.raises(UnsupportedModelError) as caught:
        prepared(model, tmp_path)
    assert [finding.op for finding in caught.value.findings] == ["acme::Magic"]


def test_an_unknown_operator_and_a_wrong_shape_are_model_errors(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Frobnicate"):
        prepared(of_nodes([Node("Frobnicate", ["x"], ["y"])], {"x": (4,)}, {"y": (4,)}), tmp_path)
    model = of_nodes([Node("Add", ["x", "w"], ["y"])], {"x": (4,)}, {"y": (4,)}, {"w": np.ones(3, np.float32)})
    with pytest.raises(ModelError, match="Add at 'y'"):
        prepared(model, tmp_path)


def test_random_numbers_are_not_folded(tmp_path: Path) -> None:
    nodes = [Node("RandomUniform", [], ["r"], shape=[4]), Node("Add", ["x", "r"], ["y"])]
    assert ops(prepared(of_nodes(nodes, {"x": (4,)}, {"y": (4,)}), tmp_path)) == {"RandomUniform": 1, "Add": 1}


def test_a_huge_constant_result_is_left_to_run_time(tmp_path: Path) -> None:
    nodes = [Node("Tile", ["w", "n"], ["t"]), Node("Add", ["x", "t"], ["y"])]
    weights = {"w": np.ones((1, 4), np.float32), "n": np.array([1 << 24, 1])}
    # Not held against ONNX Runtime, which would make gigabytes of it at every rewrite.
    graph = prepared(of_nodes(nodes, {"x": (1, 4)}, {"y": (1 << 24, 4)}, weights), tmp_path, verify=False)
    assert "Tile" in ops(graph)


CASES: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "slice backwards": (
        [Node("Slice", ["w", "s", "e", "a", "t"], ["k"])],
        {"s": [-1], "e": [-99], "a": [1], "t": [-1]},
    ),
    "integer division": (
        [Node("Div", ["i", "j"], ["q"]), Node("Cast", ["q"], ["k"], to=1)],
        {"i": [-7, 7, 9, 1], "j": [2, -2, 3, 5]},
    ),
    "range": ([Node("Range", ["a", "b", "c"], ["q"]), Node("Cast", ["q"], ["k"], to=1)], {"a": 7, "b": -1, "c": -2}),
    "where": ([Node("Where", ["m", "w", "v"], ["k"])], {"m": np.array([True, False, True, True]), "v": np.float32(2)}),
    "gather negative": ([Node("Gather", ["w", "i"], ["k"], axis=1)], {"i": [-1, 0, 2, -3]}),
    "expand": ([Node("Expand", ["v", "s"], ["k"])], {"v": np.array([[2.0]], np.float32), "s": [3, 4]}),
    "dequantize": (
        [Node("DequantizeLinear", ["u", "v", "z"], ["k"], axis=0)],
        {
            "u": np.array([[1, 250, 3, 4]] * 3, np.uint8),
            "v": np.array([0.5, 2, 1], np.float32),
            "z": np.array([3, 128, 0], np.uint8),
        },
    ),
    "reduce": ([Node("ReduceMean", ["w"], ["k"], axes=[1])], {}),
    "constant of shape": ([Node("ConstantOfShape", ["s"], ["k"])], {"s": [3, 4]}),
    "one hot": (
        [Node("OneHot", ["i", "d", "v"], ["k"])],
        {"i": [0, 2, 1], "d": 4, "v": np.array([0.5, 3], np.float32)},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_folding_computes_what_onnx_runtime_does(tmp_path: Path, case: str) -> None:
    nodes, extra = CASES[case]
    weights = {name: np.asarray(value) for name, value in extra.items()}
    used = {name for node in nodes for name in node.input}
    if "w" in used:
        weights["w"] = np.random.default_rng(3).random((3, 4)).astype(np.float32)
    model = of_nodes([*nodes, Node("Add", ["x", "k"], ["y"])], {"x": (3, 4)}, {"y": ANY[:2]}, weights)
    graph = prepared(model, tmp_path)
    assert_same(model, graph)
    assert ops(graph).get("Add", 0) + ops(graph).get("Relu", 0) >= (0 if case == "constant of shape" else 1)
    assert not set(ops(graph)) - {"Add", "Identity"}


UNARY = (
    *("Abs", "Clip", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Mish"),
    *("Neg", "Relu", "Sigmoid", "Softplus", "Sqrt", "Swish", "Tanh"),
)
BINARY = ("Add", "Div", "Max", "Mul", "Sub")
SCALED = {"w": np.ones(4, np.float32)}
TYPED: dict[str, tuple[onnx.NodeProto, dict[str, tuple[int, ...]], dict[str, Any]]] = {
    **{op: (Node(op, ["x"], ["y"]), {"x": (2, 3, 4)}, {}) for op in UNARY},
    **{op: (Node(op, ["x", "z"], ["y"]), {"x": (3, 1), "z": (2, 1, 4)}, {}) for op in BINARY},
    "Pow": (Node("Pow", ["x", "w"], ["y"]), {"x": (3, 1)}, {"w": np.ones((2, 1, 4), np.float32)}),
    "PRelu": (Node("PRelu", ["x", "w"], ["y"]), {"x": (2, 3, 4)}, {"w": np.ones((3, 1), np.float32)}),
    "MatMul": (Node("MatMul", ["x", "w"], ["y"]), {"x": (5, 2, 3)}, {"w": np.ones((3, 4), np.float32)}),
    "Gemm": (Node("Gemm", ["x", "w", "b"], ["y"], transB=1), {"x": (2, 3)},
             {"w": np.ones((4, 3), np.float32), "b": np.ones(4, np.float32)}),
    "Conv": (Node("Conv", ["x", "w"], ["y"], strides=[2, 1], pads=[1, 1, 0, 0]), {"x": (1, 3, 9, 9)},
             {"w": np.ones((4, 3, 3, 2), np.float32)}),
    "ConvTranspose": (Node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2]), {"x": (1, 3, 5, 5)},
                      {"w": np.ones((3, 4, 3, 3), np.float32)}),
    "Concat": (Node("Concat", ["x", "w"], ["y"], axis=1), {"x": (2, 3)}, {"w": np.ones((2, 5), np.float32)}),
    "Gather": (Node("Gather", ["w", "i"], ["y"], axis=1), {"i": (2, 2)}, {"w": np.ones((2, 5), np.float32)}),
    "Where": (Node("Where", ["w", "x", "z"], ["y"]), {"x": (3, 1), "z": (1, 4)}, {"w": np.ones((2, 1, 1), bool)}),
    "Transpose": (Node("Transpose", ["x"], ["y"], perm=[1, 2, 0]), {"x": (2, 3, 4)}, {}),
    "BatchNormalization": (Node("BatchNormalization", ["x", *"wwww"], ["y"]), {"x": (2, 3, 4)},
                           {"w": np.ones(3, np.float32)}),
    "LayerNormalization": (Node("LayerNormalization", ["x", "w"], ["y"]), {"x": (2, 3, 4)}, SCALED),
    "RMSNormalization": (Node("RMSNormalization", ["x", "w"], ["y"]), {"x": (2, 3, 4)}, SCALED),
}  # fmt: skip


@pytest.mark.parametrize("op", TYPED)
@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.DOUBLE])
def test_types_said_without_asking_onnx_or_without_the_weights_are_those_of_onnx(op: str, dtype: int) -> None:
    node, shapes, weights = TYPED[op]
    wide = helper.tensor_dtype_to_np_dtype(dtype)
    kinds = {name: TensorProto.INT64 if name == "i" else dtype for name in shapes}
    model = helper.make_model(
        helper.make_graph(
            [node],
            "g",
            [helper.make_tensor_value_info(name, kinds[name], shape) for name, shape in shapes.items()],
            [onnx.ValueInfoProto(name="y")],
            [
                onnx.numpy_helper.from_array(np.asarray(array, None if array.dtype == bool else wide), name)
                for name, array in weights.items()
            ],
        ),
        opset_imports=[helper.make_opsetid("", 24)],
    )
    wanted = onnx.shape_inference.infer_shapes(model).graph.output[0].type.tensor_type
    graph = from_proto(model, Path())
    infer(graph)
    found = graph.outputs[0]
    assert found.shape == tuple(dim.dim_value for dim in wanted.shape.dim)
    assert found.dtype == helper.tensor_dtype_to_np_dtype(wanted.elem_type)


def test_nodes_of_one_form_but_other_numbers_are_told_apart(tmp_path: Path) -> None:
    nodes = [
        Node("Reshape", ["x", "a"], ["p"]),
        Node("Reshape", ["x", "b"], ["q"]),
        Node("ReduceSum", ["x", "one"], ["r"], keepdims=1),
        Node("ReduceSum", ["x", "one"], ["s"], keepdims=0),
        Node("Reshape", ["x", "a"], ["t"]),
    ]
    weights = {"a": np.array([4, 3]), "b": np.array([3, 4]), "one": np.array([1])}
    wanted = {"p": (4, 3), "q": (3, 4), "r": (2, 1), "s": (2,), "t": (4, 3)}
    graph = prepared(of_nodes(nodes, {"x": (2, 6)}, wanted, weights), tmp_path, verify=False)
    assert {value.name: value.shape for value in graph.outputs} == wanted


def test_an_input_smaller_than_a_window_is_refused(tmp_path: Path) -> None:
    nodes = [Node("Conv", ["x", "w"], ["c"], strides=[16]), Node("Max", ["c", "low"], ["y"])]
    weights = {"w": np.ones((4, 1, 64), np.float32), "low": np.zeros((1, 4, 1), np.float32)}
    model = of_nodes(nodes, {"x": (1, 1, "n")}, {"y": (1, 4, "m")}, weights)
    assert prepared(model, tmp_path, {"x": (1, 1, 64)}).outputs[0].shape == (1, 4, 1)
    with pytest.raises(ModelError, match=r"too small.*Conv at 'c' would make 'c' of shape 1x4x-1"):
        prepared(model, tmp_path, {"x": (1, 1, 32)})
