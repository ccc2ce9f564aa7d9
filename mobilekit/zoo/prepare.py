"""ONNX models out of PyTorch weights, for zoo entries whose source is a state dict.

The graph is written node by node in inference form from the published architecture; PyTorch only reads the file
(``weights_only=True``: no code in it runs). Each tensor of the state dict must have the architecture's shape and be
used exactly once. The same weights give the same bytes, whatever the version of PyTorch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilekit.errors import FetchError, MissingExtraError

if TYPE_CHECKING:
    from mobilekit.tensors import Array

__all__ = ["RECIPE_VERSION", "build", "require_torch", "write_model"]

RECIPE_VERSION = 1
"""Part of the cache's key: raise it when a recipe gives other bytes."""

_OPSET = 13
_IR_VERSION = 8
_SIDE = 224


def require_torch() -> None:
    """Raise :class:`MissingExtraError` unless PyTorch is installed."""
    if importlib.util.find_spec("torch") is None:
        raise MissingExtraError("torch", extra="torch", purpose="preparing this zoo model from its PyTorch weights")


def build(recipe: str, weights: str, output: str) -> None:
    """Read the state dict ``weights`` and write the ONNX model ``output``; runs in a child process.

    Raises :class:`FetchError` where the file is no plain state dict of the recipe's architecture.
    """
    require_torch()
    import torch

    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        tensors = {str(name): tensor.detach().cpu().numpy() for name, tensor in state.items()}
    except Exception as error:
        # torch.load raises nearly anything on a damaged file: RuntimeError, pickle.UnpicklingError, KeyError, ...
        raise FetchError(
            f"the weights for {recipe} cannot be read: {error}", hint="fetch the model again; report it if it stays"
        ) from error
    write_model(recipe, tensors, Path(output))


def write_model(recipe: str, tensors: Mapping[str, Array], output: Path) -> None:
    """Write the model of ``recipe`` with the weights ``tensors`` (by state dict name) to ``output``."""
    import onnx

    recipes: dict[str, tuple[str, Callable[[_Graph], str]]] = {
        "torchvision-mobilenet-v2": ("mobilenet_v2", _mobilenet_v2),
        "efficientnet-lite0": ("efficientnet_lite0", _efficientnet_lite0),
    }
    name, write = recipes[recipe]
    graph = _Graph(name, tensors)
    model = graph.finish(write(graph))
    onnx.checker.check_model(model, full_check=True)
    output.write_bytes(model.SerializeToString(deterministic=True))


class _Graph:
    """An ONNX graph under construction; values are names, and weights are taken by their state dict names."""

    def __init__(self, name: str, tensors: Mapping[str, Array]) -> None:
        self._name = name
        # Counters of training steps, which inference does not read.
        self._left = {key: value for key, value in tensors.items() if not key.endswith(".num_batches_tracked")}
        self._nodes: list[Any] = []
        self._initializers: list[Any] = []
        self._constant("zero", 0.0)
        self._constant("six", 6.0)

    def _constant(self, name: str, value: float) -> None:
        import numpy as np
        from onnx import numpy_helper

        self._initializers.append(numpy_helper.from_array(np.array(value, dtype=np.float32), name))

    def weight(self, name: str, shape: tuple[int, ...]) -> str:
        """Take the tensor ``name``, which must have ``shape``, as float32."""
        import numpy as np
        from onnx import numpy_helper

        tensor = self._left.pop(name, None)
        if tensor is None or tensor.shape != shape:
            found = "nothing (or it was used before)" if tensor is None else f"shape {tensor.shape}"
            raise FetchError(f"the weights are not those of {self._name}: {name} should have {shape}, found {found}")
        self._initializers.append(numpy_helper.from_array(np.ascontiguousarray(tensor, dtype=np.float32), name))
        return name

    def node(self, op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        from onnx import helper

        self._nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def conv(
        self,
        value: str,
        prefix: str,
        channels: tuple[int, int],
        *,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        pads: tuple[int, int] = (0, 0),
    ) -> str:
        """A convolution without bias, ``channels`` in and out; ``pads`` before and after, on both axes."""
        weight = self.weight(f"{prefix}.weight", (channels[1], channels[0] // groups, kernel, kernel))
        return self.node(
            "Conv",
            [value, weight],
            prefix,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            group=groups,
            pads=[pads[0], pads[0], pads[1], pads[1]],
        )

    def batch_norm(self, value: str, prefix: str, channels: int, *, epsilon: float) -> str:
        names = ("weight", "bias", "running_mean", "running_var")
        weights = [self.weight(f"{prefix}.{name}", (channels,)) for name in names]
        return self.node("BatchNormalization", [value, *weights], prefix, epsilon=epsilon)

    def relu6(self, value: str) -> str:
        return self.node("Clip", [value, "zero", "six"], f"{value}.relu6")

    def classifier(self, value: str, prefix: str, features: int) -> str:
        """Global average pooling and one dense layer of 1000 classes; the scores are logits."""
        pooled = self.node("GlobalAveragePool", [value], "pool")
        flat = self.node("Flatten", [pooled], "flat", axis=1)
        weights = [
            self.weight(f"{prefix}.weight", (1000, features)),
            self.weight(f"{prefix}.bias", (1000,)),
        ]
        return self.node("Gemm", [flat, *weights], "logits", transB=1)

    def finish(self, output: str) -> Any:
        """The model, ``input`` (1, 3, 224, 224) to ``output`` (1, 1000)."""
        from onnx import TensorProto, helper

        if self._left:
            raise FetchError(f"the weights are not those of {self._name}: {sorted(self._left)[0]} has no place in it")
        given = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, _SIDE, _SIDE])
        result = helper.make_tensor_value_info(output, TensorProto.FLOAT, [1, 1000])
        graph = helper.make_graph(self._nodes, self._name, [given], [result], self._initializers)
        opset = helper.make_opsetid("", _OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION, producer_name="mobilekit")


def _mobilenet_v2(graph: _Graph) -> str:
    """Sandler et al. 2018, table 2, width 1.0, with torchvision's names (``features.N.conv...``)."""
    epsilon = 1e-5
    # (expansion, channels, repeats, stride of the first)
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    value = graph.conv("input", "features.0.0", (3, 32), kernel=3, stride=2, pads=(1, 1))
    value = graph.relu6(graph.batch_norm(value, "features.0.1", 32, epsilon=epsilon))
    channels, number = 32, 1
    for expansion, wanted, repeats, first_stride in stages:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            prefix, wide, start = f"features.{number}.conv", channels * expansion, value
            part = 0
            if expansion != 1:
                value = graph.conv(value, f"{prefix}.0.0", (channels, wide))
                value = graph.relu6(graph.batch_norm(value, f"{prefix}.0.1", wide, epsilon=epsilon))
                part = 1
            depthwise = f"{prefix}.{part}.0"
            value = graph.conv(value, depthwise, (wide, wide), kernel=3, stride=stride, groups=wide, pads=(1, 1))
            value = graph.relu6(graph.batch_norm(value, f"{prefix}.{part}.1", wide, epsilon=epsilon))
            value = graph.conv(value, f"{prefix}.{part + 1}", (wide, wanted))
            value = graph.batch_norm(value, f"{prefix}.{part + 2}", wanted, epsilon=epsilon)
            if stride == 1 and channels == wanted:
                value = graph.node("Add", [start, value], f"features.{number}.add")
            channels, number = wanted, number + 1
    value = graph.conv(value, f"features.{number}.0", (channels, 1280))
    value = graph.relu6(graph.batch_norm(value, f"features.{number}.1", 1280, epsilon=epsilon))
    return graph.classifier(value, "classifier.1", 1280)


def _efficientnet_lite0(graph: _Graph) -> str:
    """EfficientNet-Lite0: B0 (Tan and Le 2019, table 1) with ReLU6, without squeeze-and-excitation; TensorFlow's
    SAME padding, and batch normalisation with epsilon 1e-3."""
    epsilon = 1e-3
    # (expansion, channels, repeats, stride of the first, kernel)
    stages = (
        (1, 16, 1, 1, 3),
        (6, 24, 2, 2, 3),
        (6, 40, 2, 2, 5),
        (6, 80, 3, 2, 3),
        (6, 112, 3, 1, 5),
        (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    )
    side = _SIDE
    value = graph.conv("input", "_conv_stem", (3, 32), kernel=3, stride=2, pads=_same(side, 3, 2))
    value = graph.relu6(graph.batch_norm(value, "_bn0", 32, epsilon=epsilon))
    side = -(-side // 2)
    channels, number = 32, 0
    for expansion, wanted, repeats, first_stride, kernel in stages:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            prefix, wide, start = f"_blocks.{number}", channels * expansion, value
            if expansion != 1:
                value = graph.conv(value, f"{prefix}._expand_conv", (channels, wide))
                value = graph.relu6(graph.batch_norm(value, f"{prefix}._bn0", wide, epsilon=epsilon))
            depthwise, pads = f"{prefix}._depthwise_conv", _same(side, kernel, stride)
            value = graph.conv(value, depthwise, (wide, wide), kernel=kernel, stride=stride, groups=wide, pads=pads)
            value = graph.relu6(graph.batch_norm(value, f"{prefix}._bn1", wide, epsilon=epsilon))
            value = graph.conv(value, f"{prefix}._project_conv", (wide, wanted))
            value = graph.batch_norm(value, f"{prefix}._bn2", wanted, epsilon=epsilon)
            if stride == 1 and channels == wanted:
                value = graph.node("Add", [start, value], f"{prefix}.add")
            channels, number, side = wanted, number + 1, -(-side // stride)
    value = graph.conv(value, "_conv_head", (channels, 1280))
    value = graph.relu6(graph.batch_norm(value, "_bn1", 1280, epsilon=epsilon))
    return graph.classifier(value, "_fc", 1280)


def _same(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME padding before and after an axis of ``side``: the odd one goes after."""
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2
