"""Every node of a graph by itself, fed the values of a reference: what its number format costs there alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mobilekit.errors import ModelError
from mobilekit.graph import Node, Value

if TYPE_CHECKING:
    from mobilekit.graph import Graph

__all__ = ["Apart", "take_apart", "with_pairs", "without_pairs"]


@dataclass(frozen=True, slots=True)
class Apart:
    """``fed`` maps the inputs that the graph has now to the reference's tensors; ``arriving`` maps the nodes that stand
    for how a value arrives to the node that makes it."""

    fed: dict[str, str]
    arriving: dict[str, str]


def take_apart(graph: Graph, nodes: Sequence[Node], known: Collection[str]) -> Apart:
    """Leave of ``graph`` only ``nodes`` and what leads to them, in place: the outputs are theirs.

    Where they read a tensor of ``known``, which the reference has, an input takes its place, behind an ``Identity``
    where a node makes it: put into a number format, that rounds the value as its maker would have.
    """
    fed: dict[str, str] = {}
    arriving: dict[str, str] = {}
    stand_ins: dict[str, Value] = {}
    inputs: list[Value] = []
    order: list[Node] = []
    for node in _with_pairs(graph, nodes, known):
        for index, value in enumerate(node.inputs):
            if value is None or value.const is not None or value.name not in known:
                continue
            if value.name not in stand_ins:
                given = Value(graph.fresh(f"{value.name}/given"), value.dtype, value.shape)
                inputs.append(given)
                fed[given.name] = value.name
                stand_ins[value.name] = given
                if value.producer is not None and value.dtype == "float32":
                    arrived = Value(graph.fresh(f"{value.name}/arrived"), value.dtype, value.shape)
                    arriving[arrived.name] = value.producer.label
                    order.append(Node(arrived.name, "Identity", [given], [arrived]))
                    stand_ins[value.name] = arrived
            graph.set_input(node, index, stand_ins[value.name])
        order.append(node)
    graph.inputs = inputs
    made: list[Value | None] = []
    for node in nodes:
        for value in node.outputs:
            pair = _pair_of_output(graph, value)
            order += pair
            made.append(pair[-1].outputs[0] if pair else value)
    graph.outputs = [value for value in made if value is not None and value.dtype == "float32"]
    graph.rebuild(order)
    return Apart(fed, arriving)


def _pair_of_output(graph: Graph, value: Value | None) -> list[Node]:
    """The Q/DQ pair between ``value`` and an output of the graph, which it makes and nobody else reads."""
    nodes: list[Node] = []
    for op in ("QuantizeLinear", "DequantizeLinear"):
        if value is None or len(value.consumers) != 1 or value.consumers[0].op != op:
            return []
        nodes.append(value.consumers[0])
        value = nodes[-1].outputs[0]
    return nodes if value is not None and graph.is_output(value) else []


def _with_pairs(graph: Graph, nodes: Sequence[Node], known: Collection[str]) -> list[Node]:
    """``nodes`` and, before them, what makes values that the reference lacks: pairs that quantise."""
    wanted = {id(node) for node in nodes}
    pending = list(nodes)
    while pending:
        for value in pending.pop().inputs:
            if value is None or value.name in known or value.producer is None or id(value.producer) in wanted:
                continue
            wanted.add(id(value.producer))
            pending.append(value.producer)
    return [node for node in graph.nodes if id(node) in wanted]


def without_pairs(graph: Graph, exact: Graph, names: Collection[str]) -> None:
    """Take the Q/DQ pairs before the nodes ``names`` out of a quantised graph, in place, and those between them and
    the graph's outputs: they compute in float.

    ``exact`` is the graph before it was quantised, which has the weights.
    """
    originals = {node.name: node for node in exact.nodes}
    for node in graph.nodes:
        original = originals.get(node.name)
        if node.name not in names or original is None or len(original.inputs) < len(node.inputs):
            continue
        for index, (value, before) in enumerate(zip(node.inputs, original.inputs, strict=False)):
            last = None if value is None else value.producer
            if before is None or last is None or last.op != "DequantizeLinear":
                continue
            if before.const is not None:
                graph.set_input(node, index, graph.constant(before.name, before.const))
                continue
            first = last.inputs[0].producer if last.inputs[0] is not None else None
            if first is not None and first.op == "QuantizeLinear":
                graph.set_input(node, index, first.inputs[0])
        for index, value in enumerate(node.outputs):
            if pair := _pair_of_output(graph, value):
                result = pair[-1].outputs[0]
                for each in reversed(pair):
                    graph.remove(each)
                node.outputs[index] = result
                if result is not None:
                    result.producer = node
    graph.prune()


def with_pairs(exact: Graph, quantised: Graph) -> None:
    """Put the Q/DQ pairs of ``quantised`` into ``exact``, the graph that it was made of, in place. Of ``quantised``
    only the scales, zero points and axes count: weights are those of ``exact``, rounded while it runs.

    Raises :class:`ModelError` where a node of ``exact`` is not in ``quantised``.
    """
    theirs = {node.name: node for node in quantised.nodes}
    pairs: dict[tuple[int, int], Value] = {}
    order: list[Node] = []
    for node in exact.nodes:
        other = theirs.get(node.name)
        if other is None or other.op != node.op:
            raise ModelError(f"the prepared model has no {node.op} named {node.name!r}")
        for index, (value, given) in enumerate(zip(node.inputs, other.inputs, strict=False)):
            pair = None if given is None else given.producer
            if value is None or pair is None or pair.op != "DequantizeLinear":
                continue
            if value.producer is not None and value.producer.op == "DequantizeLinear":
                continue  # a model that came with its pairs
            key = (id(value), id(pair))
            if key not in pairs:
                pairs[key] = Value(exact.fresh(f"{value.name}/rounded"), value.dtype, value.shape)
                order += _pair(exact, value, pair, pairs[key])
            exact.set_input(node, index, pairs[key])
        order.append(node)
        for index, (value, given) in enumerate(zip(node.outputs, other.outputs, strict=False)):
            behind = _pair_of_output(quantised, given)
            if value is None or not behind:
                continue
            made = Value(exact.fresh(f"{value.name}/made"), value.dtype, value.shape)
            node.outputs[index] = made
            made.producer, value.producer = node, None
            order += _pair(exact, made, behind[-1], value)
    exact.rebuild(order)


def _pair(graph: Graph, value: Value, like: Node, result: Value) -> tuple[Node, Node]:
    """``value`` to ``result`` by the scale, the zero point and the axis of the DequantizeLinear ``like``."""
    scale, zero = (each.const if each is not None else None for each in (*like.inputs[1:3], None, None)[:2])
    if scale is None or zero is None:
        raise ModelError(f"the scale or the zero point of {like.label!r} is no constant")
    how = [graph.constant(f"{value.name}/{kind}", array) for kind, array in (("scale", scale), ("zero", zero))]
    whole = Value(graph.fresh(f"{value.name}/8bit"), str(zero.dtype), value.shape)
    axis = {key: like.attrs[key] for key in ("axis",) if key in like.attrs}
    return (
        Node(whole.name, "QuantizeLinear", [value, *how], [whole], dict(axis)),
        Node(result.name, "DequantizeLinear", [whole, *how], [result], dict(axis)),
    )
