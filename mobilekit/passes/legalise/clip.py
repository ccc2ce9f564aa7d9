"""Clip with bounds that are computed while running."""

from __future__ import annotations

from mobilekit.graph import Node, Value
from mobilekit.passes.base import Edit, Rule

__all__ = ["ComputedClip"]


class ComputedClip(Rule[Node]):
    """``max(min)`` and ``min(max)`` of the tensor and its bounds, in ONNX's order: the upper bound wins."""

    name = "computed-clip"
    ops = ("Clip",)

    def pattern(self, node: Node) -> Node | None:
        return node if any(value is not None and value.const is None for value in node.inputs[1:]) else None

    def rewrite(self, match: Node, edit: Edit) -> list[Node]:
        value, low, high = [*match.inputs, None, None][:3]
        out = match.outputs[0]
        assert out is not None
        nodes: list[Node] = []

        def step(op: str, bound: Value, *, last: bool) -> Value:
            made = out if last else edit.value(f"{out.name}_{op}", out.dtype)
            nodes.append(Node(match.name if last else made.name, op, [value, bound], [made]))
            return made

        if low is not None:
            value = step("Max", low, last=high is None)
        if high is not None:
            step("Min", high, last=True)
        return nodes
