"""Leave out what has no elements, which no runtime for devices holds."""

from __future__ import annotations

from collections.abc import Sequence

from mobilekit.graph import Node, Value
from mobilekit.passes.base import Edit, Rule

__all__ = ["DropEmptyParts"]


class DropEmptyParts(Rule[Node]):
    """``Concat`` of parts of which some are empty: of the others (a rotary embedding of the whole width has such)."""

    name = "drop-empty-parts"
    ops = ("Concat",)

    def pattern(self, node: Node) -> Node | None:
        full = [value for value in node.inputs if not _is_empty(value)]
        return node if 0 < len(full) < len(node.inputs) else None

    def rewrite(self, match: Node, edit: Edit) -> Sequence[Node]:  # noqa: ARG002
        full = [value for value in match.inputs if not _is_empty(value)]
        return [Node(match.name, "Concat", list(full), list(match.outputs), dict(match.attrs))]


def _is_empty(value: Value | None) -> bool:
    return value is not None and value.shape is not None and 0 in value.shape
