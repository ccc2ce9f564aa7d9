"""Transposes merged and pushed on until they meet, reshapes merged."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mobilekit.graph import Node, Value
from mobilekit.passes.base import Edit, Rule
from mobilekit.passes.legalise._algebra import made_by

__all__ = ["MergeReshape", "MergeTranspose", "PushTranspose", "SqueezeFirst", "TransposeToReshape"]

_UNARY = (
    "Abs", "Cast", "Ceil", "Celu", "Clip", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish",
    "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin",
    "Softplus", "Softsign", "Sqrt", "Swish", "Tanh", "ThresholdedRelu",
)  # fmt: skip
_BINARY = ("Add", "Div", "Max", "Min", "Mul", "Pow", "PRelu", "Sub")
_RESHAPES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")


def _perm(node: Node) -> list[int]:
    source = node.inputs[0]
    assert source is not None
    assert source.shape is not None
    return list(node.attrs.get("perm") or reversed(range(len(source.shape))))


class _Pair(NamedTuple):
    root: Node
    inner: Node


class MergeTranspose(Rule[_Pair]):
    """Transpose of Transpose is one, or none."""

    name = "merge-transpose"
    ops = ("Transpose",)

    def pattern(self, node: Node) -> _Pair | None:
        inner = made_by(node.inputs[0], "Transpose")
        return None if inner is None else _Pair(node, inner)

    def rewrite(self, match: _Pair, edit: Edit) -> list[Node]:  # noqa: ARG002
        first = _perm(match.inner)
        perm = [first[axis] for axis in _perm(match.root)]
        return [Node(match.root.name, "Transpose", [match.inner.inputs[0]], match.root.outputs, {"perm": perm})]


class TransposeToReshape(Rule[Node]):
    """A transposition that keeps the order of the axes larger than 1 moves no data."""

    name = "transpose-to-reshape"
    ops = ("Transpose",)

    def pattern(self, node: Node) -> Node | None:
        source = node.inputs[0]
        if source is None or source.shape is None:
            return None
        perm = _perm(node)
        moved = [axis for axis in perm if source.shape[axis] != 1]
        return node if moved == sorted(moved) and perm != sorted(perm) else None

    def check(self, match: Node, edit: Edit) -> str:  # noqa: ARG002
        out = match.outputs[0]
        # Another transpose behind it may undo it, and says more than a shape.
        return (
            "another transpose follows" if out is not None and any(n.op == "Transpose" for n in out.consumers) else ""
        )

    def rewrite(self, match: Node, edit: Edit) -> list[Node]:
        out = match.outputs[0]
        assert out is not None
        shape = edit.constant(f"{out.name}_shape", out.shape, "int64")
        return [Node(match.name, "Reshape", [match.inputs[0], shape], [out])]


class _Pushed(NamedTuple):
    root: Node
    perm: list[int]


class PushTranspose(Rule[_Pushed]):
    """``f(transpose(x))`` is ``transpose(f(x))`` for elementwise ``f``; constants are transposed the other way."""

    name = "push-transpose"
    ops = (*_UNARY, *_BINARY)

    def pattern(self, node: Node) -> _Pushed | None:
        perms = []
        for value in node.inputs[:1] if node.op in _UNARY else node.inputs:
            transpose = made_by(value, "Transpose")
            if transpose is not None:
                perms.append(_perm(transpose))
            elif value is None or value.const is None:
                return None
        if not perms or any(perm != perms[0] for perm in perms):
            return None
        return _Pushed(node, perms[0])

    def check(self, match: _Pushed, edit: Edit) -> str:
        out = match.root.outputs[0]
        assert out is not None
        assert out.shape is not None
        sources = match.root.inputs[:1] if match.root.op in _UNARY else match.root.inputs
        for value in sources:
            if made_by(value, "Transpose") is not None:
                if value is None or value.shape != out.shape:
                    return "it broadcasts the transposed tensor"
                if not edit.sole(value) and not all(reader is match.root for reader in value.consumers):
                    return "others read the transposed tensor"
        if match.root.op == "PRelu" and made_by(match.root.inputs[0], "Transpose") is None:
            return "only the slope is transposed"
        return ""

    def rewrite(self, match: _Pushed, edit: Edit) -> list[Node]:
        root, out = match.root, match.root.outputs[0]
        assert out is not None
        back = list(np.argsort(match.perm))
        inputs: list[Value | None] = []
        for index, value in enumerate(root.inputs):
            transpose = made_by(value, "Transpose")
            if transpose is not None:
                inputs.append(transpose.inputs[0])
            elif value is None or value.const is None or value.const.ndim == 0 or (root.op in _UNARY and index):
                inputs.append(value)
            else:
                whole = value.const.reshape((1,) * (len(back) - value.const.ndim) + value.const.shape)
                inputs.append(edit.constant(f"{value.name}_t", whole.transpose(back)))
        middle = edit.value(f"{out.name}_nt")
        return [
            Node(root.name, root.op, inputs, [middle], dict(root.attrs)),
            Node("", "Transpose", [middle], [out], {"perm": match.perm}),
        ]


class MergeReshape(Rule[_Pair]):
    """Reshape, Flatten, Squeeze or Unsqueeze of one of them is one Reshape."""

    name = "merge-reshape"
    ops = _RESHAPES

    def pattern(self, node: Node) -> _Pair | None:
        inner = made_by(node.inputs[0], *_RESHAPES)
        return None if inner is None else _Pair(node, inner)

    def rewrite(self, match: _Pair, edit: Edit) -> list[Node]:
        out = match.root.outputs[0]
        assert out is not None
        shape = edit.constant(f"{out.name}_shape", out.shape, "int64")
        attrs = {"allowzero": 1} if 0 in (out.shape or ()) else {}
        return [Node(match.root.name, "Reshape", [match.inner.inputs[0], shape], [out], attrs)]


class SqueezeFirst(Rule[_Pair]):
    """Axes of size 1 that a Reshape takes off behind a Transpose are taken off before it: fewer axes to permute."""

    name = "squeeze-first"
    ops = _RESHAPES

    def pattern(self, node: Node) -> _Pair | None:
        inner, out = made_by(node.inputs[0], "Transpose"), node.outputs[0]
        if inner is None or out is None or out.shape is None:
            return None
        return None if self._kept(inner, list(out.shape)) is None else _Pair(node, inner)

    @staticmethod
    def _kept(transpose: Node, wanted: list[int | str | None]) -> list[int] | None:
        """The places of the transposed tensor's axes that stay."""
        made = transpose.outputs[0]
        shape = list((made.shape if made is not None else None) or ())
        kept: list[int] = []
        for place, size in enumerate(shape):
            if len(kept) < len(wanted) and size == wanted[len(kept)]:
                kept.append(place)
            elif size != 1:
                return None
        return kept if len(kept) == len(wanted) < len(shape) else None

    def check(self, match: _Pair, edit: Edit) -> str:
        return "" if edit.sole(match.inner.outputs[0]) else "others read the transposed tensor"

    def rewrite(self, match: _Pair, edit: Edit) -> list[Node]:
        out, source, perm = match.root.outputs[0], match.inner.inputs[0], _perm(match.inner)
        assert out is not None
        assert out.shape is not None
        assert source is not None
        assert source.shape is not None
        kept = self._kept(match.inner, list(out.shape))
        assert kept is not None
        axes = [perm[place] for place in kept]
        before = sorted(axes)
        shape = edit.constant(f"{out.name}_shape", [source.shape[axis] for axis in before], "int64")
        middle = edit.value(f"{out.name}_squeezed", source.dtype)
        attrs = {"allowzero": 1} if 0 in out.shape else {}
        return [
            Node("", "Reshape", [source, shape], [middle], attrs),
            Node(match.inner.name, "Transpose", [middle], [out], {"perm": [before.index(axis) for axis in axes]}),
        ]
