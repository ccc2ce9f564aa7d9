"""One-op models, exported to ncnn and run, against ONNX Runtime. In this process, for speed."""

from __future__ import annotations

import atexit
import functools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from mobilekit.bundle import NcnnArtifact, TensorInfo
from mobilekit.errors import Finding
from mobilekit.graph import Graph
from mobilekit.importers.onnx import load
from mobilekit.passes import prepare
from mobilekit.runners.blobs import extracted, from_blobs, to_blob
from mobilekit.runners.ncnn_host import infer
from mobilekit.targets.ncnn import NcnnOptions, NcnnTarget
from tests.own_layers import HarnessHost

__all__ = ["agrees", "build", "findings", "model", "prepared", "run_ncnn", "run_ort"]

Arrays = Mapping[str, np.ndarray]


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Arrays,
    outputs: Sequence[str],
    consts: Arrays | None = None,
    opset: int = 21,
) -> onnx.ModelProto:
    """A model whose inputs have the types and shapes of ``inputs``; output types are inferred."""

    def info(name: str, array: np.ndarray) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)

    graph = helper.make_graph(
        list(nodes),
        "one",
        [info(name, array) for name, array in inputs.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (consts or {}).items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    typed = {value.name: value for value in [*proto.graph.output, *proto.graph.value_info]}
    del proto.graph.output[:]
    proto.graph.output.extend(typed[name] for name in outputs)
    return proto


def prepared(proto: onnx.ModelProto) -> Graph:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(proto.SerializeToString())
        return prepare(load(path), {}, simplify=False)


def findings(proto: onnx.ModelProto, **options: Any) -> tuple[Finding, ...]:
    return NcnnTarget().check(prepared(proto), NcnnOptions(**options))


def needs_own(proto: onnx.ModelProto) -> tuple[str, ...]:
    """The layers of our own that ``proto`` needs; asserts that it is refused without, naming one of them."""
    survey = NcnnTarget().survey(prepared(proto), NcnnOptions())
    assert not survey.findings
    refused = findings(proto, stock_only=True)
    assert refused
    assert survey.custom_layers
    return survey.custom_layers


def build(proto: onnx.ModelProto, folder: Path, **options: Any) -> NcnnArtifact:
    return NcnnTarget().build(prepared(proto), folder, NcnnOptions(**options))


@functools.cache
def harness() -> HarnessHost:
    host = HarnessHost()
    atexit.register(host.close)
    return host


def run_ncnn(
    proto: onnx.ModelProto, inputs: Arrays, *, bf16: bool = False, **options: Any
) -> tuple[dict[str, np.ndarray], str]:
    """Outputs by ONNX name, and the ``.param`` text. ``bf16``: stored in 16 bits (stock layers only)."""
    graph = prepared(proto)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        artifact = NcnnTarget().build(graph, folder / "ncnn", NcnnOptions(**options))
        infos = {v.name: TensorInfo(name=v.name, dtype=v.dtype, shape=v.shape) for v in [*graph.inputs, *graph.results]}
        blobs = {b.blob: to_blob(inputs[b.tensor], infos[b.tensor], b) for b in artifact.inputs}
        text = (folder / "ncnn" / "model.param").read_text()
        if artifact.custom_layers:
            found = harness().run(folder, artifact, blobs, extracted(artifact.outputs))
            return from_blobs(found, infos.values(), artifact.outputs), text
        answer = infer(
            param=str(folder / artifact.param),
            weights=str(folder / artifact.bin),
            inputs=blobs,
            outputs=extracted(artifact.outputs),
            depth=artifact.depth,
            threads=1,
            fp16=False,
            bf16=bf16,
            warmup=0,
            iterations=1,
        )
    found = dict(zip(extracted(artifact.outputs), answer["outputs"], strict=True))
    return from_blobs(found, infos.values(), artifact.outputs), text


def run_ort(proto: onnx.ModelProto, inputs: Arrays) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def agrees(
    nodes: Sequence[onnx.NodeProto] | onnx.NodeProto,
    inputs: Arrays,
    consts: Arrays | None = None,
    *,
    outputs: Sequence[str] = ("y",),
    opset: int = 21,
    limit: float = 1e-5,
) -> str:
    """Assert that ncnn gives what ONNX Runtime gives, relative L2 below ``limit``; the ``.param`` text."""
    nodes = [nodes] if isinstance(nodes, onnx.NodeProto) else nodes
    inputs = {name: np.asarray(array) for name, array in inputs.items()}
    proto = model(nodes, inputs, outputs, consts, opset)
    expected = run_ort(proto, inputs)
    actual, text = run_ncnn(proto, inputs)
    for name in outputs:
        want, got = expected[name], actual[name]
        assert got.shape == want.shape
        assert got.dtype == want.dtype
        if want.dtype.kind in "iub":
            np.testing.assert_array_equal(got, want)
        else:
            finite = np.isfinite(want)
            np.testing.assert_array_equal(got[~finite], want[~finite])
            got, want = got[finite], want[finite]
            error = np.linalg.norm((got - want).astype(np.float64)) / max(float(np.linalg.norm(want)), 1e-12)
            assert error <= limit, f"{name}: relative L2 {error:.2e}\n{text}"
    return text
