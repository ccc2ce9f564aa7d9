"""SpaceToDepth out of strided slices side by side (the Focus of YOLOv5 and YOLOX), whatever order they come in."""

from __future__ import annotations

import math
from typing import NamedTuple

from mobilekit.graph import Node, Value
from mobilekit.passes.base import Edit, Rule
from mobilekit.passes.legalise._algebra import made_by

__all__ = ["FuseFocus", "FuseFocusConv"]


class _Blocks(NamedTuple):
    """Pixels of ``size`` x ``size`` blocks of ``source`` as channels: channel ``i`` is SpaceToDepth's ``order[i]``."""

    source: Value
    size: int
    order: list[int]

    def node(self, name: str, out: Value) -> Node:
        return Node(name, "SpaceToDepth", [self.source], [out], {"blocksize": self.size})


def _images(value: Value | None) -> tuple[int, int, int, int] | None:
    shape = value.shape if value is not None else None
    if shape is None or len(shape) != 4 or not all(isinstance(size, int) for size in shape):
        return None
    n, c, h, w = (int(size or 0) for size in shape)
    return n, c, h, w


def _chosen(value: Value | None) -> tuple[Value, range, range] | None:
    """The tensor that strided Slices take ``value`` from, and the rows and columns that they keep of it."""
    slices: list[Node] = []
    while (node := made_by(value, "Slice")) is not None and _steps(node) is not None:
        slices.append(node)
        value = node.inputs[0]
    sizes = _images(value)
    if value is None or sizes is None or not slices:
        return None
    kept = {axis: range(sizes[axis]) for axis in range(4)}
    for node in reversed(slices):
        for axis, cut in _steps(node) or []:
            kept[axis] = kept[axis][cut]
    return (value, kept[2], kept[3]) if all(len(kept[axis]) == sizes[axis] for axis in (0, 1)) else None


def _steps(node: Node) -> list[tuple[int, slice]] | None:
    """(axis, slice) for each axis of a Slice that skips forward over some; ``None`` for others, crops among them."""
    if len(node.inputs) < 5 or any(value is None or value.const is None for value in node.inputs[1:]):
        return None
    numbers = [value.const.reshape(-1) for value in node.inputs[1:] if value is not None and value.const is not None]
    found = [(int(axis) % 4, slice(int(s), int(e), int(step))) for s, e, axis, step in zip(*numbers, strict=True)]
    steps = [cut.step for _, cut in found]
    return found if min(steps) > 0 and max(steps) > 1 else None


def _focus(node: Node) -> _Blocks | None:
    """A Concat of every pixel of a block, each from all blocks."""
    size = math.isqrt(len(node.inputs))
    if size < 2 or size * size != len(node.inputs) or node.attrs["axis"] not in (1, -3):
        return None
    taken = [_chosen(value) for value in node.inputs]
    parts = [part for part in taken if part is not None]
    source = parts[0][0] if parts else None
    sizes = _images(source)
    if len(parts) != len(taken) or source is None or sizes is None or any(part[0] is not source for part in parts):
        return None
    _, channels, height, width = sizes
    if height % size or width % size:
        return None
    order: list[int] = []
    for _, rows, columns in parts:
        i, j = rows.start, columns.start
        if (rows, columns) != (range(height)[i::size], range(width)[j::size]):
            return None
        order += [(i * size + j) * channels + channel for channel in range(channels)]
    return _Blocks(source, size, order) if len(set(order)) == len(order) else None


def _unshuffled(node: Node) -> _Blocks | None:
    """torch's ``pixel_unshuffle``: SpaceToDepth with the channels of the image outermost."""
    transpose = made_by(node.inputs[0], "Transpose")
    split = made_by(transpose.inputs[0], "Reshape") if transpose is not None else None
    if transpose is None or split is None or transpose.attrs.get("perm") != [0, 1, 3, 5, 2, 4]:
        return None
    source, apart, sizes = split.inputs[0], transpose.inputs[0], _images(split.inputs[0])
    if source is None or apart is None or apart.shape is None or sizes is None or len(apart.shape) != 6:
        return None
    (n, c, h, w), size = sizes, apart.shape[3]
    if not isinstance(size, int) or size < 2:
        return None
    if apart.shape != (n, c, h // size, size, w // size, size):
        return None
    if _images(node.outputs[0]) != (n, c * size**2, h // size, w // size):
        return None
    return _Blocks(source, size, [pixel * c + channel for channel in range(c) for pixel in range(size**2)])


class FuseFocus(Rule[tuple[Node, _Blocks]]):
    """Slices of a block's pixels, row by row, are SpaceToDepth."""

    name = "fuse-focus"
    ops = ("Concat",)

    def pattern(self, node: Node) -> tuple[Node, _Blocks] | None:
        blocks = _focus(node)
        return (node, blocks) if blocks is not None else None

    def check(self, match: tuple[Node, _Blocks], edit: Edit) -> str:  # noqa: ARG002
        order = match[1].order
        return "" if order == sorted(order) else "its pixels are not in SpaceToDepth's order"

    def rewrite(self, match: tuple[Node, _Blocks], edit: Edit) -> list[Node]:  # noqa: ARG002
        node, blocks = match
        assert node.outputs[0] is not None
        return [blocks.node(node.name, node.outputs[0])]


class FuseFocusConv(Rule[tuple[Node, _Blocks]]):
    """A convolution of a block's pixels in another order is one of SpaceToDepth with the weights in its order.

    YOLOv5 and YOLOX take the pixels column by column, torch's ``pixel_unshuffle`` the channels outermost.
    """

    name = "fuse-focus-conv"
    ops = ("Conv",)

    def pattern(self, node: Node) -> tuple[Node, _Blocks] | None:
        made = made_by(node.inputs[0], "Concat", "Reshape")
        if made is None:
            return None
        blocks = _focus(made) if made.op == "Concat" else _unshuffled(made)
        return (node, blocks) if blocks is not None else None

    def check(self, match: tuple[Node, _Blocks], edit: Edit) -> str:
        source = match[0].inputs[0]
        assert source is not None
        if edit.graph.is_output(source) or not all(_takes_any_order(node, source) for node in source.consumers):
            return "not only convolutions of all channels with constant weights read the pixels"
        return ""

    def rewrite(self, match: tuple[Node, _Blocks], edit: Edit) -> list[Node]:
        node, blocks = match
        pixels, weight = node.inputs[0], node.inputs[1]
        assert pixels is not None
        assert weight is not None
        assert weight.const is not None
        places = sorted(range(len(blocks.order)), key=blocks.order.__getitem__)
        moved = edit.constant(f"{weight.name}_blocks", weight.const[:, places], weight.dtype)
        made = edit.value(f"{pixels.name}_blocks", pixels.dtype)
        return [
            blocks.node("", made),
            Node(node.name, "Conv", [made, moved, *node.inputs[2:]], node.outputs, dict(node.attrs)),
        ]


def _takes_any_order(node: Node, source: Value) -> bool:
    weight = node.inputs[1] if node.op == "Conv" and not node.domain else None
    constant = weight is not None and weight.const is not None
    return constant and node.attrs.get("group", 1) == 1 and all(value is not source for value in node.inputs[1:])
