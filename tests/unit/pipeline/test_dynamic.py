"""One export, many input sizes: right at sizes that were not looked at, or refused with the node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image
from typer.testing import CliRunner

from mobilekit.bundle import Bundle, open_bundle
from mobilekit.cli.main import make_app
from mobilekit.errors import UnsupportedModelError, UsageError
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.pipeline.run import RunSettings, run
from mobilekit.runners.base import RunOptions
from mobilekit.runners.ncnn_host import NcnnHostRunner
from mobilekit.runners.ort import OrtRunner
from mobilekit.sizes import AxisRange
from tests.models import of_nodes, save
from tests.unit.pipeline import dynamic_models as models

Shape = tuple[int, ...]


def export(model: onnx.ModelProto, folder: Path, **options: object) -> Bundle:
    path = save(model, folder / "model.onnx")
    export_model(path, folder / "bundle", ExportOptions(dynamic=True, **options))  # type: ignore[arg-type]
    return open_bundle(folder / "bundle")


def agrees(bundle: Bundle, shapes: Sequence[Shape]) -> None:
    """ncnn computes what ONNX Runtime does, shapes included, at each of ``shapes``."""
    rng = np.random.default_rng(3)
    with OrtRunner(bundle.source, free=bundle.free) as reference, NcnnHostRunner(bundle.root, bundle.manifest) as ncnn:
        for shape in shapes:
            inputs = {"x": rng.standard_normal(shape).astype(np.float32)}
            wanted, made = (runner.run(inputs, RunOptions()).outputs for runner in (reference, ncnn))
            for name, array in wanted.items():
                assert made[name].shape == array.shape
                np.testing.assert_allclose(made[name], array, rtol=1e-3, atol=1e-4, err_msg=f"{name} at {shape}")


@pytest.mark.parametrize(
    ("build", "multiple", "shapes"),
    [
        (models.u_net, 4, [(1, 3, 20, 76), (1, 3, 144, 36), (1, 3, 256, 256)]),
        (models.fcn_by_scale, 1, [(1, 3, 33, 50), (1, 3, 71, 18)]),
        (models.fcn_by_shape, 1, [(1, 3, 33, 50), (1, 3, 71, 118)]),
        (models.feature_pyramid, 8, [(1, 3, 40, 88), (1, 3, 176, 56)]),
        (models.super_resolution, 1, [(1, 1, 19, 50), (1, 1, 61, 60)]),
        (models.torch_pixel_shuffle, 1, [(1, 3, 19, 50), (1, 3, 31, 31)]),
        (models.wave, 1, [(1, 1, 333), (1, 1, 4001)]),
        (models.recogniser, 1, [(1, 3, 8, 37), (1, 3, 8, 200)]),
        (models.attention_over_pixels, 2, [(1, 3, 18, 30), (1, 3, 34, 20)]),
        (models.cropped_centre, 2, [(1, 3, 20, 34), (1, 3, 46, 46)]),
        (models.scaled_by_mean, 1, [(1, 3, 17, 30), (1, 3, 64, 64)]),
        (models.windows, 4, [(1, 3, 28, 44), (1, 3, 64, 64)]),
        (models.anchor_grid, 4, [(1, 3, 28, 44), (1, 3, 64, 64), (1, 3, 92, 12)]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_model_runs_at_sizes_that_no_one_looked_at(
    build: Callable[[], onnx.ModelProto], multiple: int, shapes: list[Shape], tmp_path: Path
) -> None:
    bundle = export(build(), tmp_path)
    (info,) = bundle.manifest.inputs
    assert bundle.manifest.verified
    assert len(bundle.manifest.sizes) == 3
    assert {axis.multiple for axis in info.free} == {multiple}
    agrees(bundle, shapes)


def test_a_layer_of_ours_takes_sequences_of_any_length(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((2, 24, 3)) * 0.4, "r": rng.standard_normal((2, 24, 8)) * 0.4}
    nodes = [
        helper.make_node("Transpose", ["x"], ["steps"], perm=[1, 0, 2]),
        helper.make_node("GRU", ["steps", "w", "r"], ["y", "h"], hidden_size=8, direction="bidirectional"),
        helper.make_node("Transpose", ["y"], ["z"], perm=[2, 0, 1, 3]),
    ]
    arrays = {name: array.astype(np.float32) for name, array in weights.items()}
    model = of_nodes(nodes, {"x": (1, 60, 3)}, {"z": (1, 60, 2, 8), "h": (2, 1, 8)}, arrays)
    bundle = export(model, tmp_path, dynamic_shapes={"x": (1, AxisRange(20, 200), 3)})
    assert bundle.manifest.ncnn is not None
    assert bundle.manifest.ncnn.custom_layers == ("MkRecurrent",)
    agrees(bundle, [(1, 20, 3), (1, 47, 3), (1, 200, 3)])


@pytest.mark.parametrize(
    ("build", "node", "says"),
    [(models.position_table, "/Slice_", "fixed size"), (models.dense_head, "Gemm", "1x3x")],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_needs_a_fixed_size_is_named(
    build: Callable[[], onnx.ModelProto], node: str, says: str, tmp_path: Path
) -> None:
    path = save(build(), tmp_path / "model.onnx")
    with pytest.raises(UnsupportedModelError, match="fixed input size") as caught:
        export_model(path, tmp_path / "bundle", ExportOptions(dynamic_shapes={"x": (1, 3, AxisRange(), AxisRange())}))
    told = [f"{finding.node} {finding.reason}" for finding in caught.value.findings]
    assert any(node in line and says in line for line in told), told
    assert not (tmp_path / "bundle").exists()


def test_a_length_that_the_exporter_wrote_down_is_named(tmp_path: Path) -> None:
    path = save(models.baked_length(), tmp_path / "model.onnx")
    with pytest.raises(UnsupportedModelError) as caught:
        export_model(path, tmp_path / "bundle", ExportOptions(dynamic=True))
    assert any(finding.op == "Reshape" and "[20, 4, 4]" in finding.reason for finding in caught.value.findings)


def test_the_smallest_size_of_a_wide_window_is_found(tmp_path: Path) -> None:
    """A mel spectrogram by convolution: below one window nothing is left, and a maximum has nothing to broadcast."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], strides=[16]), helper.make_node("Max", ["c", "low"], ["y"])]
    weights = {
        "w": np.random.default_rng(0).standard_normal((4, 1, 64)).astype(np.float32),
        "low": np.full((1, 4, 1), 0.1, np.float32),
    }
    bundle = export(of_nodes(nodes, {"x": (1, 1, "n")}, {"y": (1, 4, "m")}, weights), tmp_path)
    agrees(bundle, [(1, 1, 200), (1, 1, 1601)])
    assert (bundle.manifest.inputs[0].free[0].minimum or 0) >= 64


def test_an_axis_named_as_the_batch_is_not_free(tmp_path: Path) -> None:
    """Recurrent states hold the batch in their second axis."""
    model = of_nodes(
        [
            helper.make_node("ReduceSum", ["state", "first"], ["s"], keepdims=0),
            helper.make_node("Add", ["x", "s"], ["y"]),
        ],
        {"x": ("batch", "time"), "state": (2, "batch", 1)},
        {"y": ("batch", "time")},
        {"first": np.array([0])},
    )
    bundle = export(model, tmp_path)
    assert [info.describe() for info in bundle.manifest.inputs] == ["1x2..", "2x1x1"]


def test_a_table_is_cut_to_the_size_where_the_largest_is_known(tmp_path: Path) -> None:
    free = AxisRange(None, 400)
    bundle = export(models.position_table(), tmp_path, dynamic_shapes={"x": (1, 3, free, free)})
    agrees(bundle, [(1, 3, 36, 88), (1, 3, 400, 400)])
    with pytest.raises(UnsupportedModelError):  # 250 x 300 places do not fit the table of 65,536
        export(
            models.position_table(),
            tmp_path,
            dynamic_shapes={"x": (1, 3, AxisRange(None, 1000), AxisRange(None, 1200))},
        )


def test_a_length_goes_as_far_as_the_tables_that_are_cut_to_it(tmp_path: Path) -> None:
    """Learnt positions from the first on, and a table of distances that is cut around its middle."""
    rng = np.random.default_rng(0)
    tables = {"p": rng.standard_normal((1, 300, 4)), "d": rng.standard_normal((1, 399, 4))}
    nodes = [
        helper.make_node("Shape", ["x"], ["n"], start=1, end=2),
        helper.make_node("Slice", ["p", "zero", "n", "one"], ["positions"]),
        helper.make_node("Sub", ["middle", "n"], ["from"]),
        helper.make_node("Add", ["from", "n"], ["near"]),
        helper.make_node("Slice", ["d", "from", "near", "one"], ["distances"]),
        helper.make_node("Add", ["x", "positions"], ["a"]),
        helper.make_node("Mul", ["a", "distances"], ["y"]),
    ]
    numbers = {"zero": np.array([0]), "one": np.array([1]), "middle": np.array([200])}
    arrays = {name: array.astype(np.float32) for name, array in tables.items()} | numbers
    model = of_nodes(nodes, {"x": (1, "n", 4)}, {"y": (1, "n", 4)}, arrays)
    bundle = export(model, tmp_path, shapes={"x": (1, 32, 4)})
    assert bundle.manifest.inputs[0].free[0].maximum == 200
    agrees(bundle, [(1, 200, 4), (1, 31, 4)])


def test_a_model_of_fixed_shape_is_freed_by_naming_its_axes(tmp_path: Path) -> None:
    model = models.scaled_by_mean()
    for axis, size in zip(model.graph.input[0].type.tensor_type.shape.dim, (1, 3, 32, 32), strict=True):
        axis.dim_value = size
    path = save(model, tmp_path / "model.onnx")
    with pytest.raises(UsageError, match="no symbolic axis"):
        export_model(path, tmp_path / "bundle", ExportOptions(dynamic=True))
    bundle = export(model, tmp_path, dynamic_shapes={"x": (1, 3, AxisRange(16, 100), AxisRange(None, 128, 8))})
    (info,) = bundle.manifest.inputs
    assert info.shape == (1, 3, 32, 32)
    assert info.describe().startswith("1x3x16..100x")
    agrees(bundle, [(1, 3, 16, 128), (1, 3, 77, 40)])


def test_a_size_that_the_bundle_does_not_admit_is_refused_when_it_runs(tmp_path: Path) -> None:
    bundle = export(models.u_net(), tmp_path)
    for shape, says in (((1, 3, 22, 40), "multiple of 4"), ((1, 3, 0, 40), "axis 2"), ((2, 3, 40, 40), "1x3x")):
        with NcnnHostRunner(bundle.root, bundle.manifest) as ncnn, pytest.raises(UsageError, match=says):
            ncnn.run({"x": np.zeros(shape, np.float32)}, RunOptions())


def test_the_batch_is_never_free(tmp_path: Path) -> None:
    path = save(models.u_net(), tmp_path / "model.onnx")
    shape = (AxisRange(), 3, AxisRange(), AxisRange())
    with pytest.raises(UsageError, match="batch"):
        export_model(path, tmp_path / "bundle", ExportOptions(dynamic_shapes={"x": shape}))


def test_what_does_not_go_with_free_sizes_is_said(tmp_path: Path) -> None:
    path = save(models.u_net(), tmp_path / "model.onnx")
    for options in (
        ExportOptions(dynamic=True, targets=("tensorrt",)),
        ExportOptions(dynamic=True, verify_passes=True),
    ):
        with pytest.raises(UsageError):
            export_model(path, tmp_path / "bundle", options)


def test_run_and_inspect_at_a_size_of_ones_own(tmp_path: Path) -> None:
    bundle = export(models.u_net(), tmp_path, shapes={"x": (1, 3, 32, 40)}, preprocess=_preprocess(tmp_path))
    pixels = np.random.default_rng(1).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "page.png")
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 44, 20), np.float32))
    (output,) = (info.name for info in bundle.manifest.outputs)
    given = {"page.png": (1, 1, 32, 40), "x.npy": (1, 1, 44, 20)}
    for file, shape in given.items():
        assert run(bundle.root, [str(tmp_path / file)]).outputs[output].shape == shape
    own = RunSettings(shapes={"x": (1, 3, 48, 64)})
    assert run(bundle.root, [str(tmp_path / "page.png")], own).outputs[output].shape == (1, 1, 48, 64)
    for shapes, says in (({"x": (1, 3, 50, 64)}, "multiple of 4"), ({"y": (1, 3, 48, 64)}, "no input")):
        with pytest.raises(UsageError, match=says):
            run(bundle.root, [str(tmp_path / "page.png")], RunSettings(shapes=shapes))
    shown = CliRunner().invoke(make_app(), ["inspect", str(bundle.root)])
    assert shown.exit_code == 0, shown.output
    assert "1x3x8../4x8../4" in shown.stdout
    assert "1x3x32x40" in shown.stdout


def _preprocess(folder: Path) -> Path:
    path = folder / "pre.toml"
    path.write_text("scale = 0.00392156862745098\n")
    return path


def test_the_default_size_is_what_input_shape_says(tmp_path: Path) -> None:
    bundle = export(models.u_net(), tmp_path, shapes={"x": (1, 3, 50, 72)})
    assert bundle.manifest.inputs[0].shape == (1, 3, 52, 72)
    assert bundle.manifest.sizes[0] == {"x": (1, 3, 52, 72)}
