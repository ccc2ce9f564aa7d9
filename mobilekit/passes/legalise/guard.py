"""The guard that PyTorch's attention puts round its softmax: a row whose every element is masked becomes zero."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mobilekit.graph import Node, Value
from mobilekit.passes.base import Edit, Rule, scalar
from mobilekit.passes.legalise._algebra import made_by

__all__ = ["GuardedSoftmax"]

_MASKED = -3.0e38
"""Instead of minus infinity: so small that its exponential is zero beside any other element's, and finite."""


class _Guarded(NamedTuple):
    root: Node
    softmax: Node
    add: Node | None
    mask: Node
    kept: int
    """Which input of ``mask`` (a Where) stands for elements that are kept: 1 or 2."""


class GuardedSoftmax(Rule[_Guarded]):
    """``s = softmax(x); where(isnan(s), 0, s)``, where ``x`` is masked by minus infinity: no NaN is ever made.

    A row of nothing but minus infinity is what makes NaN. With a large number in its place such a row comes out even,
    and is then multiplied by 0: by whether its row of the mask keeps anything.
    """

    name = "guarded-softmax"
    ops = ("Where",)

    def pattern(self, node: Node) -> _Guarded | None:
        test = made_by(node.inputs[0], "IsNaN")
        softmax = made_by(node.inputs[2], "Softmax")
        if test is None or softmax is None or test.inputs[0] is not node.inputs[2] or scalar(node.inputs[1]) != 0:
            return None
        add = made_by(softmax.inputs[0], "Add")
        candidates = [softmax.inputs[0]] if add is None else [*add.inputs]
        for value in candidates:
            mask = made_by(value, "Where")
            if mask is None:
                continue
            for kept, masked in ((1, 2), (2, 1)):
                other = scalar(mask.inputs[kept])
                # What is kept must be far from the number that stands for minus infinity.
                if scalar(mask.inputs[masked]) == -np.inf and (
                    add is None or (other is not None and abs(other) < 1e30)
                ):
                    return _Guarded(node, softmax, add, mask, kept)
        return None

    def check(self, match: _Guarded, edit: Edit) -> str:  # noqa: ARG002
        out, condition = match.root.outputs[0], match.mask.inputs[0]
        assert out is not None
        assert condition is not None
        if out.dtype != "float32" or condition.shape is None or out.shape is None:
            return "it is no float32"
        return ""

    def rewrite(self, match: _Guarded, edit: Edit) -> list[Node]:
        root, softmax, mask = match.root, match.softmax, match.mask
        out, condition = root.outputs[0], mask.inputs[0]
        assert out is not None
        assert out.shape is not None
        assert condition is not None
        assert condition.shape is not None
        rank = len(out.shape)
        axis = softmax.attrs.get("axis", -1) % rank - rank
        nodes: list[Node] = []

        def node(op: str, inputs: list[Value | None], dtype: str = "float32", **attrs: object) -> Value:
            made = edit.value(f"{root.label}_{op.lower()}", dtype)
            nodes.append(Node("", op, inputs, [made], dict(attrs)))
            return made

        low = edit.constant(f"{root.label}_masked", _MASKED, "float32")
        chosen: list[Value | None] = [condition, mask.inputs[1], low] if match.kept == 1 else [
            condition, low, mask.inputs[2]
        ]  # fmt: skip
        masked: Value = node("Where", chosen)
        if match.add is not None:
            masked = node("Add", [masked if made_by(v, "Where") is mask else v for v in match.add.inputs])
        soft = node("Softmax", [masked], axis=axis)
        keeps: Value = condition if match.kept == 1 else node("Not", [condition], "bool")
        numbers = node("Cast", [keeps], to=1)
        if -axis <= len(condition.shape):
            numbers = node("ReduceMax", [numbers, edit.constant("guard_axis", [axis], "int64")], keepdims=1)
        nodes.append(Node(root.name, "Mul", [soft, numbers], [out]))
        return nodes
