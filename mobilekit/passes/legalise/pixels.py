"""DepthToSpace and SpaceToDepth out of the Reshapes and the six-axis Transpose that exporters write."""

from __future__ import annotations

from typing import Any, NamedTuple

from mobilekit.graph import Node, Value
from mobilekit.passes.base import Edit, Rule
from mobilekit.passes.legalise._algebra import made_by

__all__ = ["FusePixelShuffle"]

_AXES = 6


class _Found(NamedTuple):
    root: Node
    source: Value
    op: str
    attrs: dict[str, Any]


class FusePixelShuffle(Rule[_Found]):
    """``reshape(transpose(reshape(x)))`` as ONNX's texts of DepthToSpace and SpaceToDepth (opset 13) define them."""

    name = "fuse-pixel-shuffle"
    ops = ("Reshape",)

    def pattern(self, node: Node) -> _Found | None:
        transpose = made_by(node.inputs[0], "Transpose")
        split = made_by(transpose.inputs[0], "Reshape") if transpose is not None else None
        source, out = split.inputs[0] if split is not None else None, node.outputs[0]
        apart = transpose.inputs[0] if transpose is not None else None
        if transpose is None or source is None or out is None or apart is None:
            return None
        if any(
            value.shape is None or not all(isinstance(n, int) for n in value.shape) for value in (source, apart, out)
        ):
            return None
        before, six, after = (tuple(int(n or 0) for n in value.shape or ()) for value in (source, apart, out))
        if len(before) != 4 or len(after) != 4 or len(six) != _AXES:
            return None
        perm = list(transpose.attrs.get("perm") or [])
        n, c, h, w = before
        for mode, sizes, order in (
            ("CRD", (n, -1, 0, 0, h, w), [0, 1, 4, 2, 5, 3]),
            ("DCR", (n, 0, 0, -1, h, w), [0, 3, 4, 1, 5, 2]),
        ):
            block = six[sizes.index(0)]
            wanted = tuple(block if s == 0 else c // block**2 if s == -1 else s for s in sizes)
            if perm == order and block > 1 and six == wanted and after == (n, c // block**2, h * block, w * block):
                return _Found(node, source, "DepthToSpace", {"blocksize": block, "mode": mode})
        block = six[3]
        wanted = (n, c, h // block, block, w // block, block)
        fits = six == wanted and after == (n, c * block**2, h // block, w // block)
        if perm == [0, 3, 5, 1, 2, 4] and block > 1 and fits:
            return _Found(node, source, "SpaceToDepth", {"blocksize": block})
        return None

    def rewrite(self, match: _Found, edit: Edit) -> list[Node]:  # noqa: ARG002
        return [Node(match.root.name, match.op, [match.source], match.root.outputs, match.attrs)]
