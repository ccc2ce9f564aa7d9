"""Large models: linear in nodes, weights that are not held, networks that are deep."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mobilekit.bundle import MAX_DEPTH, open_bundle, sha256_of, write_manifest
from mobilekit.errors import BundleError, Finding
from mobilekit.graph import Graph, Node, Value
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.pipeline.run import RunSettings, run
from mobilekit.targets.ncnn.emit import emit
from tests.models import conv_classifier, of_nodes, save

SHAPE = (1, 4, 2, 2)


def chain(length: int) -> onnx.ModelProto:
    """Conv, Tanh, Sigmoid, Elu, and again: nothing of it folds away."""
    rng = np.random.default_rng(0)
    nodes, weights = [], {}
    for index in range(length):
        inputs = [f"t{index - 1}" if index else "x"]
        kind = ("Conv", "Tanh", "Sigmoid", "Elu")[index % 4]
        if kind == "Conv":
            weights[f"w{index}"] = rng.standard_normal((4, 4, 1, 1)).astype(np.float32)
            inputs.append(f"w{index}")
        nodes.append(helper.make_node(kind, inputs, [f"t{index}"], name=f"n{index}"))
    return of_nodes(nodes, {"x": SHAPE}, {f"t{length - 1}": SHAPE}, weights)


def star(length: int) -> onnx.ModelProto:
    """One tensor with many readers, which meet again two by two."""
    nodes, weights = [], {}
    for index in range(length // 2):
        weights[f"w{index}"] = np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1) + index + 1.5
        nodes.append(helper.make_node("Mul", ["x", f"w{index}"], [f"m{index}"]))
        if index:
            nodes.append(helper.make_node("Max", [f"a{index - 1}" if index > 1 else "m0", f"m{index}"], [f"a{index}"]))
    return of_nodes(nodes, {"x": SHAPE}, {f"a{length // 2 - 1}": SHAPE}, weights)


def calls(work: Callable[[], object]) -> int:
    """How many functions, of Python and of C, ``work`` calls in this thread."""
    count = 0

    def profile(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("make", [chain, star], ids=["chain", "star"])
def test_four_times_the_nodes_are_four_times_the_work(make: Callable[[int], onnx.ModelProto], tmp_path: Path) -> None:
    """Counted, not timed. The first export is not counted: it imports."""

    def export(length: int) -> Callable[[], object]:
        model = save(make(length), tmp_path / f"{length}.onnx")
        return lambda: export_model(model, tmp_path / f"out{length}", ExportOptions(verify=False))

    export(20)()
    small, large = calls(export(200)), calls(export(800))
    assert large < 4.4 * small


def test_too_deep_is_refused_with_the_depth() -> None:
    def findings(length: int) -> tuple[Finding, ...]:
        graph = Graph("deep", {"": 24})
        value = Value("x", "float32", (1, 4))
        graph.inputs = [value]
        for index in range(length):
            following = Value(f"v{index}", "float32", (1, 4))
            graph.append(Node("", "Relu", [value], [following]))
            value = following
        graph.outputs = [value]
        return emit(graph).findings

    assert findings(MAX_DEPTH - 1) == ()  # and the Input layer
    (finding,) = findings(MAX_DEPTH)
    assert (finding.node, finding.op) == (f"v{MAX_DEPTH - 1}", "Output")
    assert f"{MAX_DEPTH + 1} layers" in finding.reason
    assert "split the model" in finding.remedy


def test_a_bundle_that_is_too_deep_is_not_opened(tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = export_model(save(chain(4), tmp_path / "m.onnx"), out, ExportOptions(verify=False)).manifest
    assert manifest.ncnn is not None
    write_manifest(out, replace(manifest, ncnn=replace(manifest.ncnn, depth=MAX_DEPTH + 1)))
    with pytest.raises(BundleError, match=f"{MAX_DEPTH + 1} layers deep"):
        open_bundle(out)


@pytest.mark.slow
def test_twenty_thousand_layers_run(tmp_path: Path) -> None:
    """Verified against ONNX Runtime by the export itself, then run again from the bundle."""
    model = save(chain(20_000), tmp_path / "deep.onnx")
    report = export_model(model, tmp_path / "out", ExportOptions(samples=1))
    assert report.manifest.ncnn is not None
    assert report.manifest.ncnn.depth == 20_001
    x = np.random.default_rng(3).standard_normal(SHAPE).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    ran = run(tmp_path / "out", [str(tmp_path / "x.npy")], RunSettings(output=tmp_path / "answers"))
    assert ran.runner
    (answer,) = (tmp_path / "answers").glob("*.npy")
    assert np.isfinite(np.load(answer)).all()


def test_what_is_copied_is_hashed(tmp_path: Path) -> None:
    """The manifest's sha256 are those of the files, the external ones in a folder too; memory is reported."""
    model = chain(8)
    path = tmp_path / "m" / "model.onnx"
    path.parent.mkdir()
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0, convert_attribute=True)
    report = export_model(path, tmp_path / "out", ExportOptions(samples=1))
    listed = {entry.path: entry for entry in report.manifest.files}
    assert {"source/model.onnx", "source/w.bin"} <= listed.keys()
    for relative, entry in listed.items():
        assert entry.sha256 == sha256_of(tmp_path / "out" / relative)
    assert report.manifest.model.sha256 == listed["source/model.onnx"].sha256
    assert (tmp_path / "out" / "source" / "w.bin").read_bytes() == (path.parent / "w.bin").read_bytes()
    peaks = json.loads((tmp_path / "out" / "run.json").read_text())["peak_rss_bytes"]
    assert peaks == report.peak_rss_bytes
    assert 1e7 < peaks["conversion"] <= peaks["verification"]


@pytest.mark.slow
def test_external_weights_are_not_held(tmp_path: Path) -> None:
    """300 MB of weights: what the process holds of its own stays far below them (mapped pages are the kernel's)."""
    side, count = 4096, 5
    nodes = [
        helper.make_node("Gemm" if i % 2 else "MatMul", [f"h{i}" if i else "x", f"w{i}"], [f"h{i + 1}"])
        for i in range(count)
    ]
    tensors = []
    path = tmp_path / "big.onnx"
    with (tmp_path / "big.data").open("wb") as data:
        for index in range(count):
            tensor = TensorProto(name=f"w{index}", data_type=TensorProto.FLOAT, dims=(side, side))
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", "big.data"), ("offset", data.tell()), ("length", 4 * side * side)):
                tensor.external_data.add(key=key, value=str(value))
            tensors.append(tensor)
            data.write(np.full(side * side, index + 0.5, np.float32).tobytes())
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, side)) for name in ("x", f"h{count}")]
    graph = helper.make_graph(nodes, "big", ends[:1], ends[1:], tensors)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    weights = (tmp_path / "big.data").stat().st_size
    # A limit on what the process may hold of its own, as the kernel counts it: half of the weights.
    script = (
        "import resource, sys\n"
        "from mobilekit.pipeline.export import ExportOptions, export_model\n"
        f"resource.setrlimit(resource.RLIMIT_DATA, ({weights // 2}, {weights // 2}))\n"
        "export_model(sys.argv[1], sys.argv[2], ExportOptions(verify=False))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path), str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "out" / "ncnn" / "model.bin").stat().st_size >= weights


@pytest.mark.parametrize(("settled", "verify"), [(True, False), (False, False), (True, True)])
def test_children_are_started_only_where_they_are_needed(settled: bool, verify: bool, tmp_path: Path) -> None:
    """onnxsim for what our rules do not know, ONNX Runtime and ncnn for verification; else none."""
    tail = [] if settled else [helper.make_node("CumSum", ["scores", "axis"], ["sums"])]
    model = conv_classifier()
    if tail:
        model.graph.node.extend(tail)
        model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.int64), "axis"))
        model.graph.output[0].name = "sums"
    script = (
        "import resource, sys\n"
        "from mobilekit.pipeline.export import ExportOptions, export_model\n"
        f"export_model(sys.argv[1], sys.argv[2], ExportOptions(verify={verify}, samples=1))\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss > 0)\n"
    )
    command = [sys.executable, "-c", script, str(save(model, tmp_path / "m.onnx")), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(verify or not settled)
