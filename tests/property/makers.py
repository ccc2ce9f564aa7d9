"""Makers of random nodes, a function for each operator or family of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.property.graphs import Builder, Tensor, Unfit

__all__ = ["MAKERS"]

Maker = Callable[[Builder], Any]
MAKERS: list[Maker] = []


def maker(function: Maker) -> Maker:
    MAKERS.append(function)
    return function


_SMOOTH = ("Abs", "Neg", "Sigmoid", "Tanh", "Relu", "Exp", "Sin", "Cos", "Atan", "Erf", "Softplus", "Softsign", "Sinh",
           "Cosh", "Asinh", "Selu", "Elu", "LeakyRelu", "HardSigmoid", "Celu", "ThresholdedRelu", "Identity",
           "Reciprocal", "Mish", "HardSwish", "Gelu", "Swish", "Shrink", "Dropout")  # fmt: skip


@maker
def unary(b: Builder) -> None:
    op, x = b.one(_SMOOTH), b.pick()
    attrs: dict[str, Any] = {}
    if op in ("Elu", "LeakyRelu", "Celu", "Selu", "ThresholdedRelu") and b.maybe():
        attrs["alpha"] = b.float(0.1, 1.5)
    if op == "HardSigmoid" and b.maybe():
        attrs = {"alpha": b.float(0.1, 0.5), "beta": b.float(0.0, 1.0)}
    if op == "Gelu" and b.maybe():
        attrs["approximate"] = "tanh"
    if op in ("ThresholdedRelu", "Shrink") and not x.exact:
        raise Unfit
    if op == "Shrink":
        attrs = {"lambd": b.float(0.0, 1.0), "bias": b.float(0.0, 1.0)}
    b.add(op, [x], exact=op in ("Abs", "Neg", "Relu", "Identity", "Dropout"), **attrs)


@maker
def positive(b: Builder) -> None:
    x = b.pick()
    b.add(b.one(("Log", "Sqrt", "Reciprocal")), [b.add("Add", [b.add("Abs", [x]), b.const(np.float32(0.5))])])


@maker
def jump(b: Builder) -> None:
    op = b.one(("Floor", "Ceil", "Round", "Sign", "IsNaN", "IsInf"))
    b.add(op, [b.pick(exact=True)], exact=True)


@maker
def binary(b: Builder) -> None:
    op = b.one(("Add", "Sub", "Mul", "Div", "Max", "Min", "Mean", "Sum"))
    x = b.pick()
    y = b.partner(x)
    if op == "Div" and np.abs(y.array).min() < 0.05:
        y = b.const(np.abs(b.data(x.shape[-1:])) + np.float32(0.5))
    pair = [y, x] if b.maybe() and op != "Div" else [x, y]
    if op in ("Max", "Min", "Mean", "Sum") and b.int(0, 3) == 0:
        pair.append(b.partner(x))
    b.add(op, pair, exact=op in ("Max", "Min"))


@maker
def power(b: Builder) -> None:
    x = b.pick()
    if b.maybe():
        b.add("Pow", [x, b.const(np.float32(b.one((2.0, 3.0, 1.0, 0.0))))])
    else:
        b.add("Pow", [b.add("Abs", [x]), b.const(np.float32(b.one((0.5, 1.5, 2.0))))])


@maker
def whole_numbers(b: Builder) -> None:
    x = b.pick("i")
    op = b.one(("Add", "Sub", "Mul", "Max", "Min", "Abs", "Neg", "Div", "Mod"))
    if op in ("Abs", "Neg"):
        b.add(op, [x])
    elif op in ("Div", "Mod"):
        b.add(op, [x, b.const(np.abs(b.data(x.shape[-1:], "i")) + 1)])
    else:
        b.add(op, [x, b.partner(x)])


@maker
def compared(b: Builder) -> None:
    x = b.pick("fi", exact=True)
    y = b.partner(x)
    if y.exact:
        b.add(b.one(("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual")), [x, y])


@maker
def logic(b: Builder) -> None:
    x = b.pick("b")
    op = b.one(("And", "Or", "Xor", "Not"))
    b.add(op, [x] if op == "Not" else [x, b.partner(x)])


@maker
def where(b: Builder) -> None:
    x = b.pick("fi")
    c = b.partner(b.pick("b")) if b.maybe() else b.input(x.shape[b.int(0, x.rank) :], "b")
    b.add("Where", [c, x, b.partner(x)], exact=True)


@maker
def cast(b: Builder) -> None:
    x = b.pick("fib", exact=True)
    b.add("Cast", [x], to=b.one((1, 6, 7, 9)), exact=True)


@maker
def clip(b: Builder) -> None:
    low = b.float(-2, 0)
    bounds = [b.const(np.float32(low)), b.const(np.float32(b.float(low, 2)))]
    shown: list[Tensor | None] = [bounds[0] if b.int(0, 3) else None, bounds[1] if b.int(0, 3) else None]
    b.add("Clip", [b.pick(), *shown], exact=True)


@maker
def prelu(b: Builder) -> None:
    x = b.pick()
    shape = tuple(size if b.maybe() else 1 for size in x.shape)[b.int(0, x.rank) :]
    b.add("PRelu", [x, b.weights(*shape)])


_REDUCE = ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
           "ReduceLogSumExp")  # fmt: skip


@maker
def reduction(b: Builder) -> None:
    op, x = b.one(_REDUCE), b.pick("fffi")
    axes = [axis - x.rank if b.maybe() else axis for axis in b.some(x.rank, 0)]
    attrs: dict[str, Any] = {"keepdims": b.int(0, 1)}
    inputs = [x]
    if axes and b.opset >= (13 if op == "ReduceSum" else 18):
        inputs.append(b.ints(*axes))
    elif axes:
        attrs["axes"] = axes
    elif b.opset >= 18 and b.maybe():
        attrs["noop_with_empty_axes"] = 1
    b.add(op, inputs, exact=op in ("ReduceMax", "ReduceMin"), **attrs)


@maker
def arg(b: Builder) -> None:
    x = b.pick(ranks=range(1, 6), exact=True)
    attrs = {"select_last_index": 1} if b.opset >= 12 and b.maybe() else {}
    b.add(b.one(("ArgMax", "ArgMin")), [x], axis=b.axis(x), keepdims=b.int(0, 1), **attrs)


@maker
def along_axis(b: Builder) -> None:
    x = b.pick(ranks=range(1, 6))
    op = b.one(("Softmax", "LogSoftmax", "Softmax", "Hardmax", "LpNormalization"))
    if op == "Hardmax" and not x.exact:
        raise Unfit
    attrs: dict[str, Any] = {"p": b.int(1, 2)} if op == "LpNormalization" else {}
    b.add(op, [x], axis=b.axis(x), **attrs)


@maker
def cumsum(b: Builder) -> None:
    x = b.pick("fffi", ranks=range(1, 6))
    b.add("CumSum", [x, b.const(np.int64(b.axis(x)))], exclusive=b.int(0, 1), reverse=b.int(0, 1))


@maker
def reshape(b: Builder) -> None:
    x = b.pick("fffib")
    left, shape = math.prod(x.shape), []
    for _ in range(b.int(0, 4)):
        size = b.one([d for d in range(1, left + 1) if left % d == 0])
        shape.append(size)
        left //= size
    shape.insert(b.int(0, len(shape)), left)
    if b.maybe():
        shape[b.int(0, len(shape) - 1)] = -1
    b.add("Reshape", [x, b.ints(*shape)], exact=True)


@maker
def transpose(b: Builder) -> None:
    x = b.pick("fffib", ranks=range(1, 6))
    b.add("Transpose", [x], exact=True, **({"perm": b.perm(x.rank)} if b.int(0, 4) else {}))


@maker
def squeeze(b: Builder) -> None:
    x = b.pick("fffib")
    axes = [axis for axis, size in enumerate(x.shape) if size == 1 and b.maybe()]
    if not axes:
        raise Unfit
    axes = [axis - x.rank if b.maybe() else axis for axis in axes]
    if b.opset >= 13:
        b.add("Squeeze", [x, b.ints(*axes)], exact=True)
    else:
        b.add("Squeeze", [x], axes=axes, exact=True)


@maker
def unsqueeze(b: Builder) -> None:
    x = b.pick("fffib", ranks=range(4))
    axes = b.some(x.rank + 2)[:2]
    if b.opset >= 13:
        b.add("Unsqueeze", [x, b.ints(*axes)], exact=True)
    else:
        b.add("Unsqueeze", [x], axes=axes, exact=True)


@maker
def flatten(b: Builder) -> None:
    x = b.pick("fffib", ranks=range(1, 6))
    b.add("Flatten", [x], axis=b.int(0, x.rank), exact=True)


@maker
def expand(b: Builder) -> None:
    x = b.pick("fffib")
    shape = [b.int(2, 4) if size == 1 and b.maybe() else b.one((size, 1)) for size in x.shape]
    shape = shape[b.int(0, x.rank) :] if b.int(0, 3) == 0 else [b.int(1, 3)] * (b.int(0, 3) == 0) + shape
    if not shape:
        raise Unfit
    b.add("Expand", [x, b.ints(*shape)], exact=True)


@maker
def tile(b: Builder) -> None:
    x = b.pick("fffib", ranks=range(1, 6))
    b.add("Tile", [x, b.ints(*[b.one((1, 1, 2, 3)) for _ in x.shape])], exact=True)


@maker
def slices(b: Builder) -> None:
    x = b.pick("fffib", ranks=range(1, 6))
    axes = b.some(x.rank)
    starts, ends, steps = [], [], []
    for axis in axes:
        size = x.shape[axis]
        step = b.one((1, 1, 1, 2, 3, -1, -2))
        low, high = sorted((b.int(0, size), b.int(0, size)))
        low, high = (low, high + 1) if step > 0 else (high, low - size - 1)
        starts.append(low - size if b.maybe() and 0 < low < size else low)
        ends.append(b.one((high, (1 << 31) - 1 if step > 0 else -(1 << 31))))
        steps.append(step)
    shown = [axis - x.rank if b.maybe() else axis for axis in axes]
    b.add("Slice", [x, b.ints(*starts), b.ints(*ends), b.ints(*shown), b.ints(*steps)], exact=True)


@maker
def split(b: Builder) -> None:
    x = b.pick("fffib", ranks=range(1, 6))
    axis = b.axis(x)
    size = x.shape[axis]
    if size < 2:
        raise Unfit
    first = b.int(1, size - 1)
    sizes = [first, size - first]
    if b.opset >= 13:
        b.add("Split", [x, b.ints(*sizes)], 2, axis=axis, exact=True)
    else:
        b.add("Split", [x], 2, axis=axis, split=sizes, exact=True)


@maker
def concat(b: Builder) -> None:
    x = b.pick("fffi", ranks=range(1, 6))
    axis = b.axis(x)
    shape = list(x.shape)
    shape[axis] = b.int(1, 4)
    others = [
        v
        for v in b.values
        if v.array.dtype == x.array.dtype
        and v.rank == x.rank
        and all(v.shape[i] == x.shape[i] for i in range(x.rank) if i != axis % x.rank)
    ]
    parts = [x, b.one(others) if b.maybe() else b.const(b.data(shape, x.kind).astype(x.array.dtype))]
    if b.int(0, 2) == 0:
        parts.append(b.one(others))
    b.add("Concat", parts if b.maybe() else parts[::-1], axis=axis, exact=True)


@maker
def pad(b: Builder) -> None:
    x = b.pick("fffi", ranks=range(1, 6))
    mode = b.one(("constant", "constant", "reflect", "edge"))
    low = -1 if b.int(0, 5) == 0 and mode == "constant" else 0
    pads = [b.int(low, 2) if b.maybe() else 0 for _ in range(2 * x.rank)]
    if mode == "reflect" and any(pads[i] >= x.shape[i % x.rank] for i in range(2 * x.rank)):
        raise Unfit
    value = [b.const(np.asarray(b.int(-3, 3), x.array.dtype))] if mode == "constant" and b.maybe() else []
    b.add("Pad", [x, b.ints(*pads), *value], mode=mode, exact=True)


@maker
def rearrange(b: Builder) -> None:
    op = b.one(("DepthToSpace", "SpaceToDepth"))
    block = 2
    shape = (b.int(1, 2), 8, 2, 3) if op == "DepthToSpace" else (b.int(1, 2), 3, 4, 6)
    fitting = [
        v for v in b.values if v.rank == 4 and v.kind == "f" and v.shape[1 if op == "DepthToSpace" else 2] % 4 == 0
    ]
    x = b.one(fitting) if fitting and b.maybe() else b.input(shape)
    attrs = {"mode": b.one(("DCR", "CRD"))} if op == "DepthToSpace" else {}
    b.add(op, [x], blocksize=block, exact=True, **attrs)


@maker
def gather(b: Builder) -> None:
    x = b.pick("fffi", ranks=range(1, 6))
    axis = b.axis(x)
    size = x.shape[axis]
    shape = [b.int(1, 3) for _ in range(b.int(0, 2))]
    count = math.prod(shape)
    indices = np.array([b.int(-size, size - 1) for _ in range(count)], np.int64).reshape(shape)
    if b.int(0, 3) == 0 and len(b.inputs) < 5:
        ids = b.input(shape, "i")
        ids.array = np.abs(indices) % size
        b.add("Gather", [x, ids], axis=axis, exact=True)
    else:
        b.add("Gather", [x, b.const(indices)], axis=axis, exact=True)


@maker
def gather_elements(b: Builder) -> None:
    x = b.pick(ranks=range(1, 5))
    axis = b.axis(x)
    rng = np.random.default_rng(b.int(0, 9999))
    shape = [b.int(1, size) for size in x.shape]
    b.add("GatherElements", [x, b.const(rng.integers(0, x.shape[axis], shape))], axis=axis, exact=True)


@maker
def gather_nd(b: Builder) -> None:
    x = b.pick(ranks=range(1, 5))
    rng = np.random.default_rng(b.int(0, 9999))
    depth = b.int(1, x.rank)
    rows = [rng.integers(0, x.shape[i], b.int(1, 3) if i == 0 else 0) for i in range(1)]
    count = len(rows[0])
    indices = np.stack([rng.integers(0, x.shape[i], count) for i in range(depth)], axis=-1)
    b.add("GatherND", [x, b.const(indices)], exact=True)


@maker
def trilu(b: Builder) -> None:
    if b.opset < 14:
        raise Unfit
    x = b.pick("fffi", ranks=range(2, 5))
    k = [b.const(np.int64(b.int(-3, 3)))] if b.maybe() else []
    b.add("Trilu", [x, *k], upper=b.int(0, 1), exact=True)


@maker
def one_hot(b: Builder) -> None:
    x = b.input([b.int(1, 4) for _ in range(b.int(1, 2))], "i")
    b.add(
        "OneHot", [x, b.const(np.int64(6)), b.const(np.array([0, 1], np.float32))], axis=b.int(-1, x.rank), exact=True
    )


@maker
def top_k(b: Builder) -> None:
    x = b.pick(ranks=range(1, 5), exact=True)
    axis = b.axis(x)
    if len(np.unique(x.array)) < x.array.size:
        raise Unfit
    b.add("TopK", [x, b.ints(b.int(1, x.shape[axis]))], 2, axis=axis, largest=b.int(0, 1), exact=True)


def _window(b: Builder, x: Tensor, kernel: list[int], *, pool: bool) -> dict[str, Any]:
    spatial = x.rank - 2
    attrs: dict[str, Any] = {}
    if b.maybe():
        attrs["strides"] = [b.int(1, 3) for _ in range(spatial)]
    if b.int(0, 2) == 0:
        attrs["auto_pad"] = b.one(("SAME_UPPER", "SAME_LOWER", "VALID"))
    elif b.maybe():
        most = [min(kernel[i % spatial] - 1, 2) if pool else 2 for i in range(2 * spatial)]
        attrs["pads"] = [b.int(0, high) for high in most]
    return attrs


@maker
def conv(b: Builder) -> None:
    x = b.pick(ranks=(3, 4, 4, 4, 5))
    kernel = [b.one((1, 2, 3)) for _ in range(x.rank - 2)]
    group = b.one([g for g in range(1, x.shape[1] + 1) if x.shape[1] % g == 0])
    made = group * b.int(1, 3)
    attrs = _window(b, x, kernel, pool=False)
    if b.int(0, 2) == 0:
        attrs["dilations"] = [b.int(1, 2) for _ in kernel]
    if b.maybe():
        attrs["kernel_shape"] = kernel
    bias = [b.weights(made)] if b.maybe() else []
    y = b.add("Conv", [x, b.weights(made, x.shape[1] // group, *kernel), *bias], group=group, **attrs)
    if b.int(0, 2) == 0:
        _affine(b, y)
    if b.int(0, 2) == 0:
        b.add(b.one(("Relu", "LeakyRelu", "Sigmoid", "HardSigmoid")), [b.values[-1]])


def _affine(b: Builder, y: Tensor) -> None:
    channels = y.shape[1]
    if b.maybe():
        stats = [b.weights(channels) for _ in range(3)]
        b.add("BatchNormalization", [y, *stats, b.const(np.abs(b.data((channels,))) + np.float32(0.5))])
    else:
        b.add(b.one(("Add", "Mul", "Sub")), [y, b.weights(channels, *([1] * (y.rank - 2)))])


@maker
def conv_transpose(b: Builder) -> None:
    x = b.pick(ranks=(3, 4, 4, 5))
    kernel = [b.one((1, 2, 3)) for _ in range(x.rank - 2)]
    group = b.one([g for g in range(1, x.shape[1] + 1) if x.shape[1] % g == 0])
    attrs: dict[str, Any] = {"strides": [b.int(1, 3) for _ in kernel]}
    way = b.int(0, 3)
    if way == 0:
        attrs["pads"] = [b.int(0, 1) for _ in range(2 * len(kernel))]
    elif way == 1:
        attrs["auto_pad"] = b.one(("SAME_UPPER", "SAME_LOWER", "VALID"))
    elif way == 2:
        attrs["output_padding"] = [b.int(0, stride - 1) for stride in attrs["strides"]]
    if b.int(0, 3) == 0:
        attrs["dilations"] = [b.int(1, 2) for _ in kernel]
    made = b.int(1, 3)
    bias = [b.weights(made * group)] if b.maybe() else []
    y = b.add("ConvTranspose", [x, b.weights(x.shape[1], made, *kernel), *bias], group=group, **attrs)
    if b.int(0, 2) == 0:
        _affine(b, y)


@maker
def pool(b: Builder) -> None:
    op = b.one(("MaxPool", "AveragePool", "LpPool"))
    x = b.pick(ranks=(3, 4, 4, 4, 5))
    kernel = [b.one((1, 2, 3)) for _ in range(x.rank - 2)]
    attrs = _window(b, x, kernel, pool=True)
    if op != "LpPool" or b.opset >= 18:
        attrs["ceil_mode"] = b.int(0, 1)
    if op == "AveragePool":
        attrs["count_include_pad"] = b.int(0, 1)
    if op == "LpPool":
        attrs["p"] = b.int(1, 2)
    if b.int(0, 3) == 0 and (op == "MaxPool" or b.opset >= 19):
        attrs["dilations"] = [b.int(1, 2) for _ in kernel]
    b.add(op, [x], kernel_shape=kernel, exact=op == "MaxPool", **attrs)


@maker
def global_pool(b: Builder) -> None:
    b.add(b.one(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")), [b.pick(ranks=(3, 4, 4, 5))])


@maker
def matmul(b: Builder) -> None:
    x = b.pick(ranks=range(1, 6))
    fitting = [v for v in b.values if v.kind == "f" and v.rank and v.shape[-2 if v.rank > 1 else 0] == x.shape[-1]]
    if fitting and b.maybe():
        y = b.one(fitting)
    else:
        lead = tuple(size if b.maybe() else 1 for size in x.shape[:-2])[b.int(0, max(0, x.rank - 2)) :]
        shape = (*lead, x.shape[-1], b.int(1, 5)) if b.int(0, 4) else (x.shape[-1],)
        y = b.weights(*shape)
    y = b.add("MatMul", [x, y])
    if b.int(0, 2) == 0 and y.rank:
        b.add("Add", [y, b.weights(y.shape[-1])])


@maker
def gemm(b: Builder) -> None:
    x = b.pick(ranks=(2,))
    flip, turned = b.int(0, 1), b.int(0, 1)
    inner, rows = (x.shape[0], x.shape[1]) if flip else (x.shape[1], x.shape[0])
    columns = b.int(1, 5)
    shape = (columns, inner) if turned else (inner, columns)
    w = b.weights(*shape) if b.int(0, 3) else b.input(shape)
    extra: list[Tensor] = []
    if b.maybe():
        extra = [b.weights(*b.one([(), (1,), (columns,), (1, columns), (rows, 1), (rows, columns)]))]
    b.add("Gemm", [x, w, *extra], transA=flip, transB=turned, alpha=b.float(0.5, 1.5), beta=b.float(0.5, 1.5))


@maker
def einsum(b: Builder) -> None:
    if b.opset < 12:
        raise Unfit
    x = b.pick(ranks=(2, 3, 4))
    letters = "abcd"[: x.rank]
    second = letters[-1] + "z"
    kept = "".join(letters[i] for i in b.perm(x.rank) if letters[i] != letters[-1] and b.int(0, 4)) + "z"
    b.add("Einsum", [x, b.weights(x.shape[-1], b.int(1, 4))], equation=f"{letters},{second}->{kept}")


@maker
def normalisation(b: Builder) -> None:
    op = b.one(("BatchNormalization", "InstanceNormalization", "LRN", "LayerNormalization", "GroupNormalization",
                "RMSNormalization", "MeanVarianceNormalization"))  # fmt: skip
    x = b.pick(ranks=(3, 4, 5) if op in ("LRN", "InstanceNormalization", "GroupNormalization") else range(2, 6))
    if op == "LRN":
        b.add(op, [x], size=b.one((1, 3, 5)), alpha=b.float(0.0001, 0.5), beta=b.float(0.5, 1.0), bias=b.float(1, 2))
    elif op == "BatchNormalization":
        _affine(b, x)
    elif op == "MeanVarianceNormalization":
        if x.rank != 4:
            raise Unfit
        b.add(op, [x])
    elif op in ("LayerNormalization", "RMSNormalization"):
        axis = b.axis(x)
        shape = x.shape[axis % x.rank :]
        bias = [b.weights(*shape)] if b.maybe() and op[0] == "L" else []
        b.add(op, [x, b.weights(*shape), *bias], axis=axis, epsilon=b.one((1e-5, 1e-2)))
    elif op == "GroupNormalization":
        if b.opset < 21:
            raise Unfit
        groups = b.one([g for g in range(1, x.shape[1] + 1) if x.shape[1] % g == 0])
        b.add(op, [x, b.weights(x.shape[1]), b.weights(x.shape[1])], num_groups=groups, epsilon=1e-2)
    else:
        b.add(op, [x, b.weights(x.shape[1]), b.weights(x.shape[1])], epsilon=1e-2)


@maker
def layer_norm_chain(b: Builder) -> None:
    if b.opset >= 18:
        raise Unfit
    x = b.pick(ranks=range(2, 5))
    mean = b.add("ReduceMean", [x], axes=[-1])
    off = b.add("Sub", [x, mean])
    square = b.add("Pow", [off, b.const(np.float32(2))]) if b.maybe() else b.add("Mul", [off, off])
    variance = b.add("ReduceMean", [square], axes=[-1])
    y = b.add("Div", [off, b.add("Sqrt", [b.add("Add", [variance, b.const(np.float32(1e-2))])])])
    if b.maybe():
        b.add("Add", [b.add("Mul", [y, b.weights(x.shape[-1])]), b.weights(x.shape[-1])])


@maker
def activation_chain(b: Builder) -> None:
    x = b.pick()
    way = b.int(0, 4)
    if way == 0:
        b.add("Mul", [x, b.add("Sigmoid", [x])])
    elif way == 1:
        half = b.add("Erf", [b.add("Div", [x, b.const(np.float32(math.sqrt(2)))])])
        b.add("Mul", [b.add("Mul", [x, b.add("Add", [half, b.const(np.float32(1))])]), b.const(np.float32(0.5))])
    elif way == 2:
        k = [b.const(np.float32(v)) for v in (3.0, 0.0, 6.0)]
        y = b.add("Clip", [b.add("Add", [x, k[0]]), k[1], k[2]])
        y = b.add("Div", [y, k[2]]) if b.maybe() else b.add("Mul", [x, b.add("Div", [y, k[2]])])
    elif way == 3:
        b.add("Mul", [x, b.add("HardSigmoid", [x], alpha=b.one((1 / 6, 0.2)), beta=0.5)])
    else:
        b.add("Mul", [x, b.add("Tanh", [b.add("Softplus", [x])])])


@maker
def attention_chain(b: Builder) -> None:
    heads, steps, depth = b.int(1, 3), b.int(2, 5), b.int(1, 4)
    x = b.input((1, steps, heads * depth))
    parts = []
    for _ in range(3):
        y = b.add("MatMul", [x, b.weights(heads * depth, heads * depth)])
        y = b.add("Reshape", [y, b.ints(1, steps, heads, depth)])
        parts.append(b.add("Transpose", [y], perm=[0, 2, 1, 3]))
    scores = b.add("MatMul", [parts[0], b.add("Transpose", [parts[1]], perm=[0, 1, 3, 2])])
    scores = b.add("Mul", [scores, b.const(np.float32(depth**-0.5))])
    if b.maybe():
        scores = b.add("Add", [scores, b.const(b.data((1, 1, steps, steps)))])
    y = b.add("MatMul", [b.add("Softmax", [scores], axis=-1), parts[2]])
    b.add("Reshape", [b.add("Transpose", [y], perm=[0, 2, 1, 3]), b.ints(1, steps, heads * depth)])


@maker
def resize(b: Builder) -> None:
    x = b.pick(ranks=(3, 4, 4))
    mode = b.one(("nearest", "linear", "cubic") if x.rank == 4 else ("nearest", "linear"))
    attrs: dict[str, Any] = {
        "mode": mode,
        "coordinate_transformation_mode": b.one(("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")),
    }
    if mode == "nearest":
        attrs["nearest_mode"] = b.one(("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"))
    if mode == "cubic" and b.maybe():
        attrs["cubic_coeff_a"] = -0.5
    lead = x.rank - 2 if x.rank == 4 else 2
    if b.maybe():
        sizes = [*x.shape[:lead], *[b.int(1, 9) for _ in x.shape[lead:]]]
        b.add("Resize", [x, None, None, b.ints(*sizes)] if b.opset > 12 else _old_resize(b, x, sizes), **attrs)
    else:
        scales = np.array([*([1.0] * lead), *[b.one((0.5, 1.5, 2.0, 3.0)) for _ in x.shape[lead:]]], np.float32)
        b.add("Resize", [x, b.const(np.zeros(0, np.float32)) if b.opset < 13 else None, b.const(scales)], **attrs)


def _old_resize(b: Builder, x: Tensor, sizes: list[int]) -> list[Tensor | None]:
    return [x, b.const(np.zeros(0, np.float32)), b.const(np.zeros(0, np.float32)), b.ints(*sizes)]


@maker
def recurrent(b: Builder) -> None:
    op, gates = b.one((("LSTM", 4), ("GRU", 3), ("RNN", 1)))
    direction = b.one(("forward", "reverse", "bidirectional"))
    count = 2 if direction == "bidirectional" else 1
    steps, batch, width, hidden = b.int(1, 4), b.one((1, 1, 2)), b.int(1, 4), b.int(1, 4)
    x = b.input((steps, batch, width))
    inputs: list[Tensor | None] = [x, b.weights(count, gates * hidden, width), b.weights(count, gates * hidden, hidden)]
    inputs.append(b.weights(count, 2 * gates * hidden) if b.maybe() else None)
    if b.maybe():
        inputs += [None, b.weights(count, batch, hidden) if b.maybe() else b.input((count, batch, hidden))]
        inputs += [b.weights(count, batch, hidden)] if op == "LSTM" else []
    while inputs[-1] is None:
        inputs.pop()
    attrs = {"linear_before_reset": b.int(0, 1)} if op == "GRU" else {}
    b.add(op, inputs, b.int(2, 3 if op == "LSTM" else 2), hidden_size=hidden, direction=direction, **attrs)


@maker
def grid_sample(b: Builder) -> None:
    if b.opset < 20:
        raise Unfit
    x = b.pick(ranks=(4,))
    grid = b.input((x.shape[0], b.int(1, 3), b.int(1, 3), 2))
    grid.array = (grid.array * 0.5).astype(np.float32)
    mode = b.one(("linear", "cubic"))
    padding = b.one(("zeros", "border", "reflection"))
    b.add("GridSample", [x, grid], mode=mode, padding_mode=padding, align_corners=b.int(0, 1))
