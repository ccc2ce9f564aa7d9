"""Models with a batch above 1: run sample by sample where that is exact and shorter, else as they are, else refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from mobilekit.bundle import BatchPlace, open_bundle
from mobilekit.errors import UnsupportedModelError, UsageError
from mobilekit.pipeline.export import ExportReport, export_model
from mobilekit.pipeline.inspect import inspect_model
from mobilekit.pipeline.run import run
from mobilekit.pipeline.validate import ValidateOptions, validate_bundle
from mobilekit.validate.tolerance import Verdict
from tests.models import conv_classifier, of_nodes, save

RNG = np.random.default_rng(3)
Node = helper.make_node


def batched_classifier(batch: int) -> onnx.ModelProto:
    model = conv_classifier()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    return model


def exported(model: onnx.ModelProto, folder: Path) -> ExportReport:
    report = export_model(save(model, folder / "m.onnx"), folder / "out")
    assert report.manifest.verified
    return report


def test_a_batch_of_images_is_run_one_by_one(tmp_path: Path) -> None:
    alone = exported(batched_classifier(1), tmp_path / "1").manifest
    manifest = exported(batched_classifier(3), tmp_path / "3").manifest
    assert manifest.ncnn is not None
    assert alone.ncnn is not None
    assert manifest.ncnn.batch is not None
    assert manifest.ncnn.batch.size == 3
    assert manifest.ncnn.layers == alone.ncnn.layers
    assert manifest.inputs[0].shape == (3, 3, 8, 8)
    assert manifest.outputs[0].shape == (3, 4)
    first, second = ((tmp_path / name / "out" / "ncnn" / "model.param").read_bytes() for name in "13")
    assert first == second


def test_validate_and_run_put_the_batch_together(tmp_path: Path) -> None:
    exported(batched_classifier(3), tmp_path)
    bundle = tmp_path / "out"
    report = validate_bundle(bundle, "local", ValidateOptions(warmup=1, iterations=2))
    assert report.verdict is Verdict.PASS
    assert report.outputs[0].shape == (3, 4)
    assert report.latency is not None
    assert report.latency.batch == 3
    np.save(tmp_path / "x.npy", RNG.standard_normal((3, 3, 8, 8)).astype(np.float32))
    ours = run(bundle, [str(tmp_path / "x.npy")])
    assert ours.batch == 3
    assert ours.outputs["scores"].shape == (3, 4)
    np.save(tmp_path / "one.npy", np.zeros((1, 3, 8, 8), np.float32))
    with pytest.raises(UsageError, match="3x3x8x8"):
        run(bundle, [str(tmp_path / "one.npy")])


def test_the_bundle_says_where_the_batch_is(tmp_path: Path) -> None:
    nodes = [Node("LSTM", ["x", "w", "r"], ["y", "h"], hidden_size=4)]
    weights = {
        "w": RNG.standard_normal((1, 16, 6)).astype(np.float32),
        "r": RNG.standard_normal((1, 16, 4)).astype(np.float32),
    }
    exported(of_nodes(nodes, {"x": (5, 2, 6)}, {"y": (5, 1, 2, 4), "h": (1, 2, 4)}, weights), tmp_path)
    artifact = open_bundle(tmp_path / "out").manifest.ncnn
    assert artifact is not None
    assert artifact.batch is not None
    assert artifact.batch.places == {"x": BatchPlace(axis=1), "y": BatchPlace(axis=2), "h": BatchPlace(axis=1)}


def test_rows_of_a_matrix_stay_in_the_model(tmp_path: Path) -> None:
    """[tokens, features] through a dense network is one matrix product, not one for each token."""
    weights = {f"w{layer}": RNG.standard_normal((6, 6)).astype(np.float32) for layer in range(4)}
    nodes = [
        node
        for layer in range(4)
        for node in (
            Node("MatMul", [f"x{layer}", f"w{layer}"], [f"m{layer}"]),
            Node("Relu", [f"m{layer}"], [f"x{layer + 1}"]),
        )
    ]
    artifact = exported(of_nodes(nodes, {"x0": (20, 6)}, {"x4": (20, 6)}, weights), tmp_path).manifest.ncnn
    assert artifact is not None
    assert artifact.batch is None


@pytest.mark.parametrize("op", ["Softmax", "CumSum"])
def test_what_mixes_samples_stays_in_the_model(op: str, tmp_path: Path) -> None:
    last = Node("Softmax", ["f"], ["y"], axis=0) if op == "Softmax" else Node("CumSum", ["f", "axis"], ["y"])
    nodes = [Node("Conv", ["x", "w"], ["c"]), Node("Flatten", ["c"], ["f"]), last]
    weights = {"w": RNG.standard_normal((2, 3, 3, 3)).astype(np.float32), "axis": np.array(0)}
    artifact = exported(of_nodes(nodes, {"x": (2, 3, 5, 5)}, {"y": (2, 18)}, weights), tmp_path).manifest.ncnn
    assert artifact is not None
    assert artifact.batch is None


def test_a_refusal_names_the_node_that_mixes_samples(tmp_path: Path) -> None:
    nodes = [
        Node("ConvTranspose", ["x", "w"], ["c"], name="conv"),
        Node("ReduceMean", ["c", "axis"], ["m"], name="mean", keepdims=1),
        Node("Sub", ["c", "m"], ["y"]),
    ]
    weights = {"w": RNG.standard_normal((3, 2, 1, 3, 3)).astype(np.float32), "axis": np.array([0])}
    model = of_nodes(nodes, {"x": (2, 3, 4, 5, 5)}, {"y": (2, 2, 4, 7, 7)}, weights, opset=18)
    with pytest.raises(UnsupportedModelError) as caught:
        export_model(save(model, tmp_path / "m.onnx"), tmp_path / "out")
    assert "ReduceMean at mean: it reduces over the batch" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_inspect_says_what_export_does(tmp_path: Path) -> None:
    """A batch of 3-D convolution goes only one by one."""
    weights = {"w": RNG.standard_normal((2, 3, 1, 3, 3)).astype(np.float32)}
    model = of_nodes([Node("Conv", ["x", "w"], ["y"])], {"x": (2, 3, 4, 5, 5)}, {"y": (2, 2, 4, 3, 3)}, weights)
    path = save(model, tmp_path / "m.onnx")
    assert inspect_model(path, {}).targets[0].supported
    artifact = exported(model, tmp_path).manifest.ncnn
    assert artifact is not None
    assert artifact.batch is not None
