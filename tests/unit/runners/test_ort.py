"""The reference's own answers, held against integer arithmetic."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from mobilekit.runners.base import RunOptions
from mobilekit.runners.ort import OrtRunner, load_cuda
from tests.models import of_nodes
from tests.unit.passes.checks import Node


def run(model: onnx.ModelProto, path: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    onnx.save(model, path)
    with OrtRunner(path) as runner:
        return np.asarray(runner.run(inputs, RunOptions()).outputs["y"])


@pytest.mark.parametrize("channels", [16, 64])
def test_large_products_of_8_bits_do_not_saturate(channels: int, tmp_path: Path) -> None:
    # On x86 without VNNI two products of 255 and 127 overflow 16 bits, unless ONNX Runtime is told to take care.
    weights = np.full((channels, 8), 127, np.int8)
    nodes = [
        Node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        Node("MatMulInteger", ["q", "w"], ["i"]),
        Node("Cast", ["i"], ["y"], to=TensorProto.FLOAT),
    ]
    constants = {"w": weights, "scale": np.float32(1), "zero": np.uint8(0)}
    model = of_nodes(nodes, {"x": (4, channels)}, {"y": (4, 8)}, constants)
    x = np.random.default_rng(0).integers(200, 256, (4, channels)).astype(np.float32)
    np.testing.assert_array_equal(run(model, tmp_path / "m.onnx", {"x": x}), x @ weights.astype(np.float32))


def test_libraries_that_cuda_lacks_are_named() -> None:
    """As ``preload_dlls`` of the package with CUDA says it; that of the package without has nothing to load."""
    import onnxruntime

    def preload() -> None:
        print("Failed to load libcudnn.so.9: cannot open shared object file")
        print("Please follow the instructions")

    assert load_cuda(SimpleNamespace(preload_dlls=preload)).startswith(": Failed to load libcudnn.so.9")
    assert load_cuda(SimpleNamespace()) == ""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        assert load_cuda(onnxruntime) == ""
