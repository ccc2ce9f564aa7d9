"""The demo's model and picture, for real: fetched through pip's index, answered by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from mobilekit import zoo
from mobilekit.metrics.classify import classify, is_probabilities
from mobilekit.preprocess import load_picture
from mobilekit.runners.base import RunOptions
from mobilekit.runners.ort import OrtRunner

TURNED = ("upright", "turned 90 degrees clockwise", "upside down", "turned 90 degrees counter-clockwise")


@pytest.mark.network
def test_the_demo_model_says_which_way_up_the_page_is(tmp_path: Path) -> None:
    model = zoo.resolve("pp_lcnet_orientation")
    assert model.entry is not None
    assert model.entry.preprocess is not None
    assert model.class_names() == TURNED
    page = Image.open(zoo.demo_picture())
    with OrtRunner(model.path) as runner:
        for quarters in range(4):
            page.rotate(-90 * quarters, expand=True).save(tmp_path / "page.png")
            tensor = load_picture(tmp_path / "page.png", model.entry.preprocess, (1, 3, 224, 224))
            (scores,) = runner.run({"x": tensor}, RunOptions()).outputs.values()
            assert is_probabilities(scores)
            best = classify(scores, model.class_names())[0]
            assert best.label == TURNED[(quarters + 1) % 4]
            assert best.probability > 0.8
