"""``mobilekit bisect``: planted faults are named, good bundles pass, and a reproduction shows the fault by itself."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, helper

from mobilekit.bundle import open_bundle, write_manifest
from mobilekit.errors import BundleError, UsageError
from mobilekit.pipeline.bisect import BisectOptions, bisect_bundle, open_traced
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.runners.base import RunOptions
from mobilekit.runners.ncnn_host import NcnnHostRunner
from mobilekit.runners.taps import Taps
from tests.models import of_nodes, save
from tests.planted.edit import Editor

RNG = np.random.default_rng(3)


def rand(*shape: int) -> np.ndarray:
    return np.asarray(RNG.standard_normal(shape) * 0.4, np.float32)


def branchy() -> ModelProto:
    """Convolutions with a residual, two heads of which one is permuted, and names that ncnn cannot read."""
    weights = {
        "w0": rand(8, 3, 3, 3), "b0": rand(8), "w1": rand(8, 8, 3, 3), "b1": rand(8),
        "w2": rand(4, 8, 1, 1), "b2": rand(4), "w3": rand(6, 8, 1, 1), "b3": rand(6),
    }  # fmt: skip
    same = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["stem of it"], name="stem", **same),
        helper.make_node("Relu", ["stem of it"], ["stem out"], name="stem relu"),
        helper.make_node("Conv", ["stem out", "w1", "b1"], ["inner"], name="inner conv", **same),
        helper.make_node("Add", ["inner", "stem out"], ["sum"], name="residual"),
        helper.make_node("Conv", ["sum", "w2", "b2"], ["head"], name="head conv"),
        helper.make_node("Transpose", ["head"], ["turned"], perm=[0, 2, 3, 1], name="turn"),
        helper.make_node("Softmax", ["turned"], ["classes"], axis=-1, name="soft"),
        helper.make_node("Conv", ["sum", "w3", "b3"], ["boxes"], name="boxes conv"),
    ]
    return of_nodes(nodes, {"x": (1, 3, 9, 7)}, {"classes": (1, 9, 7, 4), "boxes": (1, 6, 9, 7)}, weights)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bisect")
    model = save(branchy(), folder / "branchy.onnx")
    export_model(model, folder / "good", ExportOptions(verify=False))
    return folder / "good"


def swap_kernel(editor: Editor, node: str, shape: tuple[int, ...]) -> str:
    layer = next(layer for layer in editor.layers if layer.name == node)
    editor.weight(layer, 0, lambda flat: flat.reshape(shape)[::-1].reshape(-1), tagged=True)
    return layer.name


def test_a_good_bundle_has_nothing_to_find(good: Path) -> None:
    report = bisect_bundle(good, "local")
    assert (report.verdict.value, report.stage, report.first, report.runs) == ("pass", "none", None, 3)


def test_outputs_of_which_one_is_made_of_another_are_both_looked_at(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["scores"], name="conv"),
        helper.make_node("Softmax", ["scores"], ["classes"], axis=1, name="soft"),
    ]
    model = of_nodes(nodes, {"x": (1, 3, 5, 5)}, {"classes": (1, 4, 5, 5), "scores": (1, 4, 5, 5)},
                     {"w": rand(4, 3, 1, 1)})  # fmt: skip
    export_model(save(model, tmp_path / "m.onnx"), tmp_path / "good", ExportOptions(verify=False))
    editor = Editor(tmp_path / "good", tmp_path / "bad")
    guilty = swap_kernel(editor, "conv", (4, 3))
    report = bisect_bundle(editor.save(), "local")
    assert [state.verdict.value for state in report.outputs] == ["fail", "fail"]
    assert report.first is not None
    assert [layer.name for layer in report.first.layers] == [guilty]


def test_a_wrong_floor_under_a_logarithm_fails_on_made_up_sounds_and_is_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mul", ["audio", "audio"], ["power"], name="square"),
        helper.make_node("AveragePool", ["power"], ["energy"], kernel_shape=[64], strides=[64], name="frames"),
        helper.make_node("Clip", ["energy", "floor"], ["floored"], name="floor"),
        helper.make_node("Log", ["floored"], ["level"], name="log"),
    ]
    model = of_nodes(nodes, {"audio": (1, 1, 6144)}, {"level": (1, 1, 96)}, {"floor": np.float32(1e-7)})
    export_model(save(model, tmp_path / "m.onnx"), tmp_path / "good", ExportOptions())
    editor = Editor(tmp_path / "good", tmp_path / "bad")
    layer = editor.find("Clip")
    editor.set(layer, min=2e-7)
    report = bisect_bundle(editor.save(), "local")
    assert (report.verdict.value, report.stage, report.confirmed) == ("fail", "layer", True)
    assert report.first is not None
    assert [each.name for each in report.first.layers] == [layer.name]
    assert "'log' behind it is off by" in report.sentence
    assert report.runs <= 15


@pytest.mark.parametrize("mode", ["auto", "accumulated", "local"])
def test_the_guilty_layer_is_named_with_its_node_numbers_and_params(good: Path, tmp_path: Path, mode: str) -> None:
    editor = Editor(good, tmp_path / "bad")
    guilty = swap_kernel(editor, "inner_conv", (8, 8, 9))
    report = bisect_bundle(editor.save(), "local", BisectOptions(mode=mode))  # type: ignore[arg-type]
    assert report.verdict.value == "fail"
    assert report.stage == "layer"
    assert report.confirmed is (mode != "accumulated")
    first = report.first
    assert first is not None
    assert [layer.name for layer in first.layers] == [guilty]
    assert ("inner conv", "Conv") in list(zip(first.nodes, first.operators, strict=True))
    assert first.layers[0].params["kernel_w"] == "3"
    assert [(r.tensor, r.shape) for r in first.inputs] == [("stem out", (1, 8, 9, 7))]
    assert first.inputs[0].minimum == 0
    if mode != "accumulated":
        assert first.local is not None
        assert first.local > 0.1
    assert report.runs <= 15


def test_the_sample_that_is_furthest_off_is_looked_into_and_its_verdict_told(good: Path, tmp_path: Path) -> None:
    editor = Editor(good, tmp_path / "bad")
    stem = next(layer for layer in editor.layers if layer.name == "stem")
    editor.set(stem, activation_type=3, activation_params=[0.0, 3.0])  # clipped, where small inputs are not
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for name, scale in {"1_small": 0.05, "2_large": 4.0, "3_huge": 40.0, "4_small": 0.05}.items():
        np.save(inputs / f"{name}.npy", rand(1, 3, 9, 7) * np.float32(scale))
    report = bisect_bundle(editor.save(), "local", BisectOptions(inputs=inputs))
    assert (report.sample.removesuffix(".npy"), report.verdict.value) == ("3_huge", "fail")
    assert report.first is not None
    assert report.first.layers[-1].name == "stem"
    assert report.runs <= 15


def test_few_bytes_a_run_find_the_same_layer(good: Path, tmp_path: Path) -> None:
    editor = Editor(good, tmp_path / "bad")
    guilty = swap_kernel(editor, "stem", (8, 3, 9))
    report = bisect_bundle(editor.save(), "local", BisectOptions(run_bytes=3000))
    assert report.first is not None
    assert report.first.layers[-1].name == guilty
    assert {"stem", "stem relu"} <= set(report.first.nodes), "the group that was fused"


def test_a_fault_in_one_head_is_not_sought_in_the_other(good: Path, tmp_path: Path) -> None:
    editor = Editor(good, tmp_path / "bad")
    layer = editor.find("Permute")
    editor.set(layer, order_type=0)
    report = bisect_bundle(editor.save(), "local")
    assert report.first is not None
    assert report.first.layers[-1].name == layer.name
    assert "dims" in report.first.causes[0]
    assert {state.name: state.verdict.value for state in report.outputs} == {"classes": "fail", "boxes": "pass"}


def test_an_output_taken_from_another_blob_is_the_manifests_fault(good: Path, tmp_path: Path) -> None:
    editor = Editor(good, tmp_path / "bad")
    classes, boxes = editor.artifact.outputs
    swapped = (replace(classes, blob=boxes.blob), replace(boxes, blob=classes.blob))
    editor.artifact = replace(editor.artifact, outputs=swapped)
    report = bisect_bundle(editor.save(), "local")
    assert (report.verdict.value, report.stage) == ("fail", "mapping")
    assert "'classes' is taken from the blob 'boxes'" in report.sentence


def test_inputs_fed_to_each_others_blobs_are_the_manifests_fault(tmp_path: Path) -> None:
    nodes = [helper.make_node("Exp", ["b"], ["grown"], name="grow"), helper.make_node("Sub", ["a", "grown"], ["y"])]
    model = of_nodes(nodes, {"a": (1, 12), "b": (1, 12)}, {"y": (1, 12)})
    export_model(save(model, tmp_path / "m.onnx"), tmp_path / "good", ExportOptions(verify=False))
    editor = Editor(tmp_path / "good", tmp_path / "bad")
    one, two = editor.artifact.inputs
    exchanged = (replace(one, blob=two.blob), replace(two, blob=one.blob))
    editor.artifact = replace(editor.artifact, inputs=exchanged)
    report = bisect_bundle(editor.save(), "local")
    assert (report.verdict.value, report.stage, report.first) == ("fail", "mapping", None)
    assert "the input 'a' is fed to the blob 'b', which holds 'b'" in report.sentence


def test_every_traced_blob_holds_its_tensor(good: Path) -> None:
    bundle, _, trace, layers = open_traced(good)
    fed = {"x": rand(1, 3, 9, 7)}
    with Taps(_graph(good)) as taps:
        names = sorted({blob.tensor for blob in trace.blobs.values()})
        right = taps.values(fed, names)
    wanted = [blob for layer in layers for blob in layer.outputs if blob in trace.blobs and layer.type != "Input"]
    with NcnnHostRunner(bundle.root, bundle.manifest) as runner:
        made = runner.blobs({"x": fed["x"][0]}, wanted, RunOptions())
    assert {blob.tensor for blob in trace.blobs.values()} >= {"stem out", "sum", "head", "turned", "classes", "boxes"}
    for blob in wanted:
        assert made[blob].shape == trace.blobs[blob].dims, blob
        np.testing.assert_allclose(
            made[blob].reshape(-1), right[trace.blobs[blob].tensor].reshape(-1), rtol=1e-3, atol=1e-4, err_msg=blob
        )


def _graph(bundle: Path) -> ModelProto:
    from mobilekit.importers.convert import to_proto
    from mobilekit.importers.onnx import load
    from mobilekit.passes import prepare

    return to_proto(prepare(load(open_bundle(bundle).source), {}))


def test_a_reproduction_is_a_bundle_of_its_own_that_fails(good: Path, tmp_path: Path) -> None:
    editor = Editor(good, tmp_path / "bad")
    guilty = swap_kernel(editor, "inner_conv", (8, 8, 9))
    folder = tmp_path / "repro"
    report = bisect_bundle(editor.save(), "local", BisectOptions(repro=folder))
    assert report.repro == str(folder)
    facts = json.loads((folder / "repro.json").read_text())
    assert facts["device"]["serial"] == "local"
    _, _, _, layers = open_traced(folder / "bundle")
    assert [layer.name for layer in layers if layer.type != "Input"] == [guilty]
    command = shlex.split(facts["command"])
    assert command[0] == "mobilekit"
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    expected, actual = np.load(folder / "expected.npy"), np.load(folder / "actual.npy")
    assert expected.shape == actual.shape
    assert np.linalg.norm(actual - expected) > 0.1 * np.linalg.norm(expected)
    with pytest.raises(UsageError, match="is there already"):
        bisect_bundle(tmp_path / "bad", "local", BisectOptions(repro=folder))


def test_a_reproduction_of_two_inputs_feeds_both(good: Path, tmp_path: Path) -> None:
    editor = Editor(good, tmp_path / "bad")
    editor.set(editor.find("BinaryOp"), op_type=1)  # a difference instead of the sum
    report = bisect_bundle(editor.save(), "local", BisectOptions(repro=tmp_path / "repro"))
    assert report.first is not None
    assert len(report.first.inputs) == 2
    again = bisect_bundle(tmp_path / "repro" / "bundle", "local", BisectOptions(inputs=tmp_path / "repro" / "inputs"))
    assert again.first is not None
    assert again.first.layers[-1].name == report.first.layers[-1].name


def test_bundles_of_older_versions_are_refused_with_the_remedy(good: Path, tmp_path: Path) -> None:
    editor = Editor(good, tmp_path / "old")
    editor.artifact = replace(editor.artifact, trace=None)
    with pytest.raises(BundleError, match="older mobilekit") as caught:
        bisect_bundle(editor.save(), "local")
    assert "export" in caught.value.hint


@pytest.mark.parametrize("text", ["[]", "{}", '{"schema_version": "9.0", "blobs": {}, "weights": {}}', "{"])
def test_a_damaged_trace_is_a_bundle_error(good: Path, tmp_path: Path, text: str) -> None:
    editor = Editor(good, tmp_path / "bad")
    (editor.root / "ncnn" / "trace.json").write_text(text)
    write_manifest(editor.root, editor.manifest)
    with pytest.raises(BundleError, match=r"trace\.json"):
        bisect_bundle(editor.root, "local")


def test_the_command_prints_and_exits_by_the_verdict(good: Path, tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mobilekit", "bisect", *words, "--device", "local"]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    editor = Editor(good, tmp_path / "bad")
    swap_kernel(editor, "inner_conv", (8, 8, 9))
    bad = editor.save()
    fine, wrong, data = run(str(good)), run(str(bad)), run(str(bad), "--json", "-")
    assert (fine.returncode, wrong.returncode, data.returncode) == (0, 1, 1)
    assert "nothing to look for" in fine.stdout
    assert "Convolution inner_conv" in wrong.stdout
    assert json.loads(data.stdout)["first"]["layers"][0]["name"] == "inner_conv"
    assert run(str(good), "--mode", "guess").returncode == 2
