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


def test_a_product_with_itself_that_is_summed_up_is_a_square(tmp_path: Path) -> None:
    """Flax writes a variance as mean(x * x) - mean(x) ** 2, its means as sums and a factor."""
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["sq"], name="square"),
        helper.make_node("ReduceSum", ["sq", "axes"], ["sum"], name="sum"),
        helper.make_node("Reshape", ["sum", "shape"], ["flat"], name="flat"),
        helper.make_node("Mul", ["flat", "part"], ["mean"], name="mean"),
        helper.make_node("Add", ["mean", "eps"], ["ve"], name="eps"),
        helper.make_node("Sqrt", ["ve"], ["sd"], name="sqrt"),
        helper.make_node("Div", ["x", "sd"], ["z"], name="div"),
        helper.make_node("Mul", ["z", "z"], ["y"], name="alone"),
    ]
    weights = {
        "axes": np.array([1], np.int64),
        "shape": np.array([2, 1], np.int64),
        "part": np.array([1 / 512], np.float32),
        "eps": np.array([1e-6], np.float32),
    }
    model = of_nodes(nodes, {"x": (2, 512)}, {"y": (2, 512)}, weights)
    graph = graph_of(model, tmp_path)
    report = to_half(graph, "float16")
    assert set(report.kept) == {"square", "sum", "flat", "mean", "eps", "sqrt"}
    feeds = {"x": (np.random.default_rng(0).standard_normal((2, 512)) * 20).astype(np.float32)}
    expected, actual = run(model, feeds)[0], emulated_run(to_proto(graph), feeds)[0]
    assert np.linalg.norm(actual - expected) / np.linalg.norm(expected) < 2e-3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("added", [False, True])
def test_a_row_that_is_masked_throughout_stays_finite(dtype: str, added: bool, tmp_path: Path) -> None:
    """Masks of transformers hold float32's lowest number, which is -inf in 16 bits, and Softmax of nothing else NaN."""
    lowest = np.array(np.finfo(np.float32).min)
    if added:
        nodes = [
            helper.make_node("Mul", ["m", "lowest"], ["far"], name="far"),
            helper.make_node("Add", ["x", "far"], ["masked"], name="mask"),
        ]
    else:
        nodes = [
            helper.make_node("Cast", ["m"], ["b"], to=onnx.TensorProto.BOOL),
            helper.make_node("Where", ["b", "lowest", "x"], ["masked"], name="mask"),
        ]
    nodes.append(helper.make_node("Softmax", ["masked"], ["y"], axis=-1))
    model = of_nodes(nodes, {"x": (2, 4), "m": (2, 4)}, {"y": (2, 4)}, {"lowest": lowest})
    graph = graph_of(model, tmp_path)
    to_half(graph, dtype)  # type: ignore[arg-type]
    x = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    mask = np.array([[0, 1, 0, 1], [1, 1, 1, 1]], np.float32)
    expected = run(model, {"x": x, "m": mask})[0]
    actual = emulated_run(to_proto(graph), {"x": x, "m": mask})[0]
    assert np.isfinite(actual).all()
    np.testing.assert_allclose(actual[0], expected[0], atol=1e-2)


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


def emulated_run(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    import onnxruntime as ort

    graph = from_proto(model, Path())
    infer(graph)
    emulated(graph)
    made = to_proto(graph)
    onnx.checker.check_model(made, full_check=True)
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(made.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))


HALF = onnx.TensorProto.FLOAT16


def test_an_overflow_inside_shows_although_what_follows_undoes_it() -> None:
    """In float32 throughout, as ONNX Runtime's CPU computes it, x * 1000 / 1000 is x."""
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=HALF),
        helper.make_node("Mul", ["h", "k"], ["big"]),
        helper.make_node("Mul", ["big", "q"], ["back"]),
        helper.make_node("Cast", ["back"], ["y"], to=onnx.TensorProto.FLOAT),
    ]
    constants = {"k": np.float16([1000]), "q": np.float16([0.001])}
    model = of_nodes(nodes, {"x": (3,)}, {"y": (3,)}, constants)
    x = np.array([1, 70, 2049], np.float32)
    (y,) = emulated_run(model, {"x": x})
    with np.errstate(over="ignore"):
        expected = (x.astype(np.float16) * constants["k"] * constants["q"]).astype(np.float32)
    assert np.array_equal(y, expected)
    assert np.isinf(y[1])


def test_one_rounding_in_one_node_shows() -> None:
    """2048 + 1 is 2048 in float16: a counter stands still."""
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=HALF),
        helper.make_node("Add", ["h", "one"], ["sum"]),
        helper.make_node("Sub", ["sum", "h"], ["d"]),
        helper.make_node("Cast", ["d"], ["y"], to=onnx.TensorProto.FLOAT),
    ]
    model = of_nodes(nodes, {"x": (2,)}, {"y": (2,)}, {"one": np.float16([1])})
    (y,) = emulated_run(model, {"x": np.array([1024, 2048], np.float32)})
    assert y.tolist() == [1, 0]


def test_inputs_and_outputs_of_16_bits_keep_their_types() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "k"], ["y"]),
        helper.make_node("MaxPool", ["y"], ["p"], kernel_shape=[2]),
        helper.make_node("Div", ["y", "k"], ["z"]),
    ]
    shapes = {"x": (1, 1, 4)}, {"y": (1, 1, 4), "p": (1, 1, 3), "z": (1, 1, 4)}
    model = of_nodes(nodes, *shapes, {"k": np.float16([3])})
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.elem_type = HALF
    x = np.array([[[1.001, 30000, 1e-7, 5]]], np.float16)
    y, p, z = emulated_run(model, {"x": x})
    with np.errstate(over="ignore"):
        expected = x * np.float16(3)
    assert (y.dtype, p.dtype, z.dtype) == (np.float16,) * 3
    assert np.array_equal(y, expected)
    assert np.array_equal(p, np.maximum(expected[..., :-1], expected[..., 1:]))
    assert np.array_equal(z, expected / np.float16(3))
