"""float64 and float16 models become float32 inside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.unit.passes.checks import Node, ops, prepared, random_feeds, run


def _model(dtype: type) -> onnx.ModelProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    weight = np.random.default_rng(0).standard_normal((4, 3)).astype(dtype)
    nodes = [
        Node("MatMul", ["x", "w"], ["a"]),
        Node("Relu", ["a"], ["y"]),
        Node("Cast", ["a"], ["b"], to=onnx.TensorProto.FLOAT),
        Node("Exp", ["b"], ["z"]),
        Node("Cast", ["z"], ["c"], to=kind),
        Node("Add", ["c", "y"], ["v"]),
    ]
    graph = helper.make_graph(
        nodes,
        "floats",
        [helper.make_tensor_value_info("x", kind, (2, 4))],
        [helper.make_tensor_value_info(name, kind if name != "z" else 1, (2, 3)) for name in "yzv"],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(("dtype", "limit"), [(np.float64, 1e-5), (np.float16, 1e-2)])
def test_other_floats(dtype: type, limit: float, tmp_path: Path) -> None:
    model = _model(dtype)
    graph = prepared(model, tmp_path)
    assert [str(value.dtype) for value in graph.inputs] == [np.dtype(dtype).name]
    assert [value.dtype for value in graph.outputs] == [np.dtype(dtype).name, "float32", np.dtype(dtype).name]
    inner = [node for node in graph.nodes if node.op != "Cast"]
    assert {value.dtype for node in inner for value in [*node.inputs, *node.outputs] if value} == {"float32"}
    assert ops(graph)["Cast"] == 3
    from mobilekit.importers.convert import to_proto

    feeds = random_feeds(graph)
    for wanted, got in zip(run(model, feeds), run(to_proto(graph), feeds), strict=True):
        assert wanted.dtype == got.dtype
        np.testing.assert_allclose(got.astype(np.float64), wanted.astype(np.float64), rtol=limit, atol=limit)
