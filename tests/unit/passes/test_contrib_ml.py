"""Operators of ``ai.onnx.ml`` against ONNX Runtime, and those that are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from mobilekit.errors import UnsupportedModelError
from tests.models import of_nodes
from tests.unit.passes.checks import assert_same, prepared

ML = "ai.onnx.ml"
WEIGHTS = [0.5, -1.0, 0.25, 2.0, 1.5, -0.75, 0.1, -0.2, 0.3, 0.9, -0.4, 0.6]
LABELS = [3, 7, 9]


def model(nodes: list[onnx.NodeProto], width: int, outputs: dict[str, Any] | None = None) -> onnx.ModelProto:
    made = of_nodes(nodes, {"x": (2, 4)}, {"y": (2, width)}, {"at": np.array([3, 0], np.int64)})
    if outputs:
        del made.graph.output[:]
        made.graph.output.extend(helper.make_tensor_value_info(n, kind, shape) for n, (kind, shape) in outputs.items())
    made.opset_import.append(helper.make_opsetid(ML, 3))
    return made


def node(op: str, inputs: list[str], outputs: list[str], **attrs: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, outputs, domain=ML, **attrs)


@pytest.mark.parametrize(
    ("op", "inputs", "width", "attrs"),
    [
        ("Scaler", ["x"], 4, {"offset": [1.0, -2.0, 0.0, 3.0], "scale": [0.5, 2.0, 1.0, -1.0]}),
        ("Scaler", ["x"], 4, {"offset": [1.5], "scale": [0.5]}),
        ("LinearRegressor", ["x"], 1, {"coefficients": WEIGHTS[:4], "intercepts": [0.7]}),
        ("LinearRegressor", ["x"], 3, {"coefficients": WEIGHTS, "targets": 3}),
        ("Normalizer", ["x"], 4, {"norm": "L1"}),
        ("Normalizer", ["x"], 4, {"norm": "L2"}),
        ("ArrayFeatureExtractor", ["x", "at"], 2, {}),
        ("Binarizer", ["x"], 4, {"threshold": 0.1}),
    ],
    ids=["scaler", "one scale", "regressor", "three targets", "l1", "l2", "extractor", "binarizer"],
)
def test_rows_are_arithmetic(tmp_path: Path, op: str, inputs: list[str], width: int, attrs: dict[str, Any]) -> None:
    made = model([node(op, inputs, ["y"], **attrs)], width)
    assert_same(made, prepared(made, tmp_path, verify=False))


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX"])
def test_a_linear_classifier_of_numbers(tmp_path: Path, transform: str) -> None:
    attrs = {"coefficients": WEIGHTS, "intercepts": [0.1, 0.2, -0.3], "classlabels_ints": LABELS}
    nodes = [node("LinearClassifier", ["x"], ["label", "y"], post_transform=transform, **attrs)]
    outputs = {"label": (onnx.TensorProto.INT64, (2,)), "y": (onnx.TensorProto.FLOAT, (2, 3))}
    made = model(nodes, 3, outputs)
    assert_same(made, prepared(made, tmp_path, verify=False))


@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
def test_a_row_of_zeros_is_not_divided_by_itself(tmp_path: Path, norm: str) -> None:
    nodes = [helper.make_node("Sub", ["x", "x"], ["zeros"]), node("Normalizer", ["zeros"], ["z"], norm=norm)]
    nodes += [node("Normalizer", ["x"], ["n"], norm=norm), helper.make_node("Add", ["z", "n"], ["y"])]
    made = model(nodes, 4)
    assert_same(made, prepared(made, tmp_path, verify=False))


@pytest.mark.parametrize("numbers", [[7.0], [1.0, 2.0, 3.0, 4.0]], ids=["one", "columns"])
@pytest.mark.parametrize("missing", [float("nan"), 0.0])
def test_missing_numbers_are_replaced(tmp_path: Path, missing: float, numbers: list[float]) -> None:
    """Log makes NaN of what is below zero, Relu makes it zero."""
    lose = helper.make_node("Log" if np.isnan(missing) else "Relu", ["x"], ["lost"])
    attrs = {"imputed_value_floats": numbers, "replaced_value_float": missing}
    made = model([lose, node("Imputer", ["lost"], ["y"], **attrs)], 4)
    assert_same(made, prepared(made, tmp_path, verify=False))


def test_trees_are_refused_by_name(tmp_path: Path) -> None:
    attrs = {"nodes_treeids": [0], "nodes_nodeids": [0], "nodes_modes": ["LEAF"], "n_targets": 1}
    made = model([node("TreeEnsembleRegressor", ["x"], ["y"], **attrs)], 1)
    with pytest.raises(UnsupportedModelError) as refused:
        prepared(made, tmp_path, verify=False)
    assert "decision trees" in refused.value.findings[0].reason


@pytest.mark.parametrize("targets", [0, 5])
def test_coefficients_that_do_not_fit_are_refused(tmp_path: Path, targets: int) -> None:
    made = model([node("LinearRegressor", ["x"], ["y"], coefficients=WEIGHTS, targets=targets)], 3)
    with pytest.raises(UnsupportedModelError) as refused:
        prepared(made, tmp_path, verify=False)
    assert "coefficients" in refused.value.findings[0].reason
