"""Scaled dot-product attention."""

from __future__ import annotations

import math

from mobilekit.targets.ncnn.emit import Emission
from mobilekit.targets.ncnn.node import NodeView, Refuse
from mobilekit.targets.ncnn.registry import emits


@emits("Attention", since=24)
def attention(node: NodeView, out: Emission) -> None:
    """What :class:`~mobilekit.passes.legalise.attention.FuseAttention` makes; a model's own nodes are written out."""
    shapes = [node.shape(index) for index in range(3)]
    if any(len(shape) != 4 for shape in shapes) or len({shape[:2] for shape in shapes}) != 1:
        raise Refuse("its heads are not the second axis of all operands", "give q, k and v as (batch, heads, n, size)")
    heads = math.prod(shapes[0][:2])
    operands = [out.view(node.input(index), (heads, *shape[2:])) for index, shape in enumerate(shapes)]
    mask = node.optional(3)
    if mask is not None:
        *lead, rows, columns = node.shape(3)
        own = math.prod(lead)
        if (rows, columns) != (shapes[0][2], shapes[1][2]) or own not in (1, heads):
            raise Refuse("its mask broadcasts in a way that ncnn's does not", "expand the mask in the model")
        operands.append(out.view(mask, (own, rows, columns) if own > 1 else (rows, columns)))
    result = (heads, shapes[0][2], shapes[2][3])
    scale = node.float("scale", 1 / math.sqrt(shapes[0][3]))
    out.bind(node.output(), out.layer("SDPA", operands, result, attn_mask=int(mask is not None), scale=scale))
