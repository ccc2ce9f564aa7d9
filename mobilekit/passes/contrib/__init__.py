"""ONNX Runtime's own operators (domain ``com.microsoft``), ONNX's quantised ones, and what of ``ai.onnx.ml`` is
arithmetic, in plain ONNX operators.

Its optimiser and quantiser write them into saved models. What each means is from ONNX Runtime's ContribOperators.md
and, where that is silent, from its CPU kernels' behaviour. The walk of :mod:`mobilekit.passes.infer` opens them with
the shapes of all inputs known, and looks at what they are made of again.
"""

from __future__ import annotations

from mobilekit.errors import Finding, UnsupportedModelError
from mobilekit.graph import Graph, Node
from mobilekit.passes.contrib._build import Build, Rule, UnclearError

__all__ = ["is_lowered", "lower"]

_LAYOUT = "com.microsoft.nchwc"


def _rules() -> dict[tuple[str, str], Rule]:
    from mobilekit.passes.contrib import attention, blocks, fused, ml, norm, quantised

    return {**fused.RULES, **norm.RULES, **attention.RULES, **quantised.RULES, **blocks.RULES, **ml.RULES}


_TABLE = _rules()


def is_lowered(node: Node) -> bool:
    """Whether ``node`` is one of those that are written out here."""
    return (node.domain, node.op) in _TABLE or node.domain == _LAYOUT


def lower(graph: Graph, node: Node) -> list[Node]:
    """The plain nodes that stand for ``node``. :class:`UnsupportedModelError` for a use that has no plain form."""
    build = Build(graph, node)
    try:
        if node.domain == _LAYOUT:
            raise UnclearError(
                "it computes in the memory layout of one processor",
                "save the optimised model at level extended or below, or give the original",
            )
        _TABLE[node.domain, node.op](build)
    except UnclearError as unclear:
        finding = Finding(node.label, node.type_name, unclear.reason, unclear.remedy)
        raise UnsupportedModelError(
            f"{node.type_name} at {node.label!r}: {unclear.reason}", findings=[finding]
        ) from None
    return build.nodes
