"""Broadcasting that alternates between its operands more often than ncnn has dims."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mobilekit.graph import Node, Value
from mobilekit.passes.base import Edit, Rule

__all__ = ["SpreadOperand"]

_MOST_RUNS = 4
"""ncnn's dims."""


class _Spread(NamedTuple):
    root: Node
    which: int
    shape: tuple[int, ...]


class SpreadOperand(Rule[_Spread]):
    """``a[n, 1, l, 1, 2] + b[n, h, l, p, 2]`` with ``a`` expanded along one of its axes: then (n h l, p, 2) will do.

    Axes that every operand has, or lacks, alike count as one. Deformable attention adds its offsets like that. The
    expansion that makes the fewest elements is taken, and another where one is not enough.
    """

    name = "spread-operand"
    ops = (
        "Add",
        "And",
        "Div",
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "Max",
        "Min",
        "Mod",
        "Mul",
        "Or",
        "Pow",
        "Sub",
        "Where",
        "Xor",
    )

    def pattern(self, node: Node) -> _Spread | None:
        shape, out = _axes(node.outputs[0]), node.outputs[0]
        if out is None or len(shape) <= _MOST_RUNS:
            return None
        operands = [(1,) * (len(shape) - len(own)) + own for own in map(_axes, node.inputs)]
        runs: list[list[int]] = []
        before: tuple[bool, ...] | None = None
        for axis, size in enumerate(shape):
            if size == 1:
                continue
            kind = tuple(own[axis] == size for own in operands)
            if kind == before:
                runs[-1].append(axis)
            else:
                runs.append([axis])
            before = kind
        if len(runs) <= _MOST_RUNS:
            return None
        spread = [
            (index, tuple(shape[axis] if axis in run else have for axis, have in enumerate(own)))
            for index, own in enumerate(operands)
            for run in runs
            if own[run[0]] == 1 and math.prod(own) > 1
        ]
        if not spread:
            return None
        index, target = min(spread, key=lambda item: math.prod(item[1]))
        return _Spread(node, index, target)

    def rewrite(self, match: _Spread, edit: Edit) -> list[Node]:
        inputs = list(match.root.inputs)
        value = inputs[match.which]
        assert value is not None
        nodes: list[Node] = []
        if value.const is not None:
            inputs[match.which] = edit.constant(
                f"{value.name}_spread", np.broadcast_to(value.const, match.shape).copy()
            )
        else:
            made = edit.value(f"{value.name}_spread", value.dtype)
            nodes.append(Node("", "Expand", [value, edit.constant("shape", match.shape, "int64")], [made]))
            inputs[match.which] = made
        root = match.root
        return [*nodes, Node(root.name, root.op, inputs, root.outputs, dict(root.attrs))]


def _axes(value: Value | None) -> tuple[int, ...]:
    return tuple(axis for axis in (value.shape if value is not None else None) or () if isinstance(axis, int))
