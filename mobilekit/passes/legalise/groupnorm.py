"""GroupNormalization out of the InstanceNormalization between Reshapes that exporters write; its scale and bias."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mobilekit.graph import Node, Value
from mobilekit.passes.base import Edit, Rule
from mobilekit.passes.legalise._algebra import made_by
from mobilekit.passes.legalise.batchnorm import channel_affine

__all__ = ["FuseGroupNorm", "FuseNormAffine"]


class _Grouped(NamedTuple):
    root: Node
    norm: Node
    source: Value
    groups: int


class FuseGroupNorm(Rule[_Grouped]):
    """``reshape(instance_norm(reshape(x, (N, G, -1))), x.shape)`` is GroupNormalization with G groups."""

    name = "fuse-group-norm"
    ops = ("Reshape",)

    def pattern(self, node: Node) -> _Grouped | None:
        norm = made_by(node.inputs[0], "InstanceNormalization")
        split = made_by(norm.inputs[0], "Reshape") if norm is not None else None
        source = split.inputs[0] if split is not None else None
        out, inner = node.outputs[0], norm.inputs[0] if norm is not None else None
        if norm is None or source is None or out is None or inner is None or source.shape is None:
            return None
        if len(source.shape) < 3 or out.shape != source.shape or inner.shape is None or len(inner.shape) < 3:
            return None
        groups, channels = inner.shape[1], source.shape[1]
        if inner.shape[0] != source.shape[0] or not isinstance(groups, int) or not isinstance(channels, int):
            return None
        return _Grouped(node, norm, source, groups) if channels % groups == 0 else None

    def check(self, match: _Grouped, edit: Edit) -> str:
        if any(value is None or value.const is None for value in match.norm.inputs[1:3]):
            return "its scale or bias is not constant"
        return "" if edit.sole(match.norm.outputs[0]) else "others read the normalised groups"

    def rewrite(self, match: _Grouped, edit: Edit) -> list[Node]:
        assert match.source.shape is not None
        share = int(match.source.shape[1] or 0) // match.groups
        out = match.root.outputs[0]
        assert out is not None
        inputs: list[Value | None] = [match.source]
        for value, what in zip(match.norm.inputs[1:3], ("scale", "bias"), strict=True):
            assert value is not None
            assert value.const is not None
            inputs.append(edit.constant(f"{out.name}_{what}", np.repeat(value.const, share), value.dtype))
        attrs = {"num_groups": match.groups, "epsilon": match.norm.attrs.get("epsilon", 1e-5)}
        return [Node(match.norm.name, "GroupNormalization", inputs, [out], attrs)]


class _Scaled(NamedTuple):
    root: Node
    norm: Node
    scale: np.ndarray
    shift: np.ndarray


class FuseNormAffine(Rule[_Scaled]):
    """Mul, Div, Add or Sub by a constant for each channel go into the scale and bias of the normalisation before."""

    name = "fuse-norm-affine"
    ops = ("Add", "Div", "Mul", "Sub")

    def pattern(self, node: Node) -> _Scaled | None:
        for index, value in enumerate(node.inputs[:2]):
            norm = made_by(value, "GroupNormalization", "InstanceNormalization")
            affine = channel_affine(node, index) if norm is not None else None
            if norm is not None and affine is not None:
                return _Scaled(node, norm, *affine)
        return None

    def check(self, match: _Scaled, edit: Edit) -> str:
        if any(value is None or value.const is None for value in match.norm.inputs[1:3]):
            return "its scale or bias is not constant"
        return "" if edit.sole(match.norm.outputs[0]) else "others read the normalised tensor"

    def rewrite(self, match: _Scaled, edit: Edit) -> list[Node]:
        norm, out = match.norm, match.root.outputs[0]
        scale, bias = norm.inputs[1:3]
        assert out is not None
        assert scale is not None
        assert scale.const is not None
        assert bias is not None
        assert bias.const is not None
        inputs = [
            norm.inputs[0],
            edit.constant(f"{out.name}_scale", scale.const * match.scale, scale.dtype),
            edit.constant(f"{out.name}_bias", bias.const * match.scale + match.shift, bias.dtype),
        ]
        return [Node(norm.name, norm.op, inputs, [out], dict(norm.attrs))]
