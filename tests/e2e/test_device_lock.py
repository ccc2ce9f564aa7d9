"""The lock on a device: one holder at a time, a dead one's is taken away, a living one is named."""

from __future__ import annotations

import threading
import time

import pytest

from mobilekit.device.adb import AdbDevice
from mobilekit.device.lock import device_lock
from mobilekit.errors import DeviceError
from tests.e2e.bench import bench, bundle, mobilekit, need

pytestmark = [pytest.mark.device, pytest.mark.slow, pytest.mark.timeout(600)]
__all__ = ["bench", "bundle"]


def test_two_take_turns_and_a_dead_holder_is_forgotten(bench):
    need("x86_64")
    started = bench.start(abi="x86_64")
    one, other = AdbDevice(started.serial), AdbDevice(started.serial)
    with device_lock(one, wait_s=0):
        with (
            pytest.raises(DeviceError, match=r"in use by .*process \d+, since .*waited 0 s"),
            device_lock(other, wait_s=0),
        ):
            pytest.fail("held twice")
        order = []

        def later():
            with device_lock(other, wait_s=60):
                order.append("second")

        thread = threading.Thread(target=later)
        thread.start()
        time.sleep(1)
        order.append("first")
    thread.join(60)
    assert order == ["first", "second"]
    folder = "/data/local/tmp/mobilekit/lock"
    made = one.script(f"mkdir -p {folder}; echo '999999 - ghost' > {folder}/dead")
    assert made.returncode == 0
    with device_lock(one, wait_s=10):
        assert one.script(f"ls {folder}").stdout.split() != [b"dead"]
    assert one.script(f"ls {folder} 2>&1").returncode != 0
    one.script(f"mkdir -p {folder}")
    with device_lock(one, wait_s=10):
        pass


def test_a_validation_says_who_holds_the_device(bench, bundle):
    need("x86_64")
    started = bench.start(abi="x86_64")
    with device_lock(AdbDevice(started.serial), wait_s=0):
        done = mobilekit("validate", bundle, "--device", started.serial, "--wait", "0", "--samples", "1")
    assert done.returncode == 4
    assert "is in use by" in done.stderr
    assert "--wait" in done.stderr
    done = mobilekit("validate", bundle, "--device", started.serial, "--wait", "0", "--samples", "1")
    assert done.returncode == 0, done.stderr
