"""ScatterND that overwrites a box (what ``y[..., 2:4] = ...`` exports to): cuts and Concats."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mobilekit.graph import Node, Value
from mobilekit.passes.base import Edit, Rule

__all__ = ["ScatterSlice"]


_MOST_AXES = 3


class _Overwrite(NamedTuple):
    root: Node
    ranges: dict[int, tuple[int, int]]
    """Begin and end along each axis that is not whole."""


class ScatterSlice(Rule[_Overwrite]):
    """Constant indices that name a range of each axis, in order and whole in all but three."""

    name = "scatter-slice"
    ops = ("ScatterND",)

    def pattern(self, node: Node) -> _Overwrite | None:
        data, indices, updates = node.inputs[:3]
        if data is None or updates is None or indices is None or indices.const is None or data.shape is None:
            return None
        if node.attrs.get("reduction", "none") not in ("none", b"none"):
            return None
        shape = [size for size in data.shape if isinstance(size, int)]
        if len(shape) != len(data.shape) or not 0 < indices.const.shape[-1] <= len(shape):
            return None
        named = shape[: indices.const.shape[-1]]
        rows = np.asarray(indices.const.reshape(-1, len(named)), np.int64)
        rows = np.where(rows < 0, rows + np.array(named), rows)
        if not rows.size:
            return None
        low, high = rows.min(axis=0), rows.max(axis=0) + 1
        ranges = {
            axis: (int(low[axis]), int(high[axis]))
            for axis, size in enumerate(named)
            if (low[axis], high[axis]) != (0, size)
        }
        box = np.stack(np.meshgrid(*map(np.arange, low, high), indexing="ij"), -1).reshape(-1, len(named))
        if len(ranges) > _MOST_AXES or box.shape != rows.shape or not np.array_equal(box, rows):
            return None
        return _Overwrite(node, ranges)

    def rewrite(self, match: _Overwrite, edit: Edit) -> list[Node]:
        data, _, updates = match.root.inputs[:3]
        out = match.root.outputs[0]
        assert data is not None
        assert data.shape is not None
        assert updates is not None
        assert out is not None
        nodes: list[Node] = []
        shape = [axis for axis in data.shape if isinstance(axis, int)]
        box = [match.ranges.get(axis, (0, size)) for axis, size in enumerate(shape)]

        def cut(source: Value, axis: int, start: int, end: int) -> Value:
            part = edit.value(f"{out.name}_kept", source.dtype)
            bounds = [edit.constant("scatter", [number], "int64") for number in (start, end, axis)]
            nodes.append(Node("", "Slice", [source, *bounds], [part]))
            return part

        # From the outside in: what lies beside the box along one axis, and what of the data is left to look at.
        beside: list[tuple[int, Value | None, Value | None]] = []
        for axis, (start, end) in match.ranges.items():
            size = shape[axis]
            before = cut(data, axis, 0, start) if start else None
            after = cut(data, axis, end, size) if end < size else None
            beside.append((axis, before, after))
            if len(beside) < len(match.ranges):
                data = cut(data, axis, start, end)
        made = out if not beside else edit.value(f"{out.name}_new", out.dtype)
        nodes.append(
            Node(
                "", "Reshape", [updates, edit.constant("scatter", [end - start for start, end in box], "int64")], [made]
            )
        )
        for axis, before, after in reversed(beside):
            parts = [part for part in (before, made, after) if part is not None]
            made = out if axis == beside[0][0] else edit.value(f"{out.name}_row", out.dtype)
            nodes.append(Node(match.root.name if made is out else "", "Concat", list(parts), [made], {"axis": axis}))
        return nodes
