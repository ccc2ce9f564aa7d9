"""The rounded model: it costs what rounding costs, in every draw, wherever in the graph a float is made."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from mobilekit.errors import ModelError
from mobilekit.precision.rounding import DRAW, RoundedModel, round_everywhere
from tests.models import of_nodes, save

RNG = np.random.default_rng(0)
X = RNG.standard_normal((1, 64)).astype(np.float32)
W = RNG.standard_normal((64, 64)).astype(np.float32) / np.float32(8)


def _model(nodes, weights=None):
    return of_nodes(nodes, {"x": (1, 64)}, {"y": (1, 64)}, weights or {})


def _run(model, draw):
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": X, DRAW: np.array(draw, np.float32)})[0]


def test_float32_is_rounded_to_fewer_bits_as_the_draw_says():
    model = _model([helper.make_node("Neg", ["x"], ["y"])])
    round_everywhere(model, "float32", "float32")
    np.testing.assert_array_equal(_run(model, 1.0), -X)
    for draw in (257.0, 331.0):
        error = np.abs(_run(model, draw) + X) / np.abs(X)
        assert 0 < error.max() <= draw * 2.0**-24 * 1.01
    assert (_run(model, 257.0) != _run(model, 331.0)).any()


@pytest.mark.parametrize(("dtype", "step"), [("float16", 2.0**-11), ("bfloat16", 2.0**-8)])
def test_halves_are_rounded_as_the_format_does(dtype, step):
    model = _model([helper.make_node("Neg", ["x"], ["y"])])
    round_everywhere(model, "float32", dtype)
    import ml_dtypes

    found = _run(model, 1.0 if dtype == "float16" else 2.0**16 + 1)

    narrow = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    np.testing.assert_array_equal(found, (-X).astype(narrow).astype(np.float32))
    other = _run(model, 1.19 if dtype == "float16" else 1.19 * 2**16)
    assert (np.abs(other + X) <= step * np.abs(X) * 1.01).all()
    assert (other != found).any()


def test_weights_are_rounded_in_place_and_in_bodies():
    body = helper.make_graph(
        [helper.make_node("Add", ["x", "inner"], ["sum"])],
        "body",
        [],
        [helper.make_tensor_value_info("sum", onnx.TensorProto.FLOAT, (1, 64))],
        [numpy_helper.from_array(X[0] / 3, "inner")],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["xw"]),
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(X / 7, "c")),
        helper.make_node("Add", ["xw", "c"], ["xc"]),
        helper.make_node("If", ["yes"], ["z"], then_branch=body, else_branch=body),
        helper.make_node("Add", ["xc", "z"], ["y"]),
    ]
    model = _model(nodes, {"w": W, "yes": np.array(True)})
    round_everywhere(model, "float16", None)
    half = lambda a: a.astype(np.float16).astype(np.float32)  # noqa: E731
    np.testing.assert_allclose(_run(model, 1.0), X @ half(W) + half(X / 7) + X + half(X[0] / 3), rtol=1e-5, atol=1e-6)


def test_errors_are_told_by_output_and_draw(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Exp", ["h"], ["y"])]
    path = save(_model(nodes, {"w": W}), tmp_path / "m.onnx")
    full = RoundedModel(str(path), "float32", "float32", {}).errors({"x": X})["y"]
    half = RoundedModel(str(path), "float16", "float16", {}).errors({"x": X})["y"]
    assert len(full) == 4
    assert len(half) == 3
    assert all(l2 < 2e-6 for l2, *_ in full)
    assert all(l2 > 1e-9 for l2, *_ in full[1:])
    assert all(1e-4 < l2 < 1e-2 and peak > 0 for l2, peak, _ in half)


def test_sums_in_float16_cost_more_the_longer_they_are(tmp_path):
    """As ARM's kernels do it: a running sum that is rounded after every product."""
    n = 1024
    x = RNG.standard_normal((1, n)).astype(np.float32)
    w = RNG.standard_normal((n, 64)).astype(np.float32)
    sums = np.zeros((1, 64), np.float16)
    for k in range(n):
        sums += x[:, k : k + 1].astype(np.float16) * w[k].astype(np.float16)
    expected = x @ w
    measured = float(np.linalg.norm(sums - expected) / np.linalg.norm(expected))
    model = of_nodes([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": (1, n)}, {"y": (1, 64)}, {"w": w})
    path = save(model, tmp_path / "m.onnx")
    found = RoundedModel(str(path), "float16", "float16", {}).errors({"x": x})["y"]
    assert all(measured / 3 < l2 < measured * 3 for l2, *_ in found)


@pytest.mark.parametrize(("dtype", "step"), [("float16", 2.0**-10), ("bfloat16", 2.0**-7)])
def test_inputs_are_rounded_too(tmp_path, dtype, step):
    """Numbers around 1000 of which 1000 is subtracted: all that is lost is lost before the first node."""
    x = 1000 + RNG.uniform(-1, 1, (1, 64)).astype(np.float32)
    nodes = [helper.make_node("Sub", ["x", "k"], ["y"])]
    path = save(_model(nodes, {"k": np.array(1000.0, np.float32)}), tmp_path / "m.onnx")
    lost = 1000 * step / np.sqrt(12) / float(np.sqrt(np.mean((x - 1000) ** 2)))
    found = RoundedModel(str(path), "float32", dtype, {}).errors({"x": x})["y"]
    assert all(lost / 4 < l2 < lost * 4 for l2, *_ in found)


def test_an_input_beyond_the_range_is_a_mask(tmp_path):
    mask = np.where(RNG.uniform(size=(1, 64)) < 0.5, np.finfo(np.float32).min, 0).astype(np.float32)
    nodes = [helper.make_node("Clip", ["x", "k"], ["y"])]
    path = save(_model(nodes, {"k": np.array(-1.0, np.float32)}), tmp_path / "m.onnx")
    found = RoundedModel(str(path), "float16", "float16", {}).errors({"x": mask})["y"]
    assert all(l2 < 1e-3 for l2, *_ in found)


def test_what_leaves_the_range_is_infinitely_far_off(tmp_path):
    path = save(
        _model(
            [helper.make_node("Mul", ["x", "k"], ["big"]), helper.make_node("Div", ["big", "k"], ["y"])],
            {"k": np.array(60000.0, np.float32)},
        ),
        tmp_path / "m.onnx",
    )
    found = RoundedModel(str(path), "float32", "float16", {}).errors({"x": X})["y"]
    assert all(math.isinf(l2) for l2, *_ in found)
    assert all(l2 < 1e-6 for l2, *_ in RoundedModel(str(path), "float32", "float32", {}).errors({"x": X})["y"])


def test_a_model_that_does_not_load_is_told(tmp_path):
    path = save(_model([helper.make_node("Frobnicate", ["x"], ["y"], domain="nowhere")]), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="rounded"):
        RoundedModel(str(path), "float32", "float16", {})


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_sizes_computed_in_float_are_left_alone(tmp_path, dtype):
    """The grid of a detector: Range of a float32 that follows from a shape has as many numbers as ever, and is rounded
    where it meets the data."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["size"]),
        helper.make_node("Cast", ["size"], ["limit"], to=1),
        helper.make_node("Range", ["zero", "limit", "step"], ["grid"]),
        helper.make_node("Div", ["grid", "three"], ["third"]),
        helper.make_node("Mul", ["x", "third"], ["y"]),
    ]
    constants = {
        "one": np.array(1, np.int64),
        "zero": np.array(0.0, np.float32),
        "step": np.array(1.0, np.float32),
        "three": np.array(3.0, np.float32),
    }
    path = save(_model(nodes, constants), tmp_path / "m.onnx")
    found = RoundedModel(str(path), "float32", dtype, {}).errors({"x": X})["y"]
    limit = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
    assert all(l2 < limit for l2, *_ in found)
    assert any(l2 > 0 for l2, *_ in found)
    held = _model(nodes, constants)
    round_everywhere(held, "float32", dtype)
    names = {name for node in held.graph.node for name in node.output}
    assert "third/mobilekit_held" in names
    assert "limit/mobilekit_exact" not in names


def test_the_scales_of_a_resize_are_left_alone(tmp_path):
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Cast", ["shape"], ["sizes"], to=1),
        helper.make_node("Div", ["wanted", "sizes"], ["scales"]),
        helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="nearest"),
    ]
    wanted = {"wanted": np.array([1, 1, 9, 9], np.float32)}
    model = of_nodes(nodes, {"x": (1, 1, 7, 7)}, {"y": (1, 1, 9, 9)}, wanted)
    rounded = RoundedModel(str(save(model, tmp_path / "m.onnx")), "float32", "float16", {})
    found = rounded.errors({"x": RNG.standard_normal((1, 1, 7, 7)).astype(np.float32)})["y"]
    assert all(l2 < 2.0**-10 for l2, *_ in found)
