"""Activations that exporters write out in elementary operators, each back to one node."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from mobilekit.graph import Node, Value
from mobilekit.passes.base import Edit, Rule, scalar
from mobilekit.passes.legalise._algebra import affine, close, made_by, product, times_constant

__all__ = ["CanonicalClip", "FuseActivation", "FuseHardSigmoid"]


class _Found(NamedTuple):
    root: Node
    op: str
    source: Value
    attrs: dict[str, Any]


class FuseActivation(Rule[_Found]):
    """A product of ``x`` and a gate of ``x``: Gelu (erf and tanh), Swish, HardSwish, Mish.

    Formulas: ONNX's texts of Gelu (opset 20), Swish (24), HardSwish (14) and Mish (18).
    """

    name = "fuse-activation"
    ops = ("Mul", "Div")

    def pattern(self, node: Node) -> _Found | None:
        out = node.outputs[0]
        if out is None or not str(out.dtype).startswith(("float", "bfloat")):
            return None
        coefficient, factors = product(out)
        if len(factors) != 2:
            return None
        for x, gate in (factors, factors[::-1]):
            found = _gate(x, gate, coefficient)
            if found is not None and x.shape == out.shape:
                return _Found(node, found[0], x, found[1])
        return None

    def rewrite(self, match: _Found, edit: Edit) -> list[Node]:  # noqa: ARG002
        return [Node(match.root.name, match.op, [match.source], match.root.outputs, match.attrs)]


def _gate(x: Value, gate: Value, coefficient: float) -> tuple[str, dict[str, Any]] | None:
    producer = gate.producer
    if producer is None or producer.domain:
        return None
    if producer.op == "Sigmoid" and close(coefficient, 1) and producer.inputs[0] is not None:
        alpha, inner = times_constant(producer.inputs[0])
        if producer.inputs[0] is x:
            return "Swish", {"alpha": 1.0}
        return ("Swish", {"alpha": alpha}) if inner is x else None
    if producer.op == "HardSigmoid" and producer.inputs[0] is x and close(coefficient, 1):
        attrs = producer.attrs
        exact = close(attrs.get("alpha", 0.2), 1 / 6) and close(attrs.get("beta", 0.5), 0.5)
        return ("HardSwish", {}) if exact else None
    if producer.op == "Clip" and close(coefficient, 1 / 6):
        return ("HardSwish", {}) if _is_relu6_of_x_plus_3(gate, x) else None
    if producer.op == "Tanh" and close(coefficient, 1):
        soft = made_by(producer.inputs[0], "Softplus")
        return ("Mish", {}) if soft is not None and soft.inputs[0] is x else None
    if producer.op == "Add" and close(coefficient, 0.5):
        return _gelu(x, producer)
    return None


def _is_relu6_of_x_plus_3(gate: Value, x: Value) -> bool:
    clip = made_by(gate, "Clip")
    if clip is None or len(clip.inputs) < 3 or clip.inputs[0] is None:
        return False
    a, b, inner = affine(clip.inputs[0])
    return inner is x and a == 1 and b == 3 and scalar(clip.inputs[1]) == 0 and scalar(clip.inputs[2]) == 6


def _gelu(x: Value, one_plus: Node) -> tuple[str, dict[str, Any]] | None:
    first, second = one_plus.inputs[:2]
    gate = first if close(scalar(second), 1) else second if close(scalar(first), 1) else None
    erf = made_by(gate, "Erf")
    if erf is not None and erf.inputs[0] is not None:
        factor, inner = times_constant(erf.inputs[0])
        return ("Gelu", {"approximate": "none"}) if inner is x and close(factor, math.sqrt(0.5)) else None
    tanh = made_by(gate, "Tanh")
    if tanh is not None and tanh.inputs[0] is not None and _is_gelu_polynomial(tanh.inputs[0], x):
        return "Gelu", {"approximate": "tanh"}
    return None


def _is_gelu_polynomial(value: Value, x: Value) -> bool:
    """sqrt(2/pi) * (x + 0.044715 * x^3), or with x taken out: sqrt(2/pi) * x * (1 + 0.044715 * x^2)."""
    coefficient, factors = product(value)
    if not close(coefficient, math.sqrt(2 / math.pi)):
        return False
    if len(factors) == 1:
        total = made_by(factors[0], "Add")
        if total is None:
            return False
        for a, b in (total.inputs[:2], total.inputs[1::-1]):
            if a is x and b is not None and _is_power(b, x, 3, 0.044715):
                return True
        return False
    for a, b in (factors, factors[::-1]) if len(factors) == 2 else ():
        total = made_by(b, "Add")
        if a is x and total is not None:
            for one, square in (total.inputs[:2], total.inputs[1::-1]):
                if close(scalar(one), 1) and square is not None and _is_power(square, x, 2, 0.044715):
                    return True
    return False


def _is_power(value: Value, x: Value, exponent: int, wanted: float) -> bool:
    coefficient, factors = product(value)
    if not close(coefficient, wanted):
        return False
    degree = 0
    for factor in factors:
        power = made_by(factor, "Pow")
        if factor is x:
            degree += 1
        elif power is not None and power.inputs[0] is x:
            degree += int(scalar(power.inputs[1]) or 0) if float(scalar(power.inputs[1]) or 0).is_integer() else 99
        else:
            return False
    return degree == exponent


class FuseHardSigmoid(Rule[_Found]):
    """``clip(x + 3, 0, 6) / 6`` and ``clip(a x + b, 0, 1)`` are HardSigmoid."""

    name = "fuse-hard-sigmoid"
    ops = ("Mul", "Div", "Clip")

    def pattern(self, node: Node) -> _Found | None:
        out = node.outputs[0]
        if out is None or not str(out.dtype).startswith(("float", "bfloat")):
            return None
        coefficient, clipped = (1.0, out) if node.op == "Clip" else times_constant(out)
        clip = made_by(clipped, "Clip")
        if clip is None or len(clip.inputs) < 3 or clip.inputs[0] is None or (clip is not node and clipped is out):
            return None
        low, high = scalar(clip.inputs[1]), scalar(clip.inputs[2])
        if low != 0 or not high or not close(high * coefficient, 1):
            return None
        a, b, inner = affine(clip.inputs[0])
        if b == 0 or inner.shape != out.shape:
            return None  # a plain clip is not made simpler
        return _Found(node, "HardSigmoid", inner, {"alpha": a * coefficient, "beta": b * coefficient})

    def check(self, match: _Found, edit: Edit) -> str:
        out = match.root.outputs[0]
        if match.root.op != "Clip" or out is None or edit.graph.is_output(out):
            return ""
        # clip(a x + b, 0, 1) that goes on to be a HardSwish or a scaled HardSigmoid of its own is left to those.
        return ""

    def rewrite(self, match: _Found, edit: Edit) -> list[Node]:  # noqa: ARG002
        return [Node(match.root.name, match.op, [match.source], match.root.outputs, match.attrs)]


class _Bounds(NamedTuple):
    root: Node
    source: Value
    low: float | None
    high: float | None


class CanonicalClip(Rule[_Bounds]):
    """Min and Max with a number, Clip of Clip, Clip of Relu: one Clip with both bounds known, or Relu."""

    name = "canonical-clip"
    ops = ("Clip", "Max", "Min", "Relu")

    def pattern(self, node: Node) -> _Bounds | None:
        own = _bounds(node)
        if own is None:
            return None
        source, low, high = own
        inner = _bounds(source.producer) if source.producer is not None else None
        if inner is not None and inner[0].shape == source.shape:
            source, below, above = inner
            low = below if low is None else low if below is None else max(low, below)
            high = above if high is None else high if above is None else min(high, above)
            if low is not None and high is not None and low > high:
                return None
        elif node.op in ("Relu", "Clip") and not (node.op == "Clip" and (low == 0 and high is None)):
            return None
        out = node.outputs[0]
        return _Bounds(node, source, low, high) if out is not None and source.shape == out.shape else None

    def rewrite(self, match: _Bounds, edit: Edit) -> list[Node] | Value:
        root, out = match.root, match.root.outputs[0]
        assert out is not None
        if match.low == 0 and match.high is None:
            return [Node(root.name, "Relu", [match.source], [out])]
        ends = [
            None if bound is None else edit.constant(f"{out.name}_{what}", bound, out.dtype)
            for what, bound in (("min", match.low), ("max", match.high))
        ]
        return [Node(root.name, "Clip", [match.source, *ends], [out])]


def _bounds(node: Node) -> tuple[Value, float | None, float | None] | None:
    if node.domain or node.op not in ("Clip", "Max", "Min", "Relu") or node.inputs[0] is None:
        return None
    if not str(node.inputs[0].dtype).startswith("float"):
        return None
    if node.op == "Relu":
        return node.inputs[0], 0.0, None
    if node.op == "Clip":
        ends = [*node.inputs[1:], None, None][:2]
        low, high = (scalar(end) for end in ends)
        if any(end is not None and number is None for end, number in zip(ends, (low, high), strict=True)):
            return None
        if low is not None and high is not None and low > high:
            return None
        # What exporters write for "no bound".
        low = None if low is not None and low <= -3.4e38 else low
        high = None if high is not None and high >= 3.4e38 else high
        return node.inputs[0], low, high
    if len(node.inputs) != 2:
        return None
    for value, number in ((node.inputs[0], scalar(node.inputs[1])), (node.inputs[1], scalar(node.inputs[0]))):
        if value is not None and value.const is None and number is not None:
            return (value, number, None) if node.op == "Max" else (value, None, number)
    return None
