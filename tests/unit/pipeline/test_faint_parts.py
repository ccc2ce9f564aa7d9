"""Scores beside boxes in pixels: a conversion that loses them is wrong at export and in validation, in every format."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from onnx import helper

import mobilekit.pipeline.validate as validating
import mobilekit.runners.ncnn_host as host
from mobilekit.errors import VerificationError
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.pipeline.validate import ValidateOptions, validate_bundle
from mobilekit.validate.tolerance import Verdict
from tests.models import of_nodes, save


@pytest.fixture
def detector(tmp_path, monkeypatch):
    """``y`` (1, 24, 100): 4 rows of boxes in pixels, 20 of scores."""
    monkeypatch.setenv("MOBILEKIT_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "wb"], ["b"]),
        helper.make_node("Mul", ["b", "pixels"], ["boxes"]),
        helper.make_node("Conv", ["x", "ws", "bs"], ["s"]),
        helper.make_node("Sigmoid", ["s"], ["scores"]),
        helper.make_node("Concat", ["boxes", "scores"], ["y"], axis=1),
    ]
    weights = {
        "wb": rng.standard_normal((4, 8, 1)).astype(np.float32),
        "ws": rng.standard_normal((20, 8, 1)).astype(np.float32),
        "bs": np.full(20, -4, np.float32),
        "pixels": np.float32([320]),
    }
    return save(of_nodes(nodes, {"x": (1, 8, 100)}, {"y": (1, 24, 100)}, weights), tmp_path / "m.onnx")


def lossy(result):
    lost = {name: array.copy() for name, array in result.outputs.items()}
    lost["y"][:, 4:] = 0
    return replace(result, outputs=lost)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_export_that_loses_them_is_refused(detector, tmp_path, monkeypatch, precision):
    class Lossy(host.NcnnHostRunner):
        def run(self, inputs, options):
            return lossy(super().run(inputs, options))

    options = ExportOptions(precision=precision)
    assert export_model(detector, tmp_path / "right", options).manifest.verified
    monkeypatch.setattr(host, "NcnnHostRunner", Lossy)
    with pytest.raises(VerificationError, match="20 of 24 along axis 1"):
        export_model(detector, tmp_path / "wrong", options)
    assert not (tmp_path / "wrong").exists()


def test_a_device_that_loses_them_fails(detector, tmp_path, monkeypatch):
    export_model(detector, tmp_path / "b", ExportOptions(precision="fp16"))
    options = ValidateOptions(samples=2, warmup=0, iterations=1)
    assert validate_bundle(tmp_path / "b", "local", options).verdict is Verdict.PASS
    right = validating.open_place

    class Lossy:
        def __init__(self, runner):
            self.runner = runner

        def run(self, inputs, options):
            return lossy(self.runner.run(inputs, options))

    @contextmanager
    def place(*args, **kwargs):
        with right(*args, **kwargs) as (runner, facts):
            yield Lossy(runner), facts

    monkeypatch.setattr(validating, "open_place", place)
    report = validate_bundle(tmp_path / "b", "local", options)
    assert report.verdict is Verdict.FAIL
    assert "20 of 24 along axis 1" in report.outputs[0].reason
