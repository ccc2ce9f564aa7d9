"""What the fusion rules share: products and sums taken apart, numbers compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mobilekit.passes.base import scalar

if TYPE_CHECKING:
    from mobilekit.graph import Node, Value

__all__ = ["affine", "close", "made_by", "product", "times_constant"]


def close(number: float | None, wanted: float, rel: float = 1e-5) -> bool:
    """Equal but for the digits that exporters write (0.79788 for the root of 2/pi)."""
    return number is not None and abs(number - wanted) <= rel * abs(wanted)


def made_by(value: Value | None, *ops: str) -> Node | None:
    """The node that makes ``value``, if it is one of ``ops``."""
    node = value.producer if value is not None else None
    return node if node is not None and not node.domain and node.op in ops else None


def times_constant(value: Value) -> tuple[float, Value]:
    """``(k, x)`` where ``value`` is ``x * k`` or ``x / (1/k)``; ``(1.0, value)`` else."""
    node = made_by(value, "Mul", "Div")
    if node is None:
        return 1.0, value
    a, b = node.inputs[:2]
    k = scalar(b)
    if k is not None and a is not None and a.shape == value.shape:
        return (k if node.op == "Mul" else 1 / k if k else float("nan")), a
    k = scalar(a)
    if node.op == "Mul" and k is not None and b is not None and b.shape == value.shape:
        return k, b
    return 1.0, value


def affine(value: Value) -> tuple[float, float, Value]:
    """``(a, b, x)`` where ``value`` is ``a * x + b``."""
    node = made_by(value, "Add", "Sub")
    if node is not None:
        first, second = node.inputs[:2]
        shift = scalar(second)
        if shift is not None and first is not None and first.shape == value.shape:
            factor, inner = times_constant(first)
            return factor, (shift if node.op == "Add" else -shift), inner
        shift = scalar(first)
        if shift is not None and second is not None and second.shape == value.shape and node.op == "Add":
            factor, inner = times_constant(second)
            return factor, shift, inner
    factor, inner = times_constant(value)
    return factor, 0.0, inner


def product(value: Value, limit: int = 4) -> tuple[float, list[Value]]:
    """``value`` as coefficient and factors: Mul nodes, and Div by a constant, taken apart up to ``limit`` factors."""
    coefficient, pending = 1.0, [value]
    factors: list[Value] = []
    while pending:
        current = pending.pop()
        factor, inner = times_constant(current)
        if inner is not current:
            coefficient *= factor
            pending.append(inner)
            continue
        node = made_by(current, "Mul")
        if node is not None and len(factors) + len(pending) + 2 <= limit and node.inputs[0] and node.inputs[1]:
            pending += [node.inputs[0], node.inputs[1]]
        else:
            factors.append(current)
    return coefficient, factors
