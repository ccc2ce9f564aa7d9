"""Convolutions of one tensor that are added up are one convolution."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mobilekit.graph import Node, Value
from mobilekit.passes.base import Edit, Rule
from mobilekit.passes.legalise._algebra import made_by
from mobilekit.passes.legalise.batchnorm import batch_norm_affine

__all__ = ["MergeBranches"]


class _Branches(NamedTuple):
    root: Node
    conv: Node
    other: Value
    """What is added: the BatchNormalization of the convolution's own input, or another convolution of it."""


class MergeBranches(Rule[_Branches]):
    """``conv(x) + conv'(x)`` and ``conv(x) + norm(x)`` are one convolution with the larger kernel.

    RepVGG (Ding et al., 2021), MobileOne, RepViT and FastViT are trained with such branches and meant to run without;
    exporters write them as they are. The weights are added in float64 and rounded once.
    """

    name = "merge-branches"
    ops = ("Add",)

    def pattern(self, node: Node) -> _Branches | None:
        for value, other in (node.inputs[:2], node.inputs[1::-1]):
            conv = made_by(value, "Conv")
            if conv is None or other is None or other is value:
                continue
            second = made_by(other, "Conv", "BatchNormalization")
            if second is not None and second.inputs[0] is conv.inputs[0]:
                return _Branches(node, conv, other)
        return None

    def check(self, match: _Branches, edit: Edit) -> str:
        made, out = match.conv.outputs[0], match.root.outputs[0]
        assert made is not None
        assert out is not None
        if not made.shape == match.other.shape == out.shape or out.dtype != "float32":
            return "one of them is broadcast"
        if not edit.sole(made) or not edit.sole(match.other):
            return "others read a branch"
        if any(v is not None and v.const is None for n in (match.conv, self._second(match)) for v in n.inputs[1:]):
            return "weights are not constant"
        return "" if self._weights(match) is not None else "no kernel has room for the other"

    @staticmethod
    def _second(match: _Branches) -> Node:
        assert match.other.producer is not None
        return match.other.producer

    def _weights(self, match: _Branches) -> tuple[Node, np.ndarray, np.ndarray] | None:
        """Whose attributes stay, the kernel and the bias."""
        conv, second = match.conv, self._second(match)
        weight, bias = _parameters(conv)
        if second.op == "Conv":
            if any(conv.attrs.get(key) != second.attrs.get(key) for key in ("strides", "group")):
                return None
            other, more = _parameters(second)
            for base, big, guest, small in ((conv, weight, second, other), (second, other, conv, weight)):
                whole = _placed(base, big, guest, small)
                if whole is not None:
                    return base, whole, bias + more
            return None
        count, depth = weight.shape[:2]
        x = conv.inputs[0]
        pads = conv.attrs.get("pads", [])
        kernel, spatial = weight.shape[2:], len(weight.shape) - 2
        inside = len(pads) == 2 * spatial and all(pad < size for pad, size in zip(pads, kernel, strict=False))
        same = x is not None and x.shape is not None and x.shape[1] == count
        if not same or not inside or any(step != 1 for step in conv.attrs.get("strides", [2])) or _dilated(conv):
            return None
        affine = batch_norm_affine(second)
        if affine is None:
            return None
        scale, shift = affine
        whole = weight.copy()
        channels = np.arange(count)
        whole[(channels, channels % depth, *pads[:spatial])] += scale
        return conv, whole, bias + shift

    def rewrite(self, match: _Branches, edit: Edit) -> list[Node] | None:
        found = self._weights(match)
        out = match.root.outputs[0]
        if found is None or out is None:
            return None
        base, weight, bias = found
        inputs = [base.inputs[0], edit.constant(f"{out.name}_weight", weight, "float32")]
        inputs.append(edit.constant(f"{out.name}_bias", bias, "float32"))
        return [Node(base.name, "Conv", inputs, [out], dict(base.attrs))]


def _parameters(conv: Node) -> tuple[np.ndarray, np.ndarray]:
    weight, bias = (value.const if value is not None else None for value in (*conv.inputs, None)[1:3])
    assert weight is not None
    return weight.astype(np.float64), np.zeros(len(weight)) if bias is None else bias.astype(np.float64)


def _dilated(conv: Node) -> bool:
    return any(
        step != 1 and size != 1 for step, size in zip(conv.attrs["dilations"], conv.attrs["kernel_shape"], strict=True)
    )


def _placed(base: Node, big: np.ndarray, guest: Node, small: np.ndarray) -> np.ndarray | None:
    """``big`` with ``small`` added where the guest's kernel lies in the base's, or ``None`` where it does not fit."""
    spatial = big.ndim - 2
    pads = base.attrs.get("pads", []), guest.attrs.get("pads", [])
    if big.shape[:2] != small.shape[:2] or any(len(each) != 2 * spatial for each in pads):
        return None
    if "auto_pad" in base.attrs or "auto_pad" in guest.attrs or _dilated(base) or _dilated(guest):
        return None
    starts = [a - b for a, b in zip(pads[0][:spatial], pads[1][:spatial], strict=True)]
    sizes = small.shape[2:]
    if any(not 0 <= at <= room - size for at, size, room in zip(starts, sizes, big.shape[2:], strict=True)):
        return None
    whole = big.copy()
    whole[(slice(None), slice(None), *(slice(at, at + size) for at, size in zip(starts, sizes, strict=True)))] += small
    return whole
