"""ScatterND whose places are counted while the model runs: what ``y[mask] = values`` exports to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from mobilekit.graph import Graph, Node, Value
from mobilekit.passes.row_wise import static_dims

if TYPE_CHECKING:
    from mobilekit.passes.row_mixing import Rows

__all__ = ["masked_assignment", "scatter"]

Maker = Callable[[Value], Node | None]

_BOOL = 9


def masked_assignment(graph: Graph, node: Node, maker: Maker) -> list[Node] | None:
    """``y[mask] = row``, one row for all places, as the Where that it is: no place needs to be counted.

    ``node``: ScatterND of ``Transpose(NonZero(mask))``; a mask of fewer axes than ``y`` names whole rows.
    """
    data, indices, updates = node.inputs[:3]
    if (
        data is None
        or indices is None
        or updates is None
        or node.attrs.get("reduction", "none") not in ("none", b"none")
    ):
        return None
    mask = _mask(indices, maker)
    if mask is None or any(not isinstance(size, int) for value in (data, mask) for size in value.shape or (None,)):
        return None
    shape, named = static_dims(data), static_dims(mask)
    row = _row(updates, maker, shape[len(named) :])
    if row is None or named != shape[: len(named)]:
        return None
    kept, dims = mask, (*named, *[1] * (len(shape) - len(named)))
    flat, chosen = (Value(graph.fresh(f"{node.label}_mask")) for _ in range(2))
    nodes = []
    if mask.dtype != "bool":
        kept = flat
        nodes.append(Node("", "Cast", [mask], [flat], {"to": _BOOL}))
    sizes = graph.constant("sizes", np.array(dims, np.int64))
    return [
        *nodes,
        Node("", "Reshape", [kept, sizes], [chosen]),
        Node(node.name, "Where", [chosen, row, data], list(node.outputs)),
    ]


def _mask(indices: Value, maker: Maker) -> Value | None:
    turned = _step(indices, maker)
    if turned is None or turned.op != "Transpose" or list(turned.attrs.get("perm", (1, 0))) != [1, 0]:
        return None
    found = None if turned.inputs[0] is None else _step(turned.inputs[0], maker)
    return found.inputs[0] if found is not None and found.op == "NonZero" else None


def _row(updates: Value, maker: Maker, row: tuple[int, ...]) -> Value | None:
    """What stands in every row of ``updates``: a number, or something of the shape ``row``."""
    value = updates
    while value.const is None:
        node = maker(value)
        if node is None or node.domain or node.op not in ("Identity", "Reshape", "Expand") or node.inputs[0] is None:
            return None
        value = node.inputs[0]
        if node.op == "Expand":
            break
    if value.const is not None and value.const.size > 1 and (value.const == value.const.reshape(-1)[0]).all():
        value = Value(f"{value.name}_one", value.dtype, (), const=value.const.reshape(-1)[0])
    if value.shape is None or any(not isinstance(size, int) for size in value.shape):
        return None
    shape = static_dims(value)
    return value if shape == () or (row and shape in (row, (1, *row))) or shape == (1,) else None


def _step(value: Value, maker: Maker) -> Node | None:
    node = maker(value)
    while node is not None and node.op == "Identity" and node.inputs[0] is not None:
        node = maker(node.inputs[0])
    return node


def scatter(rows: Rows, node: Node) -> list[Node] | None:
    """The rows that are none write behind the end, into a row that is cut off again."""
    data, indices, updates = node.inputs[:3]
    one, other = rows.bound(indices), rows.bound(updates)
    if data is None or indices is None or updates is None or one is None or other is None:
        return None
    shape, places = static_dims(data), static_dims(indices)
    alike = one.axis == other.axis == 0 and static_dims(updates)[0] == places[0]
    if rows.bound(data) is not None or len(places) != 2 or not alike:
        return None
    found, place = rows.inside(one.count, places[0])
    copy, own = rows.whole(indices)
    values, new = rows.whole(updates)
    behind = rows.graph.constant("behind", np.array([[shape[0]] + [0] * (places[1] - 1)], np.int64))
    spare = rows.graph.constant("spare", np.zeros((1, *shape[1:]), data.dtype))
    ends = [rows.graph.constant("ends", np.array([number], np.int64)) for number in (0, shape[0], 0)]
    joined, where, longer, made = (Value(rows.graph.fresh(f"{node.label}_{part}")) for part in "abcd")
    return [
        *found,
        copy,
        values,
        Node("", "Concat", [own, behind], [joined], {"axis": 0}),
        Node("", "Gather", [joined, place], [where], {"axis": 0}),
        Node("", "Concat", [data, spare], [longer], {"axis": 0}),
        Node(node.name, "ScatterND", [longer, where, new], [made], dict(node.attrs)),
        Node("", "Slice", [made, *ends], list(node.outputs)),
    ]
