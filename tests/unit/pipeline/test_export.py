"""Export: verified bundles, the same bytes twice, and nothing left behind where it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from mobilekit.bundle import open_bundle
from mobilekit.errors import StorageError, UnsupportedModelError, UsageError, VerificationError
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.pipeline.record import record_reference
from mobilekit.pipeline.repair import repair_bundle
from mobilekit.targets.ncnn import NcnnTarget
from tests.models import conv_classifier, of_nodes, save


def contents(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(conv_classifier(), tmp_path / "a folder" / "my model.onnx")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_verified_bundle_that_opens(model: Path, tmp_path: Path, precision: str) -> None:
    report = export_model(model, tmp_path / "out", ExportOptions(precision=precision))  # type: ignore[arg-type]
    bundle = open_bundle(tmp_path / "out")
    assert bundle.manifest.verified
    assert bundle.manifest.ncnn is not None
    assert bundle.manifest.ncnn.precision == precision
    assert bundle.source.read_bytes() == model.read_bytes()
    assert [info.name for info in bundle.manifest.inputs] == ["serving_default_input:0"]
    assert report.errors["scores"].relative_l2 < (1e-5 if precision == "fp32" else 2e-2)
    assert report.errors["scores"].evidence


def test_the_same_bytes_twice(model: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        export_model(model, tmp_path / name)
    first, second = contents(tmp_path / "first"), contents(tmp_path / "second")
    first.pop("run.json")
    second.pop("run.json")
    assert first == second


def test_a_wrong_conversion_is_never_written(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The emitter is made wrong on purpose: one weight of the .bin file changes."""
    right = NcnnTarget.write

    def wrong(self: NcnnTarget, layers: object, folder: Path, options: object) -> object:
        artifact = right(self, layers, folder, options)  # type: ignore[arg-type]
        data = bytearray((folder / "model.bin").read_bytes())
        data[8:12] = np.float32(30).tobytes()
        (folder / "model.bin").write_bytes(data)
        return artifact

    monkeypatch.setattr(NcnnTarget, "write", wrong)
    with pytest.raises(VerificationError, match="relative L2"):
        export_model(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["a folder"]
    report = export_model(model, tmp_path / "unverified", ExportOptions(verify=False))
    assert not report.manifest.verified


def test_every_unsupported_node_is_listed_and_nothing_written(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Bernoulli", ["x"], ["a"], name="first bad"),
        helper.make_node("Relu", ["a"], ["b"], name="good"),
        helper.make_node("NonexistentOp", ["b"], ["y"], name="second bad", domain="com.example"),
    ]
    bad = of_nodes(nodes, {"x": (1, 4)}, {"y": (1, 4)})
    bad.opset_import.append(helper.make_opsetid("com.example", 1))
    path = save(bad, tmp_path / "bad.onnx")
    with pytest.raises(UnsupportedModelError) as caught:
        export_model(path, tmp_path / "out")
    assert {finding.node for finding in caught.value.findings} == {"first bad", "second bad"}
    assert all(finding.reason and finding.remedy for finding in caught.value.findings)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else_is_left_alone(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter1.tex").write_text("years of work")
    for others in (None, "{", "[]", '{"manifest_version": 3}'):  # a browser's extension has a manifest.json, too
        if others is not None:
            (folder / "manifest.json").write_text(others)
        with pytest.raises(UsageError, match="not a bundle"):
            export_model(model, folder)
    assert (folder / "chapter1.tex").read_text() == "years of work"
    with pytest.raises(UsageError, match="not a folder"):
        export_model(model, model)


def test_nothing_is_put_inside_a_bundle(model: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    export_model(model, bundle, ExportOptions(verify=False))
    before = sorted(bundle.rglob("*"))
    (tmp_path / "link").symlink_to(bundle / "ncnn")
    for inside in (bundle / "again", bundle / "ncnn" / "deep" / "er", tmp_path / "link" / "x"):
        with pytest.raises(UsageError, match="is inside the bundle"):
            export_model(model, inside, ExportOptions(verify=False, replace=True))
        with pytest.raises(UsageError, match="is inside the bundle"):
            record_reference(bundle, inside)
        with pytest.raises(UsageError, match="is inside the bundle"):
            repair_bundle(bundle, inside, "local")
    assert sorted(bundle.rglob("*")) == before
    export_model(model, bundle, ExportOptions(verify=False))  # the bundle itself is replaced, as ever


def test_labels_must_fit(model: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\n")
    with pytest.raises(UsageError, match="3 labels, but output 'scores' has 4 classes"):
        export_model(model, tmp_path / "out", ExportOptions(labels=labels))
    assert not (tmp_path / "out").exists()
    labels.write_text("a\nb\nc\nd\n")
    export_model(model, tmp_path / "out", ExportOptions(labels=labels))
    assert open_bundle(tmp_path / "out").labels() == ("a", "b", "c", "d")


def test_a_place_that_cannot_be_written(model: Path) -> None:
    with pytest.raises(StorageError):
        export_model(model, model / "below a file")


def test_an_open_input_needs_a_shape_and_takes_it(tmp_path: Path) -> None:
    path = save(conv_classifier(side="side"), tmp_path / "open.onnx")
    with pytest.raises(UsageError) as caught:
        export_model(path, tmp_path / "out")
    assert "serving_default_input:0:1x3x" in caught.value.hint
    report = export_model(path, tmp_path / "out", ExportOptions(shapes={"serving_default_input:0": (1, 3, 16, 16)}))
    assert report.manifest.inputs[0].shape == (1, 3, 16, 16)
    with pytest.raises(UsageError, match="images"):
        export_model(path, tmp_path / "out2", ExportOptions(shapes={"images": (1, 3, 16, 16)}))
    with pytest.raises(UsageError):
        export_model(path, tmp_path / "out2", ExportOptions(shapes={"serving_default_input:0": (1, 4, 16, 16)}))


def test_one_number_of_a_preprocessing_stands_for_all_channels(model: Path, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text("mean = 127.5\nstd = 2\n")
    export_model(model, tmp_path / "out", ExportOptions(preprocess=tmp_path / "p.toml", verify=False))
    preprocess = open_bundle(tmp_path / "out").manifest.preprocess
    assert preprocess is not None
    assert (preprocess.mean, preprocess.std) == ((127.5,), (2.0,))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mean: 127.5\n", "is not TOML"),
        ("mean = 'a'\nfoo = 1\n", "mean: 'a' should be a list; foo: is not known"),
        ("resize = 'crop'\n", "none of 'stretch'"),
        (None, "No such file"),
    ],
)
def test_a_preprocessing_that_cannot_be_read_is_told_in_words(
    model: Path, tmp_path: Path, text: str | None, says: str
) -> None:
    if text is not None:
        (tmp_path / "p.toml").write_text(text)
    with pytest.raises(UsageError, match=says) as caught:
        export_model(model, tmp_path / "out", ExportOptions(preprocess=tmp_path / "p.toml"))
    assert "mean = [123.7" in caught.value.hint
    assert "pydantic" not in caught.value.message
