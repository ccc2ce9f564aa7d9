"""The ladder: a fault is found at the rung where it was planted, what cannot be climbed is left out by name."""

from __future__ import annotations

from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from onnx import helper

import mobilekit.passes
from mobilekit.bundle import open_bundle, write_manifest
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.pipeline.ladder import climb
from mobilekit.pipeline.place import open_place
from mobilekit.pipeline.reference import open_reference
from mobilekit.pipeline.validate import ValidateOptions, validate_bundle
from mobilekit.report.ladder import RungOutput, RungReport, lost_at, sentence
from mobilekit.runners.base import RunOptions
from mobilekit.runners.float64 import evaluate, run_float64
from mobilekit.runners.ort import OrtRunner
from mobilekit.validate.inputs import seeded_samples
from mobilekit.validate.limits import Overrides
from mobilekit.validate.rounding import NumberFormat
from mobilekit.validate.tolerance import Verdict
from tests.models import of_nodes, save

RNG = np.random.default_rng(0)


def _model(path: Path, batch: int = 1) -> Path:
    weights = {
        "w1": RNG.standard_normal((8, 3, 3, 3)).astype(np.float32) / 5,
        "b1": RNG.standard_normal(8).astype(np.float32),
        "w2": RNG.standard_normal((6, 8, 3, 3)).astype(np.float32) / 8,
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["y"]),
    ]
    return save(of_nodes(nodes, {"x": (batch, 3, 8, 8)}, {"y": (batch, 6, 6, 6)}, weights), path)


def _climbed(bundle: Path):
    report = validate_bundle(bundle, "local", ValidateOptions(ladder=True, samples=2, iterations=1, warmup=0))
    assert report.ladder is not None
    return report, {rung.name: rung for rung in report.ladder.rungs}


@pytest.mark.parametrize(("batch", "precision"), [(1, "fp32"), (3, "fp32"), (1, "fp16")])
def test_a_good_bundle_climbs_to_the_top(tmp_path, batch, precision, monkeypatch):
    monkeypatch.setattr("mobilekit.device.harness.locate.locate_vulkan", lambda: None)  # as on a bare machine
    export_model(_model(tmp_path / "m.onnx", batch), tmp_path / "b", ExportOptions(precision=precision))
    report, rungs = _climbed(tmp_path / "b")
    assert report.ladder.lost_at is None
    assert "no rung lost the accuracy" in report.ladder.sentence
    for name in ("float64", "simplified", "legalised", "ncnn host", "ncnn host bf16", "device cpu"):
        assert rungs[name].verdict is Verdict.PASS, rungs[name]
    assert 0 < rungs["float64"].worst.relative_l2 < 1e-6
    assert rungs["simplified"].worst.relative_l2 < 1e-6
    assert rungs["ncnn host bf16"].worst.relative_l2 > 1e-4
    assert rungs["device cpu"].worst.step == 0
    for name in ("ncnn host int8", "device gpu", "tensorrt prepared", "tensorrt"):
        assert rungs[name].omitted
        assert not rungs[name].outputs
    assert "mobilekit harness build --vulkan" in rungs["device gpu"].omitted


def test_a_stale_weight_is_lost_at_the_ncnn_model(tmp_path):
    export_model(_model(tmp_path / "m.onnx"), tmp_path / "b")
    manifest = open_bundle(tmp_path / "b").manifest
    weights = tmp_path / "b" / manifest.ncnn.bin
    data = np.frombuffer(weights.read_bytes(), "<f4").copy()
    data[10] *= 1.5
    weights.write_bytes(data.tobytes())
    write_manifest(tmp_path / "b", manifest)
    report, rungs = _climbed(tmp_path / "b")
    assert report.verdict is Verdict.FAIL
    assert report.ladder.lost_at == "ncnn host"
    assert "'ncnn host'" in report.ladder.sentence
    assert rungs["legalised"].verdict is Verdict.PASS
    assert rungs["device cpu"].verdict is Verdict.FAIL


@pytest.mark.parametrize("stage", ["simplified", "legalised"])
def test_a_fault_of_the_converter_is_lost_at_its_stage(tmp_path, monkeypatch, stage):
    """A pass that scales a bias by 1%, planted where the graph is lifted or where it is made legal."""
    name = "lifted" if stage == "simplified" else "_legal"
    right = getattr(mobilekit.passes, name)

    def wrong(*args, **kwargs):
        graph = right(*args, **kwargs)
        value = next(v for v in graph.values() if v.const is not None and v.const.shape == (8,))
        value.const = value.const * np.float32(1.01)
        return graph

    monkeypatch.setattr(mobilekit.passes, name, wrong)
    export_model(_model(tmp_path / "m.onnx"), tmp_path / "b", ExportOptions(verify=False))
    report, _ = _climbed(tmp_path / "b")
    assert report.ladder.lost_at == stage


def test_free_sizes_climb_too(tmp_path):
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])]
    model = of_nodes(
        nodes, {"x": (1, 3, "H", "W")}, {"y": (1, 8, "H", "W")}, {"w": RNG.standard_normal((8, 3, 3, 3)).astype("f4")}
    )
    export_model(save(model, tmp_path / "m.onnx"), tmp_path / "b", ExportOptions(dynamic=True))
    report, rungs = _climbed(tmp_path / "b")
    assert report.ladder.lost_at is None
    assert rungs["legalised"].verdict is Verdict.PASS


def test_float64_is_float64(tmp_path):
    path = _model(tmp_path / "m.onnx")
    x = RNG.standard_normal((1, 3, 8, 8)).astype(np.float32)
    found = run_float64(path, {"x": x}, {}, timeout_s=60)["y"]
    assert found.dtype == np.float64
    assert evaluate(str(path), {"x": x}, False)["y"].dtype == np.float32


@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize(
    "attributes",
    [
        {"pads": [1, 0, 2, 1], "strides": [2, 1]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER", "strides": [3, 2]},
        {"auto_pad": "VALID", "dilations": [2, 1]},
    ],
)
def test_its_convolution_is_onnx_runtimes(tmp_path, group, attributes):
    import onnxruntime as ort

    weights = {
        "w": RNG.standard_normal((8, 4 // group, 3, 2)).astype(np.float32),
        "b": RNG.standard_normal(8).astype(np.float32),
        **{name: RNG.uniform(0.5, 1.5, 8).astype(np.float32) for name in ("scale", "shift", "mean", "variance")},
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], group=group, **attributes),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "variance"], ["y"], epsilon=1e-3),
    ]
    model = of_nodes(nodes, {"x": (2, 4, 9, 8)}, {"y": (2, 8, None, None)}, weights, opset=13)
    path = save(model, tmp_path / "m.onnx")
    x = RNG.standard_normal((2, 4, 9, 8)).astype(np.float32)
    expected = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    np.testing.assert_allclose(evaluate(str(path), {"x": x}, True)["y"], expected, rtol=1e-4, atol=1e-5)


def _rung(name, before, verdict, omitted=""):
    outputs = (
        ()
        if omitted
        else (
            RungOutput(
                name="y", relative_l2=0.5, step=0.5, rtol=1e-3, verdict=verdict, reason="relative L2 0.5 is above"
            ),
        )
    )
    return RungReport(
        name=name, title=name, before=before, omitted=omitted, outputs=outputs, verdict=None if omitted else verdict
    )


def test_the_first_that_fails_behind_one_that_does_not_is_named():
    good, bad = Verdict.PASS, Verdict.FAIL
    rungs = [
        _rung("simplified", "onnx runtime", good),
        _rung("legalised", "simplified", good, omitted="no kernel"),
        _rung("ncnn host", "legalised", bad),
        _rung("device cpu", "ncnn host", bad),
    ]
    assert lost_at(rungs).name == "ncnn host"
    rungs[0] = _rung("simplified", "onnx runtime", bad)
    assert lost_at(rungs).name == "simplified"
    side = [_rung("ncnn host", "onnx runtime", good), _rung("ncnn host bf16", "ncnn host", bad)]
    assert lost_at(side).name == "ncnn host bf16"
    assert lost_at([replace_verdict(rung) for rung in rungs]) is None
    assert sentence([]) == "no rung could be taken"


def replace_verdict(rung):
    return rung.model_copy(update={"verdict": Verdict.PASS})


class _Rough:
    """ONNX Runtime, off by what 10 bits after the point cost."""

    def __init__(self, runner):
        self.runner = runner

    def run(self, inputs, options):
        found = self.runner.run(inputs, options)
        rng = np.random.default_rng(0)
        return replace(
            found,
            outputs={
                name: (array * (1 + 5e-4 * rng.standard_normal(array.shape))).astype(array.dtype)
                for name, array in found.outputs.items()
            },
        )


def test_a_plan_in_tf32_is_judged_by_what_tf32_costs(tmp_path, monkeypatch):
    export_model(_model(tmp_path / "m.onnx"), tmp_path / "b")
    bundle = open_bundle(tmp_path / "b")
    planned = copy(bundle.manifest)
    object.__setattr__(planned, "tensorrt", SimpleNamespace(precision="tf32"))

    @contextmanager
    def plan(opened, device, **_):
        with OrtRunner(opened.source) as runner:
            yield (_Rough(runner) if device == "gpu" else runner), None

    monkeypatch.setattr("mobilekit.pipeline.place_plan.open_plan", plan)
    (sample,) = seeded_samples(planned.inputs, seed=0, count=1)
    with open_place(bundle, "local") as (runner, facts), open_reference(bundle) as reference:
        found = climb(
            replace(bundle, manifest=planned),
            runner,
            facts,
            reference,
            [sample],
            NumberFormat(),
            RunOptions(),
            Overrides(),
        )
    rungs = {rung.name: rung for rung in found.rungs}
    assert (rungs["tensorrt prepared"].format, rungs["tensorrt"].format) == ("fp32", "tf32")
    assert rungs["tensorrt"].verdict is Verdict.PASS, rungs["tensorrt"]
    assert found.lost_at is None
