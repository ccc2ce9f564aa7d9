"""Old and odd files, exported and held against ONNX Runtime: what real exporters leave behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mobilekit.errors import ModelError, UnsupportedModelError
from mobilekit.pipeline.export import export_model
from tests.models import save

Node = helper.make_node
RNG = np.random.default_rng(2)


def f32(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, Sequence[int]],
    outputs: dict[str, Sequence[int]],
    weights: dict[str, Any] | None = None,
    *,
    opset: int = 17,
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    def infos(shapes: dict[str, Sequence[int]]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, kind, list(shape)) for name, shape in shapes.items()]

    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(list(nodes), "odd", infos(inputs), infos(outputs), tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset > 7 else 3)


MATMUL = Node("MatMul", ["x", "w"], ["y"])


def sparse(indices: np.ndarray) -> onnx.SparseTensorProto:
    values = numpy_helper.from_array(np.float32([1, 2, 3]), "w")
    return helper.make_sparse_tensor(values, numpy_helper.from_array(indices, "at"), [6, 5])


def sparse_initializer() -> onnx.ModelProto:
    model = model_of([MATMUL], {"x": (2, 6)}, {"y": (2, 5)})
    model.graph.sparse_initializer.append(sparse(np.int64([[0, 1], [2, 2], [5, 4]])))
    return model


def sparse_constant() -> onnx.ModelProto:
    constant = Node("Constant", [], ["w"], sparse_value=sparse(np.int64([3, 7, 29])))
    return model_of([constant, MATMUL], {"x": (2, 6)}, {"y": (2, 5)})


def weights_as_inputs() -> onnx.ModelProto:
    nodes = [
        Node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3]),
        Node("BatchNormalization", ["c", "s", "b", "m", "v"], ["y"]),
    ]
    weights = {"w": f32(4, 3, 3, 3), "s": f32(4), "b": f32(4), "m": f32(4), "v": np.abs(f32(4))}
    shapes: dict[str, Sequence[int]] = {name: array.shape for name, array in weights.items()}
    return model_of(nodes, {"x": (1, 3, 8, 8)} | shapes, {"y": (1, 4, 6, 6)}, weights, opset=7)


def baggage() -> onnx.ModelProto:
    """Training information, metadata, a function that nobody calls, a weight that nobody reads."""
    model = model_of([MATMUL], {"x": (2, 6)}, {"y": (2, 5)}, {"w": f32(6, 5), "unused": f32(3)})
    model.training_info.add().algorithm.name = "algorithm"
    model.metadata_props.add(key="author", value="nobody")
    unused = helper.make_function("my", "Unused", ["a"], ["b"], [Node("Relu", ["a"], ["b"])], model.opset_import)
    model.functions.append(unused)
    return model


def shadowed() -> onnx.ModelProto:
    """A branch has a weight of the name that the graph outside uses for another."""
    float_info = helper.make_tensor_value_info("a", TensorProto.FLOAT, None)
    inner = [numpy_helper.from_array(np.float32(3), "k")]
    then_branch = helper.make_graph([Node("Mul", ["x", "k"], ["a"])], "then", [], [float_info], inner)
    other_info = helper.make_tensor_value_info("b", TensorProto.FLOAT, None)
    else_branch = helper.make_graph([Node("Neg", ["x"], ["b"])], "else", [], [other_info])
    nodes = [
        Node("If", ["c"], ["t"], then_branch=then_branch, else_branch=else_branch),
        Node("Mul", ["t", "k"], ["y"]),
    ]
    return model_of(nodes, {"x": (2, 6)}, {"y": (2, 6)}, {"c": np.array(True), "k": np.float32(2)})


def decided_by_data(shape: Sequence[int] = (2, 6)) -> onnx.ModelProto:
    """An If on the sum of its input."""
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("a", "b")]
    then_branch = helper.make_graph([Node("Relu", ["x"], ["a"])], "then", [], info[:1])
    reshaped = [Node("Neg", ["x"], ["n"]), Node("Reshape", ["n", "to"], ["b"])]
    else_branch = helper.make_graph(
        reshaped, "else", [], info[1:], [numpy_helper.from_array(np.array(shape, np.int64), "to")]
    )
    nodes = [
        Node("ReduceSum", ["x"], ["s"], keepdims=0),
        Node("Greater", ["s", "zero"], ["c"]),
        Node("If", ["c"], ["y"], then_branch=then_branch, else_branch=else_branch),
    ]
    return model_of(nodes, {"x": (2, 6)}, {"y": shape}, {"zero": np.float32(0)})


CASES: dict[str, Callable[[], onnx.ModelProto]] = {
    "Not of opset 1": lambda: model_of(
        [Node("Not", ["x"], ["y"])], {"x": (3, 4)}, {"y": (3, 4)}, opset=1, kind=TensorProto.BOOL
    ),
    "Conv of opset 6": lambda: model_of(
        [Node("Conv", ["x", "w"], ["y"])], {"x": (1, 3, 8, 8)}, {"y": (1, 4, 6, 6)}, {"w": f32(4, 3, 3, 3)}, opset=6
    ),
    "weights as inputs": weights_as_inputs,
    "sparse initializer": sparse_initializer,
    "sparse constant": sparse_constant,
    "baggage": baggage,
    "shadowed weight": shadowed,
    "If decided by data": decided_by_data,
    "float16": lambda: model_of(
        [MATMUL], {"x": (2, 6)}, {"y": (2, 5)}, {"w": f32(6, 5).astype(np.float16)}, kind=TensorProto.FLOAT16
    ),
    "double": lambda: model_of(
        [MATMUL], {"x": (2, 6)}, {"y": (2, 5)}, {"w": f32(6, 5).astype(np.float64)}, kind=TensorProto.DOUBLE
    ),
    "scalar in and out": lambda: model_of(
        [Node("Mul", ["x", "k"], ["y"])], {"x": ()}, {"y": ()}, {"k": np.float32(2.5)}
    ),
    "empty operand": lambda: model_of(
        [Node("Concat", ["x", "e"], ["y"], axis=1)], {"x": (2, 6)}, {"y": (2, 6)}, {"e": np.zeros((2, 0), np.float32)}
    ),
    "empty names": lambda: model_of(
        [Node("Dropout", ["x"], ["d", ""]), Node("LSTM", ["d", "w", "r"], ["", "y", ""], hidden_size=4)],
        {"x": (3, 1, 6)},
        {"y": (1, 1, 4)},
        {"w": f32(1, 16, 6), "r": f32(1, 16, 4)},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_an_odd_file_converts(case: str, tmp_path: Path) -> None:
    report = export_model(save(CASES[case](), tmp_path / "m.onnx"), tmp_path / "out")
    assert report.manifest.verified
    assert report.errors["y"].relative_l2 < (1e-3 if report.manifest.rtol is None else report.manifest.rtol)


def test_branches_of_two_shapes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError):
        export_model(save(decided_by_data((3, 4)), tmp_path / "m.onnx"), tmp_path / "out")


def test_old_operators_that_meant_something_else_are_refused(tmp_path: Path) -> None:
    model = model_of([Node("Add", ["x", "x"], ["y"])], {"x": (2, 3)}, {"y": (2, 3)}, opset=6)
    with pytest.raises(ModelError, match="opset 6"):
        export_model(save(model, tmp_path / "m.onnx"), tmp_path / "out")
