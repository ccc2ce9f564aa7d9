"""A sustained run and a single stream on a device: curves, a device that goes away, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.e2e.bench import ROOT, bench, bundle, eventually, mobilekit, need

pytestmark = [pytest.mark.device, pytest.mark.slow, pytest.mark.timeout(600)]
__all__ = ["bench", "bundle"]


@pytest.fixture
def device(bench):
    need("x86_64")
    return bench.start(abi="x86_64")


def test_both_are_in_every_report(bench, bundle, device):
    page, text, data = (bench.folder / name for name in ("r.html", "r.md", "r.json"))
    done = mobilekit(
        *("validate", bundle, "--device", device.serial, "--samples", "1", "--cool-down", "40,1s"),
        *("--sustained", "2s", "--single-stream", "--min-queries", "20", "--min-seconds", "0"),
        *("--report", page, "--markdown", text, "--json", data),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(data.read_text())
    assert report["sustained"]["seconds"] >= 2
    assert report["single_stream"]["queries"] >= 20
    assert report["single_stream"]["compliant"] is False
    assert len(report["cool_downs"]) == 3
    assert report["first_ms"] > 0
    for said in (done.stdout, page.read_text(), text.read_text()):
        assert "NOT COMPLIANT" in said
        assert "p50" in said
    assert "svg" in page.read_text()


def start(bundle, *arguments):
    command = [sys.executable, "-m", "mobilekit", "validate", str(bundle), "--sustained", "10m", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until_sustained(run):
    for line in run.stderr:
        if "sustained run" in line:
            return
    pytest.fail("it never came to the sustained run")


def test_a_device_that_goes_away_leaves_the_verdict_and_the_curve(bench, bundle, device):
    data = bench.folder / "r.json"
    with start(bundle, "--samples", "1", "--json", data) as run:
        until_sustained(run)
        bench.kill(device)
        _, said = run.communicate(timeout=120)
    assert run.returncode == 4, said
    assert "Traceback" not in said
    assert "--resume" in said
    report = json.loads(data.read_text())
    assert report["verdict"] == "pass"
    assert report["stopped"]["exit_code"] == 4
    assert report["sustained"] is None or report["sustained"]["error"]
    eventually(lambda: bench.strays() == [])


def test_ctrl_c_ends_it_and_leaves_nothing(bench, bundle, device):
    with start(bundle, "--samples", "1") as run:
        until_sustained(run)
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=120)
    assert run.returncode == 130, said
    assert "Traceback" not in said
    eventually(lambda: bench.harnesses(device) == [])
    eventually(lambda: bench.strays() == [])
