"""A reference is recorded, and stands in for ONNX Runtime anywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from mobilekit.bundle import open_bundle
from mobilekit.errors import BundleError, UsageError
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.pipeline.record import RecordOptions, record_reference
from mobilekit.pipeline.reference import open_reference
from mobilekit.pipeline.validate import ValidateOptions, validate_bundle
from mobilekit.runners import ort
from mobilekit.validate.recording import open_recording
from mobilekit.validate.tolerance import Verdict
from tests.models import conv_classifier, of_nodes, save

NAME = "serving_default_input:0"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    return export_model(save(conv_classifier(), folder / "m.onnx"), folder / "out").bundle


@pytest.fixture(scope="module")
def golden(bundle: Path) -> Path:
    return record_reference(bundle, bundle.parent / "golden", RecordOptions(intermediates=True)).folder


def expected(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All inner tensors, computed here by ONNX Runtime."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    del whole.graph.output[:]
    names = [name for node in model.graph.node for name in node.output]
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, feed), strict=True))


def test_inputs_outputs_and_every_tensor_between(golden: Path) -> None:
    recording = open_recording(golden)
    assert recording.manifest.provider.name == "ONNX Runtime CPU"
    assert recording.manifest.provider.versions["onnxruntime"] == onnxruntime.__version__
    model = conv_classifier()
    for index, sample in enumerate(recording.samples()):
        right = expected(model, sample.tensors)
        found = {**recording.tensors(index, "output"), **recording.tensors(index, "intermediate")}
        assert found.keys() == right.keys()
        for name, array in right.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6)
    assert index == 2


def test_the_recording_stands_in_for_onnx_runtime(bundle: Path, golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*args: object, **more: object) -> None:
        raise AssertionError("the reference was computed again")

    monkeypatch.setattr(ort.OrtRunner, "__enter__", absent)
    report = validate_bundle(bundle, "local", ValidateOptions(reference=golden, iterations=1, warmup=0))
    assert report.verdict is Verdict.PASS
    assert report.settings.inputs == "recorded"
    assert report.samples == ("seed 0", "seed 1", "seed 2")
    assert "recorded on" in report.reference.version


def test_a_wrong_answer_fails_against_a_recording(bundle: Path, tmp_path: Path) -> None:
    """The recording is that of the same model but says something else: what a broken conversion looks like."""
    from mobilekit.validate.recording import Provider, RecordedModel, RecordingWriter, model_files

    (tmp_path / "golden").mkdir()
    opened = open_bundle(bundle)
    writer = RecordingWriter(tmp_path / "golden")
    writer.add("input", {NAME: np.ones((1, 3, 8, 8), np.float32)})
    writer.add("output", {"scores": np.array([[0.9, 0.05, 0.03, 0.02]], np.float32)})
    writer.end_sample("one", {})
    sha = opened.manifest.model.sha256
    model = RecordedModel(id="m", sha256=sha, files=model_files(opened))
    writer.finish("0", model, Provider(name="by hand", version="1", machine="here"), seed=None, left_out={})
    report = validate_bundle(bundle, "local", ValidateOptions(reference=tmp_path / "golden", iterations=1))
    assert report.verdict is Verdict.FAIL


def test_the_users_own_files_and_fixed_inputs(tmp_path: Path) -> None:
    nodes = [helper.make_node("Mul", ["x", "scale"], ["m"]), helper.make_node("Relu", ["m"], ["y"])]
    path = save(of_nodes(nodes, {"x": (1, 4), "scale": (1,)}, {"y": (1, 4)}), tmp_path / "m.onnx")
    made = export_model(path, tmp_path / "out", ExportOptions(fixed={"scale": [3.0]})).bundle
    folder = tmp_path / "inputs"
    folder.mkdir()
    np.save(folder / "one.npy", np.array([[1, -2, 3, -4]], np.float32))
    golden = record_reference(made, tmp_path / "golden", RecordOptions(inputs=folder, intermediates=True)).folder
    recording = open_recording(golden)
    assert recording.manifest.seed is None
    np.testing.assert_array_equal(recording.read(0, "y", "output"), [[3, 0, 9, 0]])
    np.testing.assert_array_equal(recording.read(0, "m"), [[3, -6, 9, -12]])
    assert validate_bundle(made, "local", ValidateOptions(reference=golden)).verdict is Verdict.PASS
    with pytest.raises(UsageError, match="brings its own inputs"):
        validate_bundle(made, "local", ValidateOptions(reference=golden, inputs=folder))
    other = export_model(path, tmp_path / "other", ExportOptions(fixed={"scale": [4.0]})).bundle
    with pytest.raises(BundleError, match=r"fixed/0\.npy"):
        validate_bundle(other, "local", ValidateOptions(reference=golden))


def test_a_recording_of_another_model_or_size_is_refused(golden: Path, tmp_path: Path) -> None:
    classes = export_model(save(conv_classifier(classes=5), tmp_path / "a.onnx"), tmp_path / "a").bundle
    with pytest.raises(BundleError, match="another model"):
        validate_bundle(classes, "local", ValidateOptions(reference=golden))
    open_model = save(conv_classifier(side="S"), tmp_path / "b.onnx")
    at = {side: ExportOptions(shapes={NAME: (1, 3, side, side)}) for side in (8, 12)}
    small = export_model(open_model, tmp_path / "b8", at[8]).bundle
    large = export_model(open_model, tmp_path / "b12", at[12]).bundle
    recorded = record_reference(small, tmp_path / "golden8", RecordOptions(samples=1)).folder
    assert validate_bundle(small, "local", ValidateOptions(reference=recorded)).verdict is Verdict.PASS
    with pytest.raises(BundleError, match="does not fit"):
        validate_bundle(large, "local", ValidateOptions(reference=recorded))


def test_other_inputs_have_no_answer(bundle: Path, golden: Path) -> None:
    opened = open_bundle(bundle)
    with open_reference(opened, golden) as reference:
        with pytest.raises(UsageError, match="no answer"):
            reference.answer({NAME: np.zeros((1, 3, 8, 8), np.float32)}, 1.0)
        samples = reference.samples()
        assert samples is not None
        for sample in samples:
            assert reference.answer(sample.tensors, 1.0).keys() == {"scores"}


def test_whole_or_not_at_all(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "inputs").mkdir()
    np.save(tmp_path / "inputs" / "0.npy", np.zeros((1, 3, 8, 8), np.float32))
    np.save(tmp_path / "inputs" / "1.npy", np.zeros((1, 3, 9, 9), np.float32))
    with pytest.raises(UsageError, match="shape"):
        record_reference(bundle, tmp_path / "golden", RecordOptions(inputs=tmp_path / "inputs"))
    assert [path.name for path in tmp_path.iterdir()] == ["inputs"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (RecordOptions(provider="gpu"), "no provider"),
        (RecordOptions(provider="tensorrt", intermediates=True), "intermediate"),
        (RecordOptions(samples=0), "no samples"),
        (RecordOptions(on="ssh://user@jetson"), "for TensorRT plans"),
        (RecordOptions(provider="cuda", plugins=("a:B",)), "for TensorRT plans"),
        (RecordOptions(provider="tensorrt", on="ssh://-oProxyCommand=id"), "no host name"),
    ],
)
def test_options_that_do_not_go_together(bundle: Path, tmp_path: Path, options: RecordOptions, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        record_reference(bundle, tmp_path / "golden", options)


def test_folders_that_hold_something_else(bundle: Path, golden: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for folder in (tmp_path, bundle, bundle.parent):
        with pytest.raises(UsageError, match="holds"):
            record_reference(bundle, folder)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    again = record_reference(bundle, golden, RecordOptions(intermediates=True))
    assert open_recording(golden).manifest == again.manifest


def test_only_a_recording_as_it_was_written_is_replaced(bundle: Path, tmp_path: Path) -> None:
    """Not another program's folder with a file of that name, nor one that somebody put a note into."""
    other, noted = tmp_path / "podcast", tmp_path / "golden"
    other.mkdir()
    (other / "recording.json").write_text('{"takes": []}')
    record_reference(bundle, noted, RecordOptions(samples=1))
    (noted / "notes.txt").write_text("years of work")
    for folder in (other, noted):
        before = sorted(path.name for path in folder.iterdir())
        with pytest.raises(UsageError, match="not a recording") as caught:
            record_reference(bundle, folder, RecordOptions(samples=1))
        assert "--force" in caught.value.hint
        assert sorted(path.name for path in folder.iterdir()) == before
    record_reference(bundle, other, RecordOptions(samples=1, replace=True))
    assert open_recording(other).manifest.samples


def test_no_such_reference(bundle: Path, tmp_path: Path) -> None:
    for name, kind in ((tmp_path / "none", UsageError), (tmp_path, BundleError)):
        with pytest.raises(kind):
            validate_bundle(bundle, "local", ValidateOptions(reference=name))


def test_the_command_line(bundle: Path, tmp_path: Path) -> None:
    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mobilekit", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)

    golden = tmp_path / "golden"
    made = run("reference", "record", bundle, "-o", golden, "--samples", "1", "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["samples"][0]["name"] == "seed 0"
    assert run("validate", bundle, "--device", "local", "--reference", golden).returncode == 0
    array = golden / "samples/0/0.npy"
    array.write_bytes(array.read_bytes() + b"x")
    for command in (("reference", "show", golden), ("validate", bundle, "--device", "local", "--reference", golden)):
        refused = run(*command)
        assert refused.returncode == 2
        assert "0.npy has" in refused.stderr
        assert "hint:" in refused.stderr
