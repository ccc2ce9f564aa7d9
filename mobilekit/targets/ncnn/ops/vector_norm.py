"""Division by a norm."""

from __future__ import annotations

import numpy as np

from mobilekit.targets.ncnn.emit import Emission
from mobilekit.targets.ncnn.layout import dim_of_axis, dims_of
from mobilekit.targets.ncnn.node import NodeView, Refuse
from mobilekit.targets.ncnn.ops.elementwise import DIV, MAX, scalar
from mobilekit.targets.ncnn.ops.reduce import reduction
from mobilekit.targets.ncnn.registry import emits


@emits("LpNormalization", since=22)
def lp_normalization(node: NodeView, out: Emission) -> None:
    axis, power = node.axis(node.int("axis", -1)), node.int("p", 2)
    if power not in (1, 2):
        raise Refuse(f"its p is {power}", "use the 1-norm or the 2-norm")
    groups = out.groups([node.input()], [axis])
    dims = dims_of(node.shape(), groups)
    x = out.view(node.input(), dims)
    norm = reduction(out, f"l{power}", x, [dim_of_axis(groups, axis)])
    # Where everything is zero the result is zero, not 0 / 0.
    norm = scalar(out, MAX, norm, float(np.finfo(np.float32).tiny))
    out.bind(node.output(), out.layer("BinaryOp", [x, norm], dims, op_type=DIV))
