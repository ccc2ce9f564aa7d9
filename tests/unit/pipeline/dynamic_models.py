"""Models with free sizes, built node by node; each says at which sizes ONNX Runtime takes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.models import of_nodes

__all__ = ["Net"]


class Net:
    """Nodes added one after another; every method gives back the name of what it makes."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.rng = np.random.default_rng(seed)

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attrs: Any) -> str:
        made = [f"{kind.lower()}{len(self.nodes)}" + (f"_{i}" if i else "") for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), made, name=f"/{kind}_{len(self.nodes)}", **attrs))
        return made[0]

    def const(self, value: Any, dtype: type = np.int64) -> str:
        name = f"c{len(self.weights)}"
        self.weights[name] = np.asarray(value, dtype)
        return name

    def weight(self, *shape: int) -> str:
        scale = np.sqrt(max(1.0, float(np.prod(shape[1:]))))
        return self.const(self.rng.standard_normal(shape) / scale, np.float32)

    def conv(self, x: str, before: int, after: int, kernel: int = 3, stride: int = 1, act: str = "Relu") -> str:
        pads = [kernel // 2] * 4
        y = self.op("Conv", x, self.weight(after, before, kernel, kernel), self.weight(after), pads=pads,
                    strides=[stride, stride], kernel_shape=[kernel, kernel])  # fmt: skip
        return self.op(act, y) if act else y

    def pool(self, x: str) -> str:
        return self.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])

    def size(self, x: str, axis: int) -> str:
        """A 1-element tensor."""
        return self.op("Gather", self.op("Shape", x), self.const([axis]), axis=0)

    def reshape(self, x: str, *sizes: int | str) -> str:
        parts = [self.const([size]) if isinstance(size, int) else size for size in sizes]
        return self.op("Reshape", x, self.op("Concat", *parts, axis=0))

    def resize(self, x: str, scale: float | None = None, like: str = "", **attrs: Any) -> str:
        if scale is not None:
            return self.op("Resize", x, "", self.const([1, 1, scale, scale], np.float32), **attrs)
        shape = self.op("Shape", x)
        sizes = self.op("Concat", self.op("Slice", shape, self.const([0]), self.const([2])),
                        self.op("Slice", self.op("Shape", like), self.const([2]), self.const([4])), axis=0)  # fmt: skip
        return self.op("Resize", x, "", "", sizes, **attrs)

    def model(
        self, outputs: str | list[str], ranks: int | list[int], shape: tuple[int | str, ...] = ("n", 3, "h", "w")
    ) -> onnx.ModelProto:
        names = [outputs] if isinstance(outputs, str) else outputs
        counts = [ranks] * len(names) if isinstance(ranks, int) else ranks
        shapes = {name: [f"{name}_{i}" for i in range(rank)] for name, rank in zip(names, counts, strict=True)}
        return of_nodes(self.nodes, {"x": shape}, shapes, self.weights)


def u_net() -> onnx.ModelProto:
    net = Net(1)
    a = net.conv("x", 3, 8)
    b = net.conv(net.pool(a), 8, 16)
    c = net.conv(net.pool(b), 16, 16)
    up = net.op("ConvTranspose", c, net.weight(16, 16, 2, 2), strides=[2, 2], kernel_shape=[2, 2])
    d = net.conv(net.op("Concat", up, b, axis=1), 32, 8)
    up = net.op("ConvTranspose", d, net.weight(8, 8, 2, 2), strides=[2, 2], kernel_shape=[2, 2])
    e = net.conv(net.op("Concat", up, a, axis=1), 16, 8)
    return net.model(net.op("Sigmoid", net.conv(e, 8, 1, act="")), 4)


def fcn_by_scale() -> onnx.ModelProto:
    net = Net(2)
    y = net.conv(net.conv("x", 3, 8, stride=2), 8, 8, stride=2)
    y = net.resize(net.conv(y, 8, 5, act=""), scale=4, mode="linear")
    return net.model(net.op("Softmax", y, axis=1), 4)


def fcn_by_shape() -> onnx.ModelProto:
    net = Net(3)
    y = net.conv(net.conv("x", 3, 8, stride=2), 8, 8, stride=2)
    y = net.resize(net.conv(y, 8, 5, act=""), like="x", mode="linear", coordinate_transformation_mode="align_corners")
    return net.model(y, 4)


def feature_pyramid() -> onnx.ModelProto:
    net = Net(4)
    a = net.conv("x", 3, 8, stride=2)
    b = net.conv(a, 8, 8, stride=2)
    c = net.conv(b, 8, 8, stride=2)
    up = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    b = net.op("Add", b, net.resize(c, scale=2, **up))
    a = net.op("Add", a, net.resize(b, scale=2, **up))
    flat = [net.reshape(net.op("Transpose", net.conv(each, 8, 6, act=""), perm=[0, 2, 3, 1]), 1, -1, 6)
            for each in (a, b, c)]  # fmt: skip
    return net.model(net.op("Concat", *flat, axis=1), 3)


def super_resolution() -> onnx.ModelProto:
    net = Net(5)
    y = net.conv(net.conv("x", 1, 8, 5, act="Tanh"), 8, 9, act="")
    return net.model(net.op("DepthToSpace", y, blocksize=3, mode="CRD"), 4, ("n", 1, "h", "w"))


def torch_pixel_shuffle() -> onnx.ModelProto:
    """As old exporters write it: 6-D reshapes with sizes from Shape."""
    net = Net(6)
    y = net.conv("x", 3, 12, act="")
    h, w = net.size(y, 2), net.size(y, 3)
    y = net.op("Transpose", net.reshape(y, 1, 3, 2, 2, h, w), perm=[0, 1, 4, 2, 5, 3])
    two = net.const([2])
    return net.model(net.reshape(y, 1, 3, net.op("Mul", h, two), net.op("Mul", w, two)), 4)


def wave() -> onnx.ModelProto:
    net = Net(7)
    y = "x"
    for before, after in ((1, 8), (8, 12)):
        y = net.op("Conv", y, net.weight(after, before, 5), pads=[2, 2], strides=[2], kernel_shape=[5])
        y = net.op("LeakyRelu", net.op("InstanceNormalization", y, net.weight(after), net.weight(after)))
    return net.model(net.op("Transpose", y, perm=[0, 2, 1]), 3, ("n", 1, "samples"))


def recogniser() -> onnx.ModelProto:
    """Text of any width: height 8 to 1, then time steps with attention among them."""
    net = Net(8)
    y = net.conv(net.conv("x", 3, 8, stride=2), 8, 16, stride=2)
    y = net.op("AveragePool", y, kernel_shape=[2, 1], strides=[2, 1])
    y = net.op("Transpose", net.op("Squeeze", y, net.const([2])), perm=[0, 2, 1])
    steps = net.size(y, 1)
    qkv = net.reshape(net.op("MatMul", y, net.weight(16, 48)), 1, steps, 3, 2, 8)
    q, k, v = (net.op("Gather", net.op("Transpose", qkv, perm=[2, 0, 3, 1, 4]), net.const(i), axis=0) for i in range(3))
    scores = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    z = net.reshape(net.op("Transpose", net.op("MatMul", scores, v), perm=[0, 2, 1, 3]), 1, steps, 16)
    return net.model(net.op("Softmax", net.op("MatMul", z, net.weight(16, 11)), axis=-1), 3, ("n", 3, 8, "width"))


def attention_over_pixels() -> onnx.ModelProto:
    """Flattened to h*w tokens and back: the sizes have to come from somewhere else."""
    net = Net(9)
    y = net.conv("x", 3, 8, stride=2)
    h, w = net.size(y, 2), net.size(y, 3)
    t = net.op("Transpose", net.reshape(y, 1, 8, -1), perm=[0, 2, 1])
    scores = net.op("Softmax", net.op("MatMul", t, net.op("Transpose", t, perm=[0, 2, 1])), axis=-1)
    t = net.op("Transpose", net.op("MatMul", scores, t), perm=[0, 2, 1])
    return net.model(net.op("Add", y, net.reshape(t, 1, 8, h, w)), 4)


def cropped_centre() -> onnx.ModelProto:
    """Halves and borders cut off with sizes from Shape, negative ends and a split in two."""
    net = Net(10)
    y = net.op("Slice", "x", net.const([1, 2]), net.const([-1, -3]), net.const([2, 3]))
    half = net.op("Div", net.size(y, 3), net.const([2]))
    left = net.op("Slice", y, net.const([0]), half, net.const([3]))
    shifted = net.op("Slice", "x", net.const([0]), net.op("Div", net.size("x", 2), net.const([2])), net.const([2]))
    return net.model([net.op("Relu", left), net.op("Neg", shifted)], 4)


def scaled_by_mean() -> onnx.ModelProto:
    net = Net(11)
    y = net.conv("x", 3, 8, stride=2)
    gate = net.conv(net.op("ReduceMean", y, axes=[2, 3], keepdims=1), 8, 8, 1, act="Sigmoid")
    y = net.op("Mul", y, gate)
    pooled = net.op("Flatten", net.op("GlobalAveragePool", y))
    return net.model([y, net.op("Gemm", pooled, net.weight(8, 4), net.weight(4))], [4, 2])


def position_table() -> onnx.ModelProto:
    """Learnt positions cut to the input's length: each size has another table."""
    net = Net(12)
    y = net.conv("x", 3, 8, stride=4)
    t = net.op("Transpose", net.reshape(y, 1, 8, -1), perm=[0, 2, 1])
    count = net.size(t, 1)
    table = net.op("Slice", net.weight(1, 1 << 16, 8), net.const([0]), count, net.const([1]))
    return net.model(net.op("Add", t, table), 3)


def dense_head() -> onnx.ModelProto:
    net = Net(13)
    y = net.conv("x", 3, 4, stride=2)
    return net.model(net.op("Gemm", net.op("Flatten", y), net.weight(4 * 16 * 16, 5)), 2, (1, 3, 32, 32))


def anchor_grid() -> onnx.ModelProto:
    """Boxes over two levels: centres from Range and Expand, strides from ConstantOfShape, as YOLO heads have them."""
    net = Net(14)
    fine = net.conv("x", 3, 8, stride=2)
    levels = [(fine, 2.0), (net.conv(fine, 8, 8, stride=2), 4.0)]
    boxes, centres, strides = [], [], []
    for y, stride in levels:
        boxes.append(net.reshape(net.conv(y, 8, 2, act=""), 1, 2, -1))
        h, w = net.size(y, 2), net.size(y, 3)
        grid = net.op("Concat", h, w, axis=0)
        places = []
        for size, shape in ((w, (1, -1)), (h, (-1, 1))):
            count = net.op("Cast", net.op("Squeeze", size, net.const([0])), to=onnx.TensorProto.FLOAT)
            line = net.op("Range", net.const(0, np.float32), count, net.const(1, np.float32))
            line = net.op("Add", line, net.const(0.5, np.float32))
            line = net.op("Expand", net.op("Reshape", line, net.const(shape)), grid)
            places.append(net.op("Unsqueeze", line, net.const([-1])))
        centres.append(net.op("Reshape", net.op("Concat", *places, axis=-1), net.const([-1, 2])))
        total = net.op("Concat", net.op("Mul", h, w), net.const([1]), axis=0)
        fill = numpy_helper.from_array(np.array([stride], np.float32))
        strides.append(net.op("ConstantOfShape", total, value=fill))
    anchors = net.op("Unsqueeze", net.op("Transpose", net.op("Concat", *centres, axis=0), perm=[1, 0]), net.const([0]))
    steps = net.op("Transpose", net.op("Concat", *strides, axis=0), perm=[1, 0])
    return net.model(net.op("Mul", net.op("Add", anchors, net.op("Concat", *boxes, axis=2)), steps), 3)


def windows() -> onnx.ModelProto:
    """Cut into windows of 4 x 4 and put together again, as Swin does: six axes, two of them free."""
    net = Net(15)
    y = net.op("Transpose", net.conv("x", 3, 8), perm=[0, 2, 3, 1])
    four = net.const([4])
    h, w = net.op("Div", net.size(y, 1), four), net.op("Div", net.size(y, 2), four)
    t = net.op("Transpose", net.reshape(y, 1, h, 4, w, 4, 8), perm=[0, 1, 3, 2, 4, 5])
    t = net.reshape(t, -1, 16, 8)
    scores = net.op("Softmax", net.op("MatMul", t, net.op("Transpose", t, perm=[0, 2, 1])), axis=-1)
    t = net.reshape(net.op("MatMul", scores, t), 1, h, w, 4, 4, 8)
    t = net.op("Transpose", t, perm=[0, 1, 3, 2, 4, 5])
    return net.model(net.reshape(t, 1, net.op("Mul", h, four), net.op("Mul", w, four), 8), 4)


def baked_length() -> onnx.ModelProto:
    """An encoder as an old exporter writes it: its reshapes hold the length it was traced with."""
    net = Net(16)
    t = net.op("MatMul", "x", net.weight(16, 16))
    heads = net.op("Transpose", net.reshape(t, 20, 4, 4), perm=[1, 0, 2])
    return net.model(net.op("Softmax", heads, axis=-1), 3, ("n", "tokens", 16))
