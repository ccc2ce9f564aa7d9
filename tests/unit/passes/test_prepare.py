"""Whole models: real architectures, random graphs, long chains."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilekit.graph import Graph
from mobilekit.importers.convert import from_proto, to_proto
from mobilekit.importers.onnx import load
from mobilekit.passes import prepare
from mobilekit.passes.infer import infer
from mobilekit.passes.legalise import legalise
from tests.models import conv_classifier, of_nodes
from tests.unit.passes.checks import Node, assert_same, ops, prepared, random_feeds, run

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
SMALL = ["light_squeezenet", "light_shufflenet", "light_inception_v1", "light_resnet50", "light_densenet121"]


def assert_contract(graph: Graph) -> None:
    """What the docstring of mobilekit.passes promises to emitters."""
    made = {id(value) for value in graph.inputs}
    for node in graph.nodes:
        for value in node.inputs:
            assert value is None or value.const is not None or id(value) in made, f"{node} reads {value} too early"
            assert value is None or node in value.consumers
        for value in node.outputs:
            if value is not None:
                assert value.dtype
                assert value.shape is not None
                assert all(isinstance(axis, int) for axis in value.shape)
                assert value.producer is node
                assert value.consumers or graph.is_output(value) or len(node.outputs) > 1
                made.add(id(value))
        assert node.op not in ("Constant", "Dropout", "Upsample")
        assert "auto_pad" not in node.attrs


@pytest.mark.parametrize("name", SMALL)
def test_old_models_come_out_the_same(name: str) -> None:
    path = LIGHT / f"{name}.onnx"
    graph = prepare(load(path), {}, simplify=False)
    assert_contract(graph)
    # Their weights are all equal, so outputs are checked for equality of every layer's sum, not for accuracy.
    feeds = random_feeds(graph)
    for wanted, got in zip(run(onnx.load(path), feeds), run(to_proto(graph), feeds), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("path", sorted(LIGHT.glob("*.onnx")), ids=lambda path: path.stem)
def test_all_light_models_prepare(path: Path) -> None:
    model = load(path)
    graph = prepare(model, {}, simplify=False)
    assert_contract(graph)
    assert [value.name for value in graph.inputs] == [spec.name for spec in model.inputs]
    assert [value.name for value in graph.outputs] == [spec.name for spec in model.outputs]
    if "densenet" not in path.stem:  # its norms come before the convolutions
        assert "BatchNormalization" not in ops(graph)


def test_preparing_twice_changes_nothing(tmp_path: Path) -> None:
    graph = prepared(conv_classifier(), tmp_path)
    before = [(node.op, [v.name for v in node.outputs if v]) for node in graph.nodes]
    infer(graph)
    assert legalise(graph).fired == {}
    assert [(node.op, [v.name for v in node.outputs if v]) for node in graph.nodes] == before


def test_inputs_and_outputs_keep_their_order(tmp_path: Path) -> None:
    nodes = [Node("Relu", ["b"], ["z"]), Node("Neg", ["a"], ["y"]), Node("Identity", ["y"], ["x"])]
    inputs = {"b": (2,), "unused": (3,), "a": (4,)}
    graph = prepared(of_nodes(nodes, inputs, {"y": (4,), "x": (4,), "z": (2,)}), tmp_path)
    assert [value.name for value in graph.inputs] == list(inputs)
    assert [value.name for value in graph.outputs] == ["y", "x", "z"]


_PERMS = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]
_UNARY = ["Relu", "Neg", "Sigmoid", "Abs", "Identity", "Tanh"]


@st.composite
def random_models(draw: st.DrawFn) -> onnx.ModelProto:
    """A graph over rank-3 tensors of known shapes: transposes, reshapes, elementwise, constants, several outputs."""
    shapes: dict[str, tuple[int, ...]] = {"x": (2, 3, 4), "z": (2, 3, 4)}
    weights: dict[str, Any] = {}
    nodes: list[Any] = []
    for index in range(draw(st.integers(1, 14))):
        name = f"v{index}"
        source = draw(st.sampled_from(sorted(shapes)))
        shape = shapes[source]
        kind = draw(st.sampled_from(["transpose", "unary", "binary", "constant", "reshape", "clip", "concat", "shape"]))
        if kind == "transpose":
            perm = draw(st.sampled_from(_PERMS))
            nodes.append(Node("Transpose", [source], [name], perm=perm))
            shape = tuple(shape[axis] for axis in perm)
        elif kind == "unary":
            nodes.append(Node(draw(st.sampled_from(_UNARY)), [source], [name]))
        elif kind == "binary":
            others = [other for other, s in shapes.items() if s == shape]
            op = draw(st.sampled_from(["Add", "Mul", "Sub", "Max", "Sum"]))
            nodes.append(Node(op, [source, draw(st.sampled_from(sorted(others)))], [name]))
        elif kind == "constant":
            size = draw(st.sampled_from([(), (1,), shape[2:], (shape[1], 1), shape]))
            weights[f"c{index}"] = np.full(size, draw(st.sampled_from([0.0, 1.0, -2.0, 0.5])), np.float32)
            nodes.append(Node(draw(st.sampled_from(["Add", "Mul", "Sub"])), [source, f"c{index}"], [name]))
        elif kind == "reshape":
            shape = draw(st.sampled_from([(2, 3, 4), (4, 3, 2), (1, 6, 4), (24, 1, 1)]))
            weights[f"s{index}"] = np.array(shape)
            nodes.append(Node("Reshape", [source, f"s{index}"], [name]))
        elif kind == "clip":
            weights[f"c{index}"] = np.array(draw(st.sampled_from([0.0, -1.0])), np.float32)
            nodes.append(Node("Clip", [source, f"c{index}"], [name]))
        elif kind == "concat":
            nodes.append(Node("Concat", [source, source], [f"{name}_twice"], axis=0))
            weights[f"p{index}"] = np.array([shape[0], shape[0]])
            nodes.append(Node("Split", [f"{name}_twice", f"p{index}"], [name, f"{name}_rest"], axis=0))
        else:
            nodes.append(Node("Shape", [source], [f"{name}_shape"]))
            nodes.append(Node("Reshape", [source, f"{name}_shape"], [name]))
        shapes[name] = shape
    made = [name for name in shapes if name not in ("x", "z")]
    outputs = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True))
    return of_nodes(nodes, {"x": (2, 3, 4), "z": (2, 3, 4)}, {name: shapes[name] for name in outputs}, weights)


@settings(max_examples=60)
@given(random_models())
def test_random_graphs_mean_the_same(model: onnx.ModelProto) -> None:
    graph = from_proto(model, Path())
    infer(graph, target_opset=24)
    legalise(graph)
    assert_contract(graph)
    assert_same(model, graph)
    assert len(graph) <= 2 * len(model.graph.node) + 2


def chain(length: int) -> onnx.ModelProto:
    kinds = [("Mul", "k"), ("Sigmoid", ""), ("Add", "k"), ("Transpose", ""), ("Relu", ""), ("Identity", "")]
    nodes = []
    for index in range(length):
        op, weight = kinds[index % len(kinds)]
        nodes.append(Node(op, [f"v{index}", *([weight] if weight else [])], [f"v{index + 1}"]))
    nodes[0].input[0] = "x"
    return of_nodes(nodes, {"x": (3, 4)}, {nodes[-1].output[0]: ("a", "b")}, {"k": np.array(1.5, np.float32)})


def lines(work: Callable[[], object]) -> int:
    """How many lines of Python ``work`` runs in this thread."""
    count = 0

    def trace(_frame: FrameType, event: str, _argument: object) -> object:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def test_a_long_chain_takes_work_in_proportion(tmp_path: Path) -> None:
    """Counted, not timed. The first is not counted: it imports."""

    def work(length: int) -> Callable[[], object]:
        model = chain(length)
        return lambda: prepared(model, tmp_path, verify=False)

    assert len(prepared(chain(100), tmp_path, verify=False)) < 100
    assert lines(work(1200)) < 4.4 * lines(work(300))
