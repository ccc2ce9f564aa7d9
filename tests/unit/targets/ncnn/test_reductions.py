"""Reductions, normalisations, products and recurrences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from tests.unit.targets.ncnn.oracle import agrees, findings, model

RNG = np.random.default_rng(11)


def rand(*shape: int) -> np.ndarray:
    return np.asarray(RNG.standard_normal(shape), np.float32)


REDUCE = ["Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "SumSquare", "LogSumExp"]


@given(
    st.sampled_from(REDUCE), st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple), st.booleans(), st.data()
)
@settings(max_examples=150)
def test_reduce(kind, shape, keep, data) -> None:
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), unique=True, max_size=len(shape)))
    x = np.abs(rand(*shape)) + np.float32(0.5)
    node = helper.make_node(f"Reduce{kind}", ["x", "axes"], ["y"], keepdims=int(keep))
    consts = {"axes": np.array(axes, np.int64)}
    proto = model([node], {"x": x}, ["y"], consts)
    if found := findings(proto):
        assert "dims" in found[0].reason
        assert len(shape) > 4
        return
    agrees(node, {"x": x}, consts)


@pytest.mark.parametrize("kind", REDUCE)
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(("shape", "axes"), [((15,), [0]), ((1, 3, 6, 10), [2, 3]), ((4, 9), [1]), ((2, 4, 6), [0, 2])])
def test_many_terms_are_added_in_stages(kind, keep, shape, axes, monkeypatch) -> None:
    """ncnn adds one after another in float32, so that a long sum stops growing. What is long is short here."""
    monkeypatch.setattr("mobilekit.targets.ncnn.ops.reduce.LONG", 4)
    node = helper.make_node(f"Reduce{kind}", ["x", "axes"], ["y"], keepdims=int(keep))
    x = np.abs(rand(*shape)) + np.float32(0.5)
    text = agrees(node, {"x": x}, {"axes": np.array(axes, np.int64)})
    assert (text.count("\nReduction ") > 1) == (kind not in ("Max", "Min", "Prod"))


def test_the_mean_of_a_large_map_is_taken_in_stages(monkeypatch) -> None:
    node = helper.make_node("GlobalAveragePool", ["x"], ["y"])
    assert "Pooling" in agrees(node, {"x": rand(1, 3, 6, 10) + 1})
    monkeypatch.setattr("mobilekit.targets.ncnn.ops.reduce.LONG", 50)
    assert "Pooling" not in agrees(node, {"x": rand(1, 3, 6, 10) + 1})


@pytest.mark.parametrize(("count", "taken"), [(1 << 28, True), (16_777_259, False)])  # the latter is prime
def test_a_sum_that_cannot_be_split_is_refused_where_terms_would_get_lost(count, taken) -> None:
    node = helper.make_node("ReduceSum", ["x", "axes"], ["y"])
    shape_only = np.broadcast_to(np.float32(1), (count,))
    found = findings(model([node], {"x": shape_only}, ["y"], {"axes": np.array([0])}))
    assert not found if taken else "one after another in float32" in found[0].reason


def test_log_sum_exp_of_large_numbers() -> None:
    node = helper.make_node("ReduceLogSumExp", ["x", "axes"], ["y"])
    agrees(node, {"x": np.array([[500.0, 499.0], [-900.0, -901.0]], np.float32)}, {"axes": np.array([1])})


@given(st.sampled_from(["Softmax", "LogSoftmax"]), st.lists(st.integers(1, 5), min_size=1, max_size=5), st.data())
@settings(max_examples=60)
def test_softmax(op, shape, data) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    node = helper.make_node(op, ["x"], ["y"], axis=axis)
    proto = model([node], {"x": rand(*shape)}, ["y"])
    if found := findings(proto):
        assert "dims" in found[0].reason
        assert len(shape) > 4
        return
    agrees(node, {"x": 5 * rand(*shape)})


@pytest.mark.parametrize("shape", [(1, 4), (3, 4), (1, 4, 5), (1, 4, 5, 6), (2, 4, 3, 3), (1, 4, 2, 3, 3)])
def test_batch_normalisation(shape: tuple[int, ...]) -> None:
    consts = {"s": rand(4), "b": rand(4), "m": rand(4), "v": np.abs(rand(4)) + 0.1}
    node = helper.make_node("BatchNormalization", ["x", *consts], ["y"], epsilon=1e-3)
    agrees(node, {"x": rand(*shape)}, consts)


@pytest.mark.parametrize("shape", [(1, 4, 5), (2, 4, 3, 3)])
def test_instance_normalisation(shape: tuple[int, ...]) -> None:
    node = helper.make_node("InstanceNormalization", ["x", "s", "b"], ["y"])
    agrees(node, {"x": rand(*shape)}, {"s": rand(4), "b": rand(4)})


@pytest.mark.parametrize("axis", [-1, -2, 1])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_normalisation(axis: int, bias: bool) -> None:
    x = rand(1, 4, 5, 6)
    consts = {"s": rand(*x.shape[axis:]), **({"b": rand(*x.shape[axis:])} if bias else {})}
    agrees(helper.make_node("LayerNormalization", ["x", *consts], ["y"], axis=axis), {"x": x}, consts)


def test_group_normalisation() -> None:
    node = helper.make_node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2)
    agrees(node, {"x": rand(1, 4, 3, 3)}, {"s": rand(4), "b": rand(4)})


@pytest.mark.parametrize("size", [1, 3, 5])
def test_lrn(size: int) -> None:
    node = helper.make_node("LRN", ["x"], ["y"], size=size, alpha=0.01, beta=0.6, bias=1.5)
    agrees(node, {"x": 3 * rand(1, 7, 4, 4)})


@pytest.mark.parametrize("const", ["none", "a", "b"])
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3, 4), (4, 5)),
        ((4,), (4, 5)),
        ((3, 4), (4,)),
        ((4,), (4,)),
        ((2, 3, 4), (4, 5)),
        ((3, 4), (2, 4, 5)),
        ((1, 2, 3, 4), (1, 2, 4, 5)),
        ((2, 3, 4, 5), (2, 3, 5, 2)),
        ((2, 1, 4, 5), (3, 5, 2)),
        ((1, 3, 4, 5), (2, 1, 5, 2)),
        ((1, 1, 5), (1, 5, 3)),
    ],
)
def test_matmul(a: tuple[int, ...], b: tuple[int, ...], const: str) -> None:
    inputs, consts = {"a": rand(*a), "b": rand(*b)}, {}
    if const != "none":
        consts[const] = inputs.pop(const)
    agrees(helper.make_node("MatMul", ["a", "b"], ["y"]), inputs, consts)


def test_a_bias_and_an_activation_move_into_the_product() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["t"]),
        helper.make_node("Add", ["b", "t"], ["u"]),
        helper.make_node("Relu", ["u"], ["y"]),
    ]
    text = agrees(nodes, {"x": rand(1, 3, 4)}, {"w": rand(4, 5), "b": rand(5)})
    assert [line.split()[0] for line in text.splitlines()[2:]] == ["Input", "Gemm", "ReLU"]


def test_a_bias_along_the_wrong_axis_stays_out() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["t"]), helper.make_node("Add", ["t", "b"], ["y"])]
    agrees(nodes, {"x": rand(5, 4)}, {"w": rand(4, 5), "b": rand(5, 1)})


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("bias", [None, (), (1,), (5,), (1, 5), (3, 1), (3, 5)])
@pytest.mark.parametrize("const", [True, False])
def test_gemm(trans_a: int, trans_b: int, bias: tuple[int, ...] | None, const: bool) -> None:
    a, b = rand(*((4, 3) if trans_a else (3, 4))), rand(*((5, 4) if trans_b else (4, 5)))
    inputs, consts = {"a": a}, {}
    (consts if const else inputs)["b"] = b
    if bias is not None:
        (consts if const else inputs)["c"] = rand(*bias)
    names = ["a", "b", *(["c"] if bias is not None else [])]
    agrees(helper.make_node("Gemm", names, ["y"], alpha=0.5, beta=2.0, transA=trans_a, transB=trans_b), inputs, consts)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("state", [False, True])
def test_recurrent(op: str, direction: str, state: bool) -> None:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    ways = 2 if direction == "bidirectional" else 1
    attrs = {"linear_before_reset": 1} if op == "GRU" else {}
    consts = {"w": rand(ways, gates * 5, 3), "r": rand(ways, gates * 5, 5), "b": rand(ways, 2 * gates * 5)}
    inputs = {"x": rand(6, 1, 3)}
    names = ["x", "w", "r", "b"]
    if state:
        inputs["h"] = rand(ways, 1, 5)
        names += ["", "h"]
        if op == "LSTM":
            inputs["c"] = rand(ways, 1, 5)
            names.append("c")
    outputs = ["y", "yh", *(["yc"] if op == "LSTM" else [])]
    node = helper.make_node(op, names, outputs, hidden_size=5, direction=direction, **attrs)
    agrees(node, inputs, consts, outputs=outputs)
