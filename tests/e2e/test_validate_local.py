"""`mobilekit validate --device local`: right passes, wrong fails, blank is inconclusive, each with its exit code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from mobilekit.bundle import open_bundle, write_manifest
from mobilekit.errors import BundleError, UsageError
from mobilekit.pipeline.export import export_model
from mobilekit.pipeline.validate import ValidateOptions, validate_bundle
from mobilekit.validate.tolerance import Verdict
from tests.e2e.bench import bundle, mobilekit, need_host_harness
from tests.models import of_nodes, save

pytestmark = pytest.mark.slow
__all__ = ["bundle"]


def _spoil(root: Path) -> None:
    """The last layer's weights negated, and a manifest that vouches for them: only running the model can tell."""
    manifest = open_bundle(root).manifest
    assert manifest.ncnn is not None
    weights = root / manifest.ncnn.bin
    data = bytearray(weights.read_bytes())
    kernel = slice(len(data) - (4 + 4 * 8) * 4, len(data) - 4 * 4)  # before its 4 biases
    data[kernel] = (-np.frombuffer(data[kernel], "<f4")).tobytes()
    weights.write_bytes(data)
    write_manifest(root, manifest)


def test_a_right_bundle_passes_on_the_command_line(bundle, tmp_path):
    done = mobilekit("validate", bundle, "--device", "local", "--json", tmp_path / "r.json")
    assert done.returncode == 0, done.stderr
    assert "PASS" in done.stdout
    assert "ONNX Runtime" in done.stdout
    raw = json.loads((tmp_path / "r.json").read_text())
    assert raw["verdict"] == "pass"
    assert raw["device"]["kind"] == "local"
    assert raw["outputs"][0]["relative_l2"] < 1e-5
    assert len(raw["answers"]) == 3
    assert raw["answers"][0]["device_label"] in ("cat", "dog", "fox", "owl")
    assert raw["latency"]["comparable"] is True


def test_json_on_stdout_is_nothing_but_json(bundle):
    done = mobilekit("validate", bundle, "--device", "local", "--samples", "1", "--json", "-")
    assert json.loads(done.stdout)["samples"] == ["seed 0"]


def test_a_wrong_bundle_fails(bundle):
    _spoil(bundle)
    done = mobilekit("validate", bundle, "--device", "local")
    assert done.returncode == 1, done.stderr
    assert "FAIL" in done.stdout
    assert "the output differs from ONNX Runtime" in " ".join(done.stdout.split())
    assert "Traceback" not in done.stderr


def test_a_report_shows_the_first_bad_layer_and_every_layers_time(bundle, tmp_path):
    need_host_harness()
    line = ("--device", "local", "--warmup", "1", "--iterations", "2", "--report", tmp_path / "r.html", "--layers")
    assert mobilekit("validate", bundle, *line).returncode == 0
    text = (tmp_path / "r.html").read_text("utf-8")
    assert "Time by layer" in text
    assert "Error by layer" not in text
    _spoil(bundle)
    assert mobilekit("validate", bundle, *line).returncode == 1
    text = (tmp_path / "r.html").read_text("utf-8")
    assert "Time by layer" in text
    assert "the first layer that goes wrong is" in text
    refused = mobilekit("validate", bundle, "--device", "local", "--layers")
    assert refused.returncode == 2
    assert "--report" in refused.stderr


def test_a_wrong_bundle_fails_with_fp16_limits_too(bundle):
    _spoil(bundle)
    assert validate_bundle(bundle, "local", ValidateOptions(precision="fp16")).verdict is Verdict.FAIL


def test_outputs_that_say_nothing_are_inconclusive(tmp_path):
    nodes = [
        helper.make_node("Abs", ["x"], ["positive"]),
        helper.make_node("Neg", ["positive"], ["negative"]),
        helper.make_node("Relu", ["negative"], ["y"]),
    ]
    model = save(of_nodes(nodes, {"x": (1, 3, 4, 4)}, {"y": (1, 3, 4, 4)}), tmp_path / "zero.onnx")
    export_model(model, tmp_path / "zero")
    done = mobilekit("validate", tmp_path / "zero", "--device", "local")
    assert done.returncode == 3, done.stderr
    assert "INCONCLUSIVE" in done.stdout
    assert "nothing is proven" in " ".join(done.stdout.split())


def test_an_answer_that_never_changes_proves_nothing(tmp_path):
    """The output is 0 to 3 whatever goes in: a device that ignores its input would be right."""
    weights = {"zero": np.zeros((48, 4), np.float32), "answer": np.arange(4, dtype=np.float32)}
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Gemm", ["flat", "zero", "answer"], ["y"]),
    ]
    model = save(of_nodes(nodes, {"x": (1, 3, 4, 4)}, {"y": (1, 4)}, weights), tmp_path / "still.onnx")
    export_model(model, tmp_path / "still")
    report = validate_bundle(tmp_path / "still", "local")
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "ignores its inputs" in report.sentence


def test_a_stricter_tolerance_can_fail_a_right_bundle(bundle):
    assert validate_bundle(bundle, "local", ValidateOptions(rtol=1e-12)).verdict is Verdict.FAIL
    with pytest.raises(UsageError):
        validate_bundle(bundle, "local", ValidateOptions(rtol=1.0))


def test_the_users_own_inputs(bundle, tmp_path):
    folder = tmp_path / "inputs"
    folder.mkdir()
    for name in ("b", "a"):
        np.save(folder / f"{name}.npy", np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32))
    report = validate_bundle(bundle, "local", ValidateOptions(inputs=folder))
    assert report.samples == ("a.npy", "b.npy")
    assert report.settings.inputs == "files"
    np.save(folder / "c.npy", np.zeros((1, 3, 8, 8), np.float32))
    done = mobilekit("validate", bundle, "--device", "local", "--inputs", folder)
    assert done.returncode == 2
    assert "c.npy has the shape 1x3x8x8" in done.stderr


def test_a_damaged_bundle_and_none_at_all(bundle, tmp_path):
    with pytest.raises(BundleError):
        validate_bundle(tmp_path / "none", "local")
    (bundle / "ncnn" / "model.bin").write_bytes(b"cut")
    done = mobilekit("validate", bundle, "--device", "local")
    assert done.returncode == 2
    assert "hint: the bundle is damaged" in done.stderr


def test_seeds_are_told_apart_and_repeat(bundle):
    first = validate_bundle(bundle, "local", ValidateOptions(samples=2, seed=5))
    again = validate_bundle(bundle, "local", ValidateOptions(samples=2, seed=5))
    assert first.samples == ("seed 5", "seed 6")
    assert first.outputs == again.outputs


def test_task_metrics_and_accuracy_are_told_and_can_fail(bundle, tmp_path):
    folder = tmp_path / "inputs"
    folder.mkdir()
    for seed, name in enumerate("abc"):
        array = np.random.default_rng(seed).standard_normal((1, 3, 16, 16)).astype(np.float32)
        np.save(folder / f"{name}.npy", array)
    truth = tmp_path / "truth.csv"
    truth.write_text("a.npy,0\nb.npy,0\nc.npy,0\n")
    options = ValidateOptions(inputs=folder, metrics=("top1=1", "cosine"), truth=truth, iterations=1)
    report = validate_bundle(bundle, "local", options)
    assert report.verdict is Verdict.PASS
    assert [(metric.name, round(metric.mean, 6)) for metric in report.metrics] == [("top1", 1.0), ("cosine", 1.0)]
    assert report.accuracy is not None
    assert report.accuracy.samples == 3
    assert report.accuracy.device == report.accuracy.reference
    _spoil(bundle)
    done = mobilekit("validate", bundle, "--device", "local", "--inputs", folder, "--metric", "top1=1", "--rtol", "0.5")
    assert done.returncode == 1
    assert "top1" in done.stdout
    with pytest.raises(UsageError, match="the truth is about files"):
        validate_bundle(bundle, "local", ValidateOptions(truth=truth))
