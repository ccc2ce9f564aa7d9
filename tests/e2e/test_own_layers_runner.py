"""Bundles whose model has own layers: the host runner uses the harness, and says what is missing where it cannot."""

from __future__ import annotations

import importlib.util
import os
import signal
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from mobilekit.bundle import Manifest, ModelInfo, NcnnArtifact, NcnnBlob, TensorInfo
from mobilekit.device.harness.locate import own_layers
from mobilekit.errors import HarnessCrashError, HarnessError, HarnessTimeoutError, MissingToolError, UsageError
from mobilekit.runners.base import RunOptions
from mobilekit.runners.ncnn_host import NcnnHostRunner
from tests.e2e.own_layer_lab import HOST_ABI, harness_for, layer

pytestmark = pytest.mark.timeout(3600)

_X = np.array([[3, 9, 9, 1, 7]], np.float32)


@pytest.fixture(scope="session", autouse=True)
def program() -> Path:
    return harness_for(HOST_ABI)[0]


def _bundle(root: Path, kind: str = "MkTopK", k: int = 3) -> Manifest:
    lines = [
        layer("Input", "in", [], ["x"], {0: 5}),
        layer(kind, "top", ["x"], ["values", "positions"], {1: 5, 3: k}),
    ]
    (root / "m.param").write_text("\n".join(["7767517", "2 3", *lines]) + "\n")
    (root / "m.bin").write_bytes(b"")
    artifact = NcnnArtifact(
        param="m.param",
        bin="m.bin",
        precision="fp32",
        inputs=(NcnnBlob(tensor="x", blob="x", axes=(1,)),),
        outputs=(NcnnBlob(tensor="v", blob="values", axes=(1,)), NcnnBlob(tensor="p", blob="positions", axes=(1,))),
        layers=2,
        depth=2,
        custom_layers=(kind,),
        ncnn_version="1.0",
    )
    return Manifest(
        mobilekit_version="0",
        model=ModelInfo(id="m", file="m.onnx", sha256="0" * 64, opset=21),
        inputs=(TensorInfo(name="x", dtype="float32", shape=(1, 5)),),
        outputs=(
            TensorInfo(name="v", dtype="float32", shape=(1, 3)),
            TensorInfo(name="p", dtype="int64", shape=(1, 3)),
        ),
        ncnn=artifact,
    )


def _harnesses() -> set[int]:
    """This process's children that are harnesses."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == os.getpid() and b"mobilekit-harness" in (folder / "cmdline").read_bytes():
                    found.add(int(folder.name))
    return found


def test_own_layers_run_in_one_harness_for_many_inputs(tmp_path: Path) -> None:
    before = _harnesses()
    with NcnnHostRunner(tmp_path, _bundle(tmp_path)) as runner:
        first = runner.run({"x": _X}, RunOptions())
        np.testing.assert_array_equal(first.outputs["v"], [[9, 9, 7]])
        np.testing.assert_array_equal(first.outputs["p"], [[1, 2, 4]])
        assert first.outputs["p"].dtype == np.int64
        (process,) = _harnesses() - before
        second = runner.run({"x": -_X}, RunOptions(warmup=1, iterations=3))
        np.testing.assert_array_equal(second.outputs["p"], [[3, 0, 4]])
        assert len(second.latencies_ns) == 3
        with pytest.raises(UsageError):
            runner.run({}, RunOptions())
        assert _harnesses() - before == {process}
        assert runner.info().name == "mobilekit harness on host"
    assert _harnesses() == before


def test_after_a_crash_or_a_hang_there_is_a_fresh_harness(tmp_path: Path) -> None:
    before = _harnesses()
    with NcnnHostRunner(tmp_path, _bundle(tmp_path)) as runner:
        runner.run({"x": _X}, RunOptions())
        for number, kind, timeout in (
            (signal.SIGSEGV, HarnessCrashError, 60.0),
            (signal.SIGSTOP, HarnessTimeoutError, 0.5),
        ):
            (process,) = _harnesses() - before
            os.kill(process, number)
            with pytest.raises(kind):
                runner.run({"x": _X}, RunOptions(timeout_s=timeout))
            np.testing.assert_array_equal(runner.run({"x": _X}, RunOptions()).outputs["p"], [[1, 2, 4]])
    assert _harnesses() == before


def test_what_a_layer_says_reaches_the_user(tmp_path: Path) -> None:
    with NcnnHostRunner(tmp_path, _bundle(tmp_path, k=6)) as runner, pytest.raises(HarnessError) as caught:
        runner.run({"x": _X}, RunOptions())
    assert "MkTopK layer 'top': k is 6, the axis has 5 elements" in caught.value.hint


def test_a_layer_of_another_version(tmp_path: Path) -> None:
    with (
        NcnnHostRunner(tmp_path, _bundle(tmp_path, "MkFromTheFuture")) as runner,
        pytest.raises(HarnessError) as caught,
    ):
        runner.run({"x": _X}, RunOptions())
    assert "no layer MkFromTheFuture" in caught.value.message
    assert "mobilekit harness build" in caught.value.hint


def test_no_compiler_and_no_harness(tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("ziglang") or importlib.util.find_spec("mobilekit_harness"):
        pytest.skip("a harness can be had here without a compiler in PATH")
    monkeypatch.setenv("PATH", str(tmp_path))
    with NcnnHostRunner(tmp_path, _bundle(tmp_path)) as runner, pytest.raises(MissingToolError) as caught:
        runner.run({"x": _X}, RunOptions())
    assert "MkTopK" in caught.value.message
    assert "no compiler" in caught.value.message
    assert "--stock-only" in caught.value.hint


def test_the_types_are_read_out_of_a_harness_for_any_machine(program: Path, tmp_path: Path) -> None:
    assert {"MkTopK", "MkNonZero", "MkTfIdf"} <= set(own_layers(program))
    (tmp_path / "other").write_bytes(b"no harness")
    assert own_layers(tmp_path / "other") == ()
