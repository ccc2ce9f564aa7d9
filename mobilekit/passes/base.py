"""What a rewrite rule is, and the walk that applies rules to a fixpoint and holds them to their contract."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from mobilekit.graph import Graph, Node, Value
from mobilekit.passes.schemas import Schemas, infer_node

if TYPE_CHECKING:
    from mobilekit.passes.verify import PassVerifier

__all__ = ["ContractError", "Edit", "Refusal", "Rule", "apply_rules", "scalar"]

MatchT = TypeVar("MatchT")

_MAX_ROUNDS = 16


class ContractError(RuntimeError):
    """A rule broke its contract: a bug in the rule, named in the message."""


class Rule(Generic[MatchT]):
    """A rewrite of the subgraph that ends in one node.

    :meth:`pattern` looks only at structure; :meth:`check` says in a sentence why a match must be left alone (``""``:
    go on); :meth:`rewrite` gives the nodes that stand in the root's place and make its very output values, or one
    existing value that is the same as the root's only output, or ``None`` to leave it. Nodes that the rewrite no
    longer needs are removed by the framework.

    ``requires``: every value has dtype and static shape. ``ensures``: so have the new values, and the root's outputs
    keep theirs; the framework infers them at every rewrite and raises :class:`ContractError` otherwise.
    """

    name: str
    ops: tuple[str, ...]
    """Operators of the default domain that the root may have."""

    def pattern(self, node: Node) -> MatchT | None:
        raise NotImplementedError

    def check(self, match: MatchT, edit: Edit) -> str:  # noqa: ARG002
        return ""

    def rewrite(self, match: MatchT, edit: Edit) -> Sequence[Node] | Value | None:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Refusal:
    """A rule matched and left the node as it is, and why."""

    rule: str
    node: str
    reason: str


@dataclass
class Edit:
    """What rules build with: constants, values, nodes of the graph being rewritten."""

    graph: Graph
    refusals: list[Refusal] = field(default_factory=list)
    fired: dict[str, int] = field(default_factory=dict)
    verifier: PassVerifier | None = None

    def constant(self, stem: str, data: Any, dtype: str | None = None) -> Value:
        return self.graph.constant(stem, np.asarray(data, dtype=dtype))

    def value(self, stem: str, dtype: str | None = None) -> Value:
        return Value(self.graph.fresh(stem), dtype)

    def sole(self, value: Value | None) -> bool:
        """Whether exactly one node reads ``value`` and it is no graph output: it may go with its reader."""
        return value is not None and len(value.consumers) == 1 and not self.graph.is_output(value)


def scalar(value: Value | None) -> float | None:
    """The number that a constant of one element holds, else ``None``."""
    if value is None or value.const is None or value.const.size != 1 or value.const.dtype.kind not in "fiub":
        return None
    return float(value.const.reshape(-1)[0])


def apply_rules(graph: Graph, rules: Sequence[Rule[Any]], verifier: PassVerifier | None = None) -> Edit:
    """Apply ``rules`` until none fires. A round is linear in nodes; what a rewrite made is looked at again at once.

    ``verifier`` is told of each rewrite.
    """
    edit = Edit(graph, verifier=verifier)
    by_op: dict[str, list[Rule[Any]]] = {}
    for rule in rules:
        for op in rule.ops:
            by_op.setdefault(op, []).append(rule)
    schemas = Schemas(graph.opset)
    for _ in range(_MAX_ROUNDS):
        edit.refusals.clear()
        if not _round(graph, by_op, edit, schemas):
            break
        graph.prune()
    return edit


def _round(graph: Graph, by_op: dict[str, list[Rule[Any]]], edit: Edit, schemas: Schemas) -> bool:
    order: list[Node] = []
    pending = deque(graph.nodes)
    changed = False
    while pending:
        node = pending.popleft()
        if node not in graph:
            continue
        made: Sequence[Node] | None = None
        if not node.domain and _is_read(graph, node):
            for rule in by_op.get(node.op, ()):
                made = _apply(graph, node, rule, edit, schemas)
                if made is not None:
                    break
        if made is None:
            order.append(node)
        else:
            changed = True
            pending.extendleft(reversed(made))
    if changed:
        graph.rebuild([node for node in order if node in graph])
    return changed


def _drop_unread(graph: Graph, values: Iterable[Value | None]) -> None:
    """Remove the producers, and theirs, that a rewrite left without readers."""
    pending = [value.producer for value in values if value is not None and value.producer is not None]
    while pending:
        node = pending.pop()
        if node in graph and not _is_read(graph, node):
            graph.remove(node)
            pending += [value.producer for value in node.inputs if value is not None and value.producer is not None]


def _is_read(graph: Graph, node: Node) -> bool:
    return any(value is not None and (value.consumers or graph.is_output(value)) for value in node.outputs)


def _apply(graph: Graph, node: Node, rule: Rule[Any], edit: Edit, schemas: Schemas) -> Sequence[Node] | None:
    match = rule.pattern(node)
    if match is None:
        return None
    reason = rule.check(match, edit)
    if reason:
        edit.refusals.append(Refusal(rule.name, node.label, reason))
        return None
    made = rule.rewrite(match, edit)
    if made is None:
        return None
    if isinstance(made, Value):
        old = node.outputs[0]
        assert old is not None
        if not graph.replaceable(old, made):
            edit.refusals.append(Refusal(rule.name, node.label, "a graph output must keep a node of its own"))
            return None
        if (old.dtype, old.shape) != (made.dtype, made.shape):
            raise ContractError(f"rule {rule.name} at {node.label}: {old} was replaced by {made}")
        if edit.verifier is not None:
            edit.verifier.same(f"rule {rule.name}", node.label, old, made)
        graph.replace_value(old, made)
        graph.remove(node)
        made = []
    else:
        _swap(graph, node, made, rule, schemas)
        if edit.verifier is not None:
            edit.verifier.rewrite(f"rule {rule.name}", node.label, made, graph.opset)
    _drop_unread(graph, node.inputs)
    edit.fired[rule.name] = edit.fired.get(rule.name, 0) + 1
    return made


def _swap(graph: Graph, node: Node, made: Iterable[Node], rule: Rule[Any], schemas: Schemas) -> None:
    before = [(value, value.dtype, value.shape) for value in node.outputs if value is not None]
    graph.remove(node)
    for new in made:
        infer_node(new, schemas)
        graph.append(new)
    for value, dtype, shape in before:
        if value.producer is None and (value.consumers or graph.is_output(value)):
            raise ContractError(f"rule {rule.name} at {node.label}: nothing makes {value} any more")
        if (value.dtype, value.shape) != (dtype, shape):
            raise ContractError(f"rule {rule.name} at {node.label}: {value} was {dtype} {shape}")
