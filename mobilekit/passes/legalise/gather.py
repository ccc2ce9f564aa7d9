"""GatherND with one index for each pick is Gather, which ncnn can do with computed indices."""

from __future__ import annotations

from mobilekit.graph import Node
from mobilekit.passes.base import Edit, Rule

__all__ = ["GatherNDToGather"]


class GatherNDToGather(Rule[Node]):
    """``x[i]`` as PyTorch's newer exporter writes it: indices of shape ``[..., 1]`` into the first axis."""

    name = "gather-nd-to-gather"
    ops = ("GatherND",)

    def pattern(self, node: Node) -> Node | None:
        indices = node.inputs[1]
        single = indices is not None and indices.shape is not None and indices.shape[-1:] == (1,)
        return node if single and not node.attrs.get("batch_dims", 0) else None

    def rewrite(self, match: Node, edit: Edit) -> list[Node]:
        data, indices = match.inputs[:2]
        out = match.outputs[0]
        assert out is not None
        if indices is not None and indices.const is not None:
            known = edit.constant(f"{out.name}_indices", indices.const[..., 0])
            return [Node(match.name, "Gather", [data, known], [out], {"axis": 0})]
        flat = edit.value(f"{out.name}_indices")
        return [
            Node(match.name, "Squeeze", [indices, edit.constant(f"{out.name}_last", [-1], "int64")], [flat]),
            Node(match.name, "Gather", [data, flat], [out], {"axis": 0}),
        ]
