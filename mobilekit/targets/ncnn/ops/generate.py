"""Constants that stay nodes because their size follows the input's (``export --dynamic``)."""

from __future__ import annotations

import math

import numpy as np

from mobilekit.passes.evaluate import evaluate
from mobilekit.targets.ncnn.emit import Emission
from mobilekit.targets.ncnn.node import NodeView, Refuse
from mobilekit.targets.ncnn.registry import emits

_MOST_ELEMENTS = 1 << 23
"""What :func:`evaluate` makes of a Range."""


@emits("Range", since=11, data="any")
@emits("ConstantOfShape", since=9, data="any")
def generated(node: NodeView, out: Emission) -> None:
    node.ignore("value", "stash_type")
    inputs = [node.const(index, "its size") for index in range(len(node.node.inputs))]
    if math.prod(node.out_shape()) > _MOST_ELEMENTS:
        raise Refuse(
            "it makes a constant of more than 8 million numbers", "give the constant as a weight, or smaller shapes"
        )
    (array,) = evaluate(node.node, inputs, node.opset) or [np.zeros(node.out_shape(), node.output().dtype)]
    out.alias(node.output(), out.graph.constant(node.output().name, array))
