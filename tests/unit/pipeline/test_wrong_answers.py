"""Answers that no task metric can read are a fail with a score of nothing, not an error of the user's."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

import mobilekit.pipeline.validate as validating
from mobilekit.errors import DeviceLostError, UsageError, VerificationError
from mobilekit.pipeline.export import export_model
from mobilekit.pipeline.validate import ValidateOptions, validate_bundle
from mobilekit.report import json
from mobilekit.runners.base import RunOptions
from mobilekit.runners.ort import OrtRunner
from mobilekit.validate.tolerance import Verdict
from tests.models import conv_classifier, save


class Spoilt:
    """The runner, whose answers ``spoil`` changes."""

    def __init__(self, runner, spoil):
        self.runner, self.spoil = runner, spoil

    def run(self, inputs, options):
        result = self.runner.run(inputs, options)
        return replace(result, outputs={name: self.spoil(array) for name, array in result.outputs.items()})


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    monkeypatch.setenv("MOBILEKIT_CACHE", str(tmp_path / "cache"))
    export_model(save(conv_classifier(), tmp_path / "m.onnx"), tmp_path / "b")
    (tmp_path / "in").mkdir()
    for index in range(2):
        array = np.random.default_rng(index).standard_normal((1, 3, 8, 8)).astype(np.float32)
        np.save(tmp_path / "in" / f"{index}.npy", array)
    with OrtRunner(tmp_path / "m.onnx") as runner:
        answers = [
            runner.run({"serving_default_input:0": np.load(tmp_path / "in" / f"{index}.npy")}, RunOptions()).outputs
            for index in range(2)
        ]
    lines = [f"{index}.npy,{np.argmax(found['scores'])}" for index, found in enumerate(answers)]
    (tmp_path / "truth.csv").write_text("\n".join(lines))
    return tmp_path / "b"


@pytest.fixture
def spoils(monkeypatch):
    right = validating.open_place

    def arrange(spoil):
        @contextmanager
        def place(*args, **kwargs):
            with right(*args, **kwargs) as (runner, facts):
                yield Spoilt(runner, spoil), facts

        monkeypatch.setattr(validating, "open_place", place)

    return arrange


def refuse(array):
    raise VerificationError("the answer is none of this model's")


@pytest.mark.parametrize(
    "spoil",
    [lambda array: array * np.float32(np.nan), lambda array: array.reshape(-1), refuse],
    ids=["NaN", "shape", "refused"],
)
def test_what_cannot_be_scored_fails_with_nothing_right(bundle, spoils, tmp_path, spoil):
    spoils(spoil)
    options = ValidateOptions(
        inputs=tmp_path / "in", metrics=("cosine", "top1"), truth=tmp_path / "truth.csv", warmup=0, iterations=1
    )
    report = validate_bundle(bundle, "local", options)
    assert report.verdict is Verdict.FAIL
    assert [metric.mean for metric in report.metrics] == [0.0, 0.0]
    assert report.accuracy is not None
    assert (report.accuracy.samples, report.accuracy.device, report.accuracy.reference) == (2, 0.0, 1.0)


def test_the_ladder_names_the_rung_whose_answer_is_none(bundle, spoils):
    spoils(refuse)
    report = validate_bundle(bundle, "local", ValidateOptions(ladder=True, samples=1, warmup=0, iterations=1))
    assert report.verdict is Verdict.FAIL
    assert report.ladder is not None
    assert report.ladder.lost_at == "device cpu"
    assert "none of this model's" in report.ladder.sentence
    assert json.loads(json.dumps(report)) == report


def test_another_truth_begins_anew(bundle, spoils, tmp_path):
    options = ValidateOptions(inputs=tmp_path / "in", truth=tmp_path / "truth.csv", warmup=0, iterations=1, resume=True)
    whole = validate_bundle(bundle, "local", replace(options, resume=False))
    assert whole.accuracy is not None
    assert (whole.accuracy.device, whole.accuracy.reference) == (1.0, 1.0)
    answered = []

    def once(array):
        if answered:
            raise DeviceLostError("gone")
        answered.append(array)
        return array

    spoils(once)
    assert validate_bundle(bundle, "local", replace(options, resume=False)).stopped is not None
    lines = [line.split(",") for line in (tmp_path / "truth.csv").read_text().splitlines()]
    (tmp_path / "truth.csv").write_text("".join(f"{name},{(int(right) + 1) % 4}\n" for name, right in lines))
    spoils(lambda array: array)
    again = validate_bundle(bundle, "local", options)
    assert again.accuracy is not None
    assert (again.accuracy.samples, again.accuracy.device, again.accuracy.reference) == (2, 0.0, 0.0)


def test_a_truth_that_lacks_a_file_is_told_before_a_device_is_sought(bundle, tmp_path):
    (tmp_path / "truth.csv").write_text("0.npy,1\n")
    options = ValidateOptions(inputs=tmp_path / "in", truth=tmp_path / "truth.csv", warmup=0, iterations=1)
    with pytest.raises(UsageError, match=r"the truth says nothing of '1\.npy'"):
        validate_bundle(bundle, "no such device", options)
