"""A transposition behind which everything is flattened into a dense layer goes into the layer's weights."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mobilekit.graph import Node, Value
from mobilekit.passes.base import Edit, Rule
from mobilekit.passes.legalise._algebra import made_by

__all__ = ["FoldFlattenTranspose"]


class _Flattened(NamedTuple):
    root: Node
    reshape: Node
    transpose: Node
    perm: list[int]


class FoldFlattenTranspose(Rule[_Flattened]):
    """``flatten(transpose(x)) @ w`` is ``flatten(x) @ w'``, the rows of ``w`` in another order.

    Networks that were channels-last when trained flatten that way before their first dense layer.
    """

    name = "fold-flatten-transpose"
    ops = ("Gemm", "MatMul")

    def pattern(self, node: Node) -> _Flattened | None:
        reshape = made_by(node.inputs[0], "Reshape", "Flatten", "Squeeze")
        transpose = made_by(reshape.inputs[0], "Transpose") if reshape is not None else None
        source = transpose.inputs[0] if transpose is not None else None
        if reshape is None or transpose is None or source is None or source.shape is None:
            return None
        perm = list(transpose.attrs.get("perm") or reversed(range(len(source.shape))))
        return _Flattened(node, reshape, transpose, perm)

    def check(self, match: _Flattened, edit: Edit) -> str:
        root, weight = match.root, match.root.inputs[1]
        source, flat = match.transpose.inputs[0], match.reshape.outputs[0]
        assert source is not None
        assert flat is not None
        assert source.shape is not None
        if weight is None or weight.const is None or weight.const.ndim != 2 or root.attrs.get("transA", 0):
            return "the other factor is no constant matrix"
        if not (edit.sole(flat) and edit.sole(match.transpose.outputs[0])):
            return "others read the transposed tensor"
        sizes = [size for size in source.shape if isinstance(size, int)]
        if flat.shape is None or len(flat.shape) < 2 or flat.shape[-1] != math.prod(sizes[1:]) or match.perm[0] != 0:
            return "it does not flatten all axes but the first"
        return ""

    def rewrite(self, match: _Flattened, edit: Edit) -> list[Node]:
        root, weight = match.root, match.root.inputs[1]
        source, flat = match.transpose.inputs[0], match.reshape.outputs[0]
        assert weight is not None
        assert weight.const is not None
        assert source is not None
        assert source.shape is not None
        assert flat is not None
        inner = [int(size) for size in source.shape[1:] if isinstance(size, int)]
        # Where in the transposed order each element of the original one stands.
        there = np.arange(math.prod(inner)).reshape(inner).transpose([axis - 1 for axis in match.perm[1:]])
        order = np.argsort(there.reshape(-1))
        columns = bool(root.attrs.get("transB", 0))
        data = weight.const[:, order] if columns else weight.const[order]
        made = Value(edit.graph.fresh(f"{flat.name}_flat"))
        shape = edit.constant(f"{flat.name}_shape", flat.shape, "int64")
        inputs = [made, edit.constant(f"{weight.name}_ordered", data, weight.dtype), *root.inputs[2:]]
        return [
            Node("", "Reshape", [source, shape], [made]),
            Node(root.name, root.op, inputs, root.outputs, dict(root.attrs)),
        ]
