"""Random fully convolutional graphs, exported for any size, hold at sizes that were not looked at."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mobilekit.bundle import TensorInfo
from mobilekit.errors import UnsupportedModelError
from mobilekit.importers.onnx import load
from mobilekit.pipeline.dynamic import convert_dynamic
from mobilekit.runners.blobs import from_blobs, to_blob
from mobilekit.runners.ncnn_host import infer
from mobilekit.targets.ncnn import NcnnOptions, NcnnTarget
from tests.unit.pipeline.dynamic_models import Net

STEPS = (
    *("conv", "stride", "pool", "ceil pool", "average", "up", "skip", "like", "shuffle", "gather pixels", "split"),
    *("border", "cut", "gate", "norm", "softmax", "flat", "swap", "half", "same pads"),
)


def random_net(steps: list[str], seed: int) -> onnx.ModelProto:
    """Each step takes (1, C, h, w) to (1, C', h', w')."""
    net = Net(seed)
    y, channels = net.conv("x", 3, 8), 8
    skips: dict[int, tuple[str, int]] = {0: (y, 8)}
    level = 0
    for step in steps:
        match step:
            case "conv":
                y, channels = net.conv(y, channels, 4, act="Tanh"), 4
            case "stride":
                y, level = net.conv(y, channels, channels, stride=2), level + 1
            case "pool":
                y, level = net.pool(y), level + 1
            case "ceil pool":
                y = net.op("MaxPool", y, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
                level += 1
            case "average":
                y = net.op("AveragePool", y, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=0)
            case "same pads":
                y = net.op("MaxPool", y, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")
                level += 1
            case "up":
                y = net.resize(y, scale=2, mode="nearest", coordinate_transformation_mode="asymmetric",
                               nearest_mode="floor")  # fmt: skip
                level -= 1
            case "like" | "skip":
                other, count = skips.get(level if step == "skip" else 0, ("", 0))
                if not other:
                    continue
                if step == "like":
                    y = net.resize(y, like=other, mode="linear")
                y, channels = net.op("Concat", y, other, axis=1), channels + count
                level = level if step == "skip" else 0
            case "shuffle":
                if channels % 4:
                    continue
                y, channels, level = net.op("DepthToSpace", y, blocksize=2), channels // 4, level - 1
            case "gather pixels":
                y, channels, level = net.op("SpaceToDepth", y, blocksize=2), channels * 4, level + 1
            case "split":
                if channels % 2:
                    continue
                net.nodes.append(onnx.helper.make_node("Split", [y], [f"{y}_a", f"{y}_b"], axis=1))
                y, channels = net.op("Mul", f"{y}_a", net.op("Sigmoid", f"{y}_b")), channels // 2
            case "border":
                y = net.op("Pad", y, net.const([0, 0, 1, 2, 0, 0, 3, 1]), mode="reflect")
            case "cut":
                y = net.op("Slice", y, net.const([1, 0]), net.const([9999, -1]), net.const([2, 3]))
            case "gate":
                y = net.op("Mul", y, net.op("Sigmoid", net.op("ReduceMean", y, axes=[2, 3], keepdims=1)))
            case "norm":
                y = net.op("InstanceNormalization", y, net.weight(channels), net.weight(channels))
            case "softmax":
                y = net.op("Softmax", y, axis=1 if seed % 2 else 3)
            case "flat":
                h, w = net.size(y, 2), net.size(y, 3)
                flat = net.reshape(y, 1, channels, -1)
                y = net.reshape(net.op("LeakyRelu", flat), 1, channels, h, w)
            case "swap":
                y = net.op("Transpose", net.op("Neg", net.op("Transpose", y, perm=[0, 2, 3, 1])), perm=[0, 3, 1, 2])
            case "half":
                half = net.op("Div", net.size(y, 3), net.const([2]))
                y = net.op("Slice", y, net.const([0]), half, net.const([3]))
        skips.setdefault(level, (y, channels))
    return net.model(y, 4)


@settings(max_examples=15, phases=[Phase.generate])
@given(
    st.lists(st.sampled_from(STEPS), min_size=2, max_size=6),
    st.integers(0, 1000),
    st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
def test_random_graphs_agree_at_sizes_that_were_not_looked_at(
    steps: list[str], seed: int, more: tuple[int, int]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = random_net(steps, seed)
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        refused: UnsupportedModelError | None = None
        try:
            made = convert_dynamic(load(folder / "model.onnx"), {"x": (1, 3, 64, 64)}, {})
        except UnsupportedModelError as error:
            refused = error
        if refused is not None:
            labels = {node.name for node in model.graph.node} | {"the model"}
            assert {finding.node for finding in refused.findings} <= labels
            assert refused.findings
            return
        artifact = NcnnTarget().write(made.model, folder, NcnnOptions())
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        graph = made.graph
        infos = {
            value.name: TensorInfo(name=value.name, dtype=str(value.dtype), shape=value.shape, free=free)
            for values, axes in ((graph.inputs, made.inputs), (graph.outputs, made.outputs))
            for value in values
            for free in [axes[value.name]]
        }
        tall, wide = made.inputs["x"]
        lows = (tall.minimum, wide.minimum)
        for scale in (1, 7):
            height, width = (low + axis.multiple * (n * scale + i) for i, (low, axis, n) in
                             enumerate(zip(lows, (tall, wide), more, strict=True)))  # fmt: skip
            x = np.random.default_rng(seed).standard_normal((1, 3, height, width)).astype(np.float32)
            (wanted,) = session.run(None, {"x": x})
            answer = infer(
                param=str(folder / "model.param"), weights=str(folder / "model.bin"),
                inputs={b.blob: to_blob(x, infos["x"], b) for b in artifact.inputs},
                outputs=[b.blob for b in artifact.outputs], depth=artifact.depth, threads=1, fp16=False, bf16=False,
                warmup=0, iterations=1,
            )  # fmt: skip
            outputs = dict(zip([b.blob for b in artifact.outputs], answer["outputs"], strict=True))
            (got,) = from_blobs(outputs, infos.values(), artifact.outputs).values()
            assert got.shape == wanted.shape, f"{steps} at {height}x{width}"
            difference = float(np.linalg.norm(got - wanted) / max(1e-6, float(np.linalg.norm(wanted))))
            assert difference < 1e-4, f"{steps} at {height}x{width}: {difference}"
