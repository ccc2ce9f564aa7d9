"""Weights that are no numbers: refused by name where outputs are none either, told where nothing is verified."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

from mobilekit.errors import ModelError
from mobilekit.importers.convert import from_proto
from mobilekit.passes.nonfinite import listed, nonfinite_weights
from mobilekit.pipeline.export import ExportOptions, export_model
from tests.models import of_nodes, save

Node = helper.make_node


class Notes:
    """Keeps the notes that an export makes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def step(self, text: str) -> None:
        pass


def matmul(value: float, *, cut: bool = False) -> ModelProto:
    """One element of the weight is ``value``; with ``cut`` no output depends on its column."""
    weight = np.ones((4, 3), np.float32)
    weight[1, 2] = value
    weights = {"w": weight, "unread": np.full(3, np.nan, np.float32), "i": np.array([0, 1])}
    nodes = [Node("MatMul", ["x", "w"], ["y" if not cut else "m"])]
    if cut:
        nodes.append(Node("Gather", ["m", "i"], ["y"], axis=1))
    return of_nodes(nodes, {"x": (2, 4)}, {"y": (2, 2 if cut else 3)}, weights)


def test_they_are_counted_by_name(tmp_path: Path) -> None:
    weight = np.zeros((1 << 20) + 5, np.float32)
    weight[[3, 1 << 20]] = np.nan
    weight[-1] = -np.inf
    large = np.full(3, 3e38, np.float32)  # finite, though their sum is not
    body = helper.make_graph(
        [Node("Add", ["x", "inner"], ["b"])], "body", [], [helper.make_tensor_value_info("b", 1, weight.shape)]
    )
    body.initializer.append(numpy_helper.from_array(np.array(np.inf, np.float16).astype(np.float32), "inner"))
    nodes = [
        Node("Add", ["x", "w"], ["a"]),
        Node("ReduceMax", ["large"], ["m"]),
        Node("If", ["c"], ["y"], then_branch=body, else_branch=body),
    ]
    weights = {"w": weight, "large": large, "never": np.array(np.nan, np.float32)}
    shape = weight.shape
    model = of_nodes(nodes, {"x": shape, "c": (1,)}, {"a": shape, "m": (1,), "y": shape}, weights)
    found = nonfinite_weights(from_proto(model, tmp_path))
    assert [(one.name, one.size, one.nan, one.infinite) for one in found] == [
        ("w", weight.size, 2, 1),
        ("inner", 1, 0, 1),
        ("inner", 1, 0, 1),
    ]
    assert listed(found, 1) == f"'w' (2 NaN, 1 infinite of {weight.size}) and 2 more"


def test_nan_that_reaches_an_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"weights hold NaN.*'w' \(1 NaN of 12\)"):
        export_model(save(matmul(np.nan), tmp_path / "m.onnx"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nan_that_no_output_reads_is_no_matter(tmp_path: Path) -> None:
    report = export_model(save(matmul(np.nan, cut=True), tmp_path / "m.onnx"), tmp_path / "out")
    assert report.manifest.verified


def test_nan_that_marks_what_does_not_count_is_no_damage(tmp_path: Path) -> None:
    nodes = [
        Node("Tanh", ["x"], ["t"]),
        Node("Greater", ["x", "zero"], ["c"]),
        Node("Where", ["c", "t", "marker"], ["y"]),
    ]
    weights = {"zero": np.array(0, np.float32), "marker": np.array(np.nan, np.float32)}
    notes = Notes()
    path = save(of_nodes(nodes, {"x": (5, 6)}, {"y": (5, 6)}, weights), tmp_path / "m.onnx")
    assert export_model(path, tmp_path / "out", progress=notes).manifest.verified
    assert not any("NaN" in note for note in notes.notes)


def test_infinities_are_told(tmp_path: Path) -> None:
    notes = Notes()
    export_model(save(matmul(np.inf), tmp_path / "m.onnx"), tmp_path / "out", progress=notes)
    assert any("hold infinities, and so do its outputs: 'w' (1 infinite of 12)" in note for note in notes.notes)


def test_a_mask_of_infinities_is_no_matter(tmp_path: Path) -> None:
    mask = np.triu(np.full((3, 3), -np.inf, np.float32), 1)
    nodes = [Node("Add", ["x", "mask"], ["a"]), Node("Softmax", ["a"], ["y"])]
    notes = Notes()
    model = of_nodes(nodes, {"x": (3, 3)}, {"y": (3, 3)}, {"mask": np.where(np.isnan(mask), 0, mask)})
    report = export_model(save(model, tmp_path / "m.onnx"), tmp_path / "out", progress=notes)
    assert report.manifest.verified
    assert not any("infinit" in note for note in notes.notes)


def test_unverified_they_are_told(tmp_path: Path) -> None:
    notes = Notes()
    path = save(matmul(np.nan), tmp_path / "m.onnx")
    export_model(path, tmp_path / "out", ExportOptions(verify=False, simplify=False), notes)
    assert any("not all finite, and nothing is verified: 'w' (1 NaN of 12)" in note for note in notes.notes)
