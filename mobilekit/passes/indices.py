"""How far an input's integers may point: what seeded inputs have to stay below."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mobilekit.graph import Node, Value

__all__ = ["index_limit"]

_PASSED_ON = frozenset(
    {"Cast", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose",
     "Unsqueeze"}
)  # fmt: skip


def index_limit(value: Value) -> int:
    """The shortest axis into which ``value``, an integer input, or a part of it, points as it is; 0 if none."""
    found: list[int] = []
    pending, seen = [value], {id(value)}
    while pending:
        current = pending.pop()
        for node in current.consumers:
            if node.domain:
                continue
            if len(node.inputs) > 1 and node.inputs[1] is current and (length := _pointed_at(node)):
                found.append(length)
            elif node.op in _PASSED_ON and node.inputs[0] is current:
                for made in node.outputs:
                    whole = made is not None and str(made.dtype).startswith(("int", "uint"))
                    if made is not None and whole and id(made) not in seen:
                        seen.add(id(made))
                        pending.append(made)
    return min(found, default=0)


def _pointed_at(node: Node) -> int:
    """The length of the axis of its first input that the second one indexes; 0 where it does not."""
    data, indices = node.inputs[:2]
    if data is None or indices is None or not data.shape:
        return 0
    if node.op in ("Gather", "GatherElements", "ScatterElements"):
        size = data.shape[int(node.attrs.get("axis", 0)) % len(data.shape)]
    elif node.op in ("GatherND", "ScatterND") and (indices.shape or ())[-1:] == (1,):
        size = data.shape[int(node.attrs.get("batch_dims", 0))]
    else:
        return 0
    return size if isinstance(size, int) else 0
