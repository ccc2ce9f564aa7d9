"""Pad with negative sizes, which cut."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mobilekit.graph import Node
from mobilekit.passes.base import Edit, Rule

__all__ = ["CutPad"]


class _Cut(NamedTuple):
    root: Node
    before: list[int]
    after: list[int]


class CutPad(Rule[_Cut]):
    """Where a Pad cuts one end and repeats the edge at another: Slice, then Pad."""

    name = "cut-pad"
    ops = ("Pad",)

    def pattern(self, node: Node) -> _Cut | None:
        source, pads, _, axes = [*node.inputs, None, None][:4]
        if source is None or source.shape is None or pads is None or pads.const is None:
            return None
        rank = len(source.shape)
        if axes is not None and axes.const is None:
            return None
        sizes = [int(size) for size in pads.const.reshape(-1)]
        if min(sizes, default=0) >= 0 or node.attrs.get("mode", "constant") == "constant":
            return None
        where = range(rank) if axes is None or axes.const is None else [int(a) % rank for a in axes.const.reshape(-1)]
        before, after = [0] * rank, [0] * rank
        for index, axis in enumerate(where):
            before[axis], after[axis] = sizes[index], sizes[index + len(sizes) // 2]
        return _Cut(node, before, after)

    def check(self, match: _Cut, edit: Edit) -> str:  # noqa: ARG002
        # The edge is the same before and after the other end is cut; what is reflected or wrapped is not.
        mixed = any(min(pair) < 0 < max(pair) for pair in zip(match.before, match.after, strict=True))
        if mixed and match.root.attrs.get("mode") != "edge":
            return "one axis is cut at one end and padded at the other"
        source = match.root.inputs[0]
        assert source is not None
        assert source.shape is not None
        left = [int(axis or 0) + min(0, a) + min(0, b)
                for axis, a, b in zip(source.shape, match.before, match.after, strict=True)]  # fmt: skip
        if min(left) < 1:
            return "it cuts everything"
        return ""

    def rewrite(self, match: _Cut, edit: Edit) -> list[Node]:
        root, source = match.root, match.root.inputs[0]
        assert source is not None
        assert source.shape is not None
        starts = [max(0, -size) for size in match.before]
        ends = [
            int(axis) - max(0, -size) for axis, size in zip(source.shape, match.after, strict=True) if axis is not None
        ]
        bounds = [edit.constant(f"{root.label}_{what}", data, "int64") for what, data in (("s", starts), ("e", ends))]
        cut = edit.value(f"{root.label}_cut", source.dtype)
        sizes = np.maximum(0, [*match.before, *match.after])
        pads = edit.constant(f"{root.label}_pads", sizes, "int64")
        return [
            Node(cut.name, "Slice", [source, *bounds], [cut]),
            Node(root.name, "Pad", [cut, pads, *root.inputs[2:3]], root.outputs, dict(root.attrs)),
        ]
