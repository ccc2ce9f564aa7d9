"""`mobilekit tune` for real: the switches reach ncnn here and on arm64, Ctrl-C leaves the bundle as it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from mobilekit.bundle import MANIFEST, open_bundle
from mobilekit.device.virtual.plugin import build_plugin
from mobilekit.errors import SetupError
from mobilekit.pipeline.export import export_model
from mobilekit.pipeline.place import open_place
from mobilekit.pipeline.settings import place_of, remember
from mobilekit.pipeline.validate import ValidateOptions, validate_bundle
from mobilekit.runners.base import RunOptions
from mobilekit.tuning import Setting
from mobilekit.validate.tolerance import Verdict
from tests.e2e.bench import ROOT, bench, bundle, eventually, mobilekit, need
from tests.e2e.test_profile import need_host_harness
from tests.models import of_nodes, save

__all__ = ["bench", "bundle"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two convolutions that Winograd's algorithm takes, of maps of 5 x 5: their rows need padding unless packed."""
    root = tmp_path_factory.mktemp("deep")
    rng = np.random.default_rng(0)
    weights = {f"w{i}": (rng.standard_normal((64, 64, 3, 3)) / 24).astype(np.float32) for i in (0, 1)}
    nodes = [helper.make_node("Conv", [f"t{i}", f"w{i}"], [f"t{i + 1}"], pads=[1] * 4) for i in (0, 1)]
    model = of_nodes(nodes, {"t0": (1, 64, 5, 5)}, {"t2": (1, 64, 5, 5)}, weights)
    export_model(save(model, root / "m.onnx"), root / "b")
    return root / "b"


FED = {"t0": np.random.default_rng(1).standard_normal((1, 64, 5, 5)).astype(np.float32)}


def check_switches(bundle: Path, device: str, *, harness: bool = False) -> None:
    with open_place(open_bundle(bundle), device, target="ncnn", harness=harness) as (runner, facts):
        plain = runner.run(FED, RunOptions(threads=1))
        direct = runner.run(FED, RunOptions(threads=1, winograd=False))
        loose = runner.run(FED, RunOptions(threads=1, packing=False))
        big = runner.run(FED, RunOptions(threads=1, cluster="big"))
        two = runner.run(FED, RunOptions(threads=2))
    results = (plain, direct, loose, big, two)
    assert [result.facts["threads"] for result in results] == [1, 1, 1, 1, 2]
    cores = plain.facts["cores"]
    assert isinstance(cores, dict)
    assert cores["all"] >= cores["big"] >= 1
    assert plain.facts["cluster_applied"] is big.facts["cluster_applied"] is True
    for result in results:
        np.testing.assert_allclose(result.outputs["t2"], plain.outputs["t2"], atol=1e-3)
    assert not np.array_equal(direct.outputs["t2"], plain.outputs["t2"])  # another algorithm rounds otherwise
    if harness or facts.kind == "adb":
        assert loose.peak_blob_bytes is not None
        assert plain.peak_blob_bytes is not None
        assert loose.peak_blob_bytes > plain.peak_blob_bytes


def test_the_switches_reach_the_wheel(deep: Path) -> None:
    check_switches(deep, "local")


def test_the_switches_reach_the_harness_here(deep: Path) -> None:
    need_host_harness()
    check_switches(deep, "local", harness=True)


def test_the_switches_reach_arm64(bench, deep: Path) -> None:
    need("arm64-v8a")
    check_switches(deep, bench.start(cpu="cortex-a53").serial)


def test_a_virtual_device_goes_by_exact_instructions(bench, bundle: Path) -> None:
    need("arm64-v8a")
    try:
        build_plugin()
    except SetupError as error:
        pytest.skip(str(error))
    serial = bench.start(cpu="cortex-a76").serial
    before = (bundle / MANIFEST).read_bytes()
    done = mobilekit("tune", bundle, "--device", serial, "--samples", 1, "--dry-run", "--json", "-", timeout=500)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["settings"]) == 8
    default, *others = found["settings"]
    assert all(each["p50_ms"] is each["ratio"] is None for each in found["settings"])
    counts = [each["instructions"] for each in others]
    fewer = [count for count in counts if count <= default["instructions"] / 1.01]
    assert (found["outcome"] == "tuned") is bool(fewer)
    if fewer:
        chosen = next(each for each in others if each["setting"] == found["chosen"])
        assert chosen["instructions"] <= 1.01 * min(counts)
    loose = next(each for each in others if not each["setting"]["packing"] and each["setting"]["winograd"])
    assert loose["instructions"] > default["instructions"]
    assert {each["verdict"] for each in found["settings"]} == {"pass"}
    half = [each["relative_l2"] for each in found["settings"] if each["setting"]["fp16"]]
    full = [each["relative_l2"] for each in found["settings"] if not each["setting"]["fp16"]]
    assert len(half) == len(full) == 4
    assert min(half) > 1e-5 > max(full)
    assert (bundle / MANIFEST).read_bytes() == before
    eventually(lambda: bench.strays() == [])


def test_what_was_tuned_for_a_device_is_used_there_and_not_elsewhere(bench, bundle: Path) -> None:
    need("arm64-v8a")
    serial = bench.start(cpu="cortex-a76").serial
    opened = open_bundle(bundle)
    with open_place(opened, serial, target="ncnn") as (_, facts):
        place = place_of(facts)
    assert place is not None
    assert serial not in str(place)
    assert remember(opened, place, Setting(threads=2, fp16=True, winograd=False))
    there = validate_bundle(bundle, serial, ValidateOptions(samples=1, iterations=1))
    assert there.verdict is Verdict.PASS
    assert there.settings.tuned
    assert (there.settings.threads, there.settings.precision, there.settings.winograd) == (2, "fp16", False)
    assert there.outputs[0].limits.format == "fp16"
    assert there.outputs[0].relative_l2 > 1e-5
    here = validate_bundle(bundle, "local", ValidateOptions(samples=1, iterations=1))
    assert not here.settings.tuned
    assert here.settings.precision == "fp32"


def test_ctrl_c_leaves_the_bundle_as_it_was(bench, bundle: Path) -> None:
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    tuning = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "mobilekit",
            "tune",
            str(bundle),
            "--device",
            "local",
            "--threads",
            "1",
            "--samples",
            "1",
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert tuning.stderr is not None
    seen = ""
    for line in tuning.stderr:
        seen += line
        if "trying settings" in line:
            tuning.send_signal(signal.SIGINT)
            break
    rest = tuning.communicate(timeout=120)[1]
    assert tuning.returncode == 130, seen + rest
    assert "Traceback" not in rest
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == before
    eventually(lambda: bench.strays() == [])
