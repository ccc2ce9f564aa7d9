"""Attention rows that are masked as a whole, without the NaN in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mobilekit.graph import Node, Value
from mobilekit.passes.base import Edit, Rule, scalar
from mobilekit.passes.signs import magnitude

__all__ = ["MaskedSoftmax"]

_FINITE = 1e38
"""Below the largest float32."""


@dataclass(frozen=True, slots=True)
class _Match:
    where: Node
    maximum: Node
    softmax: Node
    scores: Value
    bias: Value


class MaskedSoftmax(Rule[_Match]):
    """``Where(ReduceMax(bias) == -inf, 0, Softmax(scores + bias))``, as ONNX defines Attention.

    A row of nothing but ``-inf`` makes a NaN that Where throws away; runtimes that choose by arithmetic cannot. So the
    softmax sees the largest finite number below instead, which weighs as little, and the rows are found by IsInf.
    A bias that cannot be infinite, such as what ONNX Runtime makes of a mask of integers, leaves the softmax alone.
    """

    name = "masked-softmax"
    ops = ("Where",)

    def pattern(self, node: Node) -> _Match | None:
        condition, zero, chosen = node.inputs
        if condition is None or chosen is None or scalar(zero) != 0.0:
            return None
        equal, softmax = condition.producer, chosen.producer
        if equal is None or softmax is None or (equal.op, softmax.op) != ("Equal", "Softmax"):
            return None
        maximum = equal.inputs[0].producer if equal.inputs[0] is not None else None
        add = softmax.inputs[0].producer if softmax.inputs[0] is not None else None
        if maximum is None or add is None or (maximum.op, add.op) != ("ReduceMax", "Add"):
            return None
        if scalar(equal.inputs[1]) != -np.inf or not _over_last(maximum) or not _over_last(softmax):
            return None
        bias = maximum.inputs[0]
        others = [value for value in add.inputs if value is not bias]
        if bias is None or bias.const is not None or len(others) != 1 or others[0] is None:
            return None
        return _Match(node, maximum, softmax, others[0], bias)

    def rewrite(self, match: _Match, edit: Edit) -> Sequence[Node]:
        stem = match.where.label
        bias = match.bias
        if magnitude(bias) < _FINITE:
            return [Node(match.where.name, "Identity", [match.softmax.outputs[0]], list(match.where.outputs))]
        bounded, summed = edit.value(f"{stem}_bounded"), edit.value(f"{stem}_scores")
        weights, masked = edit.value(f"{stem}_weights"), edit.value(f"{stem}_masked")
        number, least, whole = edit.value(f"{stem}_number"), edit.value(f"{stem}_least"), edit.value(f"{stem}_whole")
        lowest = edit.constant(f"{stem}_lowest", np.finfo(np.float32).min, "float32")
        return [
            Node(f"{stem}/Clip", "Clip", [bias, lowest], [bounded]),
            Node(f"{stem}/Add", "Add", [match.scores, bounded], [summed]),
            Node(f"{stem}/Softmax", "Softmax", [summed], [weights], dict(match.softmax.attrs)),
            Node(f"{stem}/IsInf", "IsInf", [bias], [masked], {"detect_positive": 0}),
            Node(f"{stem}/Cast", "Cast", [masked], [number], {"to": 1}),
            Node(f"{stem}/ReduceMin", "ReduceMin", [number, match.maximum.inputs[1]], [least], {"keepdims": 1}),
            Node(f"{stem}/Cast_1", "Cast", [least], [whole], {"to": 9}),
            Node(match.where.name, "Where", [whole, match.where.inputs[1], weights], list(match.where.outputs)),
        ]


def _over_last(node: Node) -> bool:
    """Whether ``node`` works along the last axis and keeps the rank."""
    value = node.inputs[0]
    assert value is not None
    assert value.shape is not None
    last = len(value.shape) - 1
    if node.op == "Softmax":
        return bool(node.attrs.get("axis", -1) in (-1, last))
    axes = node.inputs[1] if len(node.inputs) > 1 else None
    return scalar(axes) in (-1.0, float(last)) and bool(node.attrs.get("keepdims", 1))
