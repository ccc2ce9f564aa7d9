"""Variadic operators in pairs; MatMul with bias as Gemm."""

from __future__ import annotations

from typing import NamedTuple

from mobilekit.graph import Node, Value
from mobilekit.passes.base import Edit, Rule
from mobilekit.passes.legalise._algebra import made_by

__all__ = ["MatMulToGemm", "PairwiseVariadic"]


class PairwiseVariadic(Rule[Node]):
    """Sum, Max, Min and Mean of many tensors: a chain of two at a time (Mean: times ``1/n`` at the end)."""

    name = "pairwise-variadic"
    ops = ("Sum", "Max", "Min", "Mean")

    def pattern(self, node: Node) -> Node | None:
        count = len(node.inputs)
        return node if count > 2 or (count == 2 and node.op in ("Sum", "Mean")) else None

    def rewrite(self, match: Node, edit: Edit) -> list[Node]:
        out = match.outputs[0]
        assert out is not None
        op = {"Sum": "Add", "Mean": "Add"}.get(match.op, match.op)
        nodes: list[Node] = []
        last: Value | None = match.inputs[0]
        for value in match.inputs[1:]:
            made = edit.value(f"{out.name}_part")
            nodes.append(Node(match.name, op, [last, value], [made]))
            last = made
        if match.op == "Mean":
            nodes.append(
                Node(match.name, "Mul", [last, edit.constant(f"{out.name}_n", 1 / len(match.inputs), out.dtype)], [out])
            )
        else:
            nodes[-1].outputs[0] = out
        return nodes


class _Biased(NamedTuple):
    root: Node
    product: Node
    bias: Value


class MatMulToGemm(Rule[_Biased]):
    """``x @ w + b`` with rank-2 ``x``, constant ``w`` and a constant ``b`` of one row is Gemm."""

    name = "matmul-to-gemm"
    ops = ("Add",)

    def pattern(self, node: Node) -> _Biased | None:
        for value, other in (node.inputs[:2], node.inputs[1::-1]):
            product = made_by(value, "MatMul")
            if product is not None and other is not None and other.const is not None:
                return _Biased(node, product, other)
        return None

    def check(self, match: _Biased, edit: Edit) -> str:
        first, weight = match.product.inputs[:2]
        out = match.root.outputs[0]
        assert first is not None
        assert weight is not None
        assert out is not None
        if weight.const is None or len(first.shape or ()) != 2 or len(weight.shape or ()) != 2:
            return "it is no product of a matrix with a constant matrix"
        if not str(out.dtype).startswith("float"):
            return "it is not a float"
        if not edit.sole(match.product.outputs[0]):
            return "others read the product"
        shape = match.bias.shape or ()
        fits = out.shape == (match.product.outputs[0].shape if match.product.outputs[0] else None)
        rows = shape[:-1]
        return "" if fits and shape and all(size == 1 for size in rows) and len(shape) <= 2 else "the addend is no bias"

    def rewrite(self, match: _Biased, edit: Edit) -> list[Node]:
        assert match.bias.const is not None
        weight = match.product.inputs[1]
        assert weight is not None
        assert weight.shape is not None
        bias = match.bias
        if bias.shape != (weight.shape[1],):
            flat = bias.const.reshape(-1) if bias.const is not None else None
            assert flat is not None
            width = int(weight.shape[1] or 0)
            bias = edit.constant(f"{bias.name}_row", flat if flat.size == width else flat.repeat(width))
        return [Node(match.product.name, "Gemm", [match.product.inputs[0], weight, bias], match.root.outputs)]
