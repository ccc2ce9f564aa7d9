"""Running a bundle: answers in words, raw tensors, and every input that does not fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image
from typer.testing import CliRunner

from mobilekit.bundle import Manifest, ModelInfo, TensorInfo, open_bundle, write_manifest
from mobilekit.cli._common import terminal_progress
from mobilekit.cli.main import make_app
from mobilekit.errors import BundleError, MobilekitError, UsageError
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.pipeline.run import RunnerName, RunSettings, file_names, run
from tests.models import conv_classifier, save

REFERENCE = RunSettings(runner="reference")
X = "serving_default_input:0"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real ncnn bundle of a classifier with labels and preprocessing."""
    folder = tmp_path_factory.mktemp("exported")
    model = save(conv_classifier(), folder / "toy.onnx")
    (folder / "labels.txt").write_text("ant\nbee\ncat\ndog\n")
    (folder / "pre.toml").write_text("scale = 0.00392156862745098\nmean = [0.5]\nstd = [0.25]\n")
    export_model(model, folder / "bundle", ExportOptions(labels=folder / "labels.txt", preprocess=folder / "pre.toml"))
    return folder / "bundle"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "page.png")
    return tmp_path / "page.png"


def reference_bundle(
    root: Path, model: onnx.ModelProto, *, task: str = "", labels: str | None = None, **fields: object
) -> Path:
    """A bundle with the original model only, which the reference runner needs."""
    save(model, root / "source" / "model.onnx")

    def infos(values: object) -> tuple[TensorInfo, ...]:
        return tuple(
            TensorInfo(
                name=v.name,
                dtype=str(helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type)),
                shape=tuple(d.dim_value for d in v.type.tensor_type.shape.dim),
            )
            for v in values  # type: ignore[attr-defined]
        )

    if labels is not None:
        (root / "labels.txt").write_text(labels)
    manifest = Manifest(
        mobilekit_version="0",
        model=ModelInfo(id="toy", file="source/model.onnx", sha256="0" * 64, opset=17),
        inputs=infos(model.graph.input),
        outputs=infos(model.graph.output),
        task=task,
        labels=None if labels is None else "labels.txt",
        **fields,  # type: ignore[arg-type]
    )
    write_manifest(root, manifest)
    return root


def adder(names: Mapping[str, int], outputs: tuple[str, ...] = ("sum",)) -> onnx.ModelProto:
    """All inputs of shape (1, 4), of these element types, cast to float32 and summed; the sum under each name."""
    inputs = [helper.make_tensor_value_info(name, kind, [1, 4]) for name, kind in names.items()]
    nodes = [helper.make_node("Cast", [name], [f"{name}.f"], to=TensorProto.FLOAT) for name in names]
    nodes += [helper.make_node("Sum", [f"{name}.f" for name in names], [output]) for output in outputs]
    results = [helper.make_tensor_value_info(output, TensorProto.FLOAT, [1, 4]) for output in outputs]
    graph = helper.make_graph(nodes, "adder", inputs, results)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def npy(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def test_a_picture_is_answered_in_words_by_ncnn_and_by_the_original(exported: Path, page: Path) -> None:
    local, reference = run(exported, [str(page)]), run(exported, [str(page)], REFERENCE)
    pixels = np.asarray(Image.open(page), dtype=np.float32)
    tensor = ((pixels / 255 - 0.5) / 0.25).transpose(2, 0, 1)[None].astype(np.float32)
    session = onnxruntime.InferenceSession(str(open_bundle(exported).source))
    expected = session.run(None, {X: tensor})[0][0]
    for report in (local, reference):
        assert report.scores == "probabilities"
        assert report.answered_by == "scores"
        assert [a.index for a in report.answers] == np.argsort(-expected).tolist()
        assert report.answers[0].label == ("ant", "bee", "cat", "dog")[int(np.argmax(expected))]
        assert report.answers[0].probability == pytest.approx(float(expected.max()), rel=1e-4)
        assert report.latency_ms > 0
    assert local.runner.name != reference.runner.name


def test_logits_are_said_to_be_logits(tmp_path: Path) -> None:
    root = reference_bundle(tmp_path / "b", adder({"x": TensorProto.FLOAT}), task="classification")
    report = run(root, [str(npy(tmp_path / "x.npy", np.array([[1, 2, 3, 4]], dtype=np.float32)))], REFERENCE)
    assert report.scores == "logits"
    assert report.answers[0].label == "class 3"
    assert sum(a.probability for a in report.answers) == pytest.approx(1)


def test_labels_of_the_wrong_length_name_both_numbers(tmp_path: Path) -> None:
    root = reference_bundle(tmp_path / "b", adder({"x": TensorProto.FLOAT}), task="classification", labels="a\nb\n")
    path = npy(tmp_path / "x.npy", np.zeros((1, 4), dtype=np.float32))
    with pytest.raises(BundleError, match=r"2 labels.*4 classes"):
        run(root, [str(path)], REFERENCE)


def test_an_input_that_is_not_finite_is_remarked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = reference_bundle(tmp_path / "b", adder({"x": TensorProto.FLOAT}, ("y",)))
    values = np.array([[1, 2, np.nan, -np.inf]], dtype=np.float32)
    with terminal_progress() as progress:
        run(root, [str(npy(tmp_path / "x.npy", values))], REFERENCE, progress)
        assert "the input 'x' holds 2 values that are NaN or infinite" in capsys.readouterr().err
        run(root, [str(npy(tmp_path / "y.npy", np.ones_like(values)))], REFERENCE, progress)
        assert "NaN" not in capsys.readouterr().err


def test_outputs_are_summed_up_and_written(tmp_path: Path) -> None:
    names = ("a/b:0", "a_b_0", "../../evil", "A_B_0")
    root = reference_bundle(tmp_path / "b", adder({"x": TensorProto.FLOAT}, names))
    values = np.array([[1, 2, np.nan, -4]], dtype=np.float32)
    report = run(
        root, [str(npy(tmp_path / "x.npy", values))], RunSettings(runner="reference", output=tmp_path / "deep" / "out")
    )
    assert report.answers == ()
    for name in names:
        summary = report.outputs[name]
        assert (summary.minimum, summary.maximum, summary.not_finite) == (-4, 2, 1)
        assert summary.mean == pytest.approx(-1 / 3)
        assert summary.file is not None
        assert summary.file.parent == tmp_path / "deep" / "out"
        np.testing.assert_array_equal(np.load(summary.file), values)
    assert len(list((tmp_path / "deep" / "out").iterdir())) == 4


def test_file_names_are_harmless_and_distinct() -> None:
    names = ["", ".", "..", "/", "a b", "a_b", "A b", "x" * 300, "x" * 300 + "y", "ünï", "nul\0", "con"]
    found = file_names(names)
    assert len({f.lower() for f in found.values()}) == len(names)
    for file in found.values():
        assert file.endswith(".npy")
        assert len(file) < 120
        assert not set(file) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
        assert not file.startswith(".")


def test_several_inputs_by_name_even_awkward_ones(tmp_path: Path) -> None:
    kinds = {"a=b": TensorProto.FLOAT, "a": TensorProto.INT64, "c:0": TensorProto.BOOL}
    root = reference_bundle(tmp_path / "b", adder(kinds))
    files = {
        "a=b": npy(tmp_path / "x=y.npy", np.full((1, 4), 0.5, dtype=np.float32)),
        "a": npy(tmp_path / "i.npy", np.full((1, 4), 7, dtype=np.int64)),
        "c:0": npy(tmp_path / "t.npy", np.array([[True, False, True, False]])),
    }
    report = run(root, [f"{name}={file}" for name, file in files.items()], REFERENCE)
    assert report.tensors["sum"].tolist() == [[8.5, 7.5, 8.5, 7.5]]
    assert list(report.inputs) == list(kinds)


@pytest.mark.parametrize(
    ("given", "array", "match"),
    [
        ([], None, r"no file is given for the input x \(1x4\)"),
        (["nope={}"], np.zeros((1, 4), np.float32), "no input 'nope'"),
        (["x={}", "{}"], np.zeros((1, 4), np.float32), "given twice"),
        (["{}"], np.zeros((4,), np.float32), "shape 4, but the input 'x' takes 1x4"),
        (["{}"], np.zeros((1, 5), np.float32), "shape 1x5"),
        (["{}"], np.zeros((1, 4), np.int64), "int64 values"),
        (["{}"], np.full((1, 4), 1e300), "float64 values"),
        (["{}"], np.zeros((1, 4), np.complex64), "complex64 values"),
        (["{}"], np.array([["a", "b", "c", "d"]]), "values"),
        (["{}"], np.array([[{}, 1, 2, 3]], dtype=object), "not a readable .npy"),
        (["gone.npy"], None, "no file gone.npy"),
        (["page.png"], None, "does not say how page.png becomes"),
    ],
)
def test_inputs_that_do_not_fit(tmp_path: Path, given: list[str], array: np.ndarray | None, match: str) -> None:
    root = reference_bundle(tmp_path / "b", adder({"x": TensorProto.FLOAT}))
    if array is not None:
        np.save(tmp_path / "v.npy", array)
    with pytest.raises(UsageError, match=match) as caught:
        run(root, [text.format(tmp_path / "v.npy") for text in given], REFERENCE)
    if "no file gone" not in match:
        assert caught.value.hint


def test_arrays_of_a_wider_type_are_narrowed_only_without_loss(tmp_path: Path) -> None:
    root = reference_bundle(tmp_path / "b", adder({"x": TensorProto.FLOAT, "n": TensorProto.INT32}))
    x = npy(tmp_path / "x.npy", np.full((1, 4), 0.25))
    good = npy(tmp_path / "good.npy", np.full((1, 4), 3, dtype=np.int64))
    bad = npy(tmp_path / "bad.npy", np.full((1, 4), 2**40, dtype=np.int64))
    assert run(root, [f"x={x}", f"n={good}"], REFERENCE).tensors["sum"].tolist() == [[3.25] * 4]
    with pytest.raises(UsageError, match="int64 values"):
        run(root, [f"x={x}", f"n={bad}"], REFERENCE)


def test_a_bare_file_for_a_model_of_several_inputs(tmp_path: Path) -> None:
    root = reference_bundle(tmp_path / "b", adder({"x": TensorProto.FLOAT, "y": TensorProto.FLOAT}))
    path = npy(tmp_path / "x.npy", np.zeros((1, 4), np.float32))
    with pytest.raises(UsageError, match="could be any of them"):
        run(root, [str(path)], REFERENCE)


def test_a_bundle_that_is_none_and_a_folder_that_is_a_file(tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        run(tmp_path / "gone", [])
    (tmp_path / "file").write_text("x")
    root = reference_bundle(tmp_path / "b", adder({"x": TensorProto.FLOAT}))
    with pytest.raises(UsageError, match="not a folder"):
        run(root, [], RunSettings(output=tmp_path / "file"))
    with pytest.raises(BundleError, match="ncnn"):
        run(root, [str(npy(tmp_path / "x.npy", np.zeros((1, 4), np.float32)))])


def test_the_command_line(exported: Path, page: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    words = runner.invoke(
        make_app(), ["run", str(exported), "--input", str(page), "--top", "2", "-o", str(tmp_path / "o")]
    )
    assert words.exit_code == 0, words.output
    assert "softmax" not in words.stdout
    assert sum(line.rstrip().endswith("%") for line in words.stdout.splitlines()) == 2
    assert f"wrote {tmp_path / 'o' / 'scores.npy'}" in words.stdout
    found = runner.invoke(make_app(), ["run", str(exported), "-i", f"{X}={page}", "--runner", "reference", "--json"])
    facts = json.loads(found.stdout)
    assert facts["answers"][0]["label"] in ("ant", "bee", "cat", "dog")
    assert facts["outputs"]["scores"]["shape"] == [1, 4]
    assert facts["inputs"] == {X: str(page)}
    assert isinstance(runner.invoke(make_app(), ["run", str(exported), "--runner", "gpu"]).exception, UsageError)


@pytest.mark.parametrize(
    ("runner", "device", "error", "says"),
    [
        ("reference", "virtual", UsageError, "this machine's"),
        (None, "gpu", BundleError, "no TensorRT plan"),
        ("tensorrt", "connected", BundleError, "no TensorRT plan"),
    ],
)
def test_a_device_that_cannot_run_it(
    exported: Path, page: Path, runner: RunnerName | None, device: str, error: type[MobilekitError], says: str
) -> None:
    with pytest.raises(error, match=says):
        run(exported, [str(page)], RunSettings(runner=runner, device=device))


def test_local_is_this_machine(exported: Path, page: Path) -> None:
    found = run(exported, [str(page)], RunSettings(device="local"))
    assert found.runner.name == run(exported, [str(page)]).runner.name
