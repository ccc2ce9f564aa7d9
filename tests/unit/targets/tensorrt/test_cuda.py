"""The CUDA driver API as the worker calls it, against a library that lists GPUs and copies memory but runs nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from mobilekit.targets.tensorrt.flavour import FLAVOURS, installed
from mobilekit.targets.tensorrt.host import WORKER, job_folder, parse_hello
from tests import fake_cuda
from tests.models import conv_classifier, save

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
rtx = pytest.mark.skipif(not installed(FLAVOURS["rtx"]), reason="needs the extra [tensorrt]")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_cuda.build(tmp_path_factory.mktemp("cuda"))


def start(library: Path, *arguments: str, **settings: int) -> subprocess.CompletedProcess[str]:
    env = fake_cuda.environment(library, **settings)
    return subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=120)


def told(library: Path, code: str, **settings: int) -> Any:
    """What ``code`` prints; it has the worker's ``Buffer``, a ``cuda`` and a ``stream``."""
    before = """
    import ctypes, json
    from mobilekit.targets.tensorrt.worker.trtwork.base import WorkError
    from mobilekit.targets.tensorrt.worker.trtwork.cuda import Cuda
    from mobilekit.targets.tensorrt.worker.trtwork.slot import Buffer
    try:
        cuda = Cuda()
        cuda.use(0)
        stream = cuda.handle("cuStreamCreate", 1)
    """
    after = """
    except WorkError as error:
        print(json.dumps({"kind": error.kind, "message": error.message, "hint": error.hint}))
    """
    script = textwrap.dedent(before) + textwrap.indent(textwrap.dedent(code), "    ") + textwrap.dedent(after)
    done = start(library, "-c", script, **settings)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_gpu_is_described(library: Path) -> None:
    done = start(library, str(WORKER), "--hello", GPUS=2)
    hello = parse_hello(done.stdout, "here")
    assert [(gpu.index, gpu.name, gpu.compute_capability) for gpu in hello.gpus] == [
        (0, "Fake GPU 0", "8.7"),
        (1, "Fake GPU 1", "8.7"),
    ]
    assert hello.gpus[0].memory_bytes == 1 << 20
    assert hello.gpus[0].integrated
    assert hello.cuda == "12.6"
    assert hello.problem == ""


def test_a_driver_without_gpus_says_why(library: Path) -> None:
    answer = told(library, "print('{}')", INIT=100)
    assert answer["kind"] == "no-gpu"
    assert "no CUDA-capable device is detected (CUDA_ERROR_NO_DEVICE 100)" in answer["message"]
    assert answer["hint"]
    assert (
        "no CUDA-capable device" in parse_hello(start(library, str(WORKER), "--hello", INIT=100).stdout, "here").problem
    )


def test_an_error_that_the_driver_has_no_words_for(library: Path) -> None:
    answer = told(library, "print('{}')", INIT=999)
    assert answer["message"].endswith("unknown error (error 999)")


def test_a_gpu_that_is_not_there(library: Path) -> None:
    answer = told(library, "cuda.use(3)", GPUS=2)
    assert answer["kind"] == "no-gpu"
    assert "no GPU 3" in answer["message"]


@pytest.mark.parametrize(("dtype", "shape"), [("float32", (2, 3)), ("int64", (5,)), ("bool", ()), ("float16", (0, 4))])
def test_what_goes_to_the_gpu_comes_back(library: Path, dtype: str, shape: tuple[int, ...]) -> None:
    code = f"""
    import numpy as np
    data = (np.arange(np.prod({shape}, dtype=int)) % 7).astype("{dtype}").reshape({shape})
    buffer = Buffer(cuda, "{dtype}", {shape})
    buffer.array[...] = data
    buffer.to_device(stream)
    buffer.array[...] = 0
    buffer.to_host(stream)
    cuda("cuStreamSynchronize", stream)
    print(json.dumps([bool((buffer.array == data).all()), list(buffer.array.shape), str(buffer.array.dtype)]))
    """
    assert told(library, code) == [True, list(shape), dtype]


def test_memory_is_given_back(library: Path) -> None:
    code = """
    for _ in range(100):
        Buffer(cuda, "uint8", (900,)).free()
    kept = Buffer(cuda, "uint8", (900,))
    print(json.dumps(kept.size))
    """
    assert told(library, code, BYTES=1000) == 900


def test_a_full_gpu_is_an_error_with_a_remedy(library: Path) -> None:
    answer = told(library, "Buffer(cuda, 'float32', (1000,))", BYTES=3999)
    assert answer["kind"] == "memory"
    assert "--streams" in answer["hint"]


def test_a_call_that_fails_is_named(library: Path) -> None:
    answer = told(library, "cuda('cuStreamSynchronize', ctypes.c_void_p(7))")
    assert answer["kind"] == "cuda"
    assert answer["message"].startswith("cuStreamSynchronize: ")


@rtx
def test_a_driver_that_tensorrt_cannot_use_is_an_error_and_no_crash(library: Path, tmp_path: Path) -> None:
    model = save(conv_classifier(side=8), tmp_path / "model.onnx")
    build = {"module": "tensorrt_rtx", "onnx": "model.onnx", "plan": "model.plan", "profiles": {}}
    with job_folder("build", build, {"model.onnx": model}) as folder:
        assert start(library, str(WORKER), str(folder)).returncode == 0
        plan = tmp_path / "model.plan"
        plan.write_bytes((folder / "model.plan").read_bytes())
    with job_folder(
        "run", {"module": "tensorrt_rtx", "plan": "model.plan", "samples": []}, {"model.plan": plan}
    ) as folder:
        done = start(library, str(WORKER), str(folder))
        assert done.returncode == 0, done.stderr
        error = json.loads((folder / "result.json").read_text())["error"]
    assert error["kind"] == "driver"
    assert "update" in error["hint"]


@rtx
@pytest.mark.parametrize(("change", "kind"), [("cut", "plan-corrupt"), ("other", "plan-corrupt")])
def test_a_damaged_plan(library: Path, tmp_path: Path, change: str, kind: str) -> None:
    plan = tmp_path / "model.plan"
    plan.write_bytes(b"vtrt" + bytes(1000) if change == "cut" else b"something else" * 100)
    with job_folder(
        "run", {"module": "tensorrt_rtx", "plan": "model.plan", "samples": []}, {"model.plan": plan}
    ) as folder:
        assert start(library, str(WORKER), str(folder)).returncode == 0
        error = json.loads((folder / "result.json").read_text())["error"]
    assert error["kind"] == kind
    assert error["hint"]
