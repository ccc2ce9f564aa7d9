"""Operators on quantised tensors: dequantise, compute in floats, quantise again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mobilekit.passes.contrib._build import MICROSOFT, Build, Rule, UnclearError
from mobilekit.passes.contrib.attention import packed_attention
from mobilekit.passes.contrib.norm import embed

if TYPE_CHECKING:
    from mobilekit.graph import Value

__all__ = ["RULES"]


def _real(it: Build, index: int, scale: int, zero: int, axis: int = 0) -> Value:
    """Input ``index`` as floats; one scale for all, or one for each index of ``axis``."""
    return it("DequantizeLinear", it.input(index), _flat(it, it.input(scale)), _flat(it, it.optional(zero)), axis=axis)


def _flat(it: Build, value: Value | None) -> Value | None:
    """Scales and zero points of one element stand as scalars."""
    if value is None or it.shape(value) == () or it.shape(value) != (1,):
        return value
    return it.reshape(value)


def _quantised(it: Build, made: Value, scale: int, zero: int) -> None:
    """``made`` quantised as the node's output is; the type is that of the zero point, or ``uint8``."""
    it.bind(0, it("QuantizeLinear", made, _flat(it, it.input(scale)), _flat(it, it.optional(zero))))


def _conv(it: Build) -> None:
    x, w = _real(it, 0, 1, 2), _real(it, 3, 4, 5)
    bias = it.optional(8)
    if bias is not None:
        # int32 in steps of both scales.
        step = it("Mul", it.input(1), it.input(4))
        bias = it("Mul", it("Cast", bias, to=1), it("Reshape", step, it.const([-1], "int64")))
    last = bool(it.attr("channels_last", 0))
    if last:
        x = it("Transpose", x, perm=[0, len(it.shape(it.input(0))) - 1, *range(1, len(it.shape(it.input(0))) - 1)])
    made = it("Conv", x, w, bias, **it.rest("channels_last"))
    if last:
        rank = len(it.shape(it.input(0)))
        made = it("Transpose", made, perm=[0, *range(2, rank), 1])
    _quantised(it, made, 6, 7)


def _matmul(it: Build) -> None:
    rank = len(it.shape(it.input(3)))
    _quantised(it, it("MatMul", _real(it, 0, 1, 2), _real(it, 3, 4, 5, axis=rank - 1)), 6, 7)


def _gemm(it: Build) -> None:
    b_axis = 0 if it.attr("transB", 0) else 1
    c = it.optional(6)
    if c is not None:
        step = it("Mul", it("Mul", it.input(1), it.input(4)), it.const(it.attr("alpha", 1.0)))
        c = it("Mul", it("Cast", c, to=1), step)
    made = it("Gemm", _real(it, 0, 1, 2), _real(it, 3, 4, 5, axis=b_axis), c, **it.node.attrs)
    if it.optional(7) is None:
        it.bind(0, made)
    else:
        _quantised(it, made, 7, 8)


def _binary(op: str) -> Rule:
    def rule(it: Build) -> None:
        _quantised(it, it(op, _real(it, 0, 1, 2), _real(it, 3, 4, 5)), 6, 7)

    return rule


def _unary(op: str, *kept: str) -> Rule:
    def rule(it: Build) -> None:
        attrs = {name: value for name, value in it.node.attrs.items() if name in kept}
        _quantised(it, it(op, _real(it, 0, 1, 2), **attrs), 3, 4)

    return rule


def _pool(op: str, *without: str) -> Rule:
    def rule(it: Build) -> None:
        x = _real(it, 0, 1, 2)
        rank = len(it.shape(it.input(0)))
        last = bool(it.attr("channels_last", 0))
        if last:
            x = it("Transpose", x, perm=[0, rank - 1, *range(1, rank - 1)])
        made = it(op, x, **it.rest("channels_last", *without))
        _quantised(it, it("Transpose", made, perm=[0, *range(2, rank), 1]) if last else made, 3, 4)

    return rule


def _concat(it: Build) -> None:
    parts = [_real(it, index, index + 1, index + 2) for index in range(2, len(it.node.inputs), 3)]
    _quantised(it, it("Concat", *parts, axis=it.attr("axis", 0)), 0, 1)


def _softmax(it: Build) -> None:
    x = _real(it, 0, 1, 2)
    shape, axis = it.shape(it.input(0)), it.attr("axis", -1)
    if it.attr("opset", 13) < 13 and axis % len(shape) != len(shape) - 1:
        raise UnclearError("it sums over several axes")
    _quantised(it, it("Softmax", x, axis=axis), 3, 4)


def _where(it: Build) -> None:
    _quantised(it, it("Where", it.input(0), _real(it, 1, 2, 3), _real(it, 4, 5, 6)), 7, 8)


def _reduce_mean(it: Build) -> None:
    axes = it.attr("axes", None)
    given = None if axes is None else it.const(axes, "int64")
    made = it("ReduceMean", _real(it, 0, 1, 2), given, keepdims=it.attr("keepdims", 1))
    _quantised(it, made, 3, 4)


# dynamic


def _dynamic_matmul(it: Build) -> None:
    b = _real(it, 1, 2, 3, axis=len(it.shape(it.input(1))) - 1)
    it.bind(0, it.add(it("MatMul", it.input(0), b), it.optional(4)))


def _matmul_to_float(it: Build) -> None:
    b = _real(it, 1, 3, 5, axis=len(it.shape(it.input(1))) - 1)
    it.bind(0, it.add(it("MatMul", _real(it, 0, 2, 4), b), it.optional(6)))


def _lstm(it: Build) -> None:
    """Its weights are ``(directions, inputs, 4 * hidden)``, ONNX's LSTM takes them the other way round."""

    def weight(index: int, scale: int, zero: int) -> Value:
        data = it.constant(index, "weight").astype(np.int32)
        steps, zeros = (_per_gate(it.constant(place, "scale")) for place in (scale, zero))
        real = (data - zeros.astype(np.int32)).astype(np.float32) * steps.astype(np.float32)
        return it.const(real.transpose(0, 2, 1))

    w, r = weight(1, 8, 9), weight(2, 10, 11)
    made = it.many("LSTM", 3, it.input(0), w, r, *(it.optional(index) for index in range(3, 8)), **it.node.attrs)
    for index, value in enumerate(made):
        it.bind(index, value)


def _per_gate(numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A number for each direction, or for each of its columns too, against ``(directions, inputs, columns)``."""
    return numbers.reshape(numbers.shape[0] if numbers.ndim else 1, 1, -1)


def _attention(it: Build) -> None:
    weight = _real(it, 1, 4, 7, axis=1)
    packed = it("Add", it("MatMul", _real(it, 0, 3, 6), weight), it.input(2))
    packed_attention(it, packed, mask=5, past=8, bias=None)


def _embed_layer_norm(it: Build) -> None:
    tables: list[Value | None] = []
    for index in range(2, 5):
        tables.append(None if it.optional(index) is None else _real(it, index, index + 6, index + 11))
    embed(it, tables, _real(it, 5, 11, 16), _real(it, 6, 12, 17), it.optional(7), None)


def _standard(op: str) -> Rule:
    def rule(it: Build) -> None:
        scale, zero = _flat(it, it.input(1)), _flat(it, it.optional(2))
        it.bind(0, it(op, it.input(0), scale, zero, **it.node.attrs))

    return rule


RULES: dict[tuple[str, str], Rule] = {
    ("", "QLinearConv"): _conv,
    ("", "QLinearMatMul"): _matmul,
    (MICROSOFT, "DequantizeLinear"): _standard("DequantizeLinear"),
    (MICROSOFT, "DynamicQuantizeLSTM"): _lstm,
    (MICROSOFT, "DynamicQuantizeMatMul"): _dynamic_matmul,
    (MICROSOFT, "MatMulIntegerToFloat"): _matmul_to_float,
    (MICROSOFT, "QAttention"): _attention,
    (MICROSOFT, "QEmbedLayerNormalization"): _embed_layer_norm,
    (MICROSOFT, "QGemm"): _gemm,
    (MICROSOFT, "QLinearAdd"): _binary("Add"),
    (MICROSOFT, "QLinearAveragePool"): _pool("AveragePool"),
    (MICROSOFT, "QLinearConcat"): _concat,
    (MICROSOFT, "QLinearConv"): _conv,
    (MICROSOFT, "QLinearGlobalAveragePool"): _pool("GlobalAveragePool"),
    (MICROSOFT, "QLinearLeakyRelu"): _unary("LeakyRelu", "alpha"),
    (MICROSOFT, "QLinearMul"): _binary("Mul"),
    (MICROSOFT, "QLinearReduceMean"): _reduce_mean,
    (MICROSOFT, "QLinearSigmoid"): _unary("Sigmoid"),
    (MICROSOFT, "QLinearSoftmax"): _softmax,
    (MICROSOFT, "QLinearWhere"): _where,
    (MICROSOFT, "QuantizeLinear"): _standard("QuantizeLinear"),
}
