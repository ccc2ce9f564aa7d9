"""Convolutions and pools: every attribute given, ``auto_pad`` worked out, Pad nodes folded in."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mobilekit.graph import Node, Value
from mobilekit.passes.base import Edit, Rule, scalar

__all__ = ["ExplicitWindow", "FoldPad"]

_CONVS = ("Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "DeformConv")
_POOLS = ("MaxPool", "AveragePool", "LpPool", "MaxUnpool")


class ExplicitWindow(Rule[Node]):
    """Give ``kernel_shape``, ``strides``, ``dilations``, ``pads`` and ``group``; replace ``auto_pad`` by pads.

    Formulas: ONNX's operator texts of Conv, ConvTranspose and MaxPool. ``output_shape`` of ConvTranspose becomes
    pads (and ``output_padding`` where the total is negative).
    """

    name = "explicit-window"
    ops = (*_CONVS, *_POOLS)

    def pattern(self, node: Node) -> Node | None:
        wanted = ["kernel_shape", "strides", "pads"]
        wanted += ["dilations"] if node.op not in ("MaxUnpool",) else []
        wanted += ["group"] if node.op in _CONVS else []
        if "auto_pad" not in node.attrs and "output_shape" not in node.attrs and all(n in node.attrs for n in wanted):
            return None
        return node if node.inputs[0] is not None and node.inputs[0].shape is not None else None

    def check(self, match: Node, edit: Edit) -> str:  # noqa: ARG002
        if match.attrs.get("auto_pad", "NOTSET") not in ("SAME_UPPER", "SAME_LOWER") or match.op == "ConvTranspose":
            return ""
        if match.op in _POOLS and any(dilation != 1 for dilation in match.attrs.get("dilations", [])):
            return "ONNX Runtime pads a dilated pool less than ONNX says"
        if any(total < -1 for total in _same_totals(match)):
            return "ONNX Runtime crops where strides skip so much, one operator more than another"
        return ""

    def rewrite(self, match: Node, edit: Edit) -> list[Node]:  # noqa: ARG002
        source, out = match.inputs[0], match.outputs[0]
        assert source is not None
        assert source.shape is not None
        attrs = dict(match.attrs)
        attrs["kernel_shape"] = _kernel(match)
        rank = len(attrs["kernel_shape"])
        attrs.setdefault("strides", [1] * rank)
        dilations = attrs.get("dilations", [1] * rank)
        if match.op != "MaxUnpool":
            attrs["dilations"] = dilations
        if match.op in _CONVS:
            attrs.setdefault("group", 1)
        mode = attrs.pop("auto_pad", "NOTSET")
        sizes = [int(size) for size in source.shape[2:] if isinstance(size, int)]
        if match.op == "ConvTranspose":
            assert out is not None
            assert out.shape is not None
            _transpose_pads(attrs, mode, sizes, [int(size) for size in out.shape[2:] if isinstance(size, int)])
        elif mode in ("SAME_UPPER", "SAME_LOWER"):
            totals = _same_totals(match)
            attrs["pads"] = _halves([max(0, total) for total in totals], upper=mode == "SAME_UPPER")
            attrs.pop("ceil_mode", None)
        elif mode == "VALID":
            attrs["pads"] = [0] * (2 * rank)
        attrs.setdefault("pads", [0] * (2 * rank))
        return [Node(match.name, match.op, match.inputs, match.outputs, attrs)]


def _kernel(node: Node) -> list[int]:
    if "kernel_shape" in node.attrs:
        return _ints(node.attrs["kernel_shape"])
    weight = node.inputs[3 if node.op == "QLinearConv" else 1]
    assert weight is not None
    assert weight.shape is not None
    return [int(size) for size in weight.shape[2:] if isinstance(size, int)]


def _same_totals(node: Node) -> list[int]:
    """What SAME_UPPER and SAME_LOWER pad on each axis, both sides together; negative where strides skip the rest."""
    kernel = _kernel(node)
    assert node.inputs[0] is not None
    assert node.inputs[0].shape is not None
    sizes = [int(size) for size in node.inputs[0].shape[2:] if isinstance(size, int)]
    strides, dilations = (_ints(node.attrs.get(name, [1] * len(kernel))) for name in ("strides", "dilations"))
    return [
        (-(-size // stride) - 1) * stride + d * (k - 1) + 1 - size
        for size, k, stride, d in zip(sizes, kernel, strides, dilations, strict=True)
    ]


def _halves(totals: list[int], *, upper: bool) -> list[int]:
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return [*small, *large] if upper else [*large, *small]


def _transpose_pads(attrs: dict[str, object], mode: str, sizes: list[int], made: list[int]) -> None:
    """total = stride * (in - 1) + output_padding + reach - out; SAME_UPPER puts the larger half at the end."""
    rank = len(sizes)
    kernel, strides, dilations = (_ints(attrs[name]) for name in ("kernel_shape", "strides", "dilations"))
    extra = _ints(attrs.get("output_padding", [0] * rank))
    if mode == "NOTSET" and "output_shape" not in attrs:
        attrs.setdefault("output_padding", extra)
        return
    attrs.pop("output_shape", None)
    totals = []
    for i in range(rank):
        total = strides[i] * (sizes[i] - 1) + extra[i] + dilations[i] * (kernel[i] - 1) + 1 - made[i]
        if total < 0:
            extra[i] -= total
            total = 0
        totals.append(total)
    attrs["output_padding"] = extra
    attrs["pads"] = _halves(totals, upper=mode == "SAME_UPPER") if mode != "VALID" else [0] * rank + totals


def _ints(value: object) -> list[int]:
    assert isinstance(value, list)
    return [int(item) for item in value]


class _Padded(NamedTuple):
    node: Node
    pad: Node
    pads: list[int]
    value: float


class FoldPad(Rule[_Padded]):
    """Constant padding into the window operator that reads it, where that is the same."""

    name = "fold-pad"
    ops = ("Conv", "AveragePool", "MaxPool")

    def pattern(self, node: Node) -> _Padded | None:
        source = node.inputs[0]
        pad = source.producer if source is not None else None
        if pad is None or pad.op != "Pad" or pad.domain or "auto_pad" in node.attrs or "pads" not in node.attrs:
            return None
        if pad.attrs.get("mode", "constant") != "constant" or pad.inputs[0] is None or pad.inputs[0].shape is None:
            return None
        given = pad.inputs[1]
        if given is None or given.const is None:
            return None
        rank = len(pad.inputs[0].shape)
        axes = pad.inputs[3] if len(pad.inputs) > 3 else None
        pads = [0] * (2 * rank)
        where = (
            range(rank) if axes is None else [int(axis) % rank for axis in axes.const] if axes.const is not None else []
        )
        flat = [int(size) for size in given.const]
        for index, axis in enumerate(where):
            pads[axis], pads[rank + axis] = flat[index], flat[len(where) + index]
        fill = pad.inputs[2] if len(pad.inputs) > 2 else None
        number = 0.0 if fill is None else scalar(fill)
        return None if number is None else _Padded(node, pad, pads, number)

    def check(self, match: _Padded, edit: Edit) -> str:
        rank = len(match.pads) // 2
        if any(match.pads[axis] or match.pads[rank + axis] for axis in (0, 1)):
            return "it pads the batch or the channels"
        if min(match.pads) < 0:
            return "it crops"
        if not edit.sole(match.pad.outputs[0]):
            return "others read the padded tensor"
        node = match.node
        source = match.pad.inputs[0]
        if node.op == "Conv":
            return "" if match.value == 0 else "a convolution pads with zero only"
        if node.attrs.get("ceil_mode", 0):
            return "ceil_mode counts the window's own padding otherwise"
        if node.op == "AveragePool":
            if match.value != 0:
                return "an average pool pads with zero only"
            own = any(node.attrs["pads"])
            counted = node.attrs.get("count_include_pad", 0) == 1
            return "" if counted or not own else "the pool leaves its own padding out of the mean"
        fills = match.value <= np.finfo(np.float32).min or (match.value == 0 and _not_negative(source))
        if not fills:
            return "a max pool pads with the smallest number"
        pads = [a + b for a, b in zip(node.attrs["pads"], match.pads[2:rank] + match.pads[rank + 2 :], strict=True)]
        reach = [d * (k - 1) + 1 for k, d in zip(node.attrs["kernel_shape"], node.attrs["dilations"], strict=True)]
        return "" if all(p < r for p, r in zip(pads, reach * 2, strict=True)) else "a window could lie in the padding"

    def rewrite(self, match: _Padded, edit: Edit) -> list[Node]:  # noqa: ARG002
        rank = len(match.pads) // 2
        node = match.node
        attrs = dict(node.attrs)
        attrs["pads"] = [a + b for a, b in zip(attrs["pads"], match.pads[2:rank] + match.pads[rank + 2 :], strict=True)]
        if node.op == "AveragePool":
            attrs["count_include_pad"] = 1
        return [Node(node.name, node.op, [match.pad.inputs[0], *node.inputs[1:]], node.outputs, attrs)]


def _not_negative(value: Value | None) -> bool:
    """Whether the operator that makes ``value`` cannot make a negative number."""
    while value is not None and value.producer is not None:
        node = value.producer
        if node.op in ("Relu", "Sigmoid", "Softplus", "Softmax", "HardSigmoid", "Abs", "Exp", "Sqrt"):
            return True
        if node.op == "Clip":
            low = scalar(node.inputs[1]) if len(node.inputs) > 1 else None
            return low is not None and low >= 0
        if node.op not in ("MaxPool", "Reshape", "Transpose", "Identity"):
            return False
        value = node.inputs[0]
    return False
