"""The awkward parts of the field's architectures, as exporters write them, against ONNX Runtime.

Each is a few channels wide with seeded weights: what is tested is the topology. Where these came from: small versions
of the models, exported by PyTorch's two exporters at opsets 11 to 18 and run through ``mobilekit export``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.unit.targets.ncnn.oracle import agrees

pytestmark = pytest.mark.slow


class Net:
    """Nodes and weights; every method returns the name of what it made."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(42)
        self.nodes: list[onnx.NodeProto] = []
        self.consts: dict[str, np.ndarray] = {}

    def const(self, value: Any, dtype: type | None = None) -> str:
        name = f"c{len(self.consts)}"
        self.consts[name] = np.asarray(value, dtype)
        return name

    def weight(self, *shape: int) -> str:
        return self.const(self.rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:])), np.float32)

    def op(self, kind: str, *inputs: str, **attrs: Any) -> str:
        return self.ops(1, kind, *inputs, **attrs)[0]

    def ops(self, count: int, kind: str, *inputs: str, **attrs: Any) -> list[str]:
        names = [f"{kind}{len(self.nodes)}_{index}" for index in range(count)]
        self.nodes.append(helper.make_node(kind, inputs, names, f"/{kind}{len(self.nodes)}", **attrs))
        return names

    def conv(self, x: str, inputs: int, outputs: int, kernel: int = 1, act: str = "Relu", **attrs: Any) -> str:
        attrs.setdefault("pads", [kernel // 2] * 4)
        group = attrs.get("group", 1)
        y = self.op("Conv", x, self.weight(outputs, inputs // group, kernel, kernel), self.weight(outputs), **attrs)
        y = self.norm(y, outputs)
        return self.op(act, y) if act else y

    def norm(self, x: str, channels: int) -> str:
        scale, bias, mean = (self.const(self.rng.standard_normal(channels), np.float32) for _ in range(3))
        return self.op("BatchNormalization", x, scale, bias, mean, self.const(self.rng.random(channels) + 0.5, "f4"))

    def reshape(self, x: str, *shape: int) -> str:
        return self.op("Reshape", x, self.const(shape, np.int64))

    def turn(self, x: str, *perm: int) -> str:
        return self.op("Transpose", x, perm=perm)

    def cut(self, x: str, axis: int, start: int, end: int, step: int = 1) -> str:
        return self.op("Slice", x, *(self.const([n], np.int64) for n in (start, end, axis, step)))

    def dense(self, x: str, inputs: int, outputs: int) -> str:
        return self.op("Add", self.op("MatMul", x, self.weight(inputs, outputs)), self.weight(outputs))

    def layer_norm(self, x: str, size: int) -> str:
        mean = self.op("ReduceMean", x, self.const([-1]), keepdims=1)
        centred = self.op("Sub", x, mean)
        square = self.op("Pow", centred, self.const(2.0, np.float32))
        variance = self.op("Add", self.op("ReduceMean", square, self.const([-1])), self.const(1e-5, np.float32))
        normal = self.op("Div", centred, self.op("Sqrt", variance))
        return self.op("Add", self.op("Mul", normal, self.weight(size)), self.weight(size))

    def gelu(self, x: str) -> str:
        gate = self.op("Erf", self.op("Div", x, self.const(2**0.5, np.float32)))
        gate = self.op("Add", gate, self.const(1.0, np.float32))
        return self.op("Mul", self.op("Mul", x, gate), self.const(0.5, np.float32))

    def attention(self, x: str, batch: int, tokens: int, heads: int, width: int, mask: str = "") -> str:
        size = width // heads
        qkv = self.reshape(self.dense(x, width, 3 * width), batch, tokens, 3, heads, size)
        qkv = self.turn(qkv, 2, 0, 3, 1, 4)
        q, k, v = (self.op("Gather", qkv, self.const(i, np.int64), axis=0) for i in range(3))
        scores = self.op("MatMul", self.op("Mul", q, self.const(size**-0.5, np.float32)), self.turn(k, 0, 1, 3, 2))
        if mask:
            scores = self.op("Add", scores, mask)
        out = self.op("MatMul", self.op("Softmax", scores, axis=-1), v)
        return self.dense(self.reshape(self.turn(out, 0, 2, 1, 3), batch, tokens, width), width, width)

    def roll(self, x: str, axis: int, by: int, size: int) -> str:
        return self.op("Concat", self.cut(x, axis, by, size), self.cut(x, axis, 0, by), axis=axis)


Case = tuple[Net, dict[str, np.ndarray], list[str]]
RNG = np.random.default_rng(1)


def rand(*shape: int) -> np.ndarray:
    return np.asarray(RNG.standard_normal(shape), np.float32)


def shifted_windows() -> Case:
    """Swin: rolled, cut into windows (6-D), attention with relative bias and mask, put back."""
    net = Net()
    x = net.roll(net.roll("x", 1, 2, 8), 2, 2, 8)
    windows = net.reshape(net.turn(net.reshape(x, 1, 2, 4, 2, 4, 16), 0, 1, 3, 2, 4, 5), 4, 16, 16)
    bias = net.op("Add", net.weight(1, 2, 16, 16), net.const(RNG.choice([0, -100], (4, 1, 16, 16)), np.float32))
    y = net.attention(net.layer_norm(windows, 16), 4, 16, 2, 16, bias)
    y = net.turn(net.reshape(y, 1, 2, 2, 4, 4, 16), 0, 1, 3, 2, 4, 5)
    y = net.roll(net.roll(net.reshape(y, 1, 8, 8, 16), 1, 6, 8), 2, 6, 8)
    y = net.op("Add", "x", y)
    parts = [net.cut(net.cut(y, 1, row, 8, 2), 2, column, 8, 2) for column in (0, 1) for row in (0, 1)]
    merged = net.layer_norm(net.op("Concat", *parts, axis=-1), 64)
    return net, {"x": rand(1, 8, 8, 16)}, [net.dense(merged, 64, 8)]


def focus_and_anchor_head() -> Case:
    """YOLOv5: Focus, SPPF, and a head that permutes five axes and adds a grid."""
    net = Net()
    parts = [net.cut(net.cut("x", 2, row, 32, 2), 3, column, 32, 2) for column in (0, 1) for row in (0, 1)]
    y = net.conv(net.op("Concat", *parts, axis=1), 12, 8, 3, "HardSwish")
    pools = [y]
    for _ in range(3):
        pools.append(net.op("MaxPool", pools[-1], kernel_shape=[5, 5], pads=[2, 2, 2, 2]))
    y = net.conv(net.op("Concat", *pools, axis=1), 32, 3 * 7, act="", strides=[4, 4])
    y = net.op("Sigmoid", net.turn(net.reshape(y, 1, 3, 7, 4, 4), 0, 1, 3, 4, 2))
    xy, wh, rest = net.ops(3, "Split", y, net.const([2, 2, 3]), axis=4)
    grid = net.const(np.stack(np.meshgrid(range(4), range(4)), -1)[None, None] * np.ones((1, 3, 1, 1, 1)), np.float32)
    xy = net.op("Mul", net.op("Add", net.op("Mul", xy, net.const(2.0, np.float32)), grid), net.const(8.0, np.float32))
    wh = net.op("Mul", net.op("Pow", wh, net.const(2.0, np.float32)), net.weight(1, 3, 1, 1, 2))
    return net, {"x": rand(1, 3, 32, 32)}, [net.reshape(net.op("Concat", xy, wh, rest, axis=4), 1, 48, 7)]


def distribution_head_and_top_k() -> Case:
    """YOLOv8 to v10: boxes as distributions, anchors in float64, the best few gathered."""
    net = Net()
    y = net.reshape(net.conv("x", 8, 4 * 8 + 3, 3, ""), 1, 35, 16)
    boxes, scores = net.ops(2, "Split", y, net.const([32, 3]), axis=1)
    soft = net.op("Softmax", net.turn(net.reshape(boxes, 1, 4, 8, 16), 0, 2, 1, 3), axis=1)
    ramp = net.const(np.arange(8).reshape(1, 8, 1, 1), np.float32)
    sides = net.op("Cast", net.reshape(net.op("Conv", soft, ramp), 1, 4, 16), to=onnx.TensorProto.DOUBLE)
    low, high = net.ops(2, "Split", sides, net.const([2, 2]), axis=1)
    anchors = net.const(np.stack(np.meshgrid(range(4), range(4)), 0).reshape(1, 2, 16) + 0.5, np.float64)
    first, second = net.op("Sub", anchors, low), net.op("Add", anchors, high)
    centre = net.op("Div", net.op("Add", first, second), net.const(2.0, np.float64))
    boxes = net.op("Concat", centre, net.op("Sub", second, first), axis=1)
    boxes = net.op("Cast", net.op("Mul", boxes, net.const(8.0, np.float64)), to=onnx.TensorProto.FLOAT)
    best = net.op("ReduceMax", net.op("Sigmoid", scores), net.const([1]), keepdims=0)
    values, where = net.ops(2, "TopK", best, net.const([5]), axis=-1)
    wanted = net.op("Expand", net.op("Unsqueeze", where, net.const([1])), net.const([1, 4, 5]))
    return net, {"x": rand(1, 8, 4, 4)}, [net.op("GatherElements", boxes, wanted, axis=2), values, where]


def text_lines() -> Case:
    """CRNN: time first, two directions, the batch in the middle."""
    net = Net()
    y = net.conv("x", 1, 8, 3)
    y = net.op("MaxPool", y, kernel_shape=[16, 2], strides=[16, 2])
    y = net.turn(net.op("Squeeze", y, net.const([2])), 2, 0, 1)
    y = net.op("LSTM", y, net.weight(2, 24, 8), net.weight(2, 24, 6), net.weight(2, 48),
               direction="bidirectional", hidden_size=6)  # fmt: skip
    y = net.reshape(net.turn(y, 0, 2, 1, 3), 10, 1, 12)
    y = net.reshape(net.op("Gemm", net.reshape(y, 10, 12), net.weight(5, 12), net.weight(5), transB=1), 10, 1, 5)
    return net, {"x": rand(1, 1, 16, 20)}, [net.op("LogSoftmax", y, axis=2)]


def masked_encoder() -> Case:
    """BERT: three embeddings, a mask of minus infinity, PyTorch's guard against rows of nothing else."""
    net = Net()
    y = net.op("Add", net.op("Gather", net.weight(30, 16), "ids"), net.op("Gather", net.weight(2, 16), "kinds"))
    y = net.layer_norm(net.op("Add", y, net.weight(1, 6, 16)), 16)
    kept = net.op("Cast", net.op("Unsqueeze", "mask", net.const([1, 2])), to=onnx.TensorProto.BOOL)
    outside = net.const([-np.inf], np.float32)
    bias = net.op("Where", kept, net.const([0], np.float32), outside)
    q, k, v = (net.turn(net.reshape(net.dense(y, 16, 16), 1, 6, 2, 8), 0, 2, 1, 3) for _ in range(3))
    scores = net.op("Add", net.op("MatMul", q, net.turn(k, 0, 1, 3, 2)), bias)
    soft = net.op("Softmax", scores, axis=-1)
    soft = net.op("Where", net.op("IsNaN", soft), net.const([0], np.float32), soft)
    out = net.reshape(net.turn(net.op("MatMul", soft, v), 0, 2, 1, 3), 1, 6, 16)
    out = net.gelu(net.dense(net.op("Add", y, net.dense(out, 16, 16)), 16, 16))
    pad = net.op("Cast", net.op("Equal", "ids", net.const(1)), to=onnx.TensorProto.FLOAT)
    ids = {"ids": np.array([[4, 1, 29, 0, 1, 7]]), "kinds": np.array([[0, 0, 1, 1, 0, 1]])}
    mask = {"mask": np.array([[1, 1, 1, 1, 0, 0]])}
    first = net.op("Gather", out, net.const(0, np.int64), axis=1)
    return net, {**ids, **mask}, [net.op("Tanh", net.dense(first, 16, 4)), pad]


def causal_decoder() -> Case:
    """GPT: a constant triangle of a mask, rotary positions, RMS normalisation."""
    net = Net()
    y = net.op("Gather", net.weight(20, 16), "ids")
    root = net.op("Sqrt", net.op("Add", net.op("ReduceMean", net.op("Mul", y, y), net.const([-1])),
                                 net.const(1e-6, np.float32)))  # fmt: skip
    y = net.op("Mul", net.op("Div", y, root), net.weight(16))
    angle = np.outer(np.arange(5), [1, 0.1, 1, 0.1])
    heads = []
    for _ in range(2):
        h = net.turn(net.reshape(net.dense(y, 16, 16), 1, 5, 4, 4), 0, 2, 1, 3)
        turned = net.op("Concat", net.op("Neg", net.cut(h, 3, 2, 4)), net.cut(h, 3, 0, 2), axis=3)
        even = net.op("Mul", h, net.const(np.cos(angle), np.float32))
        heads.append(net.op("Add", even, net.op("Mul", turned, net.const(np.sin(angle), np.float32))))
    scores = net.op("MatMul", heads[0], net.turn(heads[1], 0, 1, 3, 2))
    low = net.const(np.float32(np.finfo(np.float32).min))
    scores = net.op("Where", net.const(np.tril(np.ones((1, 1, 5, 5), np.bool_))), scores, low)
    v = net.turn(net.reshape(net.dense(y, 16, 16), 1, 5, 4, 4), 0, 2, 1, 3)
    out = net.reshape(net.turn(net.op("MatMul", net.op("Softmax", scores), v), 0, 2, 1, 3), 1, 5, 16)
    return net, {"ids": np.array([[3, 0, 19, 7, 7]])}, [net.dense(out, 16, 20)]


def u_net() -> Case:
    """Odd sizes: bilinear by corners, a pad to fit, a transposed convolution, classes by ArgMax."""
    net = Net()
    a = net.conv("x", 3, 6, 3)
    b = net.conv(net.op("MaxPool", a, kernel_shape=[2, 2], strides=[2, 2]), 6, 8, 3)
    c = net.conv(net.op("MaxPool", b, kernel_shape=[2, 2], strides=[2, 2]), 8, 8, 3)
    up = net.op("Resize", c, "", net.const([1, 1, 2, 2], np.float32), mode="linear",
                coordinate_transformation_mode="align_corners")  # fmt: skip
    up = net.op("Pad", up, net.const([0, 0, 0, 1, 0, 0, 1, 0]))
    d = net.conv(net.op("Concat", b, up, axis=1), 16, 6, 3)
    e = net.op("ConvTranspose", d, net.weight(6, 6, 2, 2), strides=[2, 2])
    e = net.conv(net.op("Concat", net.cut(a, 3, 0, 22), e, axis=1), 12, 4, 3, act="")
    e = net.op("Resize", e, "", "", net.const([1, 4, 30, 40]), mode="linear",
               coordinate_transformation_mode="half_pixel")  # fmt: skip
    return net, {"x": rand(1, 3, 18, 23)}, [net.op("ArgMax", e, axis=1, keepdims=0), e]


def channels_last() -> Case:
    """TensorFlow's: channels last outside, SAME pads that are larger at the end, relu6 as Clip."""
    net = Net()
    y = net.turn("x", 0, 3, 1, 2)
    y = net.op("Conv", y, net.weight(8, 3, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER")
    y = net.turn(net.op("Clip", y, net.const(0, np.float32), net.const(6, np.float32)), 0, 2, 3, 1)
    y = net.turn(net.op("Mul", y, net.weight(1, 1, 1, 8)), 0, 3, 1, 2)
    y = net.op("MaxPool", y, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")
    y = net.op("Conv", y, net.weight(8, 1, 3, 3), group=8, strides=[2, 2], auto_pad="SAME_LOWER")
    y = net.turn(net.op("AveragePool", y, kernel_shape=[2, 2], auto_pad="SAME_UPPER"), 0, 2, 3, 1)
    return net, {"x": rand(1, 21, 30, 3)}, [net.op("Softmax", net.dense(net.reshape(y, 1, -1, 8), 8, 5), axis=-1)]


def shuffles() -> Case:
    """ShuffleNet's channel shuffle; pixel shuffle and its inverse through six axes; a convex mask through seven."""
    net = Net()
    left, right = net.ops(2, "Split", "x", net.const([4, 4]), axis=1)
    y = net.op("Concat", left, net.conv(right, 4, 4, 3, group=4), axis=1)
    y = net.reshape(net.turn(net.reshape(y, 1, 2, 4, 6, 4), 0, 2, 1, 3, 4), 1, 8, 6, 4)
    up = net.reshape(net.turn(net.reshape(y, 1, 2, 2, 2, 6, 4), 0, 1, 4, 2, 5, 3), 1, 2, 12, 8)
    down = net.reshape(net.turn(net.reshape(y, 1, 8, 3, 2, 2, 2), 0, 1, 3, 5, 2, 4), 1, 32, 3, 2)
    weights = net.op("Softmax", net.reshape(net.conv(y, 8, 36), 1, 1, 9, 2, 2, 6, 4), axis=2)
    field = net.reshape(net.conv(y, 8, 18), 1, 2, 9, 1, 1, 6, 4)
    mixed = net.op("ReduceSum", net.op("Mul", weights, field), net.const([2]), keepdims=0)
    mixed = net.reshape(net.turn(mixed, 0, 1, 4, 2, 5, 3), 1, 2, 12, 8)
    return net, {"x": rand(1, 8, 6, 4)}, [up, down, mixed]


def faces() -> Case:
    """ArcFace: PRelu, a batch norm after Flatten, and an embedding of length 1."""
    net = Net()
    y = net.op("PRelu", net.conv(net.norm("x", 3), 3, 8, 3, ""), net.weight(8, 1, 1))
    y = net.op("Add", net.conv(y, 8, 8, 3, "", strides=[2, 2]), net.conv("x", 3, 8, act="", strides=[2, 2]))
    y = net.op("Gemm", net.op("Flatten", y), net.weight(12, 8 * 36), net.weight(12), transB=1)
    y = net.norm(y, 12)
    length = net.op("Clip", net.op("ReduceL2", y, net.const([1]), keepdims=1), net.const(1e-12, np.float32))
    return net, {"x": rand(1, 3, 12, 12)}, [net.op("Div", y, net.op("Expand", length, net.const([1, 12])))]


def style() -> Case:
    """Reflected edges, instance norm, nearest upsampling; a gate along height and one along width."""
    net = Net()
    y = net.op("Pad", "x", net.const([0, 0, 2, 2, 0, 0, 2, 2]), mode="reflect")
    y = net.op("Conv", y, net.weight(6, 3, 5, 5), strides=[2, 2])
    y = net.op("Relu", net.op("InstanceNormalization", y, net.weight(6), net.weight(6)))
    rows = net.op("ReduceMean", y, net.const([3]))
    columns = net.turn(net.op("ReduceMean", y, net.const([2])), 0, 1, 3, 2)
    h, w = net.ops(2, "Split", net.conv(net.op("Concat", rows, columns, axis=2), 6, 6), net.const([6, 5]), axis=2)
    y = net.op("Mul", net.op("Mul", y, net.op("Sigmoid", h)), net.op("Sigmoid", net.turn(w, 0, 1, 3, 2)))
    y = net.op("Resize", y, "", net.const([1, 1, 2, 2], np.float32), mode="nearest",
               coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip
    return net, {"x": rand(1, 3, 12, 10)}, [net.conv(y, 6, 3, 3, "Tanh")]


def spatial_transformer() -> Case:
    net = Net()
    theta = net.reshape(net.dense(net.reshape("x", 1, 64), 64, 6), 1, 2, 3)
    grid = net.op("AffineGrid", theta, net.const([1, 1, 8, 8]), align_corners=0)
    return net, {"x": rand(1, 1, 8, 8)}, [net.op("GridSample", "x", grid, align_corners=0)]


def keyword_spotter() -> Case:
    """Causal convolutions, a GRU that takes and gives its state, several outputs."""
    net = Net()
    y = net.op("Conv", "x", net.weight(8, 10, 3), net.weight(8), pads=[2, 2])
    y = net.turn(net.op("Relu", net.cut(y, 2, 0, -2)), 2, 0, 1)
    y, state = net.ops(2, "GRU", y, net.weight(1, 18, 8), net.weight(1, 18, 6), net.weight(1, 36), "", "h",
                       hidden_size=6, linear_before_reset=1)  # fmt: skip
    last = net.op("Gather", net.op("Squeeze", y, net.const([1])), net.const(-1, np.int64), axis=0)
    total = net.op("CumSum", net.op("Squeeze", y, net.const([1])), net.const(0))
    return net, {"x": rand(1, 10, 15), "h": rand(1, 1, 6)}, [net.dense(last, 6, 3), state, total]


def graph_convolution() -> Case:
    """ST-GCN: five axes in, an Einsum over adjacency, an edge case of a batch norm over 1-D signals."""
    net = Net()
    y = net.norm(net.reshape(net.turn("x", 0, 3, 1, 2), 1, 5 * 3, 8), 15)
    y = net.turn(net.reshape(y, 1, 5, 3, 8), 0, 2, 3, 1)
    y = net.reshape(net.conv(y, 3, 12), 1, 2, 6, 8, 5)
    y = net.op("Einsum", y, net.weight(2, 5, 5), equation="nkctv,kvw->nctw")
    y = net.op("GlobalAveragePool", net.op("Relu", y))
    return net, {"x": rand(1, 3, 8, 5)}, [net.op("Flatten", net.conv(y, 6, 4, act=""))]


def several_images() -> Case:
    net = Net()
    y = net.conv(net.conv("x", 3, 8, 3, "HardSwish", strides=[2, 2]), 8, 8, 3, group=8)
    y = net.op("AveragePool", y, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    return net, {"x": rand(3, 3, 16, 12)}, [net.dense(net.op("ReduceMean", y, net.const([2, 3]), keepdims=0), 8, 4)]


CASES: list[Callable[[], Case]] = [
    shifted_windows, focus_and_anchor_head, distribution_head_and_top_k, text_lines, masked_encoder, causal_decoder,
    u_net, channels_last, shuffles, faces, style, spatial_transformer, keyword_spotter, graph_convolution,
    several_images,
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_architecture(case: Callable[[], Case]) -> None:
    net, inputs, outputs = case()
    agrees(net.nodes, inputs, net.consts, outputs=outputs, limit=1e-5)
