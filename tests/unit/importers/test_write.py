"""Graphs as files: small ones whole, large ones with their weights beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from mobilekit.importers.convert import from_proto
from mobilekit.importers.write import write_graph
from tests.models import conv_classifier

NAME = "serving_default_input:0"


def _answer(path: Path) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)
    found: np.ndarray = session.run(None, {NAME: x})[0]
    return found


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
def test_weights_beside_the_model_are_the_same(tmp_path: Path, kind: str) -> None:
    graph = from_proto(conv_classifier(side=16), tmp_path)
    large = next(v for v in graph.values() if v.const is not None and v.const.ndim == 4)
    assert large.const is not None
    wide = np.tile(large.const, (1, 1, 4, 4))  # above a kilobyte
    if kind != "float32":
        import ml_dtypes

        wide = wide.astype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind)
    large.const = wide
    write_graph(graph, tmp_path / "whole.onnx")
    write_graph(graph, tmp_path / "large.onnx", large_bytes=1000)
    assert not (tmp_path / "whole.onnx.data").exists()
    assert wide.nbytes <= (tmp_path / "large.onnx.data").stat().st_size < wide.nbytes + 10_000
    assert (tmp_path / "large.onnx").stat().st_size < (tmp_path / "whole.onnx").stat().st_size - wide.nbytes + 1000
    whole, split = (onnx.load(tmp_path / f"{name}.onnx") for name in ("whole", "large"))
    for one, other in zip(whole.graph.initializer, split.graph.initializer, strict=True):
        assert one.name == other.name
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(one), onnx.numpy_helper.to_array(other))
    if kind == "float32":
        np.testing.assert_array_equal(_answer(tmp_path / "whole.onnx"), _answer(tmp_path / "large.onnx"))
