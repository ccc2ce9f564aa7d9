"""``mobilekit bisect --target tensorrt``: planted faults are found in what a plan is built from, without a GPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from mobilekit.bundle import open_bundle, write_manifest
from mobilekit.errors import NoDeviceError, UsageError
from mobilekit.pipeline.bisect import BisectOptions, bisect_bundle
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.pipeline.plan_models import Prepared, build_marked
from mobilekit.report.bisection import BisectionReport
from mobilekit.report.bisection_text import render
from mobilekit.targets.tensorrt import TensorRTOptions
from mobilekit.targets.tensorrt.flavour import FLAVOURS, count_gpus, installed
from mobilekit.targets.tensorrt.prepare import Profile
from tests.models import coarse_convolutions, of_nodes, save

pytestmark = pytest.mark.skipif(not installed(FLAVOURS["rtx"]), reason="needs the extra [tensorrt]")

SIZE = (1, 3, 12, 12)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stem, two branches of which one splits and joins, and a head."""
    rng = np.random.default_rng(7)
    weights = {
        name: np.asarray(rng.standard_normal(shape) * 0.3, np.float32)
        for name, shape in {
            "w0": (8, 3, 3, 3), "wa": (8, 8, 3, 3), "wb": (8, 8, 1, 1), "wc": (4, 8, 3, 3), "bc": (4,)
        }.items()
    }  # fmt: skip
    same = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c0"], name="stem", **same),
        helper.make_node("Sigmoid", ["c0"], ["s0"], name="gate"),
        helper.make_node("Conv", ["s0", "wa"], ["a"], name="wide", **same),
        helper.make_node("Conv", ["s0", "wb"], ["b"], name="narrow"),
        helper.make_node("Split", ["b"], ["b0", "b1"], name="halves", axis=1),
        helper.make_node("Concat", ["b1", "b0"], ["bb"], name="swapped", axis=1),
        helper.make_node("Add", ["a", "bb"], ["sum"], name="join"),
        helper.make_node("Tanh", ["sum"], ["t"], name="squash"),
        helper.make_node("Conv", ["t", "wc", "bc"], ["y"], name="head", **same),
    ]
    graph = of_nodes(nodes, {"x": ("N", *SIZE[1:])}, {"y": ("N", 4, 12, 12)}, weights)
    return save(graph, tmp_path_factory.mktemp("bisect") / "branches.onnx")


def export(model: Path, folder: Path, precision: str = "fp32", *, varies: bool = False) -> Path:
    profile = {"x": Profile(SIZE, SIZE, (2, *SIZE[1:]))} if varies else {}
    options = TensorRTOptions(precision=precision, profiles=profile)  # type: ignore[arg-type]
    shapes = {} if varies else {"x": SIZE}
    export_model(model, folder, ExportOptions(targets=("tensorrt",), tensorrt=options, verify=False, shapes=shapes))
    return folder


def planted(bundle: Path, change: Callable[[onnx.GraphProto], None]) -> Path:
    """The prepared model changed, and the manifest with it: what a mistake of a preparation would leave."""
    path = bundle / "tensorrt" / "model.onnx"
    manifest = open_bundle(bundle).manifest
    proto = onnx.load(path)
    change(proto.graph)
    onnx.save(proto, path)
    write_manifest(bundle, manifest)
    return bundle


def node_of(graph: onnx.GraphProto, name: str) -> onnx.NodeProto:
    return next(node for node in graph.node if node.name == name)


def scaled(node: str, factor: float, which: int = 1) -> Callable[[onnx.GraphProto], None]:
    def change(graph: onnx.GraphProto) -> None:
        name = node_of(graph, node).input[which]
        tensor = next(tensor for tensor in graph.initializer if tensor.name == name)
        array = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array((array * factor).astype(array.dtype), name))

    return change


def other_order(graph: onnx.GraphProto) -> None:
    node = node_of(graph, "swapped")
    node.input[0], node.input[1] = node.input[1], node.input[0]


def lost(graph: onnx.GraphProto) -> None:
    node_of(graph, "squash").op_type = "Identity"


def found(bundle: Path, **more: object) -> BisectionReport:
    return bisect_bundle(bundle, "prepared", BisectOptions(samples=2, **more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "node"),
    [
        (scaled("stem", 1.05), "stem"),
        (scaled("narrow", 1.1), "narrow"),
        (scaled("head", 3.0, which=2), "head"),
        (other_order, "swapped"),
        (lost, "squash"),
    ],
    ids=["a weight", "a branch", "a bias", "an order", "an activation"],
)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_node_is_named(
    model: Path, tmp_path: Path, change: Callable[[onnx.GraphProto], None], node: str, precision: str
) -> None:
    report = found(planted(export(model, tmp_path / "bad", precision), change))
    assert report.verdict.value == "fail"
    assert (report.target, report.stage, report.confirmed) == ("tensorrt", "layer", True)
    assert report.first is not None
    assert node in report.first.nodes
    assert repr(node) in report.sentence
    # And the layer that TensorRT made of it, by the file beside the plan.
    sidecar = json.loads((tmp_path / "bad/tensorrt/layers.json").read_text())["layers"]
    names = {layer["name"] for layer in sidecar if node in layer["onnx_nodes"]}
    if names:
        assert names <= {line.name for line in report.first.layers}
    assert report.runs <= report.run_limit
    assert node in render(report)


def test_a_plan_that_is_right_has_nothing_to_look_for(model: Path, tmp_path: Path) -> None:
    report = found(export(model, tmp_path / "good", varies=True))
    assert (report.verdict.value, report.stage, report.first) == ("pass", "none", None)
    assert report.device.kind == "prepared"


def test_a_format_that_is_too_coarse_for_one_node(tmp_path: Path) -> None:
    """3000 is subtracted again: what float16 rounds before is large behind."""
    path = save(coarse_convolutions(4, 3000, seed=5), tmp_path / "coarse.onnx")
    options = TensorRTOptions(precision="fp16")
    export_model(path, tmp_path / "out", ExportOptions(targets=("tensorrt",), tensorrt=options, verify=False))
    report = found(tmp_path / "out", rtol=1e-2)
    assert report.first is not None
    assert "minus" in report.first.nodes
    assert report.first.local is not None
    assert report.first.local > 0.05


@pytest.mark.skipif(count_gpus() > 0, reason="for machines without a GPU")
def test_a_gpu_that_is_asked_for_and_missing(model: Path, tmp_path: Path) -> None:
    with pytest.raises(NoDeviceError):
        bisect_bundle(export(model, tmp_path / "out"), "gpu")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (BisectOptions(precision="fp16"), "--precision"),
        (BisectOptions(vulkan=True), "--vulkan"),
        (BisectOptions(repro=Path("repro")), "repro"),
    ],
)
def test_what_is_for_ncnn_is_refused(model: Path, tmp_path: Path, options: BisectOptions, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        bisect_bundle(export(model, tmp_path / "out"), "prepared", options, target="tensorrt")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_what_would_run_on_a_gpu_can_be_built(model: Path, tmp_path: Path, precision: str) -> None:
    """With outputs marked inside, and cut apart: TensorRT takes both, with the profiles that the plan has."""
    bundle = open_bundle(export(model, tmp_path / "out", precision, varies=True))
    artifact = bundle.manifest.tensorrt
    assert artifact is not None
    known = {"x", "c0", "s0", "a", "b", "b0", "b1", "bb", "sum", "t", "y"}
    prepared = Prepared.read(bundle.root / artifact.onnx, known)
    assert set(prepared.net.units) == known
    whole = build_marked(prepared.with_outputs(["s0", "sum"]), tmp_path / "whole", artifact, whole=True)
    assert whole.profiles == artifact.profiles
    units = [prepared.net.units[name] for name in ("a", "b0", "y")]
    values = {"s0": np.ones((1, 8, 12, 12)), "b": np.ones((1, 8, 12, 12)), "t": np.ones((1, 8, 12, 12))}
    proto, fed = prepared.cut(units, values)
    assert {name: array.shape for name, array in fed.items()} == {f"{k}/given": v.shape for k, v in values.items()}
    cut = build_marked(proto, tmp_path / "cut", artifact, whole=False)
    assert cut.plan_bytes == (tmp_path / "cut" / cut.plan).stat().st_size > 1000
