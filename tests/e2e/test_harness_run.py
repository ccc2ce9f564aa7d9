"""The one-shot command: files in, files out, exit codes."""

from __future__ import annotations

import json
import platform
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mobilekit.device.harness.locate import find_harness
from tests.unit.device.harness import harness_models as models

pytestmark = pytest.mark.timeout(3600)

_ABI = {"x86_64": "x86_64", "aarch64": "arm64-v8a"}.get(platform.machine(), "x86_64")


@pytest.fixture(scope="session")
def executable() -> Path:
    return find_harness(_ABI, static_only=True)


def _run(executable: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(executable), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def case(tmp_path: Path) -> list[object]:
    files = models.convolutional(tmp_path)
    np.save(tmp_path / "x.npy", np.random.default_rng(1).standard_normal((3, 24, 24)).astype(np.float32))
    return ["run", "--param", files.param, "--bin", files.bin, "--input", f"in={tmp_path / 'x.npy'}"]


def test_files_in_files_out(executable: Path, case: list[object], tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = _run(executable, *case, "--out", out, "--warmup", 1, "--iterations", 4, "--layer-times", "--threads", 1)
    assert done.returncode == 0, done.stderr
    result = json.loads((out / "result.json").read_text())
    assert set(result["outputs"]) == {"logits", "branch/0:0"}
    assert np.load(out / result["outputs"]["logits"]).shape == (10,)
    assert np.load(out / result["outputs"]["branch/0:0"]).shape == (8, 24, 24)
    assert len(result["infer"]["latencies_ns"]) == 4
    assert [layer["name"] for layer in result["infer"]["layers"]] == ["conv1", "split", "conv2", "pool", "fc"]
    assert not list(out.glob("*.part"))


def test_kernel_switches_change_how_not_what(executable: Path, case: list[object], tmp_path: Path) -> None:
    plain, switched = tmp_path / "plain", tmp_path / "switched"
    assert _run(executable, *case, "--out", plain).returncode == 0
    options = ["--no-winograd", "--no-sgemm", "--no-packing", "--cluster", "big", "--threads", 2]
    assert _run(executable, *case, "--out", switched, *options).returncode == 0
    results = [json.loads((folder / "result.json").read_text()) for folder in (plain, switched)]
    assert results[0]["load"]["flags"] != results[1]["load"]["flags"]
    assert results[0]["infer"]["peak_workspace_bytes"] > results[1]["infer"]["peak_workspace_bytes"]
    values = [np.load(f / r["outputs"]["logits"]) for f, r in zip((plain, switched), results, strict=True)]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"--param": "absent"}, 5, "cannot open"),
        ({"--bin": "absent"}, 5, "cannot open"),
        ({"--input": "nonsense"}, 2, "BLOB=FILE.npy"),
        ({"--input": "in=absent.npy"}, 5, "cannot open"),
        ({"--input": "in=text.npy"}, 4, "no .npy file"),
        ({"--input": "in=double.npy"}, 4, "expected '<f4'"),
        ({"--input": "other=x.npy"}, 4, "no blob 'other'"),
        ({"--output": "nowhere"}, 4, "no blob 'nowhere'"),
        ({"--iterations": "0"}, 2, "at least 1"),
        ({"--threads": "many"}, 2, "no number"),
        ({"--cluster": "middle"}, 2, "--cluster"),
        ({"--loud": "1"}, 2, "unknown option"),
    ],
)
def test_bad_input_has_its_exit_code_and_writes_no_result(
    executable: Path, case: list[object], tmp_path: Path, change: dict[str, str], code: int, says: str
) -> None:
    (tmp_path / "text.npy").write_text("hello")
    np.save(tmp_path / "double.npy", np.zeros((3, 24, 24)))
    arguments = [str(a) for a in case]
    for option, value in change.items():
        name, equals, file = value.partition("=")
        full = f"{name}={tmp_path / file}" if equals else value
        if option in arguments:
            arguments[arguments.index(option) + 1] = full
        else:
            arguments += [option, full]
    done = _run(executable, *arguments, "--out", tmp_path / "out")
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert not (tmp_path / "out" / "result.json").exists()


def test_a_folder_that_cannot_be_made(executable: Path, case: list[object], tmp_path: Path) -> None:
    done = _run(executable, *case, "--out", tmp_path / "no" / "such" / "folder")
    assert done.returncode == 5
    assert "cannot make" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["dance"], ["run"], ["serve"], ["info", "more"]])
def test_usage(executable: Path, arguments: list[str]) -> None:
    done = _run(executable, *arguments)
    assert done.returncode == 2
    assert "usage:" in done.stderr
