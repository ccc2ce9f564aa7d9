"""float16 and bfloat16 in the graph: right types, right numbers, and float32 where 16 bits would not do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from mobilekit.errors import UnsupportedModelError
from mobilekit.graph import Graph
from mobilekit.importers.convert import from_proto, to_proto
from mobilekit.importers.onnx import load
from mobilekit.passes.infer import infer
from mobilekit.precision.half import emulated, to_half
from mobilekit.targets.tensorrt.prepare import prepare
from tests.models import conv_classifier, of_nodes, save


def run(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    import onnxruntime as ort

    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))


def graph_of(model: onnx.ModelProto, folder: Path) -> Graph:
    return prepare(load(save(model, folder / "m.onnx")), {}, {})


def rounded(graph: Graph) -> onnx.ModelProto:
    """What ONNX Runtime's CPU can run, once the checker has taken the strongly typed model."""
    model = to_proto(graph)
    onnx.checker.check_model(model, full_check=True)
    if not any(value.dtype == "bfloat16" for value in graph.values()):
        return model
    again = from_proto(model, Path())
    infer(again)
    emulated(again)
    return to_proto(again)


@pytest.mark.parametrize(("dtype", "limit"), [("float16", 2e-3), ("bfloat16", 2e-2)])
def test_a_classifier_in_16_bits(tmp_path: Path, dtype: str, limit: float) -> None:
    model = conv_classifier()
    graph = graph_of(model, tmp_path)
    report = to_half(graph, dtype)  # type: ignore[arg-type]
    assert report.converted == 6
    assert not report.kept
    assert [value.dtype for value in (*graph.inputs, *graph.outputs)] == ["float32", "float32"]
    assert {node.outputs[0].dtype for node in graph.nodes if node.op == "Conv" and node.outputs[0]} == {dtype}
    feeds = {"serving_default_input:0": np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)}
    expected, actual = run(model, feeds)[0], run(rounded(graph), feeds)[0]
    error = np.linalg.norm(actual - expected) / np.linalg.norm(expected)
    assert 0 < error < limit


def test_squares_and_what_follows_them_stay_in_float32(tmp_path: Path) -> None:
    """A layer normalisation written out: the squares of a few hundred are beyond float16."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[-1], name="mean"),
        helper.make_node("Sub", ["x", "mean"], ["d"], name="sub"),
        helper.make_node("Pow", ["d", "two"], ["sq"], name="pow"),
        helper.make_node("ReduceMean", ["sq"], ["var"], axes=[-1], name="var"),
        helper.make_node("Add", ["var", "eps"], ["ve"], name="eps"),
        helper.make_node("Sqrt", ["ve"], ["sd"], name="sqrt"),
        helper.make_node("Div", ["d", "sd"], ["y"], name="div"),
    ]
    weights = {"two": np.float32(2), "eps": np.float32(1e-12)}
    model = of_nodes(nodes, {"x": (2, 64)}, {"y": (2, 64)}, {k: np.asarray(v) for k, v in weights.items()}, opset=17)
    graph = graph_of(model, tmp_path)
    report = to_half(graph, "float16")
    assert set(report.kept) == {"pow", "var", "eps", "sqrt"}
    feeds = {"x": (np.random.default_rng(0).standard_normal((2, 64)) * 400).astype(np.float32)}
    expected, actual = run(model, feeds)[0], run(rounded(graph), feeds)[0]
    assert np.linalg.norm(actual - expected) / np.linalg.norm(expected) < 2e-3


@pytest.mark.parametrize(("constant", "said"), [(1e6, "cannot hold"), (-3.4e38, "cannot hold"), (1e-9, "is zero in")])
def test_constants_out_of_range_keep_their_node(tmp_path: Path, constant: float, said: str) -> None:
    nodes = [
        helper.make_node("Add", ["x", "c"], ["t"], name="add"),
        helper.make_node("Relu", ["t"], ["y"], name="relu"),
    ]
    model = of_nodes(nodes, {"x": (4,)}, {"y": (4,)}, {"c": np.float32(constant).reshape(1)})
    graph = graph_of(model, tmp_path)
    report = to_half(graph, "float16")
    assert said in report.kept["add"]
    assert "relu" not in report.kept


def test_what_the_schema_wants_in_float32_stays(tmp_path: Path) -> None:
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="linear")
    model = of_nodes([node], {"x": (1, 1, 4, 4)}, {"y": (1, 1, 8, 8)}, {"scales": np.array([1, 1, 2, 2], np.float32)})
    graph = graph_of(model, tmp_path)
    assert not to_half(graph, "float16").kept
    resize = next(node for node in graph.nodes if node.op == "Resize")
    assert [value.dtype for value in resize.inputs if value is not None] == ["float16", "float32"]
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 1, 4, 4)).astype(np.float32)}
    assert np.allclose(run(rounded(graph), feeds)[0], run(model, feeds)[0], atol=1e-2)


def test_integers_are_left_alone(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=onnx.TensorProto.INT64),
        helper.make_node("Gather", ["table", "i"], ["g"]),
        helper.make_node("Relu", ["g"], ["y"]),
    ]
    table = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
    model = of_nodes(nodes, {"x": (4,)}, {"y": (4, 3)}, {"table": table})
    graph = graph_of(model, tmp_path)
    to_half(graph, "float16")
    feeds = {"x": np.array([0, 7, 3, 3], np.float32)}
    assert np.allclose(run(rounded(graph), feeds)[0], run(model, feeds)[0], atol=2e-3)


def test_operators_that_the_target_lacks_are_kept(tmp_path: Path) -> None:
    graph = graph_of(conv_classifier(), tmp_path)
    assert to_half(graph, "bfloat16", keep={"Gemm": "not here"}).kept == {"/fc": "not here"}
    assert next(n for n in graph.nodes if n.op == "Gemm").outputs[0].dtype == "float32"  # type: ignore[union-attr]


def test_bodies_are_refused(tmp_path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["r"])],
        "b",
        [],
        [helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, [4])],
    )
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Cast", ["s"], ["c"], to=onnx.TensorProto.BOOL),
        helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body),
    ]
    # As written: preparation would compute both branches.
    graph = from_proto(of_nodes(nodes, {"x": (4,)}, {"y": (4,)}), tmp_path)
    with pytest.raises(UnsupportedModelError, match="If"):
        to_half(graph, "float16")
