"""Sequences of tensors (``torch.jit.script``, ``chunk`` and ``split`` as older exporters write them), taken apart.

A sequence whose length and positions are known is but a list of values: the operators on it leave nothing behind, and
what reads it reads the tensors. In loops this works because those are written out (:mod:`mobilekit.passes.loops`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mobilekit.errors import Finding, UnsupportedModelError
from mobilekit.graph import Graph, Node, Value

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Sequences"]

_REMEDY = "keep single tensors in place of the list, or fix what its length comes from with --input"
_MOST_PARTS = 1024


class Sequences:
    """What every sequence of ``graph`` holds, while a walk comes along its nodes in order."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._items: dict[int, list[Value]] = {}
        self._kept: list[Value] = []  # a value's id is its own only while it lives
        self._by_op: dict[str, Callable[[Node], list[Node]]] = {
            "ConcatFromSequence": self._concat,
            "Identity": self._same,
            "SequenceAt": self._at,
            "SequenceConstruct": self._construct,
            "SequenceEmpty": self._construct,
            "SequenceErase": self._erase,
            "SequenceInsert": self._insert,
            "SequenceLength": self._length,
            "SplitToSequence": self._split,
        }

    def opened(self, node: Node) -> list[Node] | None:
        """What stands in the node's place, in forms of opset 13 or newer; ``None`` where it has no sequence.

        Raises :class:`UnsupportedModelError` where the length or a position depends on data.
        """
        if node.domain or node.op not in self._by_op:
            return None
        if node.op == "Identity" and id(node.inputs[0]) not in self._items:
            return None
        if any(value is None for value in node.inputs[:1]):
            raise _refuse(node, "it has no input")
        return self._by_op[node.op](node)

    def finish(self) -> None:
        """Raise :class:`UnsupportedModelError` where a sequence leaves the graph: a file has tensors only."""
        for value in self._graph.outputs:
            if id(value) in self._items:
                finding = Finding(value.name, "Output", "it is a sequence of tensors", _REMEDY)
                raise UnsupportedModelError(f"output {value.name!r} is a sequence of tensors", findings=[finding])

    def _list(self, node: Node) -> list[Value]:
        found = self._items.get(id(node.inputs[0]))
        if found is None:
            raise _refuse(node, "what its sequence holds depends on data")
        return found

    def _keep(self, node: Node, items: list[Value]) -> list[Node]:
        out = node.outputs[0]
        if out is not None:
            self._items[id(out)] = items
            self._kept.append(out)
        return []

    def _position(self, node: Node, index: int, length: int, *, default: int) -> int:
        value = node.inputs[index] if len(node.inputs) > index else None
        if value is None:
            return default
        if value.const is None or value.const.size != 1:
            raise _refuse(node, "its position in the sequence depends on data")
        position = int(value.const.reshape(-1)[0])
        position += length if position < 0 else 0
        if not 0 <= position <= length:
            raise _refuse(node, f"its position is outside of the sequence, which has {length} tensors")
        return position

    def _same(self, node: Node) -> list[Node]:
        return self._keep(node, self._list(node))

    def _construct(self, node: Node) -> list[Node]:
        return self._keep(node, [value for value in node.inputs if value is not None])

    def _insert(self, node: Node) -> list[Node]:
        items, new = self._list(node), node.inputs[1]
        assert new is not None
        position = self._position(node, 2, len(items), default=len(items))
        return self._keep(node, [*items[:position], new, *items[position:]])

    def _one(self, node: Node, items: list[Value], *, default: int) -> int:
        position = self._position(node, 1, len(items), default=default)
        if not 0 <= position < len(items):
            raise _refuse(node, f"its position is outside of the sequence, which has {len(items)} tensors")
        return position

    def _erase(self, node: Node) -> list[Node]:
        items = self._list(node)
        position = self._one(node, items, default=len(items) - 1)
        return self._keep(node, [*items[:position], *items[position + 1 :]])

    def _at(self, node: Node) -> list[Node]:
        items = self._list(node)
        return [Node(node.name, "Identity", [items[self._one(node, items, default=0)]], list(node.outputs))]

    def _length(self, node: Node) -> list[Node]:
        length = self._graph.constant(f"{node.label}_length", np.array(len(self._list(node)), np.int64))
        return [Node(node.name, "Identity", [length], list(node.outputs))]

    def _concat(self, node: Node) -> list[Node]:
        items, axis = self._list(node), int(node.attrs.get("axis", 0))
        if not items:
            raise _refuse(node, "its sequence is empty")
        nodes: list[Node] = []
        if node.attrs.get("new_axis", 0):
            axes = self._graph.constant("axes", np.array([axis], np.int64))
            raised = [Value(self._graph.fresh(f"{item.name}_row")) for item in items]
            nodes = [Node("", "Unsqueeze", [item, axes], [row]) for item, row in zip(items, raised, strict=True)]
            items = raised
        return [*nodes, Node(node.name, "Concat", list(items), list(node.outputs), {"axis": axis})]

    def _split(self, node: Node) -> list[Node]:
        source, axis = node.inputs[0], int(node.attrs.get("axis", 0))
        asked = node.inputs[1] if len(node.inputs) > 1 else None
        assert source is not None
        size = source.shape[axis] if source.shape is not None and -len(source.shape) <= axis < len(source.shape) else 0
        if not isinstance(size, int) or size < 1 or (asked is not None and asked.const is None):
            raise _refuse(node, "into how many parts it splits depends on data")
        if asked is None or asked.const is None:
            sizes = [1] * size
        elif asked.const.ndim == 0:
            step = max(int(asked.const), 1)
            sizes = [min(step, size - start) for start in range(0, size, step)]
        else:
            sizes = [int(part) for part in asked.const]
        if len(sizes) > _MOST_PARTS:
            raise _refuse(node, f"it makes {len(sizes)} parts, which is too many to be written out")
        parts = [Value(self._graph.fresh(f"{node.label}_part")) for _ in sizes]
        split = self._graph.constant("sizes", np.array(sizes, np.int64))
        nodes = [Node(node.name, "Split", [source, split], list(parts), {"axis": axis})]
        if asked is None and not node.attrs.get("keepdims", 1):
            axes = self._graph.constant("axes", np.array([axis], np.int64))
            bare = [Value(self._graph.fresh(f"{node.label}_item")) for _ in sizes]
            nodes += [Node("", "Squeeze", [part, axes], [item]) for part, item in zip(parts, bare, strict=True)]
            parts = bare
        self._keep(node, parts)
        return nodes


def _refuse(node: Node, reason: str) -> UnsupportedModelError:
    finding = Finding(node.label, node.op, reason, _REMEDY)
    return UnsupportedModelError(f"{node.op} at {node.label!r}: {reason}", findings=[finding])
