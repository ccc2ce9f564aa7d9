"""Devices that are not there, go away, fill up, and harnesses that die or hang.

Each: one clear message, its exit code, no traceback, nothing left running here or there, nothing half-written.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from mobilekit.device import virtual
from mobilekit.device.adb import AdbDevice
from mobilekit.device.store import Store
from mobilekit.errors import (
    DeviceLostError,
    DeviceStorageError,
    HarnessCrashError,
    HarnessTimeoutError,
    MobilekitError,
)
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.pipeline.validate import ValidateOptions, validate_bundle
from mobilekit.progress import SILENT
from tests.e2e.bench import ROOT, bench, bundle, eventually, mobilekit, need
from tests.models import conv_classifier, save
from tests.ports import free_port

pytestmark = [pytest.mark.device, pytest.mark.slow, pytest.mark.timeout(600)]
__all__ = ["bench", "bundle"]

FOR_EVER = ValidateOptions(samples=1, warmup=0, iterations=1_000_000, timeout_s=120)


def refused(done, code, *says):
    assert done.returncode == code, (done.stdout, done.stderr)
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr
    for text in says:
        assert text in done.stderr


class Meddler:
    """A progress that does something to the device: at the first byte pushed, or while the model runs."""

    def __init__(self, *, at_push=None, while_running=None):
        self._at_push, self._while_running = at_push, while_running
        self.thread = None

    def step(self, text):
        if self._while_running and text.startswith("running") and self.thread is None:
            self.thread = threading.Thread(target=self._while_running)
            self.thread.start()

    def note(self, text):
        pass

    @contextmanager
    def task(self, text, total=None, *, unit=""):
        with SILENT.task(text, total) as bar:
            yield self if text.startswith("pushing") and self._at_push else bar

    def advance(self, amount=1):
        if self._at_push:
            meddle, self._at_push = self._at_push, None
            meddle()

    def describe(self, text):
        pass


@pytest.fixture
def device(bench):
    need("x86_64")
    return bench.start(abi="x86_64", port=free_port())


@pytest.fixture
def endless(tmp_path):
    """A bundle of which a million inferences take minutes on any machine."""
    model = save(conv_classifier(side=256), tmp_path / "endless.onnx")
    export_model(model, tmp_path / "endless", ExportOptions(verify=False))
    return tmp_path / "endless"


def signal_harness(bench, device, name):
    def send():
        eventually(lambda: bool(bench.harnesses(device)))
        time.sleep(0.5)
        (pid,) = bench.harnesses(device)
        AdbDevice(device.serial).shell(["kill", f"-{name}", str(pid)])

    return send


def nothing_left(bench, device):
    eventually(lambda: bench.harnesses(device) == [])
    assert bench.hidden(device) == []
    eventually(lambda: bench.strays() == [])


def test_no_device(bench, bundle):
    refused(mobilekit("validate", bundle), 4, "no device is connected", "mobilekit device virtual start")
    eventually(lambda: bench.strays() == [])


def test_two_devices_and_no_serial(bench, bundle, device):
    other = bench.start(abi="x86_64", name="other")
    refused(mobilekit("validate", bundle), 4, device.serial, other.serial, "--device SERIAL")


def test_a_serial_that_is_not_there(bench, bundle, device):
    refused(mobilekit("validate", bundle, "--device", "R58N123"), 4, "no device 'R58N123'", device.serial)


def test_gone_in_the_middle_of_a_push(bench, bundle, device):
    with pytest.raises(DeviceLostError, match="push") as caught:
        validate_bundle(bundle, device.serial, progress=Meddler(at_push=lambda: bench.kill(device)))
    assert caught.value.hint
    eventually(lambda: bench.strays() == [])


def test_ctrl_c_in_the_middle_of_a_push(bench, bundle, device):
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        validate_bundle(bundle, device.serial, progress=Meddler(at_push=interrupt))
    nothing_left(bench, device)
    assert AdbDevice(device.serial).script("ls -A /data/local/tmp/mobilekit/store").stdout == b""


def test_gone_in_the_middle_of_a_run(bench, endless, device):
    def cut():
        eventually(lambda: bool(bench.harnesses(device)))
        time.sleep(0.5)
        bench.kill(device)

    meddler = Meddler(while_running=cut)
    with pytest.raises(DeviceLostError):
        validate_bundle(endless, device.serial, FOR_EVER, meddler)
    meddler.thread.join()
    eventually(lambda: bench.strays() == [])


@pytest.mark.parametrize("name", ["SEGV", "KILL"])
def test_a_harness_that_dies(bench, endless, device, name):
    meddler = Meddler(while_running=signal_harness(bench, device, name))
    with pytest.raises(HarnessCrashError, match=f"SIG{name}"):
        validate_bundle(endless, device.serial, FOR_EVER, meddler)
    meddler.thread.join()
    nothing_left(bench, device)


def test_a_harness_that_hangs(bench, endless, device):
    meddler = Meddler(while_running=signal_harness(bench, device, "STOP"))
    options = ValidateOptions(samples=1, warmup=0, iterations=1_000_000, timeout_s=6)
    with pytest.raises(HarnessTimeoutError, match="6 s"):
        validate_bundle(endless, device.serial, options, meddler)
    meddler.thread.join()
    nothing_left(bench, device)


def test_a_run_that_takes_too_long_on_the_command_line(bench, endless, device):
    done = mobilekit("validate", endless, "--device", "--iterations", "1000000", "--warmup", "0", "--timeout", "3")
    refused(done, 4, "within 3 s", "--timeout")
    nothing_left(bench, device)


def test_ctrl_c_in_the_middle_of_a_run(bench, endless, device):
    command = [sys.executable, "-m", "mobilekit", "validate", str(endless), "--iterations", "1000000"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        eventually(lambda: bool(bench.harnesses(device)), 60)
        time.sleep(0.5)
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "Traceback" not in said
    nothing_left(bench, device)


def test_a_device_too_small_is_told_before_anything_is_pushed(bench, bundle):
    need("x86_64")
    small = bench.start(abi="x86_64", storage_bytes=18 * 1024**2)
    refused(mobilekit("validate", bundle, "--device", small.serial), 4, "must be pushed", "free", "hint:")
    assert AdbDevice(small.serial).script("ls -A /data/local/tmp/mobilekit/store").stdout == b""


def test_a_device_that_fills_up_in_the_middle_of_a_push(bench, tmp_path):
    need("x86_64")
    small = bench.start(abi="x86_64", storage_bytes=32 * 1024**2)
    device = AdbDevice(small.serial)
    large = tmp_path / "large"
    large.write_bytes(os.urandom(48_000_000))
    with pytest.raises(DeviceStorageError, match="no space left"):
        device.push(large, "/data/local/tmp/mobilekit/store/large")
    assert device.script("ls -A /data/local/tmp/mobilekit/store").stdout == b""
    (tmp_path / "little").write_bytes(b"x")
    assert Store(device).ensure({"a" * 64: tmp_path / "little"})


def test_a_quota_too_small_says_so(bench, bundle, device):
    refused(mobilekit("validate", bundle, "--device", "--quota", "1"), 4, "quota there is 1.0 MB", "--quota")


def test_a_phone_no_harness_runs_on(bench, bundle, device, monkeypatch):
    """The device names an ABI that no harness is built for."""
    from dataclasses import replace

    right = AdbDevice.info
    monkeypatch.setattr(AdbDevice, "info", lambda self: replace(right(self), abis=("mips",)))
    with pytest.raises(MobilekitError, match="mips"):
        validate_bundle(bundle, device.serial)


def test_a_device_that_came_back_is_used_again(bench, bundle, device):
    bench.kill(device)
    eventually(lambda: not virtual.list_())
    again = bench.start(abi="x86_64", port=device.port)
    assert again.serial == device.serial
    assert mobilekit("validate", bundle, "--device", again.serial, "--samples", "1").returncode == 0


def test_the_command_line_tells_a_lost_device_plainly(bench, endless, device):
    command = [sys.executable, "-m", "mobilekit", "validate", str(endless), "--iterations", "1000000"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        eventually(lambda: bool(bench.harnesses(device)), 60)
        bench.kill(device)
        out, said = run.communicate(timeout=60)
    refused(subprocess.CompletedProcess(command, run.returncode, out, said), 4, device.serial, "hint:")
    assert Path(endless).exists()
    eventually(lambda: bench.strays() == [])
