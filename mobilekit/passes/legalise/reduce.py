"""Reductions over axes of size 1."""

from __future__ import annotations

from mobilekit.graph import Node
from mobilekit.passes.base import Edit, Rule

__all__ = ["ReduceOfOnes"]


class ReduceOfOnes(Rule[Node]):
    """The mean, sum, product, largest or smallest of one element is that element: a Reshape."""

    name = "reduce-of-ones"
    ops = ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum")

    def pattern(self, node: Node) -> Node | None:
        source, out = node.inputs[0], node.outputs[0]
        if source is None or out is None or source.shape is None or out.shape is None or source.dtype != out.dtype:
            return None
        # Only sizes of 1 can go without changing how many elements there are.
        kept = [size for size in out.shape if size != 1]
        return node if 0 not in source.shape and kept == [size for size in source.shape if size != 1] else None

    def rewrite(self, match: Node, edit: Edit) -> list[Node]:
        out = match.outputs[0]
        assert out is not None
        shape = edit.constant(f"{out.name}_shape", out.shape, "int64")
        return [Node(match.name, "Reshape", [match.inputs[0], shape], [out])]
