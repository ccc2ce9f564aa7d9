"""What is malformed is left alone by inlining and unrolling: a typed error follows, never an exception of ours."""

from __future__ import annotations

from typing import Any

import pytest

from mobilekit.graph import Graph, Node, Value
from mobilekit.passes.functions import expand, is_expanded
from mobilekit.passes.unroll import is_unrolled


def value(*shape: Any) -> Value:
    return Value("v", "float32", shape)


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN", "LinearAttention"])
@pytest.mark.parametrize(
    "inputs", [[], [None, None, None], [value(2, 3)], [value(2, 3)] * 3, [value("n", 2, 3)] * 3, [value(2, 2, 0)] * 3]
)
def test_a_malformed_recurrence_is_left(op: str, inputs: list[Value | None]) -> None:
    assert not is_unrolled(Node("", op, list(inputs), [value()]))


def test_a_function_with_unknown_shapes_is_left() -> None:
    graph = Graph("", {"": 24})
    node = Node("", "Attention", [Value("q"), Value("k"), Value("w")], [Value("y")])
    assert is_expanded(graph, node)
    assert expand(graph, node, 24) is None


def test_layer_normalization_is_expanded_only_for_more_outputs() -> None:
    graph = Graph("", {"": 24})
    node = Node("", "LayerNormalization", [value(2, 3), value(3)], [Value("y"), Value("m")])
    assert not is_expanded(graph, node)
    graph.outputs = [value for value in node.outputs if value is not None]
    assert is_expanded(graph, node)
