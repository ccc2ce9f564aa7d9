"""Cuts of one tensor that leave nothing out are one Split."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from mobilekit.graph import Node, Value
from mobilekit.passes.base import Edit, Rule

__all__ = ["CutsToSplit"]

_MOST_PARTS = 64
"""And readers: each cut looks at all others."""

_Span = tuple[int, int]


class _Cut(NamedTuple):
    """``[start, end)`` of an axis."""

    axis: int
    span: _Span


class _Found(NamedTuple):
    root: Node
    cut: _Cut
    spans: list[_Span]
    split: Node | None
    """One that a cut before it made."""


class CutsToSplit(Rule[_Found]):
    """Slices and Gathers of neighbouring indices that together are their whole source, each element once.

    Exporters write so what in the framework was ``chunk`` or ``unbind``: the halves of a ShuffleNet, both parts of a
    shifted window, query, key and value. ncnn's Slice makes all parts in one layer, and keeps packed channels packed.
    """

    name = "cuts-to-split"
    ops = ("Slice", "Gather")

    def pattern(self, node: Node) -> _Found | None:
        source = node.inputs[0]
        if source is None or source.const is not None or not 2 <= len(source.consumers) <= _MOST_PARTS:
            return None
        cut = _cut(node)
        if cut is None or source.shape is None:
            return None
        for reader in source.consumers:
            if reader.op == "Split" and not reader.domain and reader.attrs.get("axis", 0) == cut.axis:
                spans = _spans(reader, cut.axis)
                if cut.span in spans:
                    return _Found(node, cut, spans, reader)
        found = {other.span for reader in source.consumers if (other := _cut(reader)) and other.axis == cut.axis}
        spans = sorted(found)
        whole = spans[0][0] == 0 and spans[-1][1] == source.shape[cut.axis]
        if len(spans) < 2 or not whole or any(a[1] != b[0] for a, b in pairwise(spans)):
            return None
        return _Found(node, cut, spans, None)

    def rewrite(self, match: _Found, edit: Edit) -> list[Node] | Value:
        source, out = match.root.inputs[0], match.root.outputs[0]
        assert source is not None
        assert out is not None
        assert source.shape is not None
        place = match.spans.index(match.cut.span)
        nodes: list[Node] = []
        if match.split is not None:
            part = match.split.outputs[place]
            assert part is not None
            if part.shape == out.shape:
                return part
        else:
            sizes = edit.constant(f"{source.name}_sizes", [end - start for start, end in match.spans], "int64")
            parts: list[Value | None] = [edit.value(f"{source.name}_part", source.dtype) for _ in match.spans]
            whole = [*source.shape]
            whole[match.cut.axis] = match.cut.span[1] - match.cut.span[0]
            if tuple(whole) == out.shape:
                parts[place] = out
            nodes.append(Node(match.root.name, "Split", [source, sizes], parts, {"axis": match.cut.axis}))
            part = parts[place]
        if part is not out:
            shape = edit.constant(f"{out.name}_shape", out.shape, "int64")
            nodes.append(Node(match.root.name, "Reshape", [part, shape], [out]))
        return nodes


def _spans(split: Node, axis: int) -> list[_Span]:
    end, spans = 0, []
    for value in split.outputs:
        size = value.shape[axis] if value is not None and value.shape is not None else None
        if not isinstance(size, int):
            return []
        spans.append((end, end + size))
        end += size
    return spans


def _cut(node: Node) -> _Cut | None:
    """What a Slice with step 1 or a Gather of neighbouring indices keeps, if it cuts a single axis."""
    source = node.inputs[0]
    if node.domain or node.op not in ("Slice", "Gather") or source is None or source.shape is None:
        return None
    if any(value is not None and value.const is None for value in node.inputs[1:]):
        return None
    given = [None if value is None or value.const is None else value.const.reshape(-1) for value in node.inputs[1:]]
    if node.op == "Gather":
        axis = node.attrs.get("axis", 0) % len(source.shape)
        size, indices = source.shape[axis], given[0]
        if not isinstance(size, int) or indices is None or not indices.size:
            return None
        wanted = [int(index) for index in indices]
        wanted = [index + size if index < 0 else index for index in wanted]
        inside = wanted[0] >= 0 and wanted[-1] < size
        return _Cut(axis, (wanted[0], wanted[-1] + 1)) if inside and _neighbours(wanted) else None
    starts, ends = given[:2]
    assert starts is not None
    assert ends is not None
    axes = given[2] if len(given) > 2 and given[2] is not None else np.arange(len(starts))
    steps = given[3] if len(given) > 3 and given[3] is not None else np.ones(len(starts))
    cuts: list[_Cut] = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = source.shape[int(axis)]
        if not isinstance(size, int) or step != 1:
            return None
        kept = range(size)[int(start) : int(end)]
        if 0 < len(kept) < size:
            cuts.append(_Cut(int(axis) % len(source.shape), (kept.start, kept.stop)))
        elif not kept:
            return None
    return cuts[0] if len(cuts) == 1 else None


def _neighbours(indices: list[int]) -> bool:
    return all(b == a + 1 for a, b in pairwise(indices))
