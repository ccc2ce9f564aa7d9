"""Inputs fixed to a value: gone from the bundle, given to ONNX Runtime by verification and validation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from mobilekit.bundle import open_bundle
from mobilekit.cli.main import make_app
from mobilekit.errors import BundleError, UsageError
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.pipeline.run import RunSettings, run
from mobilekit.pipeline.validate import ValidateOptions, validate_bundle
from tests.models import save

Node = helper.make_node
RATES = np.float32([[1, 2, 3, 4]])


def by_rate() -> onnx.ModelProto:
    """``y = x * w`` at a rate of 16000, else ``x * w + 1``; ``w`` and ``x`` share the axis ``n``."""

    def branch(name: str, nodes: list[onnx.NodeProto]) -> onnx.GraphProto:
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])

    nodes = [
        Node("Constant", [], ["wide"], value=numpy_helper.from_array(np.int64(16000))),
        Node("Equal", ["sr", "wide"], ["is_wide"]),
        Node(
            "If",
            ["is_wide"],
            ["y"],
            then_branch=branch("a", [Node("Mul", ["x", "w"], ["a"])]),
            else_branch=branch("b", [Node("Mul", ["x", "w"], ["t"]), Node("Add", ["t", "one"], ["b"])]),
        ),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "n"]),
        helper.make_tensor_value_info("w", TensorProto.FLOAT, [1, "n"]),
        helper.make_tensor_value_info("sr", TensorProto.INT64, []),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "n"])]
    one = numpy_helper.from_array(np.float32([1]), "one")
    graph = helper.make_graph(nodes, "by_rate", inputs, outputs, [one])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(by_rate(), tmp_path / "rate.onnx")


@pytest.mark.parametrize(("rate", "offset"), [(16000, 0), (8000, 1)])
def test_a_fixed_input_chooses_the_branch_and_its_axes(model: Path, tmp_path: Path, rate: int, offset: int) -> None:
    report = export_model(model, tmp_path / "out", ExportOptions(fixed={"sr": rate, "w": RATES}))
    assert report.manifest.verified
    bundle = open_bundle(tmp_path / "out")
    assert [(info.name, info.shape) for info in bundle.manifest.inputs] == [("x", (1, 4))]
    assert {info.name: (info.dtype, info.shape) for info in bundle.manifest.fixed} == {
        "sr": ("int64", ()),
        "w": ("float32", (1, 4)),
    }
    assert bundle.fixed()["sr"] == rate
    np.save(tmp_path / "x.npy", np.float32([[1, 1, 2, 2]]))
    for runner in ("local", "reference"):
        made = run(tmp_path / "out", [str(tmp_path / "x.npy")], RunSettings(runner=runner))  # type: ignore[arg-type]
        np.testing.assert_allclose(made.tensors["y"], [[1 + offset, 2 + offset, 6 + offset, 8 + offset]])
    verdict = validate_bundle(tmp_path / "out", "local", ValidateOptions(warmup=0, iterations=1))
    assert verdict.verdict == "pass"


def test_without_a_value_both_branches_are_computed(model: Path, tmp_path: Path) -> None:
    report = export_model(model, tmp_path / "out", ExportOptions(shapes={"x": (1, 4), "w": (1, 4)}))
    assert report.manifest.verified
    assert "sr" in [info.name for info in report.manifest.inputs]


@pytest.mark.parametrize(
    ("fixed", "said"),
    [
        ({"rate": 1}, "no input 'rate'"),
        ({"sr": 1.5}, "holds float64 values that are no int64"),
        ({"sr": True}, "holds bool values"),
        ({"sr": [1, 2]}, "has shape 2, the input takes scalar"),
        ({"w": [[1, 2], [3, 4]]}, "has shape 2x2, the input takes 1xn"),
        ({"w": [[1, 2], [3]]}, "uneven lists"),
        ({"w": [["a"]]}, "the input takes float32"),
        ({"w": [[1e99]]}, "holds float64 values that are no float32"),
        ({"w": [[1, 2]], "x": [[1, 2, 3]]}, "cannot be both"),
        ({"w": Path("missing.npy")}, "there is no file"),
    ],
)
def test_values_that_do_not_fit_are_refused(model: Path, tmp_path: Path, fixed: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        export_model(model, tmp_path / "out", ExportOptions(fixed=fixed))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_one_number_does_for_one_element_of_any_rank(model: Path, tmp_path: Path) -> None:
    report = export_model(model, tmp_path / "out", ExportOptions(fixed={"sr": 16000, "w": 2}))
    assert report.manifest.inputs[0].shape == (1, 1)


def test_the_command_line_takes_numbers_lists_and_files(model: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", RATES)
    out = str(tmp_path / "out")
    runner = CliRunner()
    for weights in ("[[1, 2, 3, 4]]", str(tmp_path / "w.npy")):
        made = runner.invoke(
            make_app(), ["export", str(model), "--input", "sr=8000", "--input", f"w={weights}", "-o", out]
        )
        assert made.exit_code == 0, made.output
        np.testing.assert_array_equal(open_bundle(tmp_path / "out").fixed()["w"], RATES)
    seen = runner.invoke(make_app(), ["inspect", str(model), "--input", "sr=8000", "--input", "w=[[1, 2]]", "--json"])
    facts = json.loads(seen.stdout)
    assert facts["shapes"] == {"x": [1, 2]}
    assert facts["targets"][0]["supported"] is True
    for wrong in ("sr", "=3", "sr=sixteen", "sr=null"):
        assert isinstance(runner.invoke(make_app(), ["inspect", str(model), "--input", wrong]).exception, UsageError)


def test_a_bundle_without_its_fixed_input_is_refused(model: Path, tmp_path: Path) -> None:
    export_model(model, tmp_path / "out", ExportOptions(fixed={"sr": 16000, "w": RATES}))
    (tmp_path / "out" / "fixed" / "0.npy").unlink()
    with pytest.raises(BundleError, match="lacks"):
        open_bundle(tmp_path / "out")
