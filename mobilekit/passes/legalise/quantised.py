"""Quantised tensors as the floats that they stand for.

A QuantizeLinear and its DequantizeLinear are a Clip to what the integers can hold and a rounding to whole steps, which
float32 does as ONNX Runtime does it but for ties. Integer operators between the two that only move or choose
elements work on the floats instead.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mobilekit.graph import Node, Value
from mobilekit.passes.base import Edit, Rule, scalar
from mobilekit.passes.signs import never_negative

__all__ = ["DequantiseEarly", "FakeQuantise", "IntegerProduct"]

_RANGES = {
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-32768, 32767),
    "uint16": (0, 65535),
    "int4": (-8, 7),
    "uint4": (0, 15),
    "int2": (-2, 1),
    "uint2": (0, 3),
}


class _Grid(NamedTuple):
    """Scale and zero point as arrays that broadcast against the tensor."""

    scale: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
    zero: np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def _grid(node: Node, quantised: str | None) -> _Grid | None:
    """That of integers of type ``quantised``. ``None`` where scale or zero point are computed, or hold for blocks, or a
    scale is infinite."""
    first, scale, zero = [*node.inputs, None][:3]
    if first is None or first.shape is None or scale is None or scale.const is None or node.attrs.get("block_size", 0):
        return None
    if zero is not None and zero.const is None:
        return None
    steps = scale.const.astype(np.float32)
    zeros = np.zeros_like(steps) if zero is None or zero.const is None else zero.const.astype(np.float32)
    if not np.isfinite(steps).all():
        return None
    # A mask adds the lowest float32: as so many of its steps it would overflow, by the last digit.
    low, high = _RANGES.get(str(quantised), (0, 1))
    largest = np.finfo(np.float32).max / np.maximum(abs(low - zeros), abs(high - zeros))
    steps = np.minimum(steps, np.nextafter(largest, np.float32(0)))
    if steps.size == 1:
        return _Grid(steps.reshape(()), zeros.reshape(()))
    rank = len(first.shape)
    shape = [1] * rank
    axis = int(node.attrs.get("axis", 1))
    if steps.ndim != 1 or not -rank <= axis < rank or steps.size != first.shape[axis]:
        return None
    shape[axis] = -1
    return _Grid(steps.reshape(shape), zeros.reshape(shape))


class _Pair(NamedTuple):
    root: Node
    source: Value
    before: _Grid
    after: _Grid
    low: int
    high: int


class FakeQuantise(Rule[_Pair]):
    """DequantizeLinear of QuantizeLinear: Clip, and rounding to steps.

    Where the graph leaves roundings out (``graph.fake_quant``), only a Clip that begins at zero stays: quantisers take
    in a Relu or Relu6 so.
    """

    name = "fake-quantise"
    ops = ("DequantizeLinear",)

    def pattern(self, node: Node) -> _Pair | None:
        quantised = node.inputs[0]
        maker = quantised.producer if quantised is not None else None
        if maker is None or maker.domain or maker.op != "QuantizeLinear" or quantised is None:
            return None
        before, after = _grid(maker, quantised.dtype), _grid(node, quantised.dtype)
        limits = _RANGES.get(str(quantised.dtype))
        source = maker.inputs[0]
        if before is None or after is None or limits is None or source is None or source.dtype != "float32":
            return None
        if node.outputs[0] is None or node.outputs[0].dtype != "float32":
            return None
        return _Pair(node, source, before, after, *limits)

    def rewrite(self, match: _Pair, edit: Edit) -> list[Node]:
        root, out = match.root, match.root.outputs[0]
        assert out is not None
        nodes: list[Node] = []

        def step(op: str, *inputs: Value | None) -> Value:
            made = edit.value(f"{out.name}_{op}", "float32")
            nodes.append(Node(made.name, op, list(inputs), [made]))
            return made

        def const(what: str, data: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Value:
            return edit.constant(f"{out.name}_{what}", data, "float32")

        scale, zero = match.before
        low, high = (match.low - zero) * scale, (match.high - zero) * scale
        if not edit.graph.fake_quant:
            if (low < 0).all() or never_negative(match.source):
                return [Node(root.name, "Identity", [match.source], [out])]
            if scale.size == 1:
                return [Node(root.name, "Clip", [match.source, const("low", low), const("high", high)], [out])]
        if scale.size == 1:
            kept = step("Clip", match.source, const("low", low), const("high", high))
        else:
            kept = step("Min", step("Max", match.source, const("low", low)), const("high", high))
        whole = step("Round", step("Div", kept, const("scale", scale)))
        if (match.after.zero != zero).any():
            whole = step("Sub", whole, const("shift", match.after.zero - zero))
        nodes.append(Node(root.name, "Mul", [whole, const("step", match.after.scale)], [out]))
        return nodes


_MOVES = frozenset(
    {
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Identity",
        "MaxPool",
        "Reshape",
        "Resize",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)


class _Moved(NamedTuple):
    root: Node
    mover: Node


class DequantiseEarly(Rule[_Moved]):
    """DequantizeLinear of integers that were moved: the floats are moved instead."""

    name = "dequantise-early"
    ops = ("DequantizeLinear",)

    def pattern(self, node: Node) -> _Moved | None:
        quantised = node.inputs[0]
        mover = quantised.producer if quantised is not None else None
        if quantised is None or mover is None or mover.domain or quantised.dtype not in _RANGES:
            return None
        if mover.op == "Resize" and mover.attrs.get("mode", "nearest") != "nearest":
            return None
        if mover.op not in _MOVES and mover.op != "Concat":
            return None
        single = all(value is None or (value.const is not None and value.const.size == 1) for value in node.inputs[1:])
        return _Moved(node, mover) if single and not node.attrs.get("block_size", 0) else None

    def check(self, match: _Moved, edit: Edit) -> str:  # noqa: ARG002
        if match.mover.op == "MaxPool" and any(v is not None and v.consumers for v in match.mover.outputs[1:]):
            return "the places of the maxima are read"
        return ""

    def rewrite(self, match: _Moved, edit: Edit) -> list[Node]:
        root, mover = match
        nodes: list[Node] = []
        inputs = list(mover.inputs)
        for place in range(len(inputs) if mover.op == "Concat" else 1):
            real = edit.value(f"{root.label}_{place}", "float32")
            nodes.append(Node(real.name, "DequantizeLinear", [inputs[place], *root.inputs[1:]], [real]))
            inputs[place] = real
        outputs: list[Value | None] = [
            root.outputs[0] if value is root.inputs[0] else value and edit.value(f"{value.name}_float", "float32")
            for value in mover.outputs
        ]
        if mover.op == "MaxPool":
            outputs = outputs[:1]
        nodes.append(Node(mover.name, mover.op, inputs, outputs, dict(mover.attrs)))
        return nodes


class IntegerProduct(Rule[Node]):
    """ConvInteger and MatMulInteger on what is no part of a dynamically quantised section: exact below 2^24."""

    name = "integer-product"
    ops = ("ConvInteger", "MatMulInteger")

    def pattern(self, node: Node) -> Node | None:
        return node

    def rewrite(self, match: Node, edit: Edit) -> list[Node]:
        nodes: list[Node] = []
        a, b, zero_a, zero_b = [*match.inputs, None, None][:4]

        def step(op: str, *inputs: Value | None, **attrs: object) -> Value:
            made = edit.value(f"{match.label}_{op}", "float32")
            nodes.append(Node(made.name, op, list(inputs), [made], dict(attrs)))
            return made

        def centred(value: Value | None, zero: Value | None, *, column: bool) -> Value:
            real = step("Cast", value, to=1)
            if zero is None or scalar(zero) == 0:
                return real
            if zero.shape is not None and len(zero.shape) == 1 and zero.shape[0] != 1 and column:
                zero = step("Unsqueeze", zero, edit.constant(f"{match.label}_axes", [-1], "int64"))
                zero.dtype = None
            return step("Sub", real, step("Cast", zero, to=1))

        conv = match.op == "ConvInteger"
        left, right = centred(a, zero_a, column=not conv), centred(b, zero_b, column=False)
        product = step("Conv" if conv else "MatMul", left, right, **match.attrs)
        nodes.append(Node(match.name, "Cast", [product], match.outputs, {"to": 6}))
        return nodes
