"""A test bench of its own: an adb server on a private port, virtual devices, and eyes for what is left running."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mobilekit.device import virtual
from mobilekit.device.adb import AdbDevice
from mobilekit.device.adb_server import client
from mobilekit.device.harness.locate import find_harness, locate_harness
from mobilekit.device.virtual import VirtualDevice
from mobilekit.errors import DeviceError, MobilekitError, SetupError
from mobilekit.paths import cache_dir
from mobilekit.pipeline.export import export_model
from tests.models import conv_classifier, save
from tests.ports import free_port

__all__ = ["Bench", "bench", "bundle", "eventually", "mobilekit", "need", "need_host_harness"]

ROOT = Path(__file__).parents[2]


def mobilekit(*arguments: str | Path, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "mobilekit", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def eventually(check: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < until, "it did not come true in time"
        time.sleep(0.05)


def need(abi: str) -> None:
    """Skip, by name, where this machine can neither run such a device nor build its harness."""
    probe = virtual.probe(abi)
    if not probe.mode:
        pytest.skip(f"no virtual {abi} device on this machine: {probe.summary}")
    if locate_harness(abi) is None:
        try:
            find_harness(abi)
        except SetupError as error:
            pytest.skip(f"no harness for {abi} on this machine: {error}")


def need_host_harness() -> None:
    """Skip, by name, where this machine cannot build one."""
    abi = {"aarch64": "arm64-v8a"}.get(platform.machine(), platform.machine())
    try:
        find_harness(abi, static_only=True)
    except SetupError as error:
        pytest.skip(f"no harness for this machine: {error.message}")


@dataclass
class Bench:
    folder: Path
    marker: str
    devices: list[VirtualDevice] = field(default_factory=list)

    def start(self, **options: object) -> VirtualDevice:
        device = virtual.start(**options)  # type: ignore[arg-type]
        self.devices.append(device)
        return device

    def kill(self, device: VirtualDevice) -> None:
        """The device goes as if its cable were cut."""
        os.kill(device.pid, signal.SIGKILL)

    def harnesses(self, device: VirtualDevice) -> list[int]:
        """Process ids, on the device, of the harnesses that run there."""
        lines = AdbDevice(device.serial).shell(["ps"]).stdout.decode().splitlines()
        return [int(line.split()[0]) for line in lines if "/mobilekit/store/" in line and " serve" in line]

    def hidden(self, device: VirtualDevice) -> list[str]:
        """Half-made files in the store on the device."""
        result = AdbDevice(device.serial).script("ls -A /data/local/tmp/mobilekit/store 2>/dev/null; exit 0")
        return [name for name in result.stdout.decode().split() if name.startswith(".")]

    def strays(self) -> list[str]:
        """Processes of this test on this machine, but for adb's server and the devices themselves."""
        mine = os.getpid()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == mine:
                continue
            with suppress(OSError):
                environment = (entry / "environ").read_bytes()
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                if self.marker.encode() not in environment or "fork-server" in command or "virtual.daemon" in command:
                    continue
                if (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found.append(command)
        return found


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("MOBILEKIT_CACHE", str(cache_dir()))
    marker = f"mobilekit-bench-{tmp_path.name}-{os.getpid()}"
    monkeypatch.setenv("MOBILEKIT_TEST_MARKER", marker)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(free_port()))
    for name in ("ADB_SERVER_SOCKET", "ANDROID_ADB_SERVER_ADDRESS", "ANDROID_ADB_SERVER_HOST", "ANDROID_SERIAL"):
        monkeypatch.delenv(name, raising=False)
    made = Bench(tmp_path, marker)
    yield made
    for device in made.devices:
        with suppress(MobilekitError):
            virtual.stop(device.name)
    with suppress(DeviceError, Exception):
        client().server_kill()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A small classifier with labels, exported and verified."""
    model = save(conv_classifier(side=16), tmp_path / "classifier.onnx")
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\ndog\nfox\nowl\n")
    from mobilekit.pipeline.export import ExportOptions

    export_model(model, tmp_path / "bundle", ExportOptions(labels=labels))
    return tmp_path / "bundle"
