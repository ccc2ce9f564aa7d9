"""Einsum as transposes, one matrix product, and reshapes."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mobilekit.graph import Node, Value
from mobilekit.passes.base import Edit, Rule

__all__ = ["LowerEinsum"]


class _Equation(NamedTuple):
    root: Node
    terms: list[list[str]]
    """Labels of each operand's axes; the axes of an ellipsis have labels of their own."""
    result: list[str]
    sizes: dict[str, int]


class LowerEinsum(Rule[_Equation]):
    """One or more operands, contracted from left to right; no label twice in one term (no diagonals)."""

    name = "lower-einsum"
    ops = ("Einsum",)

    def pattern(self, node: Node) -> _Equation | None:
        equation = str(node.attrs.get("equation", "")).replace(" ", "")
        left, arrow, right = equation.partition("->")
        written = left.split(",")
        if len(written) != len(node.inputs):
            return None
        terms: list[list[str]] = []
        sizes: dict[str, int] = {}
        spread = 0
        for term, value in zip(written, node.inputs, strict=True):
            if value is None or value.shape is None:
                return None
            labels = _labels(term, len(value.shape))
            if labels is None or len(set(labels)) != len(labels):
                return None
            spread = max(spread, sum(label.startswith(".") for label in labels))
            for label, size in zip(labels, value.shape, strict=True):
                if not isinstance(size, int) or sizes.setdefault(label, size) != size:
                    return None
            terms.append(labels)
        if not arrow:
            every = [label for labels in terms for label in labels if not label.startswith(".")]
            right = ("..." if spread else "") + "".join(
                sorted(label for label in set(every) if every.count(label) == 1)
            )
        result = _labels(right, spread + len(right.replace("...", ""))) if "..." in right else list(right)
        if result is None or len(set(result)) != len(result) or any(label not in sizes for label in result):
            return None
        return _Equation(node, terms, result, sizes)

    def check(self, match: _Equation, edit: Edit) -> str:  # noqa: ARG002
        return "" if str(match.root.inputs[0].dtype if match.root.inputs[0] else "").startswith("float") else "integers"

    def rewrite(self, match: _Equation, edit: Edit) -> list[Node] | Value | None:
        out = match.root.outputs[0]
        assert out is not None
        made = _Builder(match, edit)
        value, labels = match.root.inputs[0], match.terms[0]
        assert value is not None
        for index, (other, theirs) in enumerate(zip(match.root.inputs[1:], match.terms[1:], strict=True), start=1):
            assert other is not None
            later = {label for term in match.terms[index + 1 :] for label in term} | set(match.result)
            value, labels = made.contract(value, labels, other, theirs, later)
        value, labels = made.drop(value, labels, set(match.result))
        value = made.turn(value, labels, match.result)
        if not made.nodes or value.producer is not None or made.nodes[-1].outputs[0] is not value:
            return value if value.shape == out.shape else None
        made.nodes[-1].outputs[0] = out
        return made.nodes


def _labels(term: str, rank: int) -> list[str] | None:
    """A label for each axis: letters, and ``.0`` (the last axis of the ellipsis), ``.1``, ... from the right."""
    head, dots, tail = term.partition("...")
    if not dots:
        return list(term) if len(term) == rank else None
    middle = rank - len(head) - len(tail)
    return None if middle < 0 else [*head, *(f".{middle - 1 - i}" for i in range(middle)), *tail]


class _Builder:
    """The nodes so far. A value's axes are always known by their labels."""

    def __init__(self, match: _Equation, edit: Edit) -> None:
        self.match, self.edit = match, edit
        self.nodes: list[Node] = []

    def _node(self, op: str, inputs: list[Value | None], **attrs: object) -> Value:
        label = self.match.root.label
        first = inputs[0]
        assert first is not None
        value = self.edit.value(f"{label}_{op.lower()}", first.dtype)
        name = self.match.root.name if op == "MatMul" else ""
        self.nodes.append(Node(name, op, inputs, [value], dict(attrs)))
        return value

    def turn(self, value: Value, labels: list[str], wanted: list[str]) -> Value:
        if labels == wanted:
            return value
        perm = [labels.index(label) for label in wanted]
        if value.const is not None:
            return self.edit.constant(value.name, value.const.transpose(perm))
        return self._node("Transpose", [value], perm=perm)

    def _shape(self, value: Value, have: list[int], wanted: list[int]) -> Value:
        if have == wanted:
            return value
        if value.const is not None:
            return self.edit.constant(value.name, value.const.reshape(wanted))
        return self._node("Reshape", [value, self.edit.constant("einsum_shape", wanted, "int64")])

    def drop(self, value: Value, labels: list[str], wanted: set[str]) -> tuple[Value, list[str]]:
        """Sum over the axes that nobody wants."""
        axes = [index for index, label in enumerate(labels) if label not in wanted]
        if not axes:
            return value, labels
        kept = [label for label in labels if label in wanted]
        if value.const is not None:
            summed = value.const.sum(axis=tuple(axes), dtype=np.float64).astype(value.const.dtype)
            return self.edit.constant(value.name, summed), kept
        constant = self.edit.constant("einsum_axes", axes, "int64")
        return self._node("ReduceSum", [value, constant], keepdims=0), kept

    def contract(
        self, a: Value, a_labels: list[str], b: Value, b_labels: list[str], later: set[str]
    ) -> tuple[Value, list[str]]:
        """The product of two operands, summed over what both have and nobody wants ``later``."""
        a, a_labels = self.drop(a, a_labels, later | set(b_labels))
        b, b_labels = self.drop(b, b_labels, later | set(a_labels))
        order = [label for label in self.match.result if label in a_labels or label in b_labels]
        order += [label for label in a_labels + b_labels if label not in order]
        batch = [label for label in order if label in a_labels and label in b_labels and label in later]
        inner = [label for label in a_labels if label in b_labels and label not in later]
        rows = [label for label in order if label in a_labels and label not in b_labels]
        columns = [label for label in order if label in b_labels and label not in a_labels]
        a, b = self.turn(a, a_labels, batch + rows + inner), self.turn(b, b_labels, batch + inner + columns)
        size = self.match.sizes
        lead, high, deep, wide = ([size[label] for label in group] for group in (batch, rows, inner, columns))
        if not inner and not (rows and columns):
            # Element by element: the one without axes of its own is broadcast along the other's.
            a = self._shape(a, lead + high, lead + high + [1] * len(wide))
            b = self._shape(b, lead + wide, lead + [1] * len(high) + wide)
            return self._node("Mul", [a, b]), batch + rows + columns
        m, k, n = math.prod(high), math.prod(deep), math.prod(wide)
        a = self._shape(a, lead + high + deep, [*lead, m, k])
        b = self._shape(b, lead + deep + wide, [*lead, k, n])
        product = self._node("MatMul", [a, b])
        return self._shape(product, [*lead, m, n], lead + high + wide), batch + rows + columns
