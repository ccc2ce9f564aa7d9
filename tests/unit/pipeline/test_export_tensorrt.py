"""Plans, built for real by TensorRT for RTX on a machine without a GPU."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from mobilekit.bundle import open_bundle
from mobilekit.cli._plan import show_plan
from mobilekit.errors import BundleError, NoDeviceError, UnsupportedModelError, UsageError, VerificationError
from mobilekit.graph import Graph
from mobilekit.pipeline import tensorrt as pipeline
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.pipeline.inspect_plan import inspect_plan, inspect_plan_on_gpu
from mobilekit.precision import half
from mobilekit.progress import SILENT, Task
from mobilekit.targets.tensorrt import TensorRTOptions
from mobilekit.targets.tensorrt.flavour import FLAVOURS, count_gpus, installed
from mobilekit.targets.tensorrt.prepare import Profile
from tests.models import conv_classifier, of_nodes, save

pytestmark = pytest.mark.skipif(not installed(FLAVOURS["rtx"]), reason="needs the extra [tensorrt]")

NAME = "serving_default_input:0"


class Notes:
    def __init__(self) -> None:
        self.taken: list[str] = []

    def step(self, text: str) -> None:
        pass

    def note(self, text: str) -> None:
        self.taken.append(text)

    def task(self, text: str, total: float | None = None, *, unit: str = "") -> AbstractContextManager[Task]:
        return SILENT.task(text, total, unit=unit)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(conv_classifier(side="S"), tmp_path / "a folder" / "my model.onnx")


def options(precision: str = "fp32", **more: object) -> ExportOptions:
    return ExportOptions(
        targets=("tensorrt",),
        tensorrt=TensorRTOptions(precision=precision, **more),  # type: ignore[arg-type]
        shapes={} if "profiles" in more else {NAME: (1, 3, 8, 8)},
    )


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
def test_a_plan_and_what_was_fused(model: Path, tmp_path: Path, precision: str) -> None:
    report = export_model(model, tmp_path / "out", options(precision))
    plan = open_bundle(tmp_path / "out").manifest.tensorrt
    assert plan is not None
    assert plan.verified
    assert plan.reproducible
    assert (plan.flavour, plan.precision) == ("rtx", precision)
    assert (tmp_path / "out" / plan.plan).stat().st_size == plan.plan_bytes > 1000
    assert (
        report.tensorrt_errors["scores"].relative_l2
        < {"fp32": 1e-5, "tf32": 1e-5, "fp16": 5e-3, "bf16": 5e-2}[precision]
    )
    view = inspect_plan(tmp_path / "out")
    assert len(view.layers) == plan.layer_count
    fused = [set(layer["onnx_nodes"]) for layer in view.layers]
    assert any({"/conv", "/relu"} <= nodes for nodes in fused)
    assert {binding["name"] for binding in view.bindings} == {NAME, "scores"}


def test_the_same_bytes_twice(model: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        export_model(model, tmp_path / name, options())
    for file in ("tensorrt/model.plan", "tensorrt/model.onnx", "tensorrt/layers.json", "manifest.json"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes(), file


def test_both_targets_in_one_bundle(model: Path, tmp_path: Path) -> None:
    both = ExportOptions(targets=("ncnn", "tensorrt"), shapes={NAME: (1, 3, 8, 8)}, precision="fp16")
    manifest = export_model(model, tmp_path / "out", both).manifest
    assert manifest.ncnn is not None
    assert manifest.tensorrt is not None
    assert manifest.verified
    assert manifest.tensorrt.verified


def test_sizes_that_vary(model: Path, tmp_path: Path) -> None:
    profile = Profile((1, 3, 8, 8), (1, 3, 16, 16), (1, 3, 32, 32))
    export_model(model, tmp_path / "out", options(profiles={NAME: profile}))
    view = inspect_plan(tmp_path / "out")
    given = next(binding for binding in view.bindings if binding["name"] == NAME)
    assert given["shape"] == [1, 3, -1, -1]
    assert given["profiles"] == [[[1, 3, 8, 8], [1, 3, 16, 16], [1, 3, 32, 32]]]
    assert open_bundle(tmp_path / "out").manifest.inputs[0].shape == (1, 3, 16, 16)


def test_int8_from_calibration_inputs(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "calib"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(8):
        np.save(folder / f"{index}.npy", rng.standard_normal((1, 3, 8, 8)).astype(np.float32))
    report = export_model(model, tmp_path / "out", options("int8", calibration=folder))
    assert report.tensorrt_errors["scores"].relative_l2 < 0.1
    prepared = onnx.load(tmp_path / "out" / "tensorrt" / "model.onnx")
    assert any(node.op_type == "DequantizeLinear" for node in prepared.graph.node)
    # A model that has its Q/DQ pairs needs no calibration.
    again = save(prepared, tmp_path / "qdq.onnx")
    plan = export_model(
        again, tmp_path / "again", ExportOptions(targets=("tensorrt",), tensorrt=TensorRTOptions("int8"))
    )
    assert plan.manifest.tensorrt is not None
    assert plan.manifest.tensorrt.verified


def refused(nodes: Sequence[onnx.NodeProto], folder: Path) -> UnsupportedModelError:
    x = {"x": (1, 4)}
    path = save(of_nodes(nodes, x, {"y": (1, 4)}, {"w": np.ones((4, 4), np.uint8)}), folder / "m.onnx")
    with pytest.raises(UnsupportedModelError) as caught:
        export_model(path, folder / "out", ExportOptions(targets=("tensorrt",)))
    assert not (folder / "out").exists()
    return caught.value


def test_every_unsupported_node_is_listed_before_anything_is_written(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="quantise"),
        helper.make_node("MatMulInteger", ["q", "w"], ["i"], name="product"),
        helper.make_node("Cast", ["i"], ["f"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "s"], ["y"]),
    ]
    findings = refused(nodes, tmp_path).findings
    assert {(finding.node, finding.op) for finding in findings} >= {
        ("quantise", "DynamicQuantizeLinear"),
        ("product", "MatMulInteger"),
    }
    assert all(finding.reason and finding.remedy for finding in findings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (TensorRTOptions("int8"), "real inputs"),
        (TensorRTOptions("fp64"), "unknown precision"),  # type: ignore[arg-type]
        (TensorRTOptions("bf16", compute_capabilities=("7.5",)), "does not compute in bf16"),
        (TensorRTOptions(profiles={"x": Profile((1,), (1,), (2,))}), "no input"),
    ],
)
def test_settings_that_do_not_go_together(model: Path, tmp_path: Path, settings: TensorRTOptions, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        export_model(
            model,
            tmp_path / "out",
            ExportOptions(targets=("tensorrt",), tensorrt=settings, shapes={NAME: (1, 3, 8, 8)}),
        )
    assert not (tmp_path / "out").exists()


def test_a_wrong_preparation_is_never_written(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight changes between the graph and the file: the comparison in float32 must see it."""
    right = pipeline.write_model

    def wrong(graph: object, path: Path) -> None:
        right(graph, path)  # type: ignore[arg-type]
        prepared = onnx.load(path)
        prepared.graph.initializer[0].raw_data = np.full(
            tuple(prepared.graph.initializer[0].dims), 0.5, np.float32
        ).tobytes()
        onnx.save(prepared, path)

    monkeypatch.setattr(pipeline, "write_model", wrong)
    with pytest.raises(VerificationError, match="fp32"):
        export_model(model, tmp_path / "out", options("fp16"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_wrong_number_format_is_never_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """A weight changes on the way to it: what the format by itself costs here allows for no such thing."""
    right = half.to_half

    def wrong(graph: Graph, *arguments: Any, **settings: Any) -> half.HalfReport:
        weight = next(value for value in graph.values() if value.const is not None and value.const.ndim == 2)
        weight.const = weight.const * np.float32(-1.0)  # type: ignore[operator]
        return right(graph, *arguments, **settings)

    monkeypatch.setattr(half, "to_half", wrong)
    with pytest.raises(VerificationError, match=precision):
        export_model(model, tmp_path / "out", options(precision))
    assert not (tmp_path / "out").exists()


def test_an_output_that_nothing_is_proven_of_is_told(tmp_path: Path) -> None:
    """Classes in bfloat16 where neighbours tie: the output beside them is right, and they are not said to be."""
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["y"], name="scores"),
        helper.make_node("ArgMax", ["near"], ["class"], axis=1, keepdims=0, name="class"),
        helper.make_node("MatMul", ["x", "alike"], ["near"], name="near"),
    ]
    rng = np.random.default_rng(0)
    alike = (rng.standard_normal((8, 1)) + 1e-4 * rng.standard_normal((8, 16))).astype(np.float32)
    model = of_nodes([nodes[0], nodes[2], nodes[1]], {"x": (32, 8)}, {"y": (32, 8), "class": (32,)}, {"alike": alike})
    model.graph.output[1].type.tensor_type.elem_type = onnx.TensorProto.INT64
    tensorrt = TensorRTOptions("bf16")
    notes = Notes()
    export_model(
        save(model, tmp_path / "m.onnx"),
        tmp_path / "out",
        ExportOptions(targets=("tensorrt",), tensorrt=tensorrt),
        notes,
    )
    assert any("'class'" in note and "prove" in note for note in notes.taken), notes.taken


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("op", ["Celu", "HardSwish", "LpNormalization", "Mish"])
def test_what_tensorrt_lacks_in_16_bits_stays_in_float32(tmp_path: Path, precision: str, op: str) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node(op, ["a"], ["b"], name="lacking")]
    nodes.append(helper.make_node("Sigmoid", ["b"], ["y"]))
    path = save(of_nodes(nodes, {"x": (1, 3, 4, 4)}, {"y": (1, 3, 4, 4)}, {}, opset=18), tmp_path / "m.onnx")
    tensorrt = TensorRTOptions(precision)  # type: ignore[arg-type]
    report = export_model(path, tmp_path / "out", ExportOptions(targets=("tensorrt",), tensorrt=tensorrt))
    assert report.tensorrt_errors["y"].relative_l2 < 0.02
    if precision == "bf16" or op == "Celu":
        assert "lacking" in report.tensorrt_kept


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("before", ["Relu", "Transpose"])
def test_recurrent_layers_of_pytorch_and_keras_build_in_16_bits(tmp_path: Path, precision: str, before: str) -> None:
    """They reset behind the product; TensorRT takes a Cast in front of such a loop for a step of it."""
    rng = np.random.default_rng(0)
    shapes = {"w": (1, 12, 6), "r": (1, 12, 4), "b": (1, 24)}
    weights = {name: (0.3 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}
    given = (5, 1, 6) if before == "Relu" else (1, 5, 6)
    turned = {} if before == "Relu" else {"perm": [1, 0, 2]}
    nodes = [
        helper.make_node(before, ["x"], ["a"], **turned),
        helper.make_node("GRU", ["a", "w", "r", "b"], ["h"], hidden_size=4, linear_before_reset=1, name="gru"),
        helper.make_node("Sigmoid", ["h"], ["y"]),
    ]
    path = save(of_nodes(nodes, {"x": given}, {"y": (5, 1, 1, 4)}, weights, opset=18), tmp_path / "m.onnx")
    tensorrt = TensorRTOptions(precision)  # type: ignore[arg-type]
    report = export_model(path, tmp_path / "out", ExportOptions(targets=("tensorrt",), tensorrt=tensorrt))
    assert report.tensorrt_errors["y"].relative_l2 < 0.02


def test_what_the_parser_asserts_is_told_in_words(tmp_path: Path) -> None:
    x = {"x": (1, 3, 8, 8)}
    pool = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], dilations=[2, 2], name="pool")
    path = save(of_nodes([pool], x, {"y": (1, 3, 6, 6)}, {}, opset=18), tmp_path / "m.onnx")
    with pytest.raises(UnsupportedModelError) as caught:
        export_model(path, tmp_path / "out", ExportOptions(targets=("tensorrt",)))
    (finding,) = caught.value.findings
    assert "dilations" in finding.reason
    assert "==" not in finding.reason


def test_what_leaves_float16_inside_is_seen(tmp_path: Path) -> None:
    """ONNX Runtime's CPU computes float16 nodes in float32, in which a factor and its inverse are nothing."""
    nodes = [
        helper.make_node("MatMul", ["x", "up"], ["large"], name="up"),
        helper.make_node("MatMul", ["large", "down"], ["y"], name="down"),
    ]
    weights = {"up": np.eye(8, dtype=np.float32) * 6e4, "down": np.eye(8, dtype=np.float32) / 6e4}
    path = save(of_nodes(nodes, {"x": (1, 8)}, {"y": (1, 8)}, weights), tmp_path / "m.onnx")
    with pytest.raises(VerificationError, match="fp16"):
        export_model(path, tmp_path / "out", ExportOptions(targets=("tensorrt",), tensorrt=TensorRTOptions("fp16")))
    assert not (tmp_path / "out").exists()


def test_a_log_that_tells_of_no_layers_is_said_so(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As full TensorRT's may be in another form."""
    export_model(model, tmp_path / "out", options())
    show_plan(replace(inspect_plan(tmp_path / "out"), layers=()))
    said = " ".join(capsys.readouterr().out.split())
    assert "told of no layers" in said
    assert "--device gpu" in said
    assert "0 layers" not in said


@pytest.mark.skipif(count_gpus() > 0, reason="for machines without a GPU")
def test_a_plan_cannot_be_asked_itself_without_a_gpu(model: Path, tmp_path: Path) -> None:
    export_model(model, tmp_path / "out", options())
    with pytest.raises(NoDeviceError):
        inspect_plan_on_gpu(tmp_path / "out")
    with pytest.raises(UsageError, match="not on 'prepared'"):
        inspect_plan_on_gpu(tmp_path / "out", "prepared")


def test_a_damaged_sidecar_is_refused(model: Path, tmp_path: Path) -> None:
    export_model(model, tmp_path / "out", options())
    layers = tmp_path / "out" / "tensorrt" / "layers.json"
    facts = json.loads(layers.read_text())
    layers.write_text(json.dumps(facts | {"layers": 1}))
    with pytest.raises(BundleError, match=r"layers\.json"):
        inspect_plan(tmp_path / "out")


def test_a_bundle_without_a_plan(model: Path, tmp_path: Path) -> None:
    export_model(model, tmp_path / "out", ExportOptions(shapes={NAME: (1, 3, 8, 8)}))
    with pytest.raises(UsageError, match="no TensorRT plan"):
        inspect_plan(tmp_path / "out")


def test_ids_that_verification_makes_up_are_rows_of_the_table(tmp_path: Path) -> None:
    proto = of_nodes(
        [helper.make_node("Gather", ["table", "ids"], ["y"])],
        {"ids": (1, 16)},
        {"y": (1, 16, 4)},
        {"table": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)},
    )
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    report = export_model(save(proto, tmp_path / "m.onnx"), tmp_path / "out", ExportOptions(targets=("tensorrt",)))
    assert report.manifest.inputs[0].limit == 3
    assert report.tensorrt_errors["y"].relative_l2 == 0


def test_a_cache_that_is_written_into_stays_as_it_came(tmp_path: Path) -> None:
    """TensorRT writes into an input itself, which keeps float32 in an fp16 plan."""
    where = np.array([3], np.int64)
    nodes = [helper.make_node("TensorScatter", ["past", "new", "where"], ["present"], axis=2)]
    shapes = {"past": (1, 4, 16, 8), "new": (1, 4, 1, 8)}
    model = of_nodes(nodes, shapes, {"present": (1, 4, 16, 8)}, {"where": where}, opset=24)
    settings = TensorRTOptions(precision="fp16")
    report = export_model(
        save(model, tmp_path / "m.onnx"), tmp_path / "out", ExportOptions(targets=("tensorrt",), tensorrt=settings)
    )
    assert len(report.tensorrt_kept) == 1
    assert report.tensorrt_errors["present"].relative_l2 < 1e-3
