"""What an export's verification lets pass: what the number format must cost, and nothing more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from mobilekit.errors import VerificationError
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.progress import Progress
from tests.models import of_nodes, save


def cancelling(offset: float) -> onnx.ModelProto:
    """Weights that add up to zero over inputs with an offset: rounding them to half precision costs the more, the
    larger it is."""
    weights = np.random.default_rng(1).standard_normal((16, 64, 1, 1)).astype(np.float32)
    weights -= weights.mean(axis=1, keepdims=True)
    nodes = [
        helper.make_node("Abs", ["x"], ["a"]),
        helper.make_node("Add", ["a", "offset"], ["b"]),
        helper.make_node("Sqrt", ["b"], ["s"]),
        helper.make_node("Conv", ["s", "w"], ["y"]),
    ]
    return of_nodes(nodes, {"x": (1, 64, 6, 6)}, {"y": (1, 16, 6, 6)}, {"offset": np.float32([offset]), "w": weights})


def test_half_precision_may_cost_what_it_must(tmp_path: Path) -> None:
    report = export_model(save(cancelling(100), tmp_path / "m.onnx"), tmp_path / "b", ExportOptions(precision="fp16"))
    assert report.manifest.verified
    assert 0.05 < report.errors["y"].relative_l2 <= 0.1


def test_but_not_more_than_leaves_an_answer(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match=r"is above 0\.1") as caught:
        export_model(save(cancelling(3000), tmp_path / "m.onnx"), tmp_path / "b", ExportOptions(precision="fp16"))
    assert "half precision is too coarse" in caught.value.hint
    assert not (tmp_path / "b").exists()


class Notes(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_inputs_to_which_the_original_has_no_answer_are_replaced(tmp_path: Path) -> None:
    """A softmax over nothing but padding is NaN throughout: other ids are drawn, and that is said."""
    nodes = [
        helper.make_node("Slice", ["x", "zero", "one", "one"], ["first"]),
        helper.make_node("Sqrt", ["first"], ["root"]),
        helper.make_node("Mul", ["x", "root"], ["y"]),
    ]
    bounds = {"zero": np.array([0]), "one": np.array([1])}
    model = save(of_nodes(nodes, {"x": (1, 8)}, {"y": (1, 8)}, bounds), tmp_path / "m.onnx")
    notes = Notes()
    report = export_model(model, tmp_path / "b", ExportOptions(samples=4), notes)
    assert report.manifest.verified
    assert report.errors["y"].relative_l2 < 1e-6
    assert any("throughout to seed " in note for note in notes.notes)


def test_a_model_that_never_answers_is_written_unverified(tmp_path: Path) -> None:
    nodes = [helper.make_node("Abs", ["x"], ["a"]), helper.make_node("Sub", ["a", "far"], ["s"])]
    nodes += [helper.make_node("Sqrt", ["s"], ["r"]), helper.make_node("Exp", ["r"], ["y"])]
    far = np.full((1, 8), 1000, np.float32)
    model = save(of_nodes(nodes, {"x": (1, 8)}, {"y": (1, 8)}, {"far": far}), tmp_path / "m.onnx")
    assert not export_model(model, tmp_path / "b").manifest.verified
