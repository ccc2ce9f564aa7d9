"""Common subexpressions: of two nodes that compute the same, one goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mobilekit.passes.evaluate import RANDOM

if TYPE_CHECKING:
    from mobilekit.graph import Graph, Node, Value
    from mobilekit.passes.verify import PassVerifier

__all__ = ["merge_common"]

_SMALL = 64
"""Constants of at most so many elements are compared by value, larger ones by identity."""


def merge_common(graph: Graph, verifier: PassVerifier | None = None) -> int:
    """Merge equal nodes in one walk, linear in nodes; how many went. Graph outputs keep a node of their own."""
    seen: dict[Any, Node] = {}
    gone: list[Node] = []
    for node in graph.nodes:
        if node.op in RANDOM or node.bodies():
            continue
        key = _key(node)
        first = seen.setdefault(key, node)
        if first is node:
            continue
        pairs = [(a, b) for a, b in zip(node.outputs, first.outputs, strict=True) if a is not None and b is not None]
        if len(pairs) != len(node.outputs) or any(graph.is_output(old) for old, _ in pairs):
            continue
        for old, new in pairs:
            if verifier is not None:
                verifier.same("merging equal nodes", node.label, old, new)
            graph.replace_value(old, new)
        gone.append(node)
    for node in reversed(gone):
        graph.remove(node)
    return len(gone)


def _key(node: Node) -> Any:
    return (
        node.domain,
        node.op,
        tuple(_value_key(value) for value in node.inputs),
        len(node.outputs),
        tuple(sorted((name, _attr_key(value)) for name, value in node.attrs.items())),
    )


def _value_key(value: Value | None) -> Any:
    if value is not None and value.const is not None and value.const.size <= _SMALL and value.const.dtype != object:
        return value.dtype, value.const.shape, value.const.tobytes()
    return id(value)


def _attr_key(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, value.tobytes()) if value.size <= _SMALL else id(value)
    return tuple(value) if isinstance(value, list) else value
