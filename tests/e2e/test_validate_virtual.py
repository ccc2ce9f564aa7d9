"""`mobilekit validate` over real adb, on virtual arm64 devices of two generations and on a native one."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mobilekit.bundle import open_bundle
from mobilekit.device.adb import AdbDevice
from mobilekit.errors import UsageError
from mobilekit.pipeline.validate import ValidateOptions, validate_bundle
from mobilekit.validate.tolerance import Verdict
from tests.e2e.bench import bench, bundle, eventually, mobilekit, need

pytestmark = [pytest.mark.device, pytest.mark.slow, pytest.mark.timeout(600)]
__all__ = ["bench", "bundle"]


@pytest.mark.parametrize(("cpu", "half"), [("cortex-a53", False), ("cortex-a76", True)])
def test_arm64_code_of_two_generations_computes_what_the_reference_does(bench, bundle, cpu, half):
    need("arm64-v8a")
    device = bench.start(cpu=cpu)
    report_path = bench.folder / "report.json"
    done = mobilekit("validate", bundle, "--device", device.serial, "--json", report_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(report_path.read_text())
    assert report["device"]["abi"] == "arm64-v8a"
    assert "neon" in report["device"]["cpu_features"]
    assert ("asimdhp" in report["device"]["cpu_features"]) is half
    assert report["device"]["virtual"] is True
    assert report["device"]["cpu_profile"] == cpu
    assert report["outputs"][0]["relative_l2"] < 1e-5
    assert report["outputs"][0]["evidence"] is True
    assert report["outputs"][0]["top1_agreement"] == 1.0
    assert report["latency"]["comparable"] is False
    assert report["peak_blob_bytes"] > 16 * 16 * 3 * 4
    assert "not comparable" in done.stdout
    assert bench.harnesses(device) == []
    assert bench.hidden(device) == []
    eventually(lambda: bench.strays() == [])


def test_half_precision_arithmetic_shows(bench, bundle):
    need("arm64-v8a")
    device = bench.start(cpu="cortex-a76")
    full = validate_bundle(bundle, device.serial, ValidateOptions(samples=1))
    half = validate_bundle(bundle, device.serial, ValidateOptions(samples=1, precision="fp16"))
    assert full.outputs[0].relative_l2 < 1e-5 < half.outputs[0].relative_l2 < 5e-2
    assert half.verdict is Verdict.PASS
    assert half.outputs[0].limits.rtol > full.outputs[0].limits.rtol
    assert (half.outputs[0].limits.format, full.outputs[0].limits.format) == ("fp16", "fp32")


def test_a_second_run_pushes_nothing_and_clean_takes_all_away(bench, bundle):
    need("x86_64")
    device = bench.start(abi="x86_64")
    first = mobilekit("validate", bundle, "--device", device.serial, "--samples", "1")
    assert first.returncode == 0, first.stderr
    assert "pushing model.param" in first.stderr
    again = mobilekit("validate", bundle, "--device", "--samples", "1")
    assert again.returncode == 0, again.stderr
    assert "pushing" not in again.stderr
    cleaned = mobilekit("device", "clean", "--json")
    assert json.loads(cleaned.stdout)["removed_bytes"] > 1_000_000
    assert AdbDevice(device.serial).shell(["ls", "/data/local/tmp"]).stdout == b""


def test_run_answers_from_the_device(bench, bundle, tmp_path):
    need("x86_64")
    device = bench.start(abi="x86_64")
    shape = open_bundle(bundle).manifest.inputs[0].shape
    given = tmp_path / "x.npy"
    np.save(given, np.random.default_rng(0).standard_normal(shape).astype(np.float32))
    said = mobilekit("run", bundle, "--input", given, "--device", "--json")
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    assert device.serial in found["runner"]["device"]
    here = json.loads(mobilekit("run", bundle, "--input", given, "--runner", "reference", "--json").stdout)
    assert [answer["label"] for answer in found["answers"]] == [answer["label"] for answer in here["answers"]]
    for answer, wanted in zip(found["answers"], here["answers"], strict=True):
        assert answer["probability"] == pytest.approx(wanted["probability"], abs=1e-5)
    by_name = mobilekit("run", bundle, "--input", given, "--device", device.serial, "-o", tmp_path / "out")
    assert by_name.returncode == 0, by_name.stderr
    absent = mobilekit("run", bundle, "--input", given, "--device", "no-such-serial")
    assert absent.returncode == 4, absent.stderr
    assert "no-such-serial" in absent.stderr


def test_virtual_by_name_is_started_and_found_again(bench, bundle):
    need("x86_64")
    report = validate_bundle(bundle, "virtual:x86_64", ValidateOptions(samples=1))
    from mobilekit.device import virtual

    bench.devices += virtual.list_()
    assert report.device.abi == "x86_64"
    assert report.device.virtual
    again = validate_bundle(bundle, "virtual:x86_64", ValidateOptions(samples=1))
    assert again.device.serial == report.device.serial
    with pytest.raises(UsageError, match="pentium"):
        validate_bundle(bundle, "virtual:pentium")


def test_devices_lists_it_with_its_abi(bench):
    need("x86_64")
    device = bench.start(abi="x86_64")
    rows = {row["selector"]: row for row in json.loads(mobilekit("devices", "--json").stdout)}
    assert rows[device.serial]["kind"] == "virtual"
    assert rows[device.serial]["abi"] == "x86_64"
    assert rows["local"]["state"] == "device"
    assert device.serial in mobilekit("devices").stdout
