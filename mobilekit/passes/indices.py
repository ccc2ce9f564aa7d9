"""How far an input's integers may point, and which say yes or no: what seeded inputs have to stay below."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mobilekit.graph import Node, Value

__all__ = ["index_limit", "is_mask"]

_PASSED_ON = frozenset(
    {"Cast", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose",
     "Unsqueeze"}
)  # fmt: skip


_HUGE = 1e3
"""What additive masks use at least to silence an element; BERT's is 1e4."""


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


def is_mask(value: Value) -> bool:
    """Whether ``value``, an integer input, says yes or no: scaled and shifted by constants, one of 0 and 1 comes to
    nothing and the other to something huge, as an additive attention mask is made."""
    pending: list[tuple[Value, float, float]] = [(value, 1.0, 0.0)]
    seen = {id(value)}
    while pending:
        current, slope, shift = pending.pop()
        for node in current.consumers:
            made = node.outputs[0] if node.outputs else None
            if node.domain or made is None or id(made) in seen:
                continue
            line = _line(node, current, slope, shift)
            if line is None:
                continue
            if abs(line[0]) >= _HUGE and 0.0 in (line[1], line[0] + line[1]):
                return True
            seen.add(id(made))
            pending.append((made, *line))
    return False


def _line(node: Node, x: Value, slope: float, shift: float) -> tuple[float, float] | None:
    """Slope and shift of ``node``'s output over the input, where ``x`` is ``slope * input + shift``; ``None`` if it has
    none."""
    if node.op in _PASSED_ON:
        return (slope, shift) if node.inputs[0] is x else None
    if node.op not in ("Add", "Sub", "Mul") or len(node.inputs) != 2:
        return None
    first = node.inputs[0] is x
    other = node.inputs[1 if first else 0]
    if other is None or other is x or other.const is None or other.const.size != 1:
        return None
    number = float(other.const.reshape(-1)[0])
    if node.op == "Mul":
        return slope * number, shift * number
    if node.op == "Add":
        return slope, shift + number
    return (slope, shift - number) if first else (-slope, number - shift)


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
