"""Scaled dot-product attention out of the products and the softmax that exporters write."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mobilekit.graph import Node, Value
from mobilekit.passes.base import Edit, Rule
from mobilekit.passes.legalise._algebra import made_by, times_constant

__all__ = ["FuseAttention"]


_LOWEST = -1e30
"""What a mask adds at least: the same as the smallest float, and a scale times it is no infinity."""


class _Found(NamedTuple):
    root: Node
    query: Value
    keys: Node
    """The Transpose that turns the keys around."""
    value: Value
    mask: Value | None
    constants: list[np.ndarray]
    """Masks that are added together, each of a shape that broadcasts to that of the scores."""
    scale: float
    scores: Value
    weights: Value


_MOST_MASK = 1 << 20
"""Elements of constant masks that are written out for each head and each sample, as ncnn wants them."""

_LEAST_SCORES = 1 << 10
"""Of a head: SDPA takes 6 to 10% fewer instructions than products and sums for windows of 7 x 7 and 8 x 8, and 3% more
for 4 x 4."""


def _constant_masks(scores: Value, shape: tuple[int | str | None, ...]) -> tuple[Value, list[np.ndarray]]:
    """What constants are added to, and those, seen with ``shape``: Swin adds its windows' mask with one more axis."""
    sizes, found = [int(size or 0) for size in shape], []
    value = scores
    while (node := made_by(value, "Add", "Reshape")) is not None and value.shape is not None:
        first, second = node.inputs[:2]
        if node.op == "Add":
            mask, rest = (second, first) if second is not None and second.const is not None else (first, second)
            if mask is None or mask.const is None or rest is None or rest.shape != value.shape:
                break
            const = mask.const
            if value.shape != shape:
                if math.prod(sizes) > _MOST_MASK:
                    break
                const = np.broadcast_to(const, [int(size or 0) for size in value.shape]).reshape(sizes)
            found.append(const)
        else:
            assert first is not None
            rest = first
        value = rest
    # Nothing but masks between: what is scaled has the scores' own shape.
    return (value, found) if found and value.shape == shape else (scores, [])


def _constant_mask(match: _Found) -> np.ndarray | None:
    """All constant masks in one, broadcast only as far as ncnn does it: along the heads of a single sample."""
    shape = [int(size or 0) for size in match.scores.shape or ()]
    masks = [*match.constants, *([match.mask.const] if match.mask is not None and match.mask.const is not None else [])]
    if not masks:
        return None
    with np.errstate(over="ignore"):
        total = sum(mask.astype(np.float64) for mask in masks)
    assert isinstance(total, np.ndarray)
    rows = np.broadcast_to(total, (*total.shape[:-2], *shape[-2:]))
    heads = shape[:-2]
    one = all(size == 1 for size in rows.shape[:-2])
    if not one:
        rows = np.broadcast_to(rows, (*heads, *shape[-2:]))
    return rows.astype(np.float32)


class FuseAttention(Rule[_Found]):
    """``softmax(q @ transpose(k) * scale + mask) @ v`` is Attention (opset 24) with heads as its second axis.

    The scale may stand before or behind the product; the keys are transposed once less.
    """

    name = "fuse-attention"
    ops = ("MatMul",)

    def pattern(self, node: Node) -> _Found | None:
        weights, value = node.inputs[:2]
        softmax = made_by(weights, "Softmax")
        if softmax is None or weights is None or weights.shape is None or value is None or softmax.inputs[0] is None:
            return None
        rank = len(weights.shape)
        if rank not in (3, 4) or softmax.attrs.get("axis", -1) % rank != rank - 1:
            return None
        last, constants = _constant_masks(softmax.inputs[0], weights.shape)
        mask: Value | None = None
        scale, product = times_constant(last)
        add = made_by(product, "Add") if scale == 1 else None
        if add is not None and not constants:
            for scores, other in (add.inputs[:2], add.inputs[1::-1]):
                if scores is None or other is None or scores.shape != weights.shape:
                    continue
                factor, inner = times_constant(scores)
                if made_by(inner, "MatMul") is not None:
                    mask, scale, product = other, factor, inner
                    break
        matmul = made_by(product, "MatMul")
        if matmul is None or matmul.inputs[0] is None:
            return None
        before, query = times_constant(matmul.inputs[0])
        keys = made_by(matmul.inputs[1], "Transpose")
        if keys is None:
            return None
        return _Found(node, query, keys, value, mask, constants, scale * before, product, weights)

    def check(self, match: _Found, edit: Edit) -> str:
        query, value, keys, scores = match.query, match.value, match.keys.outputs[0], match.scores
        assert keys is not None
        if query.dtype != "float32" or scores.shape is None or query.shape is None:
            return "it is not float32"
        if any(each.const is not None for each in (query, value, keys)):
            return "an operand is constant"
        if not edit.sole(match.weights) or not edit.sole(scores) or not edit.sole(keys):
            return "others read the scores, their softmax or the transposed keys"
        if not (query.shape[:-2] == (keys.shape or ())[:-2] == (value.shape or ())[:-2] == scores.shape[:-2]):
            return "the operands broadcast"
        if not match.scale > 0:
            return "its scale is not positive"
        mask = match.mask
        if mask is not None and (mask.shape is None or len(mask.shape) > len(scores.shape)):
            return "the mask has more axes than the scores"
        if mask is not None and mask.const is None:
            batches = len(scores.shape) == 4 and scores.shape[0] != 1
            return "a batch might have a mask for each sample" if batches and len(mask.shape or ()) > 2 else ""
        whole = _constant_mask(match)
        if whole is None or len(scores.shape) < 4 or scores.shape[0] == 1 or whole.ndim < 3:
            return ""
        if whole[0, 0].size < _LEAST_SCORES:
            return "its windows are small"
        return "its masks are large" if whole.size > _MOST_MASK else ""

    def rewrite(self, match: _Found, edit: Edit) -> list[Node]:
        root, out, scores = match.root, match.root.outputs[0], match.scores.shape
        assert out is not None
        assert out.shape is not None
        assert scores is not None
        nodes: list[Node] = []

        def made(op: str, inputs: list[Value | None], **attrs: object) -> Value:
            value = edit.value(f"{out.name}_{op}", "float32")
            nodes.append(Node("", op, inputs, [value], attrs))
            return value

        def shaped(op: str, value: Value, shape: tuple[int | str | None, ...]) -> Value:
            return made(op, [value, edit.constant(f"{out.name}_shape", shape, "int64")])

        turned = match.keys.inputs[0]
        assert turned is not None
        assert turned.shape is not None
        perm = list(match.keys.attrs.get("perm") or reversed(range(len(turned.shape))))
        keys = made("Transpose", [turned], perm=[*perm[:-2], perm[-1], perm[-2]])
        operands = [match.query, keys, match.value]
        if len(scores) == 3:
            source = [match.query.shape, (*scores[:-2], scores[-1], (match.query.shape or ())[-1]), match.value.shape]
            operands = [shaped("Reshape", v, (1, *(s or ()))) for v, s in zip(operands, source, strict=True)]
        inputs: list[Value | None] = [*operands]
        fixed = _constant_mask(match)
        if fixed is not None:
            bound = np.maximum(fixed, np.float32(_LOWEST))
            inputs.append(edit.constant(f"{out.name}_mask", bound, "float32"))
        elif match.mask is not None:
            mask = made("Max", [match.mask, edit.constant(f"{out.name}_low", _LOWEST, "float32")])
            shape = match.mask.shape or ()
            whole = (*shape[:-2], *scores[-2:])
            inputs.append(mask if shape == whole else shaped("Expand", mask, whole))
        attrs = {"scale": match.scale}
        if len(scores) == 4:
            return [*nodes, Node(root.name, "Attention", inputs, [out], attrs)]
        result = edit.value(f"{out.name}_heads", "float32")
        back = edit.constant(f"{out.name}_shape", out.shape, "int64")
        return [
            *nodes,
            Node(root.name, "Attention", inputs, [result], attrs),
            Node("", "Reshape", [result, back], [out]),
        ]
