"""Concats that put the parts of a Split together again."""

from __future__ import annotations

from typing import NamedTuple

from mobilekit.graph import Node, Value
from mobilekit.passes.base import Edit, Rule
from mobilekit.passes.legalise._algebra import made_by

__all__ = ["ConcatOfSplit"]


class _Rejoined(NamedTuple):
    root: Node
    source: Value
    start: int
    parts: int


class ConcatOfSplit(Rule[_Rejoined]):
    """All parts of a Split, one after another in a Concat along the same axis, are the tensor that was split.

    The C2f blocks of YOLOv8 concatenate both halves of a tensor with what is computed from the second.
    """

    name = "concat-of-split"
    ops = ("Concat",)

    def pattern(self, node: Node) -> _Rejoined | None:
        for start, value in enumerate(node.inputs):
            split = made_by(value, "Split")
            source = split.inputs[0] if split is not None else None
            if split is None or source is None or source.shape is None or value is not split.outputs[0]:
                continue
            rank, count = len(source.shape), len(split.outputs)
            same_axis = split.attrs.get("axis", 0) % rank == node.attrs["axis"] % rank
            if same_axis and node.inputs[start : start + count] == split.outputs:
                return _Rejoined(node, source, start, count)
        return None

    def rewrite(self, match: _Rejoined, edit: Edit) -> list[Node] | Value:  # noqa: ARG002
        inputs = list(match.root.inputs)
        inputs[match.start : match.start + match.parts] = [match.source]
        if len(inputs) == 1:
            return match.source
        return [Node(match.root.name, "Concat", inputs, match.root.outputs, dict(match.root.attrs))]
