"""Remove nodes that hand on their input as it is."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mobilekit.graph import Node, Value
from mobilekit.passes.base import Edit, Rule, scalar

__all__ = ["DropNoOp"]


class DropNoOp(Rule[Value]):
    """Identity, Dropout at inference, and operators whose parameters make them do nothing."""

    name = "drop-no-op"
    ops = (
        "Add", "AveragePool", "Cast", "CastLike", "Concat", "Div", "Dropout", "Expand", "Flatten", "Identity", "Max",
        "Mean", "Min", "Mul", "Pad", "Pow", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Sub", "Sum", "Tile",
        "Transpose", "Unsqueeze",
    )  # fmt: skip

    _SAME_SHAPE: ClassVar = {"Expand", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Tile"}

    def pattern(self, node: Node) -> Value | None:
        kept = _kept_input(node)
        out = node.outputs[0]
        if kept is None or out is None or (kept.dtype, kept.shape) != (out.dtype, out.shape):
            return None
        if len(node.outputs) > 1 and any(value is not None and value.consumers for value in node.outputs[1:]):
            return None
        return kept

    def rewrite(self, match: Value, edit: Edit) -> Value:  # noqa: ARG002
        return match


def _kept_input(node: Node) -> Value | None:
    first, out = node.inputs[0], node.outputs[0]
    if first is None or out is None:
        return None
    op = node.op
    if op in ("Identity", "Dropout") or op in DropNoOp._SAME_SHAPE:
        return first
    if op in ("Cast", "CastLike"):
        return first if first.dtype == out.dtype else None
    if op in ("Concat", "Sum", "Max", "Min", "Mean"):
        return first if len(node.inputs) == 1 else None
    if op == "Split":
        return first if len(node.outputs) == 1 else None
    if op == "Transpose":
        return first if _keeps_order(first, node.attrs.get("perm")) else None
    if op in ("Add", "Mul", "Sub", "Div", "Pow"):
        return _neutral(node)
    if op == "Pad":
        pads = node.inputs[1]
        return first if pads is not None and pads.const is not None and not pads.const.any() else None
    if op == "Slice":
        # The same shape and a step forward means everything.
        steps = node.inputs[4] if len(node.inputs) > 4 else None
        forward = steps is None or (
            steps.const is not None and bool(np.all(np.greater(steps.const.astype(np.int64), 0)))
        )
        return first if first.shape == out.shape and forward else None
    if op == "Resize":
        whole = node.attrs.get("coordinate_transformation_mode", "half_pixel") != "tf_crop_and_resize"
        return first if first.shape == out.shape and whole else None
    if op == "AveragePool":
        one = all(size == 1 for size in [*node.attrs["kernel_shape"], *node.attrs.get("strides", [1])])
        return first if one and not any(node.attrs.get("pads", [])) else None
    return None


def _keeps_order(value: Value, perm: list[int] | None) -> bool:
    """Whether a transposition moves only axes of size 1 among each other, or none."""
    assert value.shape is not None
    order = perm if perm is not None else list(reversed(range(len(value.shape))))
    return order == sorted(order)


def _neutral(node: Node) -> Value | None:
    """``x * 1``, ``x / 1``, ``x + 0``, ``x - 0``, ``x ** 1``, whatever shape the constant has."""
    first, second = node.inputs[:2]
    neutral = 0.0 if node.op in ("Add", "Sub") else 1.0
    if _all_are(second, neutral):
        return first
    return second if node.op in ("Add", "Mul") and _all_are(first, neutral) else None


def _all_are(value: Value | None, number: float) -> bool:
    if value is None or value.const is None or value.const.dtype.kind not in "fiu" or not value.const.size:
        return False
    return scalar(value) == number or bool(np.all(value.const == number))
