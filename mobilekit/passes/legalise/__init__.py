"""Rewrite rules, one a file, run to a fixpoint: :func:`legalise`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mobilekit.graph import Graph

__all__ = ["legalise"]


def legalise(graph: Graph) -> None:
    """Remove what does nothing: Identity, Dropout."""
    for node in graph.nodes:
        if node.op in ("Identity", "Dropout") and not node.domain:
            old, new = node.outputs[0], node.inputs[0]
            if old is not None and new is not None and graph.replaceable(old, new):
                graph.replace_value(old, new)
    graph.prune()
