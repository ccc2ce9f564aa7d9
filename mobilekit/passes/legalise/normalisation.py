"""LayerNormalization and RMSNormalization out of the ReduceMean chains that exporters write."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mobilekit.graph import Node, Value
from mobilekit.passes.base import Edit, Rule, scalar
from mobilekit.passes.legalise._algebra import close, made_by

__all__ = ["FuseLayerNorm", "FuseNormScale"]


class _Norm(NamedTuple):
    root: Node
    source: Value
    axes: list[int]
    epsilon: float
    centred: bool


class FuseLayerNorm(Rule[_Norm]):
    """``d / sqrt(mean(d * d) + eps)``: LayerNormalization where ``d = x - mean(x)``, else RMSNormalization.

    The scale is ones here; :class:`FuseNormScale` takes in the Mul and Add that follow.
    """

    name = "fuse-layer-norm"
    ops = ("Div", "Mul")

    def pattern(self, node: Node) -> _Norm | None:
        for value, factor in (node.inputs[:2], node.inputs[1::-1]) if node.op == "Mul" else (node.inputs[:2],):
            if value is None or factor is None:
                continue
            variance = _under_root(factor, inverse=node.op == "Mul")
            found = _mean_of_square(variance, value) if variance is not None else None
            if found is None:
                continue
            axes, epsilon = found
            centre = _centred(value, axes)
            return _Norm(node, centre or value, axes, epsilon, centre is not None)
        return None

    def check(self, match: _Norm, edit: Edit) -> str:  # noqa: ARG002
        assert match.source.shape is not None
        rank = len(match.source.shape)
        if sorted(match.axes) != list(range(rank - len(match.axes), rank)):
            return "it normalises axes that are not the last ones"
        if not match.centred and made_by(match.source, "Sub") is not None:
            return "it subtracts something that is not known to be the mean"
        return "" if str(match.source.dtype).startswith("float") else "it is not a float"

    def rewrite(self, match: _Norm, edit: Edit) -> list[Node]:
        assert match.source.shape is not None
        axis = min(match.axes)
        shape = [size for size in match.source.shape[axis:] if isinstance(size, int)]
        ones = edit.constant(f"{match.root.label}_scale", np.ones(shape), match.source.dtype)
        op = "LayerNormalization" if match.centred else "RMSNormalization"
        attrs = {"axis": axis - len(match.source.shape), "epsilon": match.epsilon}
        return [Node(match.root.name, op, [match.source, ones], match.root.outputs, attrs)]


def _under_root(value: Value, *, inverse: bool) -> Value | None:
    """What the square root is taken of: ``sqrt(v)``; ``1 / sqrt(v)`` where ``inverse``."""
    if inverse:
        power = made_by(value, "Pow")
        if power is not None and close(scalar(power.inputs[1]), -0.5):
            return power.inputs[0]
        reciprocal = made_by(value, "Reciprocal")
        divide = made_by(value, "Div")
        if reciprocal is not None:
            inner = reciprocal.inputs[0]
        elif divide is not None and scalar(divide.inputs[0]) == 1:
            inner = divide.inputs[1]
        else:
            return None
        return None if inner is None else _under_root(inner, inverse=False)
    root, power = made_by(value, "Sqrt"), made_by(value, "Pow")
    if root is not None:
        return root.inputs[0]
    return power.inputs[0] if power is not None and close(scalar(power.inputs[1]), 0.5) else None


def _mean_of_square(value: Value, base: Value) -> tuple[list[int], float] | None:
    """(axes, epsilon) where ``value`` is ``mean(base * base) + epsilon`` with the axes kept."""
    add = made_by(value, "Add")
    if add is None:
        return None
    first, second = add.inputs[:2]
    epsilon, inner = (scalar(second), first) if scalar(second) is not None else (scalar(first), second)
    mean = made_by(inner, "ReduceMean")
    if epsilon is None or mean is None or not mean.attrs.get("keepdims", 1):
        return None
    axes = _reduced(mean)
    squared = mean.inputs[0]
    square = made_by(squared, "Mul", "Pow")
    if axes is None or square is None or square.inputs[0] is not base:
        return None
    twice = square.inputs[1] is base if square.op == "Mul" else scalar(square.inputs[1]) == 2
    return (axes, epsilon) if twice else None


def _reduced(node: Node) -> list[int] | None:
    source = node.inputs[0]
    if source is None or source.shape is None:
        return None
    rank = len(source.shape)
    axes = node.inputs[1] if len(node.inputs) > 1 else None
    if axes is None:
        return None if node.attrs.get("noop_with_empty_axes", 0) else list(range(rank))
    return None if axes.const is None or not axes.const.size else [int(axis) % rank for axis in axes.const.reshape(-1)]


def _centred(value: Value, axes: list[int]) -> Value | None:
    """``x`` where ``value`` is ``x - mean(x)`` over the same axes."""
    minus = made_by(value, "Sub")
    if minus is None:
        return None
    mean = made_by(minus.inputs[1], "ReduceMean")
    if mean is None or mean.inputs[0] is not minus.inputs[0] or not mean.attrs.get("keepdims", 1):
        return None
    own = _reduced(mean)
    return minus.inputs[0] if own is not None and sorted(own) == sorted(axes) else None


class _Scaled(NamedTuple):
    root: Node
    norm: Node
    other: Value


class FuseNormScale(Rule[_Scaled]):
    """The Mul, then the Add, by constants over the normalised axes go into the normalisation."""

    name = "fuse-norm-scale"
    ops = ("Mul", "Add")

    def pattern(self, node: Node) -> _Scaled | None:
        for value, other in (node.inputs[:2], node.inputs[1::-1]):
            norm = made_by(value, "LayerNormalization", "RMSNormalization")
            if norm is not None and other is not None and other.const is not None:
                return _Scaled(node, norm, other)
        return None

    def check(self, match: _Scaled, edit: Edit) -> str:
        norm, out = match.norm, match.norm.outputs[0]
        assert out is not None
        assert out.shape is not None
        if not edit.sole(out) or any(value is not None for value in norm.outputs[1:]):
            return "others read the normalised tensor"
        if match.root.op == "Add" and norm.op == "RMSNormalization":
            return "RMSNormalization has no bias"
        if norm.inputs[1] is None or norm.inputs[1].const is None:
            return "the scale is not constant"
        if match.root.op == "Mul" and len(norm.inputs) > 2:
            return "it already has a bias"
        if len(norm.inputs) > 2 and (norm.inputs[2] is None or norm.inputs[2].const is None):
            return "the bias is not constant"
        axis = norm.attrs.get("axis", -1) % len(out.shape)
        shape = match.other.shape or ()
        lead = len(shape) - (len(out.shape) - axis)
        if any(size != 1 for size in shape[: max(lead, 0)]) or len(shape) > len(out.shape):
            return "the constant reaches over axes that are not normalised"
        return ""

    def rewrite(self, match: _Scaled, edit: Edit) -> list[Node]:
        norm, root = match.norm, match.root
        scale = norm.inputs[1]
        assert scale is not None
        assert scale.const is not None
        shape = scale.const.shape
        other: np.ndarray[Any, Any] | None = match.other.const
        assert other is not None
        other = np.broadcast_to(other.reshape(other.shape[max(0, other.ndim - len(shape)) :]), shape)
        bias = norm.inputs[2].const if len(norm.inputs) > 2 and norm.inputs[2] is not None else None
        inputs: list[Value | None] = [norm.inputs[0], scale]
        if root.op == "Mul":
            inputs[1] = edit.constant(f"{root.label}_scale", scale.const * other, scale.dtype)
        else:
            inputs.append(edit.constant(f"{root.label}_bias", other if bias is None else bias + other, scale.dtype))
        return [Node(norm.name, norm.op, inputs, root.outputs, dict(norm.attrs))]
