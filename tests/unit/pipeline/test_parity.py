"""What ``mobilekit parity`` refuses, before any device is asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from PIL import Image

from mobilekit.errors import UsageError
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.pipeline.parity import ParityOptions, parity_of_bundle
from tests.models import conv_classifier, of_nodes, save
from tests.pictures import photo

PREPROCESS = "scale = 0.00392156862745098\nmean = [0.5, 0.4, 0.3]\nstd = [0.2, 0.25, 0.3]\n"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    (folder / "p.toml").write_text(PREPROCESS)
    (folder / "grey.toml").write_text('color = "GRAY"\n')
    classifier = save(conv_classifier(side=24), folder / "m.onnx")
    for name, preprocess in (("good", "p"), ("grey", "grey"), ("bare", "")):
        file = folder / f"{preprocess}.toml" if preprocess else None
        export_model(classifier, folder / name, ExportOptions(preprocess=file, verify=False))
    ids = of_nodes([helper.make_node("Relu", ["ids"], ["y"])], {"ids": [1, 16]}, {"y": [1, 16]})
    export_model(save(ids, folder / "ids.onnx"), folder / "ids", ExportOptions(verify=False))
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(photo(50, 70)).save(folder / "cat.png")
    return folder


@pytest.mark.parametrize(
    ("bundle", "match", "hint"),
    [
        ("bare", "does not say how a picture becomes", "--preprocess"),
        ("ids", r"no input of this model takes a picture \(ids 1x16\)", "models of pictures"),
        ("grey", "has 3 channels, but a GRAY picture has 1", "correct layout or color"),
    ],
)
def test_a_bundle_that_takes_no_picture_is_refused(
    bundles: Path, pictures: Path, bundle: str, match: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        parity_of_bundle(bundles / bundle, "local", ParityOptions(inputs=pictures))
    assert hint in caught.value.hint


def test_no_pictures_are_refused(bundles: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="parity needs pictures"):
        parity_of_bundle(bundles / "good", "local")
    with pytest.raises(UsageError, match="is not a folder"):
        parity_of_bundle(bundles / "good", "local", ParityOptions(inputs=tmp_path / "none"))
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 24, 24), np.float32))
    with pytest.raises(UsageError, match="holds no pictures") as caught:
        parity_of_bundle(bundles / "good", "local", ParityOptions(inputs=tmp_path))
    assert "do not tell how they were made" in caught.value.hint


def test_a_tensor_of_the_app_that_is_missing_is_named(bundles: Path, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"lacks a tensor for cat\.png") as caught:
        parity_of_bundle(bundles / "good", "local", ParityOptions(inputs=pictures, app=tmp_path))
    assert "cat.npy" in caught.value.hint
