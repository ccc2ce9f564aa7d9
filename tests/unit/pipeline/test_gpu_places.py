"""GPUs as places and as references, on a machine that has none, or one whose driver is a stub."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mobilekit.bundle import open_bundle
from mobilekit.errors import BundleError, NoDeviceError, UsageError
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.pipeline.place_plan import PREPARED, open_plan
from mobilekit.pipeline.reference import open_reference
from mobilekit.runners.base import RunOptions
from mobilekit.targets.tensorrt import TensorRTOptions
from mobilekit.targets.tensorrt.flavour import FLAVOURS, count_gpus, installed
from mobilekit.targets.tensorrt.gpus import parse_gpu
from tests import fake_cuda
from tests.models import conv_classifier, save

rtx = pytest.mark.skipif(not installed(FLAVOURS["rtx"]), reason="needs the extra [tensorrt]")
no_gpu = pytest.mark.skipif(count_gpus() > 0, reason="for machines without a GPU")
gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")

NAME = "serving_default_input:0"


@pytest.fixture(scope="module")
def ncnn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ncnn")
    return export_model(save(conv_classifier(), folder / "m.onnx"), folder / "out").bundle


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    options = ExportOptions(targets=("tensorrt",), tensorrt=TensorRTOptions("fp16"))
    return export_model(save(conv_classifier(), folder / "m.onnx"), folder / "out", options).bundle


def mobilekit(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mobilekit", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)


@pytest.mark.parametrize(("text", "index"), [("gpu", 0), ("gpu:0", 0), ("gpu:3", 3), ("virtual", None), ("gpux", None)])
def test_how_a_gpu_is_named(text: str, index: int | None) -> None:
    assert parse_gpu(text) == index


@pytest.mark.parametrize("text", ["gpu:", "gpu:x", "gpu:-1", "gpu:99999"])
def test_a_name_that_is_no_gpu(text: str) -> None:
    with pytest.raises(UsageError, match="names no GPU"):
        parse_gpu(text)


@no_gpu
def test_a_reference_on_a_gpu_that_is_not_there_is_one_sentence(ncnn: Path) -> None:
    done = mobilekit("validate", str(ncnn), "--device", "local", "--reference", "onnxruntime-cuda")
    assert done.returncode == 4
    assert "NVIDIA driver" in done.stderr
    assert "Traceback" not in done.stderr


@gcc
def test_onnx_runtime_without_cuda_is_said(ncnn: Path, tmp_path: Path) -> None:
    env = fake_cuda.environment(fake_cuda.build(tmp_path))
    done = mobilekit("validate", str(ncnn), "--device", "local", "--reference", "onnxruntime-cuda", env=env)
    assert done.returncode == 4
    assert "no CUDA provider" in done.stderr
    assert "onnxruntime-gpu" in done.stderr


@gcc
def test_gpus_are_listed_where_device_is_named(tmp_path: Path) -> None:
    env = fake_cuda.environment(fake_cuda.build(tmp_path), GPUS=2)
    code = "from mobilekit.pipeline.devices import known_places; print(*(d.selector for d in known_places()))"
    env["ADB"] = "/nonexistent"  # no adb server is started for this
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.stdout.split()[-3:] == ["local", "gpu:0", "gpu:1"], done.stderr


def test_a_plan_as_reference_needs_one(ncnn: Path) -> None:
    with pytest.raises(BundleError, match="no TensorRT plan"), open_reference(open_bundle(ncnn), "tensorrt"):
        pass


@rtx
@no_gpu
def test_a_plan_as_reference_needs_a_gpu(plan: Path) -> None:
    with pytest.raises(NoDeviceError), open_reference(open_bundle(plan), "tensorrt"):
        pass


@rtx
@no_gpu
def test_without_a_gpu_the_prepared_model_runs_instead_and_that_is_said(plan: Path) -> None:
    notes: list[str] = []
    bundle = open_bundle(plan)
    info = bundle.manifest.inputs[0]
    x = {NAME: np.random.default_rng(0).standard_normal(info.shape, dtype=np.float32)}
    with open_plan(bundle, None, progress=_Notes(notes)) as (runner, facts), open_reference(bundle) as reference:
        assert facts.kind == PREPARED
        assert facts.runner == "ONNX Runtime CPU"
        half, exact = runner.run(x, RunOptions()).outputs["scores"], reference.answer(x, 60)["scores"]
    assert 0 < np.abs(half - exact).max() < 1e-2  # fp16 ran, and not the original
    assert any("not executed" in note for note in notes)


@rtx
@no_gpu
@pytest.mark.parametrize(("device", "error"), [("gpu", NoDeviceError), ("gpu:1", NoDeviceError), ("local", UsageError)])
def test_a_place_that_was_asked_for_and_is_not_there_is_an_error(
    plan: Path, device: str, error: type[Exception]
) -> None:
    with pytest.raises(error), open_plan(open_bundle(plan), device):
        pass


class _Notes:
    def __init__(self, notes: list[str]) -> None:
        self.note = notes.append

    def step(self, text: str) -> None:
        pass

    def task(self, text: str, total: float | None = None, *, unit: str = "") -> object:
        raise NotImplementedError
