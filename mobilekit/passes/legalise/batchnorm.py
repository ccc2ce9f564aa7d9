"""Fold BatchNormalization, and Mul or Add by a constant for each channel, into the layer before."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mobilekit.graph import Node, Value
from mobilekit.passes.base import Edit, Rule

__all__ = ["FoldAffine", "batch_norm_affine", "channel_affine"]


class _Affine(NamedTuple):
    """``out = layer(x) * scale + shift``, both of shape ``(channels,)`` float64."""

    layer: Node
    root: Node
    scale: np.ndarray
    shift: np.ndarray


class FoldAffine(Rule[_Affine]):
    """``Conv``, ``ConvTranspose`` or ``Gemm`` followed by an affine map of its channels becomes one layer.

    The product is formed in float64 and rounded once to the weights' type.
    """

    name = "fold-affine"
    ops = ("BatchNormalization", "Add", "Sub", "Mul", "Div")

    def pattern(self, node: Node) -> _Affine | None:
        for index, value in enumerate(node.inputs[:2]):
            layer = value.producer if value is not None else None
            if layer is None or layer.domain or layer.op not in ("Conv", "ConvTranspose", "Gemm"):
                continue
            affine = (
                batch_norm_affine(node)
                if node.op == "BatchNormalization" and index == 0
                else channel_affine(node, index)
            )
            return None if affine is None else _Affine(layer, node, *affine)
        return None

    def check(self, match: _Affine, edit: Edit) -> str:
        layer = match.layer
        if not edit.sole(layer.outputs[0]):
            return "others read the layer's output"
        if any(value is not None and value.const is None for value in layer.inputs[1:]):
            return "the layer's weights are not constant"
        weight = layer.inputs[1]
        assert weight is not None
        if weight.dtype not in ("float32", "float64", "float16"):
            return f"the weights are {weight.dtype}"
        if weight.const is not None and 0 in weight.const.strides and weight.const.nbytes > 1 << 20:
            return ""
        return ""

    def rewrite(self, match: _Affine, edit: Edit) -> list[Node]:
        layer, root = match.layer, match.root
        weight = layer.inputs[1]
        assert weight is not None
        assert weight.const is not None
        attrs = dict(layer.attrs)
        old = layer.inputs[2].const if len(layer.inputs) > 2 and layer.inputs[2] is not None else None
        bias = np.zeros(1) if old is None else old.astype(np.float64)
        scale, shift = match.scale, match.shift
        if layer.op == "Gemm":
            bias = bias * attrs.pop("beta", 1.0)
            scale_w = scale * attrs.pop("alpha", 1.0)
            data = weight.const * (scale_w[:, None] if attrs.get("transB", 0) else scale_w[None, :])
            bias = bias * scale + shift
        else:
            data = weight.const * _on_output_channels(layer, weight, scale)
            bias = np.broadcast_to(bias, scale.shape) * scale + shift
        out = root.outputs[0]
        assert out is not None
        new_w = (
            weight
            if np.all(match.scale == 1) and layer.op != "Gemm"
            else edit.constant(f"{weight.name}_folded", data, weight.dtype)
        )
        new_b = edit.constant(f"{out.name}_bias", bias, weight.dtype)
        return [Node(layer.name, layer.op, [layer.inputs[0], new_w, new_b], [out], attrs)]


def _on_output_channels(layer: Node, weight: Value, scale: np.ndarray) -> np.ndarray:
    """``scale`` shaped to multiply the weight: (M, C/g, ...) for Conv, (C, M/g, ...) for ConvTranspose."""
    assert weight.const is not None
    shape = weight.const.shape
    spatial = (1,) * (len(shape) - 2)
    if layer.op == "Conv":
        return scale.reshape(-1, 1, *spatial)
    group = layer.attrs.get("group", 1)
    # Input channel c belongs to group c // (C/g), which makes that group's M/g outputs.
    return np.repeat(scale.reshape(group, shape[1]), shape[0] // group, axis=0).reshape(shape[0], shape[1], *spatial)


def _channels(value: Value | None) -> tuple[int, int] | None:
    """(number of channels, rank)."""
    if value is None or value.shape is None or len(value.shape) < 2 or not isinstance(value.shape[1], int):
        return None
    return value.shape[1], len(value.shape)


def batch_norm_affine(node: Node) -> tuple[np.ndarray, np.ndarray] | None:
    """``(scale, shift)`` of a BatchNormalization, each ``(channels,)`` float64; ``None`` unless all are constant."""
    arrays = [
        None if value is None or value.const is None else value.const.astype(np.float64) for value in node.inputs[1:5]
    ]
    if any(item is None for item in arrays) or len(arrays) != 4:
        return None
    gamma, beta, mean, variance = (item for item in arrays if item is not None)
    scale = gamma / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    return scale, beta - mean * scale


def channel_affine(node: Node, index: int) -> tuple[np.ndarray, np.ndarray] | None:
    """``(scale, shift)``, both ``(channels,)`` float64, where ``node`` maps its input ``index`` so, by a constant."""
    other = node.inputs[1 - index]
    known = _channels(node.inputs[index])
    if other is None or other.const is None or known is None or other.const.dtype.kind != "f":
        return None
    if node.op in ("Sub", "Div") and index == 1:
        return None
    channels, rank = known
    shape = (1,) * (rank - other.const.ndim) + other.const.shape
    if (
        len(shape) != rank
        or shape[1] not in (1, channels)
        or any(size != 1 for axis, size in enumerate(shape) if axis != 1)
    ):
        return None
    out = node.outputs[0]
    if out is None or out.shape != (node.inputs[index].shape if node.inputs[index] is not None else None):  # type: ignore[union-attr]
        return None
    flat = np.broadcast_to(other.const.astype(np.float64).reshape(-1), (channels,))
    ones, zeros = np.ones(channels), np.zeros(channels)
    if node.op == "Add":
        return ones, flat
    if node.op == "Sub":
        return ones, -flat
    if node.op == "Mul":
        return flat, zeros
    return (1 / flat, zeros) if np.all(flat != 0) else None
