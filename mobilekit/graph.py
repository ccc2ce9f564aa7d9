"""A small mutable graph over which passes and emitters work: ONNX's semantics, with use-def links.

Not onnx-ir: importing it costs 0.4 s (sympy), more than converting a small model takes (docs/decisions/0002).
Everything is plain data: constants are numpy arrays (memory-mapped where the weights are external), attributes
are Python values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobilekit.tensors import Array

__all__ = ["Graph", "Node", "Value"]


@dataclass(eq=False, slots=True)
class Value:
    """A tensor in the graph: an input, a constant, or a node's output.

    ``dtype`` is numpy's name (``"float32"``), ``None`` while unknown; ``shape`` likewise, its axes ``int``, a
    symbolic name, or ``None``. ``const`` holds the data of an initializer. ``consumers`` is kept by :class:`Graph`.
    """

    name: str
    dtype: str | None = None
    shape: tuple[int | str | None, ...] | None = None
    const: Array | None = None
    producer: Node | None = None
    consumers: list[Node] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<Value {self.name} {self.dtype}{list(self.shape) if self.shape is not None else '?'}>"


@dataclass(eq=False, slots=True)
class Node:
    """One operator. ``inputs`` may hold ``None`` (an omitted optional input); ``outputs`` likewise.

    ``attrs`` maps to ``int``, ``float``, ``str``, ``list`` of those, a numpy array (tensor attributes) or a
    :class:`Graph` (bodies of If, Loop, Scan). ``domain`` is ``""`` for ONNX's own operators.
    """

    name: str
    op: str
    inputs: list[Value | None]
    outputs: list[Value | None]
    attrs: dict[str, Any] = field(default_factory=dict)
    domain: str = ""

    @property
    def label(self) -> str:
        """What to call the node in a message: its name, or its first output where it has none."""
        return self.name or next((value.name for value in self.outputs if value), self.op)

    @property
    def type_name(self) -> str:
        return f"{self.domain}::{self.op}" if self.domain else self.op

    def bodies(self) -> list[Graph]:
        """The graphs among the attributes (If, Loop, Scan)."""
        found: list[Graph] = []
        for value in self.attrs.values():
            if isinstance(value, Graph):
                found.append(value)
            elif isinstance(value, list):
                found += [item for item in value if isinstance(item, Graph)]
        return found

    def __repr__(self) -> str:
        return f"<Node {self.op} {self.label}>"


class Graph:
    """Inputs, outputs, nodes in topological order, and the opset each domain is at.

    ``rows``: an output's name -> the axis along which its length depends on data, its shape being the upper bound, and
    the name of the output that holds that length. Those outputs are the last ones, and none of the model's own.

    ``fake_quant``: whether activations are rounded as the quantised original rounds them.

    Edit through the methods, which keep producers and consumers right; all are O(1) or linear in what they touch,
    except :meth:`sort` and :meth:`prune`, which are linear in the graph.
    """

    def __init__(self, name: str, opsets: dict[str, int]) -> None:
        self.name = name
        self.opsets = opsets
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.rows: dict[str, tuple[int, str]] = {}
        self.fake_quant = True
        self._nodes: dict[int, Node] = {}
        self._names: set[str] = set()
        self._counter = 0

    @property
    def opset(self) -> int:
        """The default domain's version."""
        return self.opsets.get("", 0)

    @property
    def nodes(self) -> list[Node]:
        """A snapshot in order: safe to iterate while editing."""
        return list(self._nodes.values())

    @property
    def results(self) -> list[Value]:
        """The model's own outputs."""
        counts = {count for _, count in self.rows.values()}
        return [value for value in self.outputs if value.name not in counts]

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, node: Node) -> bool:
        return id(node) in self._nodes

    def values(self) -> Iterator[Value]:
        """Every value once: inputs, then constants and node outputs in order of first sight."""
        seen: set[int] = set()
        groups: list[Iterable[Value | None]] = [self.inputs]
        for node in self._nodes.values():
            groups += [node.inputs, node.outputs]
        for group in [*groups, self.outputs]:
            for value in group:
                if value is not None and id(value) not in seen:
                    seen.add(id(value))
                    yield value

    def register(self, name: str) -> str:
        """Claim a tensor name that came from the model."""
        self._names.add(name)
        return name

    def fresh(self, stem: str) -> str:
        """A tensor name not used yet, made from ``stem``."""
        name = stem
        while name in self._names:
            self._counter += 1
            name = f"{stem}_mk{self._counter}"
        self._names.add(name)
        return name

    def constant(self, stem: str, array: Array) -> Value:
        return Value(self.fresh(stem), str(array.dtype), tuple(array.shape), const=array)

    def append(self, node: Node) -> Node:
        """Add ``node`` at the end, linking its inputs and outputs."""
        self._nodes[id(node)] = node
        for value in node.inputs:
            if value is not None:
                value.consumers.append(node)
        for value in node.outputs:
            if value is not None:
                value.producer = node
        return node

    def rebuild(self, order: Iterable[Node]) -> None:
        """Take ``order`` as the new node list; nodes that are new get linked, ones that are gone unlinked."""
        wanted = {id(node): node for node in order}
        for key, node in list(self._nodes.items()):
            if key not in wanted:
                self.remove(node)
        for key, node in wanted.items():
            if key not in self._nodes:
                self.append(node)
        self._nodes = wanted

    def clear(self) -> None:
        """Take all nodes out: a body that goes lets go of the outer values that it reads."""
        for node in reversed(self.nodes):
            self.remove(node)

    def take(self) -> list[Node]:
        """Take all nodes out to put them into another graph; their own bodies stay as they are."""
        nodes = self.nodes
        for node in reversed(nodes):
            self._unlink(node)
        return nodes

    def remove(self, node: Node) -> None:
        """Take ``node`` out and unlink it; its outputs must have no consumers left, or be re-produced."""
        for body in node.bodies():
            body.clear()
        self._unlink(node)

    def _unlink(self, node: Node) -> None:
        del self._nodes[id(node)]
        for value in node.inputs:
            if value is not None:
                _leave(value.consumers, node)
        for value in node.outputs:
            if value is not None and value.producer is node:
                value.producer = None

    def set_input(self, node: Node, index: int, value: Value | None) -> None:
        old = node.inputs[index]
        if old is not None:
            _leave(old.consumers, node)
        node.inputs[index] = value
        if value is not None:
            value.consumers.append(node)

    def is_output(self, value: Value) -> bool:
        return any(output is value for output in self.outputs)

    def replaceable(self, old: Value, new: Value) -> bool:
        """Whether :meth:`replace_value` can do it: a graph output's name must go to a node's output that is free."""
        return not self.is_output(old) or (new.producer is not None and not self.is_output(new))

    def replace_value(self, old: Value, new: Value) -> None:
        """Everyone who read ``old`` reads ``new``; where ``old`` is a graph output, ``new`` takes over its name.

        Ask :meth:`replaceable` first where ``old`` may be a graph output.
        """
        assert self.replaceable(old, new), f"{old} is a graph output and {new} cannot take its name"
        for node in list(old.consumers):
            for index, value in enumerate(node.inputs):
                if value is old:
                    self.set_input(node, index, new)
        if self.is_output(old):
            old.name, new.name = new.name, old.name
            self.outputs = [new if value is old else value for value in self.outputs]

    def prune(self) -> int:
        """Remove nodes whose outputs nobody reads; the number removed."""
        wanted = {id(value) for value in self.outputs}
        removed = 0
        for node in reversed(self.nodes):
            if not any(value is not None and (value.consumers or id(value) in wanted) for value in node.outputs):
                self.remove(node)
                removed += 1
        return removed


def _leave(consumers: list[Node], node: Node) -> None:
    """Take one mention of ``node`` out; at either end first, for nodes go in order: half a graph may read one value."""
    if consumers[-1] is node:
        consumers.pop()
    elif consumers[0] is node:
        del consumers[0]
    else:
        consumers.remove(node)
