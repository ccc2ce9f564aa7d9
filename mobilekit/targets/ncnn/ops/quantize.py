"""DequantizeLinear as the float32 arithmetic that it is.

QuantizeLinear is not here: ncnn's division is off by the last digit, so that a half may round to the other side.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mobilekit.targets.ncnn.emit import Blob, Emission, as_float
from mobilekit.targets.ncnn.layout import Dims
from mobilekit.targets.ncnn.node import NodeView, Refuse
from mobilekit.targets.ncnn.ops.elementwise import MUL, SUB, scalar
from mobilekit.targets.ncnn.registry import emits

if TYPE_CHECKING:
    from mobilekit.tensors import Array

_TAKEN = frozenset({"int8", "uint8", "int16", "uint16", "int32"})


class _Grid:
    """Scale and zero point, either one number each or one for each index of an axis."""

    def __init__(self, node: NodeView, out: Emission) -> None:
        shape = node.shape()
        scale = as_float(node.const(1, "scale"), "scale").reshape(-1)
        zero = node.optional_const(2, "zero point")
        zeros = np.zeros_like(scale) if zero is None else as_float(zero, "zero point").reshape(-1)
        if not np.isfinite(scale).all():
            raise Refuse(
                "its scale is infinite: the quantiser saw -inf or the lowest float32, as of an attention mask",
                "quantise again without the node before it (nodes_to_exclude), or with a mask of -10000",
            )
        if node.int("block_size", 0):
            raise Refuse("it has a scale for each block", "use a scale for each channel")
        given = node.int("axis", 1)
        axis = node.axis(given) if scale.size > 1 else 0
        self.out, self.scale, self.zeros = out, scale, zeros
        if scale.size > 1:
            self.dims: Dims = (math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))
            self.blob = out.view(node.input(0), self.dims)
        else:
            self.blob = out.native(node.input(0))
            self.dims = self.blob.dims

    def apply(self, op: int, blob: Blob, numbers: Array) -> Blob:
        if op == SUB and not numbers.any():
            return blob
        if numbers.size == 1:
            return scalar(self.out, op, blob, float(numbers[0]))
        column = self.out.memory(numbers, (1, numbers.size, 1))
        return self.out.layer("BinaryOp", [blob, column], blob.dims, op_type=op)


@emits("DequantizeLinear", since=21, data="any")
def dequantize(node: NodeView, out: Emission) -> None:
    node.ignore("output_dtype")
    source = str(node.input().dtype)
    if source not in _TAKEN:
        raise Refuse(f"its input is {source}", "quantise to 8 or 16 bits")
    grid = _Grid(node, out)
    out.bind(node.output(), grid.apply(MUL, grid.apply(SUB, grid.blob, grid.zeros), grid.scale))
