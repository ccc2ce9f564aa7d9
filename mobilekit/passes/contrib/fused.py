"""What the optimiser fuses: activations and biases with what stands before them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mobilekit.passes.contrib._build import MICROSOFT, Build, Rule, UnclearError

if TYPE_CHECKING:
    from mobilekit.graph import Value

__all__ = ["RULES"]


def _fused_conv(it: Build) -> None:
    made = it("Conv", *it.node.inputs[:3], **it.rest("activation", "activation_params"))
    made = it.add(made, it.optional(3))
    it.bind(0, it.activate(made, it.attr("activation", ""), it.attr("activation_params", [])))


def _fused_gemm(it: Build) -> None:
    names = ("activation", "activation_alpha", "activation_beta", "activation_gamma")
    params = [it.attr(name, None) for name in names[1:]]
    made = it("Gemm", *it.node.inputs[:3], **it.rest(*names))
    it.bind(0, it.activate(made, it.attr("activation", ""), [p for p in params if p is not None]))


def _fused_matmul(it: Build) -> None:
    a = _turned(it, it.input(0), bool(it.attr("transA", 0)), bool(it.attr("transBatchA", 0)))
    b = _turned(it, it.input(1), bool(it.attr("transB", 0)), bool(it.attr("transBatchB", 0)))
    made = it("MatMul", a, b)
    alpha = it.attr("alpha", 1.0)
    it.bind(0, made if alpha == 1 else it("Mul", made, it.like(alpha, it.input(0))))


def _turned(it: Build, value: Value, swap: bool, batch_last: bool) -> Value:
    """``batch_last``: the matrix's first axis stands before the batch axes."""
    rank = len(it.shape(value))
    order = list(range(rank))
    if batch_last and rank > 2:
        order = [*order[1:-1], order[0], order[-1]]
    if swap and rank > 1:
        order[-1], order[-2] = order[-2], order[-1]
    return value if order == sorted(order) else it("Transpose", value, perm=order)


def _gelu(it: Build) -> None:
    it.bind(0, it("Gelu", it.input(0)))


def _bias_gelu(it: Build) -> None:
    it.bind(0, it("Gelu", it("Add", it.input(0), it.input(1))))


def _fast_gelu(it: Build) -> None:
    it.bind(0, it("Gelu", it.add(it.input(0), it.optional(1)), approximate="tanh"))


def _quick_gelu(it: Build) -> None:
    x = it.input(0)
    gate = it("Sigmoid", it("Mul", x, it.like(it.attr("alpha", 1.702), x)))
    it.bind(0, it("Mul", x, gate))


def _expand_dims(it: Build) -> None:
    axis = int(it.constant(1, "axis").reshape(-1)[0])
    it.bind(0, it("Unsqueeze", it.input(0), it.const([axis], "int64")))


def _trilu(it: Build) -> None:
    it.bind(0, it("Trilu", *it.node.inputs, **it.node.attrs))


def _nhwc_max_pool(it: Build) -> None:
    x = it("Transpose", it.input(0), perm=[0, 3, 1, 2])
    it.bind(0, it("Transpose", it("MaxPool", x, **it.node.attrs), perm=[0, 2, 3, 1]))


def _affine(it: Build) -> None:
    """ONNX's experimental Affine, ImageScaler, ScaledTanh, ThresholdedRelu and so on, gone since opset 10."""
    x = it.input(0)
    scaled = it("Mul", x, it.like(it.attr("alpha", 1.0), x))
    it.bind(0, it("Add", scaled, it.like(it.attr("beta", 0.0), x)))


def _scaled_tanh(it: Build) -> None:
    x = it.input(0)
    inner = it("Tanh", it("Mul", x, it.like(it.attr("beta", 1.0), x)))
    it.bind(0, it("Mul", inner, it.like(it.attr("alpha", 1.0), x)))


def _image_scaler(it: Build) -> None:
    x = it.input(0)
    bias = it.const(it.attr("bias", []))
    channels = len(it.attr("bias", []))
    if channels != it.shape(x)[1]:
        raise UnclearError("it has not one bias for each channel")
    scaled = it("Mul", x, it.like(it.attr("scale", 1.0), x))
    it.bind(0, it("Add", scaled, it.reshape(bias, 1, channels, 1, 1)))


def _parametric_softplus(it: Build) -> None:
    x = it.input(0)
    inner = it("Softplus", it("Mul", x, it.like(it.attr("beta", 1.0), x)))
    it.bind(0, it("Mul", inner, it.like(it.attr("alpha", 1.0), x)))


def _distances(it: Build) -> None:
    """Of each row of ``(n, d)`` to each row of ``(m, d)``."""
    a, b = it("Unsqueeze", it.input(0), it.const([1], "int64")), it("Unsqueeze", it.input(1), it.const([0], "int64"))
    difference = it("Sub", a, b)
    made = it("ReduceSum", it("Mul", difference, difference), it.const([2], "int64"), keepdims=0)
    metric = it.attr("metric", "sqeuclidean")
    if metric not in ("euclidean", "sqeuclidean"):
        raise UnclearError(f"its metric {metric} is not known")
    it.bind(0, it("Sqrt", made) if metric == "euclidean" else made)


RULES: dict[tuple[str, str], Rule] = {
    (MICROSOFT, "BiasGelu"): _bias_gelu,
    (MICROSOFT, "CDist"): _distances,
    (MICROSOFT, "ExpandDims"): _expand_dims,
    (MICROSOFT, "FastGelu"): _fast_gelu,
    (MICROSOFT, "FusedConv"): _fused_conv,
    (MICROSOFT, "FusedGemm"): _fused_gemm,
    (MICROSOFT, "FusedMatMul"): _fused_matmul,
    (MICROSOFT, "Gelu"): _gelu,
    (MICROSOFT, "NhwcMaxPool"): _nhwc_max_pool,
    (MICROSOFT, "QuickGelu"): _quick_gelu,
    (MICROSOFT, "TransposeMatMul"): _fused_matmul,
    (MICROSOFT, "Trilu"): _trilu,
    ("", "Affine"): _affine,
    ("", "ImageScaler"): _image_scaler,
    ("", "ParametricSoftplus"): _parametric_softplus,
    ("", "ScaledTanh"): _scaled_tanh,
}
