"""Scores beside boxes in pixels: a conversion that loses them is wrong at export and in validation, in every format."""

from __future__ import annotations

import io
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from onnx import helper
from rich.console import Console

import mobilekit.pipeline.validate as validating
import mobilekit.runners.ncnn_host as host
from mobilekit.errors import VerificationError
from mobilekit.pipeline.bisect import BisectOptions, bisect_bundle
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.pipeline.validate import ValidateOptions, validate_bundle
from mobilekit.report import markdown
from mobilekit.report.console import render
from mobilekit.report.html import Subject, page
from mobilekit.report.json import dumps, loads
from mobilekit.targets.ncnn.reader import ParamLayer
from mobilekit.validate.tolerance import Verdict
from tests.models import of_nodes, save
from tests.planted.edit import Editor


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


def vandalised(good, bad, layer, kept):
    """The scores made smaller before they stand beside boxes, or after: there it is no more of the whole than half
    precision may cost."""
    editor = Editor(good, bad)
    planted = editor.find("Convolution1D", -1) if layer == "before" else editor.find("Concat")
    scores, rows = planted.outputs[0], 20 if layer == "before" else 24
    factors = np.ones(rows, np.float32)
    factors[-20:] = kept
    hurt = ParamLayer("Scale", "hurt", (f"{scores}_right",), (scores,), ((0, str(rows)),))
    editor.put(planted, replace(planted, outputs=(f"{scores}_right",)), hurt)
    editor.arrays["hurt"] = [factors.tobytes()]
    return editor.save()


@pytest.mark.parametrize(("layer", "kept"), [("before", 0.5), ("after", 0.9)])
def test_the_layer_that_makes_scores_smaller_is_found(detector, tmp_path, layer, kept):
    export_model(detector, tmp_path / "good", ExportOptions(precision="fp16"))
    bad = vandalised(tmp_path / "good", tmp_path / "bad", layer, kept)
    found = bisect_bundle(bad, "local", BisectOptions(samples=1))
    assert found.verdict is Verdict.FAIL
    assert found.stage == "layer"
    assert found.first is not None
    assert found.first.layers[-1].name == "hurt"
    assert found.first.local == pytest.approx(1 - kept, rel=0.05)
    assert "20 of 24 along axis 1" in found.outputs[0].reason
    assert found.outputs[0].relative_l2 == pytest.approx(1 - kept, rel=0.05)


def test_the_ladder_goes_by_the_part_that_is_wrong(detector, tmp_path):
    export_model(detector, tmp_path / "good", ExportOptions(precision="fp16"))
    bad = vandalised(tmp_path / "good", tmp_path / "bad", "after", 0.5)
    report = validate_bundle(bad, "local", ValidateOptions(samples=1, warmup=0, iterations=1, ladder=True))
    assert report.verdict is Verdict.FAIL
    assert report.outputs[0].relative_l2 < 2e-3
    assert report.ladder is not None
    part = report.outputs[0].part
    assert part is not None
    assert part.relative_l2 == pytest.approx(0.5, rel=0.05)
    assert part.limit < 0.5
    assert "20 of 24 along axis 1" in part.what
    assert loads(dumps(report)).outputs[0].part == part
    shown = f"{part.relative_l2:.3g} in a part"
    assert f"| {shown} | {part.limit:.3g} |" in markdown.dumps(report)
    assert shown in page(Subject(report))
    table = io.StringIO()
    Console(file=table, width=120).print(render(report))
    assert f"{part.relative_l2:.2e} in a part" in table.getvalue()
    assert f"relative L2 {part.relative_l2:.2e} of the 20 of 24" in table.getvalue()
    assert report.ladder.lost_at == "ncnn host"
    (rung,) = [rung for rung in report.ladder.rungs if rung.name == "ncnn host"]
    assert rung.outputs[0].relative_l2 == pytest.approx(0.5, rel=0.05)
    assert rung.outputs[0].step == pytest.approx(0.5, rel=0.05)
