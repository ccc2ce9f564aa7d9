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

from mobilekit.targets.tensorrt.flavour import FLAVOURS, count_gpus, installed
from mobilekit.targets.tensorrt.host import WORKER, job_folder, parse_hello
from tests import fake_cuda
from tests.models import conv_classifier, save

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
rtx = pytest.mark.skipif(not installed(FLAVOURS["rtx"]), reason="needs the extra [tensorrt]")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_cuda.build(tmp_path_factory.mktemp("cuda"))


def start(library: Path, *arguments: str, **settings: int | str) -> subprocess.CompletedProcess[str]:
    env = fake_cuda.environment(library, **settings)
    return subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=120)


def told(library: Path, code: str, **settings: int | str) -> Any:
    """What ``code`` prints; it has the worker's ``Buffer`` and ``Stream``, a ``cuda``, and ``alive()``, how much the
    driver has that was not given back."""
    before = """
    import ctypes, json
    from mobilekit.targets.tensorrt.worker.trtwork.base import WorkError
    from mobilekit.targets.tensorrt.worker.trtwork.cuda import Cuda
    from mobilekit.targets.tensorrt.worker.trtwork.buffers import Buffer, growing_output
    from mobilekit.targets.tensorrt.worker.trtwork.stream import Stream
    alive = lambda: ctypes.CDLL("libcuda.so.1").fakeCudaAlive()
    try:
        cuda = Cuda()
        cuda.use(0)
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
    buffer, stream = Buffer(cuda, "{dtype}", {shape}), Stream(cuda)
    buffer.array[...] = data
    buffer.to_device(stream.handle)
    buffer.array[...] = 0
    buffer.to_host(stream.handle)
    stream.synchronize()
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


@pytest.mark.parametrize(
    ("what", "function", "nth"),
    [
        ("Buffer(cuda, 'float32', (3,))", "cuMemAlloc_v2", 1),
        ("Buffer(cuda, 'float32', (3,))", "cuMemHostAlloc", 1),
        ("Stream(cuda)", "cuStreamCreate", 1),
        *(("Stream(cuda)", "cuEventCreate", nth) for nth in (1, 2, 3, 4)),
    ],
)
@pytest.mark.parametrize(("number", "kind"), [(2, "memory"), (700, "cuda")])
def test_what_cannot_be_made_leaves_nothing_behind(
    library: Path, what: str, function: str, nth: int, number: int, kind: str
) -> None:
    code = f"""
    try:
        {what}
        print("null")
    except WorkError as error:
        print(json.dumps([error.kind, alive(), bool(error.hint)]))
    """
    assert told(library, code, FAIL=f"{function}:{nth}:{number}") == [kind, 0, True]


def test_what_is_given_back_is_given_back_once(library: Path) -> None:
    code = """
    buffer, stream = Buffer(cuda, "float32", (3,)), Stream(cuda)
    stream.record(lambda: buffer.to_device(stream.handle))
    made = alive()
    for thing in (stream.close, buffer.free) * 2:
        thing()
    print(json.dumps([made > 6, alive()]))
    """
    assert told(library, code) == [True, 0]


def test_memory_that_cannot_be_given_back_is_told_and_the_rest_goes(library: Path) -> None:
    code = """
    buffer = Buffer(cuda, "float32", (3,))
    try:
        buffer.free()
    except WorkError as error:
        print(json.dumps([error.kind, alive()]))
    """
    assert told(library, code, FAIL="cuMemFree_v2:1:700") == ["cuda", 1]


def test_memory_that_is_lent_stays_its_owners(library: Path) -> None:
    code = """
    owner, stream = Buffer(cuda, "float32", (3,)), Stream(cuda)
    guest = Buffer(cuda, "float32", (3,), owner)
    owner.array[...] = 7
    owner.to_device(stream.handle)
    guest.to_host(stream.handle)
    stream.synchronize()
    read = guest.array.tolist()
    guest.free()
    owner.to_host(stream.handle)
    owner.free()
    stream.close()
    print(json.dumps([read, alive()]))
    """
    assert told(library, code) == [[7, 7, 7], 0]


def test_a_stream_tells_the_time_between_its_marks(library: Path) -> None:
    code = """
    stream = Stream(cuda)
    for index in range(4):
        stream.mark(index)
    stream.synchronize()
    print(json.dumps([stream.between(1, 2), stream.between(0, 3)]))
    """
    assert told(library, code) == [1, 3]


RECORDED = """
    there, back, stream = Buffer(cuda, "float32", (3,)), Buffer(cuda, "float32", (3,)), Stream(cuda)
    there.array[...], back.array[...] = 1, 0
    there.to_device(stream.handle)
    empty = alive()
    def work():
        there.to_device(stream.handle)
        {trouble}
    try:
        stream.record(work)
        said = ""
    except WorkError as error:
        said = error.message
    untouched = alive() == empty
    there.array[...] = 5
    stream.replay() if stream.has_graph else there.to_device(stream.handle)
    there.array[...] = 0
    there.to_host(stream.handle)
    stream.synchronize()
    print(json.dumps([said, untouched, stream.has_graph, there.array.tolist()]))
"""


def test_a_graph_does_what_was_recorded_and_nothing_while_it_is(library: Path) -> None:
    assert told(library, RECORDED.format(trouble="pass")) == ["", False, True, [5, 5, 5]]


@pytest.mark.parametrize(
    ("trouble", "said", "fail"),
    [
        ("pass", "cuStreamBeginCapture_v2", "cuStreamBeginCapture_v2:1:900"),
        ("pass", "cuStreamEndCapture", "cuStreamEndCapture:1:901"),
        ("pass", "cuGraphInstantiateWithFlags", "cuGraphInstantiateWithFlags:1:801"),
        ("stream.synchronize()", "cuStreamSynchronize", ""),
        ("Buffer(cuda, 'float32', (3,))", "cuMemAlloc_v2", ""),
        ("raise WorkError('internal', 'the plan could not be executed')", "could not be executed", ""),
    ],
)
def test_what_cannot_be_recorded_runs_without_a_graph(library: Path, trouble: str, said: str, fail: str) -> None:
    answer = told(library, RECORDED.format(trouble=trouble), FAIL=fail)
    assert said in answer[0]
    assert answer[1:] == [True, False, [5, 5, 5]]


@rtx
def test_an_output_grows_as_tensorrt_asks(library: Path) -> None:
    """TensorRT's own class, called as its bindings call it."""
    code = """
    import tensorrt_rtx as trt
    import numpy as np
    output, stream = growing_output(trt, cuda, "int64"), Stream(cuda)
    empty, said = alive(), []
    for size in (256, 128, 512):
        output.begin()
        address = output.reallocate_output_async("y", 0, size, 256, stream.number)
        said.append([address == output.buffer.device.value, output.buffer.size, alive() - empty])
        output.notify_shape("y", trt.Dims((size // 16, 2)))
        output.buffer.to_host(stream.handle)
        said.append([list(output.answer().shape), str(output.answer().dtype)])
    output.begin()
    said.append([output.reallocate_output_async("y", 0, 1 << 40, 256, 0), output.error.kind, alive() - empty])
    output.begin()
    said.append([output.reallocate_output_async("y", 0, 1, 256, 0) > 0, output.error])
    output.notify_shape("y", trt.Dims((0, 2)))
    said.append(list(output.answer().shape))
    print(json.dumps(said))
    """
    assert told(library, code) == [
        [True, 256, 2],
        [[16, 2], "int64"],
        [True, 256, 2],
        [[8, 2], "int64"],
        [True, 512, 2],
        [[32, 2], "int64"],
        [None, "memory", 0],
        [True, None],
        [0, 2],
    ]


@pytest.mark.parametrize(
    ("number", "hint"), [(34, "LD_LIBRARY_PATH"), (802, "fabricmanager"), (803, "restart"), (999, "nvidia-smi")]
)
def test_a_driver_that_does_not_start_comes_with_what_to_do(library: Path, number: int, hint: str) -> None:
    answer = told(library, "print('{}')", INIT=number)
    assert answer["kind"] == "no-gpu"
    assert hint in answer["hint"]


def test_gpus_that_the_environment_hides(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES is ''" in told(library, "print('{}')", INIT=100)["hint"]
    assert "CUDA_VISIBLE_DEVICES is ''" in told(library, "print('{}')", GPUS=0)["hint"]


@pytest.mark.skipif(count_gpus() > 0, reason="for machines without a driver elsewhere")
def test_a_library_that_is_none_is_told_from_none(tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").write_bytes(b"")  # what an image has that was made without a GPU
    problem = parse_hello(start(tmp_path, str(WORKER), "--hello").stdout, "here").problem
    assert "cannot be loaded" in problem
    assert "libcuda.so.1" in problem


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
