"""Doctor looks, never raises, and names a remedy for each lack."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mobilekit.device.adb_server import adb_program
from mobilekit.pipeline import doctor
from mobilekit.pipeline.doctor import CHECKS, CheckResult, diagnose
from tests import fake_cuda
from tests.ports import free_port


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with nothing on its PATH, an empty home, and an adb server nobody has started."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MOBILEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path / "no ndk"))
    monkeypatch.setattr(doctor, "CHECKS", tuple(check for check in CHECKS if check.__name__ != "_adb"))


def by_name(results: tuple[CheckResult, ...]) -> dict[str, CheckResult]:
    return {result.name: result for result in results}


@pytest.mark.usefixtures("bare")
def test_a_bare_machine_gets_a_remedy_for_each_lack() -> None:
    found = by_name(diagnose())
    assert found["onnx"].state == "ok"
    assert found["arm64 cross g++"].state == "missing"
    assert "g++-aarch64-linux-gnu" in found["arm64 cross g++"].remedy
    assert found["Android NDK"].state == "broken"
    assert found["harness arm64-v8a"].remedy == "mobilekit harness build --abi arm64-v8a"
    assert all(result.remedy for result in found.values() if result.state != "ok")


def test_two_onnxruntimes_over_each_other_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda _: "1.0")
    found = by_name(tuple(doctor._packages()))
    assert found["onnxruntime twice"].state == "broken"
    assert "onnxruntime-gpu" in found["onnxruntime twice"].remedy


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_gpus_are_named(tmp_path: Path) -> None:
    code = "from mobilekit.pipeline.doctor import _nvidia; print(*_nvidia(), sep='\\n')"
    library = fake_cuda.build(tmp_path)

    def looked(**settings: int) -> str:
        env = fake_cuda.environment(library, **settings)
        return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout

    assert "name='GPU 1', state='ok', found='Fake GPU 1, compute capability 8.7" in looked(GPUS=2)
    assert "name='NVIDIA driver', state='broken'" in looked(GPUS=0)
    assert "no CUDA-capable device" in looked(INIT=100)


@pytest.mark.slow
def test_the_command_prints_json_that_a_script_can_read(tmp_path: Path) -> None:
    env = {**os.environ, "ANDROID_ADB_SERVER_PORT": str(free_port()), "HOME": str(tmp_path)}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "mobilekit", "doctor", "--json"],
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        subprocess.run([adb_program(), "kill-server"], env=env, capture_output=True, check=False)
    results = json.loads(done.stdout)
    assert {result["state"] for result in results} <= {"ok", "missing", "broken"}
    assert "Traceback" not in done.stderr
    assert done.returncode == (4 if any(result["state"] == "broken" for result in results) else 0)
