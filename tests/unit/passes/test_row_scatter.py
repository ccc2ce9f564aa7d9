"""``y[mask] = ...`` as torch exports it (NonZero, Transpose, ScatterND), held against ONNX Runtime from end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from mobilekit.bundle import open_bundle
from mobilekit.pipeline.export import export_model
from tests.models import of_nodes, save

Node = helper.make_node

WEIGHTS = {
    "edge": np.float32(0.3),
    "fill": np.float32(-7),
    "line": np.array([-1], np.int64),
    "row": np.arange(4, dtype=np.float32).reshape(1, 4),
    "four": np.array([4], np.int64),
    "last": np.array([2], np.int64),
}
WHERE = [Node("NonZero", ["mask"], ["n"]), Node("Transpose", ["n"], ["at"], perm=[1, 0])]
COUNT = [
    Node("Cast", ["mask"], ["ones"], to=onnx.TensorProto.INT64),
    Node("ReduceSum", ["ones"], ["count"], keepdims=0),
    Node("Unsqueeze", ["count", "zero"], ["counted"]),
]
ELEMENTS = [Node("Greater", ["x", "edge"], ["mask"])]
TO = [Node("Concat", ["counted", "four"], ["to"], axis=0)]
ROWS = [Node("ReduceSum", ["x", "last"], ["s"], keepdims=0), Node("Greater", ["s", "edge"], ["mask"])]


def exported(folder: Path, nodes: list[onnx.NodeProto]) -> tuple[str, float]:
    """The ``.param`` text and the worst error."""
    weights = WEIGHTS | {"zero": np.array([0], np.int64)}
    model = of_nodes(nodes, {"x": (2, 3, 4)}, {"y": (2, 3, 4)}, weights)
    report = export_model(save(model, folder / "m.onnx"), folder / "out")
    assert open_bundle(folder / "out").manifest.verified
    return (folder / "out" / "ncnn" / "model.param").read_text(encoding="utf-8"), report.errors["y"].relative_l2


@pytest.mark.parametrize(
    "nodes",
    [
        [*ELEMENTS, *WHERE, *COUNT, Node("Expand", ["fill", "counted"], ["u"])],
        [*ELEMENTS, *WHERE, *COUNT, Node("Expand", ["fill", "counted"], ["e"]), Node("Reshape", ["e", "line"], ["u"])],
        [*ROWS, *WHERE, *COUNT, *TO, Node("Expand", ["row", "to"], ["u"])],
    ],
    ids=["a number", "a number, reshaped", "a row"],
)  # fmt: skip
def test_one_value_for_all_places_is_a_where(tmp_path: Path, nodes: list[onnx.NodeProto]) -> None:
    param, error = exported(tmp_path, [*nodes, Node("ScatterND", ["x", "at", "u"], ["y"])])
    assert "Mk" not in param
    assert error < 1e-6


@pytest.mark.parametrize("reduction", ["none", "add"])
@pytest.mark.parametrize("of", [ELEMENTS, ROWS], ids=["elements", "rows"])
def test_values_of_their_own_are_scattered_past_those_that_are_none(
    tmp_path: Path, of: list[onnx.NodeProto], reduction: str
) -> None:
    steps = [Node("GatherND", ["x", "at"], ["picked"]), Node("Exp", ["picked"], ["u"])]
    _, error = exported(
        tmp_path, [*of, *WHERE, *steps, Node("ScatterND", ["x", "at", "u"], ["y"], reduction=reduction)]
    )
    assert error < 1e-5
