"""PRelu as Keras writes it out: the positive part, and the negative one times a slope."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mobilekit.graph import Node, Value
from mobilekit.passes.base import Edit, Rule
from mobilekit.passes.legalise._algebra import made_by, times_constant

if TYPE_CHECKING:
    from mobilekit.tensors import Array

__all__ = ["FusePRelu"]


class _Parts(NamedTuple):
    root: Node
    source: Value
    slope: Array


class FusePRelu(Rule[_Parts]):
    """``relu(x) - a * relu(-x)`` is ``x`` above zero and ``a * x`` below: PRelu."""

    name = "fuse-prelu"
    ops = ("Add", "Sub")

    def pattern(self, node: Node) -> _Parts | None:
        for first, second in (node.inputs[:2], node.inputs[1::-1]) if node.op == "Add" else (node.inputs[:2],):
            above, scaled = made_by(first, "Relu"), made_by(second, "Mul")
            if above is None or scaled is None:
                continue
            for factor, part in (scaled.inputs[:2], scaled.inputs[1::-1]):
                below = made_by(part, "Relu")
                if below is None or factor is None or factor.const is None or factor.const.dtype.kind != "f":
                    continue
                source = above.inputs[0]
                if source is not None and _negated(below.inputs[0]) is source:
                    return _Parts(node, source, factor.const if node.op == "Sub" else np.negative(factor.const))
        return None

    def check(self, match: _Parts, edit: Edit) -> str:  # noqa: ARG002
        out = match.root.outputs[0]
        fits = out is not None and out.shape == match.source.shape
        return "" if fits else "the slope makes the result larger"

    def rewrite(self, match: _Parts, edit: Edit) -> list[Node]:
        slope = edit.constant(f"{match.source.name}_slope", match.slope)
        return [Node(match.root.name, "PRelu", [match.source, slope], match.root.outputs)]


def _negated(value: Value | None) -> Value | None:
    """``x`` where ``value`` is ``-x``."""
    node = made_by(value, "Neg")
    if node is not None:
        return node.inputs[0]
    if value is None:
        return None
    factor, inner = times_constant(value)
    return inner if factor == -1.0 else None
