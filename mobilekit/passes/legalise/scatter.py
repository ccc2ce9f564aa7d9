"""ScatterND that overwrites a slice (what ``y[..., 2:4] = ...`` exports to): cuts and a Concat."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mobilekit.graph import Node, Value
from mobilekit.passes.base import Edit, Rule

__all__ = ["ScatterSlice"]


class _Overwrite(NamedTuple):
    root: Node
    axis: int
    start: int
    end: int


class ScatterSlice(Rule[_Overwrite]):
    """Constant indices that name a range of one axis, in order and whole in all other axes."""

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
        partial = [axis for axis, size in enumerate(named) if (low[axis], high[axis]) != (0, size)]
        box = np.stack(np.meshgrid(*map(np.arange, low, high), indexing="ij"), -1).reshape(-1, len(named))
        if len(partial) > 1 or box.shape != rows.shape or not np.array_equal(box, rows):
            return None
        axis = partial[0] if partial else 0
        return _Overwrite(node, axis, int(low[axis]), int(high[axis]))

    def rewrite(self, match: _Overwrite, edit: Edit) -> list[Node]:
        data, _, updates = match.root.inputs[:3]
        out = match.root.outputs[0]
        assert data is not None
        assert data.shape is not None
        assert out is not None
        size = data.shape[match.axis]
        assert isinstance(size, int)
        nodes: list[Node] = []
        parts: list[Value] = []

        def cut(start: int, end: int) -> None:
            if start == end:
                return
            part = edit.value(f"{out.name}_kept", data.dtype)
            bounds = [edit.constant("scatter", [number], "int64") for number in (start, end, match.axis)]
            nodes.append(Node("", "Slice", [data, *bounds], [part]))
            parts.append(part)

        cut(0, match.start)
        new = edit.value(f"{out.name}_new", data.dtype)
        shape = [*data.shape[: match.axis], match.end - match.start, *data.shape[match.axis + 1 :]]
        nodes.append(Node("", "Reshape", [updates, edit.constant("scatter", shape, "int64")], [new]))
        parts.append(new)
        cut(match.end, size)
        nodes.append(Node(match.root.name, "Concat", list(parts), [out], {"axis": match.axis}))
        return nodes
