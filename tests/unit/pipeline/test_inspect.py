"""The report and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from typer.testing import CliRunner

from mobilekit.cli.main import make_app
from mobilekit.errors import ModelError, UsageError
from mobilekit.pipeline.inspect import inspect_model
from tests.models import conv_classifier, of_nodes, save

Node = helper.make_node
INPUT = "serving_default_input:0"


def test_facts_of_a_small_model(tmp_path: Path) -> None:
    report = inspect_model(save(conv_classifier(side="side"), tmp_path / "m.onnx"), {INPUT: (1, 3, 8, 8)})
    weights = 8 * 3 * 9 + 8 + 4 * 8 + 4
    assert (report.parameter_count, report.parameter_bytes) == (weights, 4 * weights)
    assert report.macs == 8 * 64 * 27 + 4 * 8
    assert report.macs_by_operator == {"Conv": 8 * 64 * 27, "Gemm": 4 * 8}
    assert report.operators == {"Conv": 1, "Relu": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1, "Softmax": 1}
    assert report.peak_activation_bytes == 2 * 8 * 64 * 4
    assert report.shapes == {INPUT: (1, 3, 8, 8)}
    assert report.output_shapes == {"scores": (1, 4)}
    assert [(t.name, t.supported, t.findings) for t in report.targets] == [("ncnn", True, ())]


def test_open_shapes_are_said(tmp_path: Path) -> None:
    report = inspect_model(save(conv_classifier(side="side"), tmp_path / "m.onnx"), {})
    assert (report.macs, report.peak_activation_bytes, report.shapes) == (None, None, {})
    assert "--input-shape" in report.unknown
    assert report.parameter_count > 0
    assert report.targets[0].supported is None


def test_shapes_that_do_not_fit_are_errors(tmp_path: Path) -> None:
    path = save(conv_classifier(), tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="no input"):
        inspect_model(path, {"nope": (1,)})
    with pytest.raises(UsageError, match="has 4 axes"):
        inspect_model(path, {INPUT: (1,)})
    with pytest.raises(UsageError, match="unknown target") as caught:
        inspect_model(path, {}, targets=["dsp"])
    assert "ncnn" in caught.value.hint


def a_length_that_is_computed(path: Path) -> Path:
    """As many numbers as the largest input says."""
    nodes = [
        Node("ReduceMax", ["x"], ["m"], keepdims=0),
        Node("Range", ["zero", "m", "one"], ["y"]),
    ]
    weights = {"zero": np.array(0, np.float32), "one": np.array(1, np.float32)}
    return save(of_nodes(nodes, {"x": (4,)}, {"y": ("n",)}, weights), path)


def test_what_depends_on_data_is_a_finding(tmp_path: Path) -> None:
    report = inspect_model(a_length_that_is_computed(tmp_path / "m.onnx"), {})
    assert report.macs is None
    assert report.targets[0].supported is False
    assert report.targets[0].findings[0].op == "Range"


def test_unsupported_operators_are_findings_and_costs_are_known(tmp_path: Path) -> None:
    nodes = [Node("Det", ["x"], ["d"]), Node("MatMul", ["x", "w"], ["y"])]
    model = of_nodes(nodes, {"x": (4, 4)}, {"d": (), "y": (4, 2)}, {"w": np.ones((4, 2), np.float32)})
    report = inspect_model(save(model, tmp_path / "m.onnx"), {})
    assert report.macs == 32
    assert report.targets[0].supported is False
    assert "Det" in {finding.op for finding in report.targets[0].findings}


def test_operators_in_bodies_count_and_their_costs_are_unknown(tmp_path: Path) -> None:
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [Node("MatMul", ["s", "w"], ["t"]), Node("Identity", ["go"], ["on"])],
        "body",
        [info("i", 7, []), info("go", 9, []), info("s", 1, [4, 4])],
        [info("on", 9, []), info("t", 1, [4, 4])],
    )
    nodes = [
        Node("ReduceMax", ["x"], ["most"], keepdims=0),
        Node("Cast", ["most"], ["n"], to=7),
        Node("Loop", ["n", "", "x"], ["y"], body=body),
    ]
    weights = {"w": np.ones((4, 4), np.float32)}
    report = inspect_model(save(of_nodes(nodes, {"x": (4, 4)}, {"y": (4, 4)}, weights), tmp_path / "m.onnx"), {})
    assert report.operators == {"ReduceMax": 1, "Cast": 1, "Loop": 1, "MatMul": 1, "Identity": 1}
    assert report.macs is None
    assert report.unknown


def test_command_prints_a_table(tmp_path: Path) -> None:
    path = save(conv_classifier(), tmp_path / "m.onnx")
    result = CliRunner().invoke(make_app(), ["inspect", str(path)])
    assert result.exit_code == 0
    for word in ("13.86 k", "GlobalAveragePool", INPUT, "1x3x8x8", "ncnn: takes every node"):
        assert word in result.stdout


def test_command_prints_json(tmp_path: Path) -> None:
    path = save(conv_classifier(side="s"), tmp_path / "m.onnx")
    result = CliRunner().invoke(make_app(), ["inspect", str(path), "--json", "--input-shape", f"{INPUT}:1x3x8x8"])
    facts = json.loads(result.stdout)
    assert facts["macs"] == 13856
    assert facts["opsets"] == {"ai.onnx": 17}
    assert facts["inputs"][0]["shape"] == [1, 3, "s", "s"]
    assert facts["shapes"] == {INPUT: [1, 3, 8, 8]}


def test_command_leaves_with_0_for_unsupported_models(tmp_path: Path) -> None:
    result = CliRunner().invoke(make_app(), ["inspect", str(a_length_that_is_computed(tmp_path / "m.onnx"))])
    assert result.exit_code == 0
    assert "Range at y" in result.stdout


def test_command_raises_for_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no")
    result = CliRunner().invoke(make_app(), ["inspect", str(tmp_path / "m.onnx")])
    assert isinstance(result.exception, ModelError)
