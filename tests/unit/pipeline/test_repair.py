"""``mobilekit repair``: bundles that bfloat16 is too coarse for become right, and only by the layers that matter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mobilekit.errors import UsageError
from mobilekit.pipeline.bisect import BisectOptions, bisect_bundle, open_traced
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.pipeline.repair import RepairOptions, repair_bundle
from tests.models import coarse_convolutions, save
from tests.planted.edit import Editor


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bfloat16 has eight bits, too few beside 300."""
    return save(coarse_convolutions(5, 300, seed=21), tmp_path_factory.mktemp("repair") / "coarse.onnx")


OPTIONS = RepairOptions(precision="bf16", rtol=2e-2, samples=2)


def masks(bundle: Path) -> dict[str, str]:
    return {layer.name: mask for layer in open_traced(bundle)[3] if (mask := layer.param(31)) is not None}


def test_the_layers_that_matter_are_kept_and_the_new_bundle_passes(model: Path, tmp_path: Path) -> None:
    export_model(model, tmp_path / "good", ExportOptions(verify=False))
    report = repair_bundle(tmp_path / "good", tmp_path / "new", "local", OPTIONS)
    assert report.verdict.value == "pass", report.sentence
    kept = {layer.name for layer in report.layers}
    assert {"conv1", "minus"} <= kept
    assert len(kept) < 5
    before, after = masks(tmp_path / "good"), masks(tmp_path / "new")
    assert {name for name, mask in after.items() if mask != before.get(name)} == kept
    assert report.before[0].relative_l2 > 2e-2 > report.after[0].relative_l2
    assert report.trade is not None
    assert report.trade.latency_after_ms > 0
    again = bisect_bundle(tmp_path / "new", "local", BisectOptions(precision="bf16", rtol=2e-2, samples=2))
    assert again.verdict.value == "pass"


def test_weights_stored_in_halves_are_written_anew(model: Path, tmp_path: Path) -> None:
    export_model(model, tmp_path / "half", ExportOptions(verify=False, precision="fp16"))
    report = repair_bundle(tmp_path / "half", tmp_path / "new", "local", OPTIONS)
    assert report.verdict.value == "pass", report.sentence
    wide = [layer.name for layer in report.layers if layer.weights]
    assert "conv1" in wide
    assert report.trade is not None
    assert report.trade.bytes_after == report.trade.bytes_before + 2 * sum(
        {"conv0": 216, "conv1": 576, "conv2": 576, "conv3": 576, "conv4": 576}[name] for name in wide
    )
    trace = open_traced(tmp_path / "new")[2]
    assert trace.weights["conv1"][0] == 4 + 4 * 576


def test_nothing_is_written_where_nothing_is_wrong_or_precision_is_not_to_blame(model: Path, tmp_path: Path) -> None:
    export_model(model, tmp_path / "good", ExportOptions(verify=False))
    loose = RepairOptions(precision="bf16", rtol=0.5, samples=1)
    report = repair_bundle(tmp_path / "good", tmp_path / "new", "local", loose)
    assert (report.verdict.value, report.bundle, report.layers) == ("pass", None, ())
    editor = Editor(tmp_path / "good", tmp_path / "bad")
    conv = next(layer for layer in editor.layers if layer.name == "conv3")
    editor.weight(conv, 0, lambda flat: flat[::-1], tagged=True)
    wrong = repair_bundle(editor.save(), tmp_path / "new", "local", OPTIONS)
    assert wrong.verdict.value == "fail"
    assert "wrong in float32 too" in wrong.sentence
    few = RepairOptions(precision="bf16", rtol=1e-4, samples=1, most_layers=1)
    assert "do not suffice" in repair_bundle(tmp_path / "good", tmp_path / "new", "local", few).sentence
    assert not (tmp_path / "new").exists()


def test_what_makes_no_sense_is_refused(model: Path, tmp_path: Path) -> None:
    export_model(model, tmp_path / "good", ExportOptions(verify=False))
    with pytest.raises(UsageError, match="float32 already"):
        repair_bundle(tmp_path / "good", tmp_path / "new", "local")
    with pytest.raises(UsageError, match="is there already"):
        repair_bundle(tmp_path / "good", tmp_path / "good", "local", OPTIONS)


def test_the_command_shows_the_trade(model: Path, tmp_path: Path) -> None:
    export_model(model, tmp_path / "good", ExportOptions(verify=False))
    command = [sys.executable, "-m", "mobilekit", "repair", str(tmp_path / "good"), "--device", "local"]
    command += ["--precision", "bf16", "--rtol", "2e-2", "-o", str(tmp_path / "new")]
    command += ["--json", str(tmp_path / "r.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Convolution conv1: without" in done.stdout
    assert "latency:" in done.stdout
    assert json.loads((tmp_path / "r.json").read_text())["verdict"] == "pass"
