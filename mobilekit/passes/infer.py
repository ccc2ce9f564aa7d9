"""One forward walk: lift each node, compute it where its inputs are constant, else infer its dtypes and shapes.

Because inputs have fixed shapes, ``Shape`` is constant, and with it the arithmetic that exporters do on shapes.
Linear in nodes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mobilekit.errors import Finding, UnsupportedModelError
from mobilekit.graph import Graph, Node, Value
from mobilekit.importers.tensors import name_of
from mobilekit.passes.allowance import Allowance
from mobilekit.passes.contrib import is_lowered, lower
from mobilekit.passes.evaluate import evaluate
from mobilekit.passes.functions import expand, is_expanded
from mobilekit.passes.lift import lift_node
from mobilekit.passes.loops import is_loop, open_loop
from mobilekit.passes.schemas import SHAPE_DATA_LIMIT, Schemas, infer_node
from mobilekit.passes.sequences import Sequences
from mobilekit.passes.unroll import is_unrolled, unroll

if TYPE_CHECKING:
    from mobilekit.passes.bounds import Bounds
    from mobilekit.tensors import Array

__all__ = ["Folding", "infer", "require_static"]

_MOST_ELEMENTS = 2**31 - 1


@dataclass(slots=True)
class Folding:
    """What is folded: ``shapes`` notes the shape of every value that became a constant, by name; those in ``leave``
    do not become one, and neither does what follows from them."""

    leave: frozenset[str] = frozenset()
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


def infer(
    graph: Graph,
    *,
    target_opset: int | None = None,
    keep_batches: bool = False,
    stock_only: bool = False,
    folding: Folding | None = None,
    bounds: Bounds | None = None,
    allowance: Allowance | None = None,
) -> None:
    """Fold, infer and (where ``target_opset`` is given) lift in one walk.

    ``keep_batches``: recurrences over several sequences stay what they are. ``stock_only``: those that only a layer of
    our own takes are written out. With ``bounds``, lengths that depend on data but have an upper bound become that
    bound. ``allowance`` is what folding may still cost: bodies share their model's.

    Raises ``UnsupportedModelError`` with every node that has no newer form, ``ModelError`` where operators and shapes
    contradict each other. Shapes that depend on data stay open: ask :func:`require_static`.
    """
    source = graph.opset
    target = max(source, target_opset or source)
    allowance = allowance or Allowance(graph)
    order: list[Node] = []
    pending = deque((node, source) for node in graph.nodes)
    schemas = Schemas(target)
    lifting = target_opset is not None
    sequences = Sequences(graph)
    written_out = partial(is_unrolled, keep_batches=keep_batches, stock_only=stock_only)
    refused: list[Finding] = []
    while pending:
        node, version = pending.popleft()
        try:
            forms = lift_node(graph, node, version) if lifting else [node]
        except UnsupportedModelError as error:
            refused += error.findings
            order.append(node)
            continue
        for lifted in forms:
            try:
                inner = None
                if lifting:
                    inner = _opened(graph, lifted, version, target, written_out, bounds, sequences, allowance)
                allowance.write_out(lifted, len(inner or ()))
            except UnsupportedModelError as error:
                refused += error.findings
                order.append(lifted)
                continue
            if inner is not None:
                pending.extendleft(reversed(inner))
                continue
            if lifting:
                with nullcontext() if bounds is None else bounds.hidden():
                    for body in lifted.bodies():
                        _lift_body(body, target, allowance)
            _settle(graph, lifted, schemas, order, folding, bounds, allowance)
    if refused:
        raise UnsupportedModelError(
            "some operators cannot be written in their newest or plainer form", findings=refused
        )
    sequences.finish()
    graph.opsets[""] = target
    graph.rebuild(order)
    if bounds is not None:
        bounds.finish()
    graph.prune()


def _opened(
    graph: Graph,
    node: Node,
    version: int,
    target: int,
    written_out: Callable[[Node], bool],
    bounds: Bounds | None,
    sequences: Sequences,
    allowance: Allowance,
) -> list[tuple[Node, int]] | None:
    """What stands in the node's place, each with the opset that it is of, where it is made of others."""
    if is_lowered(node):
        return [(new, target) for new in lower(graph, node)]
    if node.domain:
        return None
    if node.op == "If":
        branch = _inline_if(graph, node)
        if branch is not None:
            return [(inner, version) for inner in branch]
        with nullcontext() if bounds is None else bounds.hidden():
            for name in ("then_branch", "else_branch"):
                _lift_body(node.attrs[name], target, allowance)
        needed = None if bounds is None else bounds.branch(node)
        if needed is not None:
            return [(inner, target) for inner in _inlined(graph, node, needed)]
        both = _both_branches(graph, node)
        return None if both is None else [(inner, target) for inner in both]
    if is_loop(node):
        return [(new, version) for new in open_loop(graph, node)]
    apart = sequences.opened(node)
    if apart is not None:
        return [(new, target) for new in apart]
    if is_expanded(graph, node):
        return expand(graph, node, target)
    return [(new, target) for new in unroll(graph, node)] if written_out(node) else None


def _settle(
    graph: Graph,
    node: Node,
    schemas: Schemas,
    order: list[Node],
    folding: Folding | None,
    bounds: Bounds | None,
    allowance: Allowance,
) -> None:
    """Fold the node, or infer what it makes and keep it in ``order``."""
    opened = None if bounds is None else bounds.opened(node)
    for inner in opened or ():
        if inner.domain:
            order.append(inner)
        else:
            _settle(graph, inner, schemas, order, folding, bounds, allowance)
    if opened is not None:
        return
    if folding is not None and any(value is not None and value.name in folding.leave for value in node.outputs):
        infer_node(node, schemas)
        if bounds is not None:
            order += bounds.follow(node)
        order.append(node)
        return
    # Small constants need no inference, whose rules are stricter than the operators are.
    counted = bounds is not None and bounds.holds(node)  # a constant some of whose rows are none is none
    small = not counted and allowance.never_grows(node, SHAPE_DATA_LIMIT)
    kept = _fold(graph, node, schemas.opset, allowance, small=True) if small else None
    if kept is None:
        infer_node(node, schemas)
        if bounds is not None:
            order += bounds.follow(node)
        kept = None if counted or small else _fold(graph, node, schemas.opset, allowance)
    order += [node] if kept is None else kept
    if folding is not None and kept is not None:
        for value in node.outputs:
            if value is not None:
                folding.shapes[value.name] = tuple(axis for axis in value.shape or () if isinstance(axis, int))


def _fold(graph: Graph, node: Node, opset: int, allowance: Allowance, *, small: bool = False) -> list[Node] | None:
    """Make the node's outputs constants if they are; ``None`` if they are not, else the nodes that still are needed.

    A graph output stays a node's output: an Identity of the constant. ``small``: the result cannot be large, and no
    shape is known yet.
    """
    if node.op in ("EyeLike", "Shape", "Size") and not node.domain:
        arrays = _shape_of(node) if node.op != "EyeLike" or allowance.permits(node) else None
    elif all(value is None or value.const is not None for value in node.inputs):
        if not small and not allowance.permits(node):
            return None
        arrays = evaluate(node, [None if value is None else value.const for value in node.inputs], opset)
        allowance.spend(arrays or [])
    else:
        return None
    made = [value for value in node.outputs if value is not None]
    if arrays is None or len(arrays) < len(made):
        return None
    if node.op == "Identity" and graph.is_output(made[0]):
        return None
    kept: list[Node] = []
    for value, array in zip(made, arrays, strict=False):
        value.dtype, value.shape = name_of(array.dtype), array.shape
        if graph.is_output(value):
            constant = graph.constant(f"{value.name}_constant", array)
            kept.append(Node(node.name, "Identity", [constant], [value]))
        else:
            value.const = array
    return kept


def _shape_of(node: Node) -> list[Array] | None:
    value = node.inputs[0]
    if value is None or value.shape is None or not all(isinstance(axis, int) for axis in value.shape):
        return None
    axes = [axis for axis in value.shape if isinstance(axis, int)]
    if node.op == "EyeLike":
        if node.outputs[0] is None or node.outputs[0].dtype is None or not _storage(node.outputs[0].dtype):
            return None
        return [np.eye(axes[0], axes[1], k=node.attrs.get("k", 0), dtype=node.outputs[0].dtype)]
    if node.op == "Size":
        count = math.prod(axes)
        return [np.array(count, np.int64)] if count < 2**63 else None
    return [np.array(axes[node.attrs.get("start", 0) : node.attrs.get("end", None)], np.int64)]


def _storage(dtype: str | None) -> str:
    try:
        return np.dtype(dtype).name
    except TypeError:
        return "uint8"


def _inline_if(graph: Graph, node: Node) -> list[Node] | None:
    """The nodes of the branch that a constant condition takes."""
    condition = node.inputs[0] if node.inputs else None
    if condition is None or condition.const is None or condition.const.size != 1:
        return None
    body = node.attrs.get("then_branch" if bool(condition.const.reshape(-1)[0]) else "else_branch")
    if not isinstance(body, Graph) or len(body.outputs) != len(node.outputs):
        return None  # malformed: shape inference says how
    return _inlined(graph, node, body)


def _inlined(graph: Graph, node: Node, body: Graph) -> list[Node]:
    """The nodes of a branch, then an Identity for each of its outputs."""
    results = list(body.outputs)
    nodes = _taken(graph, body)
    copies = [
        Node("", "Identity", [result], [out])
        for result, out in zip(results, node.outputs, strict=True)
        if out is not None
    ]
    return [*nodes, *copies]


def _both_branches(graph: Graph, node: Node) -> list[Node] | None:
    """Both branches and a Where for each output, where data decides and all shapes are known and alike: operators have
    no side effects."""
    bodies: list[Graph] = [node.attrs[name] for name in ("then_branch", "else_branch")]
    pairs = list(zip(bodies[0].outputs, bodies[1].outputs, strict=True))
    if not all(_is_static(a) and (a.dtype, a.shape) == (b.dtype, b.shape) for a, b in pairs):
        return None
    nodes = [inner for body in bodies for inner in _taken(graph, body)]
    condition = Value(graph.fresh(f"{node.label}_condition"))
    nodes.append(Node("", "Reshape", [node.inputs[0], graph.constant("scalar", np.zeros(0, np.int64))], [condition]))
    for pair, out in zip(pairs, node.outputs, strict=True):
        if out is not None:
            nodes.append(Node("", "Where", [condition, *pair], [out]))
    return nodes


def _taken(graph: Graph, body: Graph) -> list[Node]:
    """The body's nodes, their outputs under names that are free in ``graph``."""
    nodes = body.take()
    for inner in nodes:
        for value in inner.outputs:
            if value is not None:
                value.name = graph.fresh(value.name)
    return nodes


def _lift_body(body: Graph, target: int, allowance: Allowance) -> None:
    """Bodies move to the canonical opset with their graph; their own inputs may have no fixed shape."""
    infer(body, target_opset=target, allowance=allowance)


def require_static(graph: Graph) -> None:
    """:class:`UnsupportedModelError` with every node that has an output of unknown dtype or shape, or a huge one."""
    findings: list[Finding] = []
    bad: set[int] = set()
    for node in graph.nodes:
        unknown = [value for value in node.outputs if value is not None and not _is_static(value)]
        if not unknown:
            continue
        first_cause = not any(id(value) in bad for value in node.inputs)
        bad |= {id(value) for value in unknown}
        if first_cause:
            findings.append(
                Finding(
                    node.label,
                    node.type_name,
                    "the shape of its output depends on data"
                    if not node.domain
                    else "nothing is known about its output: it is not an ONNX operator",
                    "cut the model before it, and do this step in the application",
                )
            )
    if findings:
        raise UnsupportedModelError("some shapes cannot be fixed before the model runs", findings=findings)
    for value in graph.values():
        count = math.prod(axis for axis in value.shape or () if isinstance(axis, int))
        if count > _MOST_ELEMENTS and value.const is None:
            label = value.producer.label if value.producer is not None else value.name
            op = value.producer.type_name if value.producer is not None else "Input"
            reason = f"{value.name!r} has {count} elements, more than a device can hold"
            findings.append(Finding(label, op, reason, "give smaller input shapes; else the model is damaged"))
    if findings:
        raise UnsupportedModelError("some shapes are too large", findings=findings)


def _is_static(value: Value) -> bool:
    return value.dtype is not None and value.shape is not None and all(isinstance(axis, int) for axis in value.shape)
