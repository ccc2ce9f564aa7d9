"""1x1 convolutions in front of the upsampling whose result they would read: a quarter of the work, or less."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mobilekit.graph import Node, Value
from mobilekit.passes.base import Edit, Rule
from mobilekit.passes.legalise._algebra import made_by

__all__ = ["ConvBeforeUpsample"]

_LEAST_CHANNELS = 16
"""Of fewer the sum of two convolutions costs more than the smaller one saves."""


class _Upsampled(NamedTuple):
    conv: Node
    joined: Node | None
    place: int
    resize: Node


class ConvBeforeUpsample(Rule[_Upsampled]):
    """``conv(up(x))`` is ``up(conv(x))``; ``conv(concat(up(x), z))`` is ``up(conv_x(x)) + conv_z(z)``.

    For a 1x1 convolution, which is an affine map of each pixel's channels, and an upsampling each of whose pixels is
    one (nearest) or a mean with weights that sum to 1 (linear) of the pixels it reads. Feature pyramids are full of
    the second form.
    """

    name = "conv-before-upsample"
    ops = ("Conv",)

    def pattern(self, node: Node) -> _Upsampled | None:
        one = all(k == 1 for k in node.attrs.get("kernel_shape", [0]))
        plain = all(s == 1 for s in node.attrs.get("strides", [])) and not any(node.attrs.get("pads", []))
        if not one or not plain or node.attrs.get("group", 1) != 1 or "auto_pad" in node.attrs:
            return None
        resize = made_by(node.inputs[0], "Resize")
        if resize is not None:
            return _Upsampled(node, None, 0, resize)
        joined = made_by(node.inputs[0], "Concat")
        if joined is None or joined.attrs.get("axis") not in (1, 1 - len(node.attrs["kernel_shape"]) - 2):
            return None
        for index, value in enumerate(joined.inputs):
            resize = made_by(value, "Resize")
            if resize is not None and len(joined.inputs) > 1:
                return _Upsampled(node, joined, index, resize)
        return None

    def check(self, match: _Upsampled, edit: Edit) -> str:
        conv, resize = match.conv, match.resize
        small, large = resize.inputs[0], resize.outputs[0]
        assert small is not None
        assert large is not None
        if any(value is not None and value.const is None for value in conv.inputs[1:]):
            return "the convolution's weights are not constant"
        if small.shape is None or large.shape is None or small.shape[:2] != large.shape[:2]:
            return "it scales the batch or the channels"
        sizes = [(a, b) for a, b in zip(small.shape, large.shape, strict=True)]
        if (
            any(not isinstance(a, int) or not isinstance(b, int) or b < a for a, b in sizes)
            or small.shape == large.shape
        ):
            return "it does not enlarge"
        if resize.attrs.get("mode", "nearest") not in ("nearest", "linear") or resize.attrs.get("antialias", 0):
            return "its weights might not sum to 1"
        if resize.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
            return "it fills in a number where it reads outside"
        if not edit.sole(large):
            return "others read the enlarged tensor"
        if match.joined is None:
            return ""
        out = match.joined.outputs[0]
        assert out is not None
        if edit.graph.is_output(out) or any(self.pattern(node) is None for node in out.consumers if node.op == "Conv"):
            return "others read the concatenated tensor"
        if any(node.op != "Conv" for node in out.consumers):
            return "others read the concatenated tensor"
        return "" if small.shape[1] is not None and int(small.shape[1]) >= _LEAST_CHANNELS else "it has few channels"

    def rewrite(self, match: _Upsampled, edit: Edit) -> list[Node]:
        conv, resize = match.conv, match.resize
        out, weight = conv.outputs[0], conv.inputs[1]
        assert out is not None
        assert weight is not None
        assert weight.const is not None
        attrs, weights = dict(conv.attrs), weight.const
        if match.joined is None:
            low = edit.value(f"{out.name}_low", out.dtype)
            return [
                Node(conv.name, "Conv", [resize.inputs[0], *conv.inputs[1:]], [low], attrs),
                self._upsample(resize, low, out, weights.shape[0], edit),
            ]
        start = sum(_channels(value) for value in match.joined.inputs[: match.place])
        end = start + _channels(resize.inputs[0])
        rest = [value for index, value in enumerate(match.joined.inputs) if index != match.place]
        low, high, other, joined = (edit.value(f"{out.name}_{what}", out.dtype) for what in ("low", "up", "rest", "in"))
        w_low = edit.constant(f"{weight.name}_low", weights[:, start:end], weight.dtype)
        w_rest = edit.constant(f"{weight.name}_rest", np.delete(weights, np.s_[start:end], 1), weight.dtype)
        nodes = [Node("", "Concat", list(rest), [joined], {"axis": 1})] if len(rest) > 1 else []
        return [
            *nodes,
            Node("", "Conv", [resize.inputs[0], w_low], [low], dict(attrs)),
            self._upsample(resize, low, high, weights.shape[0], edit),
            Node(conv.name, "Conv", [joined if nodes else rest[0], w_rest, *conv.inputs[2:]], [other], attrs),
            Node("", "Add", [other, high], [out]),
        ]

    @staticmethod
    def _upsample(resize: Node, source: Value, out: Value, channels: int, edit: Edit) -> Node:
        inputs = [source, *resize.inputs[1:]]
        sizes = inputs[3] if len(inputs) > 3 else None
        if sizes is not None and sizes.const is not None and "axes" not in resize.attrs:
            inputs[3] = edit.constant(f"{sizes.name}_sizes", [sizes.const[0], channels, *sizes.const[2:]], "int64")
        return Node(resize.name, "Resize", inputs, [out], dict(resize.attrs))


def _channels(value: Value | None) -> int:
    assert value is not None
    assert value.shape is not None
    return int(value.shape[1] or 0)
