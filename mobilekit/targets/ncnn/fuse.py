"""Activations that ncnn computes inside a convolution or a matrix product (``src/layer/fused_activation.h``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mobilekit.targets.ncnn.node import NodeView, Refuse

if TYPE_CHECKING:
    from mobilekit.graph import Value
    from mobilekit.targets.ncnn.emit import Emission, ParamValue

__all__ = ["Activation", "activation", "take_activation"]


@dataclass(frozen=True, slots=True)
class Activation:
    type: int
    params: tuple[float, ...] = ()

    def as_params(self) -> dict[str, ParamValue]:
        if self.type == 0:
            return {}
        return {"activation_type": self.type, **({"activation_params": self.params} if self.params else {})}


def activation(node: NodeView) -> Activation | None:
    """What ncnn would fuse ``node`` as, or ``None``."""
    match node.op:
        case "Relu":
            return Activation(1)
        case "LeakyRelu":
            return Activation(2, (node.float("alpha", 0.01),))
        case "Clip":
            bounds = clip_bounds(node)
            return None if bounds is None else Activation(3, bounds)
        case "Sigmoid":
            return Activation(4)
        case "HardSwish":
            return Activation(6, (1 / 6, 0.5))
    return None


def clip_bounds(node: NodeView) -> tuple[float, float] | None:
    """Constant finite-in-float32 bounds of a Clip; ``None`` where a bound is computed, or NaN."""
    top = float(np.finfo(np.float32).max)
    if node.opset < 11:
        low, high = node.float("min", -top), node.float("max", top)
    else:
        try:
            given = node.const_float(1, "minimum"), node.const_float(2, "maximum")
        except Refuse:
            return None
        low = -top if given[0] is None else given[0]
        high = top if given[1] is None else given[1]
    if np.isnan(low) or np.isnan(high):
        return None
    return max(low, -top), min(high, top)


def take_activation(value: Value, out: Emission) -> tuple[Activation, Value]:
    """The activation that alone reads ``value`` and the tensor it makes; ``(Activation(0), value)`` if none."""
    reader = out.only_reader(value)
    if reader is None or reader.domain or not out.may_absorb(reader):
        return Activation(0), value
    view = NodeView(reader, out.graph.opset)
    found = activation(view) if view.node.inputs[0] is value else None
    if found is None or value.dtype != "float32":
        return Activation(0), value
    view.ignore_input(0)
    if view.op == "Relu" or view.op == "Clip":
        view.ignore("consumed_inputs")
    if view.unread():
        return Activation(0), value
    out.absorb(reader)
    return found, view.output()
