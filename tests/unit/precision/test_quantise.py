"""int8 by ONNX Runtime's quantiser, with the options that TensorRT takes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest

from mobilekit.errors import UsageError
from mobilekit.importers.convert import to_proto
from mobilekit.importers.onnx import load
from mobilekit.precision.quantise import is_quantised, quantise
from mobilekit.targets.tensorrt.prepare import prepare
from tests.models import conv_classifier, save

NAME = "serving_default_input:0"


def samples(count: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{NAME: rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


def test_int8_with_symmetric_scales_a_channel(tmp_path: Path) -> None:
    import onnxruntime as ort

    graph = prepare(load(save(conv_classifier(), tmp_path / "m.onnx")), {}, {})
    assert not is_quantised(graph)
    exact = save(to_proto(graph), tmp_path / "exact.onnx")
    quantise(exact, tmp_path / "int8.onnx", samples(16))
    model = onnx.load(tmp_path / "int8.onnx")
    assert is_quantised(prepare(load(tmp_path / "int8.onnx"), {}, {}))
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    zeros = [tensors[n.input[2]] for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert zeros
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zeros)
    assert max(zero.size for zero in zeros) == 8  # a scale for each channel of the convolution
    # As it is written: where there is AVX2 alone, the products of ONNX Runtime's own 8-bit kernels saturate.
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session, reference = (ort.InferenceSession(str(tmp_path / name), options) for name in ("int8.onnx", "exact.onnx"))
    sample = samples(1)[0]
    actual, expected = session.run(None, sample)[0], reference.run(None, sample)[0]
    assert 0 < np.linalg.norm(actual - expected) / np.linalg.norm(expected) < 0.05


def test_no_samples_and_no_such_method(tmp_path: Path) -> None:
    path = save(conv_classifier(), tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="needs inputs") as caught:
        quantise(path, tmp_path / "out.onnx", [])
    assert "--calib" in caught.value.hint
    with pytest.raises(UsageError, match="guess"):
        quantise(path, tmp_path / "out.onnx", samples(1), method="guess")
    assert not (tmp_path / "out.onnx").exists()


def test_convolutions_that_share_a_bias_get_their_own_whatever_other_tensors_are_called(tmp_path: Path) -> None:
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4, 4, 3, 3)).astype(np.float32) / 6
    constants = [
        numpy_helper.from_array(weight, "w"),
        numpy_helper.from_array(rng.standard_normal(4).astype(np.float32), "b"),
    ]
    # ONNX Runtime's quantiser calls copies of "b" by a number behind it.
    names = ["x", *(f"b{number}" for number in range(20))]
    nodes = [helper.make_node("Conv", [one, "w", "b"], [other], pads=[1, 1, 1, 1]) for one, other in pairwise(names)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 6, 6]) for name in ("x", names[-1])]
    graph = helper.make_graph(nodes, "shared", ends[:1], ends[1:], constants)
    exact = save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "m.onnx"
    )
    feed = {"x": rng.standard_normal((1, 4, 6, 6)).astype(np.float32)}
    quantise(exact, tmp_path / "int8.onnx", [feed])
    sessions = [ort.InferenceSession(str(path)) for path in (exact, tmp_path / "int8.onnx")]
    expected, actual = (session.run(None, feed)[0] for session in sessions)
    assert 0 < np.linalg.norm(actual - expected) / np.linalg.norm(expected) < 0.2
