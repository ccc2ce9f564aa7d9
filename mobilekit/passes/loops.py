"""Loop and Scan written out, where the number of rounds is known before the model runs.

A Loop is peeled: its body once, then the Loop that is left. By the time the walk of :mod:`mobilekit.passes.infer`
comes to the latter, the former is folded, and with it the counters and conditions that frameworks keep in loops.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mobilekit.errors import Finding, UnsupportedModelError
from mobilekit.graph import Graph, Node, Value

__all__ = ["is_loop", "open_loop"]

_MOST_ROUNDS = 1024
_MOST_NODES = 1 << 15
"""Of all rounds together."""

_STATE = "peeled"
"""The attribute of a Loop of which rounds were taken: what those gave for each scan output."""

_REMEDY = "fix what the number of rounds comes from with --input, or export the model with a fixed length"


def is_loop(node: Node) -> bool:
    return not node.domain and node.op in ("Loop", "Scan")


def open_loop(graph: Graph, node: Node) -> list[Node]:
    """What stands for ``node``; a Loop may be left in it, to be opened in its turn.

    Raises :class:`UnsupportedModelError` where the number of rounds depends on data, or is too large.
    """
    return _peel(graph, node) if node.op == "Loop" else _scan(graph, node)


def _refuse(node: Node, reason: str, remedy: str = _REMEDY) -> UnsupportedModelError:
    finding = Finding(node.label, node.op, reason, remedy)
    return UnsupportedModelError(f"{node.op} at {node.label!r}: {reason}", findings=[finding])


def _body(node: Node) -> Graph:
    body = node.attrs.get("body")
    if not isinstance(body, Graph):
        raise _refuse(node, "it has no body", "export the model again")
    return body


def _check_size(node: Node, body: Graph, rounds: int) -> None:
    if rounds > _MOST_ROUNDS or rounds * _size(body) > _MOST_NODES:
        raise _refuse(node, f"it runs {rounds} times or more, which is too much to be written out")


def _size(body: Graph) -> int:
    """Its nodes, those in bodies of theirs too."""
    return sum(1 + sum(_size(inner) for inner in node.bodies()) for node in body.nodes)


def _peel(graph: Graph, node: Node) -> list[Node]:
    body = _body(node)
    count = len(body.inputs) - 2
    limit, going, *states = [*node.inputs, None, None][: 2 + count]
    if any(value is None for value in states) or len(body.outputs) < max(1 + count, 1 + len(node.outputs)):
        raise _refuse(node, "its body and its inputs do not fit", "export the model again")
    if (limit is not None and limit.const is None) or (going is not None and going.const is None):
        raise _refuse(node, "how often it runs depends on data")
    if any(value is not None and value.const is not None and value.const.size != 1 for value in (limit, going)):
        raise _refuse(node, "its count or its condition is no single value", "export the model again")
    rows: list[list[Value]] = node.attrs.get(_STATE, [])
    left = _MOST_ROUNDS + 1 if limit is None or limit.const is None else int(limit.const.reshape(-1)[0])
    if left <= 0 or (going is not None and going.const is not None and not going.const.reshape(-1)[0]):
        return _finish(graph, node, [value for value in states if value is not None], rows)
    _check_size(node, body, len(rows) + 1 if limit is None else min(len(rows) + left, _MOST_ROUNDS + 1))
    number = graph.constant(f"{node.label}_round", np.array(len(rows), np.int64))
    proceed = going if going is not None else graph.constant(f"{node.label}_true", np.array(True))
    nodes, made = _copy(graph, body, [number, proceed, *states])
    if limit is not None:
        limit = graph.constant(f"{node.label}_left", np.array(left - 1, np.int64))
    attrs = {**node.attrs, _STATE: [*rows, made[1 + count :]]}
    rest = Node(node.name, "Loop", [limit, made[0], *made[1 : 1 + count]], list(node.outputs), attrs)
    return [*nodes, rest]


def _finish(graph: Graph, node: Node, states: Sequence[Value], rows: Sequence[Sequence[Value]]) -> list[Node]:
    nodes: list[Node] = []
    for index, out in enumerate(node.outputs):
        if out is None:
            continue
        if index < len(states):
            nodes.append(Node("", "Identity", [states[index]], [out]))
        elif not rows:
            raise _refuse(node, "it never runs, and its collected outputs are empty")
        else:
            nodes += _stack(graph, [row[index - len(states)] for row in rows], out, 0)
    return nodes


def _stack(graph: Graph, parts: Sequence[Value], out: Value, axis: int) -> list[Node]:
    axes = graph.constant("axes", np.array([axis]))
    raised = [Value(graph.fresh(f"{part.name}_row")) for part in parts]
    nodes = [Node("", "Unsqueeze", [part, axes], [row]) for part, row in zip(parts, raised, strict=True)]
    return [*nodes, Node("", "Concat", list(raised), [out], {"axis": axis})]


def _scan(graph: Graph, node: Node) -> list[Node]:
    body = _body(node)
    count = int(node.attrs.get("num_scan_inputs", 0))
    keeps = len(node.inputs) - count
    fits = 1 <= count <= len(node.inputs) == len(body.inputs) and keeps <= len(body.outputs)
    if not fits or len(node.outputs) > len(body.outputs):
        raise _refuse(node, "its body and its inputs do not fit", "export the model again")
    states, sources = list(node.inputs[:keeps]), node.inputs[keeps:]

    def listed(name: str, size: int) -> list[int]:
        return [int(item) for item in node.attrs.get(name, [])] or [0] * size

    input_axes, backwards = listed("scan_input_axes", count), listed("scan_input_directions", count)
    collected = len(body.outputs) - keeps
    output_axes, reversed_ = listed("scan_output_axes", collected), listed("scan_output_directions", collected)
    nodes: list[Node] = []
    columns: list[list[Value]] = []
    rounds = 0
    for source, axis, backward in zip(sources, input_axes, backwards, strict=True):
        size = None if source is None or source.shape is None else source.shape[axis]
        if not isinstance(size, int) or size < 1:
            raise _refuse(node, "how often it runs depends on data")
        rounds = size
        _check_size(node, body, rounds)
        parts = [Value(graph.fresh(f"{node.label}_part")) for _ in range(size)]
        cut = [Value(graph.fresh(f"{node.label}_slice")) for _ in range(size)]
        sizes, axes = graph.constant("sizes", np.ones(size, np.int64)), graph.constant("axes", np.array([axis]))
        nodes.append(Node("", "Split", [source, sizes], list(parts), {"axis": axis}))
        nodes += [Node("", "Squeeze", [part, axes], [piece]) for part, piece in zip(parts, cut, strict=True)]
        columns.append(cut[::-1] if backward else cut)
    rows: list[list[Value]] = []
    for index in range(rounds):
        inner, made = _copy(graph, body, [*states, *(column[index] for column in columns)])
        nodes += inner
        states, row = list(made[:keeps]), made[keeps:]
        rows.append(row)
    for index, out in enumerate(node.outputs):
        if out is None:
            continue
        if index < keeps:
            nodes.append(Node("", "Identity", [states[index]], [out]))
        else:
            parts = [row[index - keeps] for row in rows]
            axis = output_axes[index - keeps]
            if axis < 0:
                raise _refuse(node, "its output axis counts from the end")
            nodes += _stack(graph, parts[::-1] if reversed_[index - keeps] else parts, out, axis)
    return nodes


def _copy(graph: Graph, body: Graph, inputs: Sequence[Value | None]) -> tuple[list[Node], list[Value]]:
    """The body's nodes once more, reading ``inputs``, and what its outputs are then."""
    places: dict[int, Value] = {
        id(own): given for own, given in zip(body.inputs, inputs, strict=True) if given is not None
    }
    nodes = _cloned(graph, body, places)
    return nodes, [places.get(id(value), value) for value in body.outputs]


def _cloned(graph: Graph, body: Graph, places: dict[int, Value]) -> list[Node]:
    nodes: list[Node] = []
    for node in body.nodes:
        inputs = [None if value is None else places.get(id(value), value) for value in node.inputs]
        outputs: list[Value | None] = []
        for value in node.outputs:
            if value is not None:
                places[id(value)] = Value(graph.fresh(value.name), value.dtype, value.shape)
            outputs.append(None if value is None else places[id(value)])
        attrs: dict[str, Any] = {
            name: _inner(graph, item, places) if isinstance(item, Graph) else item for name, item in node.attrs.items()
        }
        nodes.append(Node(node.name, node.op, inputs, outputs, attrs, node.domain))
    return nodes


def _inner(graph: Graph, body: Graph, outer: dict[int, Value]) -> Graph:
    """A copy of a body inside of the body."""
    made = Graph(body.name, dict(body.opsets))
    places = dict(outer)
    for value in body.inputs:
        places[id(value)] = Value(graph.fresh(value.name), value.dtype, value.shape)
        made.inputs.append(places[id(value)])
    for node in _cloned(graph, body, places):
        made.append(node)
    made.outputs = [places.get(id(value), value) for value in body.outputs]
    return made
