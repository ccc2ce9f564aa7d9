"""The worker as a program: what it says of this machine, jobs in folders, and that any Python 3.8 can read it."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mobilekit.errors import BundleError, ChildError, MobilekitError, NoDeviceError, SetupError, UsageError
from mobilekit.targets.tensorrt import host as hosts
from mobilekit.targets.tensorrt.flavour import FLAVOURS, count_gpus, installed
from mobilekit.targets.tensorrt.host import WORKER, LocalHost, job_folder, parse_hello, read_result
from mobilekit.targets.tensorrt.ssh_host import pack
from mobilekit.targets.tensorrt.worker.trtwork import base, bindings, cache, engine
from tests.models import conv_classifier, save

rtx = pytest.mark.skipif(not installed(FLAVOURS["rtx"]), reason="needs the extra [tensorrt]")
no_gpu = pytest.mark.skipif(count_gpus() > 0, reason="for machines without a GPU")

BUILD: dict[str, Any] = {"module": "tensorrt_rtx", "onnx": "model.onnx", "plan": "model.plan", "profiles": {}}


def launch(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(WORKER), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
    )


def result_of(folder: Path) -> dict[str, Any]:
    done = launch(str(folder))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(conv_classifier(side=8), tmp_path / "model.onnx")


PARTS = sorted(WORKER.rglob("*.py"))


def test_it_needs_nothing_but_itself_and_numpy() -> None:
    imported = {
        (node.module or "" if isinstance(node, ast.ImportFrom) else alias.name).split(".")[0]
        for part in PARTS
        for node in ast.walk(ast.parse(part.read_text("utf-8")))
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and not node.level)
        for alias in node.names
    }
    assert imported - set(sys.stdlib_module_names) == {"numpy", "trtwork"}


def test_as_one_file_it_is_the_same_program(tmp_path: Path) -> None:
    """As other machines get it: without mobilekit, under any name."""
    packed = pack(tmp_path / "packed")
    command = [sys.executable, "-P", str(packed), "--hello"]
    done = subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True, timeout=120, check=False)
    assert parse_hello(done.stdout, "here") == parse_hello(launch("--hello").stdout, "here")
    again = tmp_path / "again"
    assert pack(again).read_bytes() == packed.read_bytes()
    with zipfile.ZipFile(packed) as archive:
        assert len(archive.namelist()) == len(PARTS)
        assert not any(info.compress_type for info in archive.infolist())


NEWER = {"removeprefix", "removesuffix", "is_relative_to", "with_stem", "bit_count", "pairwise", "cache", "to_thread"}
"""Attributes that came with Python 3.9 or later."""


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_any_python_from_3_8_on_runs_it(part: Path) -> None:
    tree = ast.parse(part.read_text("utf-8"), feature_version=(3, 8))
    called = {node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and hasattr(node.func, "attr")}
    assert not called & NEWER
    assert not any(
        keyword.arg == "strict" for node in ast.walk(tree) if isinstance(node, ast.Call) for keyword in node.keywords
    )
    # Annotations are not evaluated; elsewhere list[int] needs 3.9 and int | None 3.10.
    notes = {id(inner) for node in ast.walk(tree) for note in _annotations(node) for inner in ast.walk(note)}
    for node in ast.walk(tree):
        if id(node) in notes:
            continue
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            assert node.value.id not in {"list", "dict", "tuple", "set", "type", "Callable", "Mapping", "Sequence"}
        assert not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr)), ast.unparse(node)


def _annotations(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.FunctionDef):
        arguments = [*node.args.args, *node.args.kwonlyargs, *node.args.posonlyargs]
        return [note for note in (node.returns, *(argument.annotation for argument in arguments)) if note is not None]
    return [node.annotation] if isinstance(node, ast.AnnAssign) else []


def test_hello_is_one_line_of_facts() -> None:
    done = launch("--hello")
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1
    hello = parse_hello(done.stdout, "here")
    assert hello.numpy == np.__version__
    assert bool(hello.gpus) != bool(hello.problem)
    assert ("rtx" in hello.flavours) == installed(FLAVOURS["rtx"])
    assert LocalHost().hello() == hello


@pytest.mark.parametrize("line", ["", "nonsense", "[]", '{"protocol": 1}', '{"protocol": 99}'])
def test_a_stranger_is_told_from_a_worker(line: str) -> None:
    with pytest.raises(SetupError, match="worker on jetson"):
        parse_hello(line, "jetson")


def test_both_sides_speak_one_protocol() -> None:
    assert hosts.PROTOCOL == base.PROTOCOL


def test_it_needs_to_be_told_what_to_do(tmp_path: Path) -> None:
    assert launch().returncode != 0
    assert launch(str(tmp_path / "absent")).returncode != 0


@pytest.mark.parametrize("job", [{}, {"protocol": 99, "verb": "run"}, {"protocol": base.PROTOCOL, "verb": "dance"}])
def test_a_job_of_another_protocol_is_refused(tmp_path: Path, job: dict[str, Any]) -> None:
    (tmp_path / "job.json").write_text(json.dumps(job))
    result_of(tmp_path)
    with pytest.raises(SetupError, match=r"protocol|verb"):
        read_result(tmp_path, "the worker")


def test_half_a_result_is_none(tmp_path: Path) -> None:
    with pytest.raises(ChildError, match="gave no result"):
        read_result(tmp_path, "the worker")
    (tmp_path / "result.json").write_text('{"err')
    with pytest.raises(ChildError, match="gave no result"):
        read_result(tmp_path, "the worker")


def test_tensorrt_that_is_not_there(tmp_path: Path, model: Path) -> None:
    missing = next(flavour for flavour in FLAVOURS.values() if not installed(flavour))
    with job_folder("check", {"module": missing.module, "onnx": "model.onnx"}, {"model.onnx": model}) as folder:
        result_of(folder)
        with pytest.raises(SetupError, match="is not installed"):
            read_result(folder, "the parser")


@rtx
def test_a_plan_is_built_and_tells_its_version(model: Path) -> None:
    with job_folder("build", BUILD, {"model.onnx": model}) as folder:
        result = result_of(folder)
        plan = (folder / "model.plan").read_bytes()
        assert result["plan_bytes"] == len(plan)
        assert engine.built_by(plan, "tensorrt_rtx") == result["version"]
        with pytest.raises(base.WorkError, match="damaged"):
            engine.built_by(plan[: len(plan) // 2], "tensorrt_rtx")
        with pytest.raises(base.WorkError, match="other product") as caught:
            engine.built_by(plan, "tensorrt")
        assert caught.value.kind == "plan-version"


@rtx
def test_a_plan_cut_anywhere_or_changed_where_it_says_what_it_is(model: Path) -> None:
    """Bits behind the head only TensorRT can judge; a bundle's checksums do it before."""
    with job_folder("build", BUILD, {"model.onnx": model}) as folder:
        assert result_of(folder)["problems"] == []
        plan = (folder / "model.plan").read_bytes()
    cuts = [0, 1, 3, 4, 15, 16, 23, 24, 27, 28, 100, len(plan) // 3, len(plan) - 1]
    damaged = [plan[:cut] for cut in cuts] + [plan + b"\0", bytes(len(plan)), model.read_bytes()]
    for byte in (*range(4), *range(16, 24)):  # the tag, and the size
        for bit in range(8):
            changed = bytearray(plan)
            changed[byte] ^= 1 << bit
            damaged.append(bytes(changed))
    for data in damaged:
        with pytest.raises(base.WorkError) as caught:
            engine.built_by(data, "tensorrt_rtx")
        # One bit is all that tells the two products' tags apart.
        assert caught.value.kind == ("plan-version" if data[:4] == b"ftrt" else "plan-corrupt")
        assert caught.value.hint.startswith("export the model again")


@pytest.mark.parametrize("data", [b"", b"vtrt", b"x" * 5000])
def test_what_is_no_plan(data: bytes) -> None:
    with pytest.raises(base.WorkError) as caught:
        engine.built_by(data, "tensorrt_rtx")
    assert caught.value.kind == "plan-corrupt"


@rtx
def test_float32_is_float32_unless_tf32_is_asked_for(model: Path) -> None:
    plans = []
    for tf32 in (False, True):
        with job_folder("build", {**BUILD, "tf32": tf32}, {"model.onnx": model}) as folder:
            assert result_of(folder)["problems"] == []
            plans.append((folder / "model.plan").read_bytes())
    assert plans[0] != plans[1]


@rtx
def test_what_was_checked_is_built_as_if_it_were_read_again(model: Path, tmp_path: Path) -> None:
    """And what has changed in between is read again."""
    other = save(conv_classifier(side=16), tmp_path / "other.onnx")
    checked = {"module": "tensorrt_rtx", "onnx": "model.onnx"}

    def built(host: LocalHost, path: Path) -> bytes:
        with job_folder("build", BUILD, {"model.onnx": path}) as folder:
            result = host.perform(folder, what="the builder", timeout_s=120)
            assert result["problems"] == []
            assert any("Layers:" in message for message in result["log"])
            return (folder / "model.plan").read_bytes()

    alone = []
    for path in (model, other):
        with LocalHost() as here:
            alone.append(built(here, path))
    together = []
    for path in (model, other):
        with LocalHost() as here:
            with job_folder("check", checked, {"model.onnx": model}) as folder:
                assert here.perform(folder, what="the parser", timeout_s=120)["problems"] == []
            together.append(built(here, path))
    assert alone[0] != alone[1]
    assert together == alone


@rtx
def test_one_process_does_job_after_job(model: Path) -> None:
    with LocalHost() as here:
        for _ in range(2):
            with job_folder("check", {"module": "tensorrt_rtx", "onnx": "model.onnx"}, {"model.onnx": model}) as folder:
                assert here.perform(folder, what="the parser", timeout_s=120)["problems"] == []


@no_gpu
def test_running_without_a_gpu_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "model.plan").write_bytes(b"")
    job = {"module": "tensorrt_rtx", "plan": "model.plan", "samples": []}
    with (
        job_folder("run", job, {"model.plan": tmp_path / "model.plan"}) as folder,
        LocalHost() as here,
        pytest.raises(NoDeviceError, match=r"no NVIDIA driver|no usable GPU"),
    ):
        here.perform(folder, what="the plan", timeout_s=120)


SAID = [
    # As quoted in public reports of each failure.
    (
        "The engine plan file is not compatible with this version of TensorRT, expecting library version 8.0.0 "
        "got 8.0.1, please rebuild.",
        "plan-version",
        SetupError,
    ),
    (
        "The engine plan file is generated on an incompatible device, expecting compute 8.6 got compute 7.5, "
        "please rebuild.",
        "plan-device",
        SetupError,
    ),
    (
        "[executionContext.cpp::ExecutionContext::470] Error Code 2: OutOfMemory (no further information)",
        "memory",
        None,
    ),
    ("[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)", "memory", None),
    # Seen with TensorRT for RTX 1.7.
    (
        "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion plan.header.size == "
        "blobSize failed.)",
        "plan-corrupt",
        BundleError,
    ),
    (
        "IRuntime::deserializeCudaEngine: Error Code 1: Cuda Runtime (In ScopedCudaStream (cudaError 35: CUDA driver "
        "version is insufficient for CUDA runtime version))",
        "driver",
        SetupError,
    ),
]


@pytest.mark.parametrize(("message", "kind", "raised"), SAID)
def test_what_tensorrt_says_becomes_an_error_with_a_remedy(
    tmp_path: Path, message: str, kind: str, raised: type[MobilekitError] | None
) -> None:
    error = bindings.explained(["something before", message], "the plan cannot be loaded")
    assert error.kind == kind
    assert message in error.message
    assert error.hint
    (tmp_path / "result.json").write_text(json.dumps({"error": {"kind": kind, "message": "m", "hint": error.hint}}))
    with pytest.raises(raised or MobilekitError) as caught:
        read_result(tmp_path, "the plan")
    assert caught.value.hint == error.hint
    assert caught.value.exit_code in (2, 4)


def test_a_problem_of_no_known_kind_is_still_told() -> None:
    error = bindings.explained(["it is raining"], "the plan cannot be loaded")
    assert error.kind == "internal"
    assert "raining" in error.message


class Kernels:
    """What a cache of TensorRT's gives to be kept."""

    def __init__(self, data: bytes | None) -> None:
        self.serialize = lambda: data


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], cache.Cache]:
    monkeypatch.setenv("MOBILEKIT_CACHE", str(tmp_path))
    library = SimpleNamespace(__name__="tensorrt_rtx", __version__="1.7.1.116")
    gpu = {"name": "Some GPU/2", "compute_capability": "8.9"}
    return lambda name: cache.Cache(library, gpu, name)


def test_kernels_are_kept_and_found_again(kernels: Callable[[str], cache.Cache], tmp_path: Path) -> None:
    first = kernels("a.runtime")
    assert not first.report(Kernels(b"k" * 10))["hit"]
    second = kernels("a.runtime")
    assert second.old == b"k" * 10
    assert second.path.relative_to(tmp_path).parts[:2] == ("tensorrt", "Some-GPU-2-8.9")
    second.taken = True  # TensorRT took what was there
    assert second.report(Kernels(b"k" * 10))["hit"]
    assert not second.report(Kernels(b"k" * 11))["hit"]
    assert not kernels("a.runtime").report(Kernels(None))["hit"]
    assert kernels("a.runtime").old == b"k" * 11


def test_a_cache_that_cannot_be_written_is_none(
    kernels: Callable[[str], cache.Cache], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("MOBILEKIT_CACHE", str(tmp_path / "file"))
    report = kernels("a.runtime").report(Kernels(b"k"))
    assert not report["hit"]
    assert report["problem"]


def test_old_kernels_go(kernels: Callable[[str], cache.Cache]) -> None:
    for number in range(cache.KEPT + 6):
        kernels(f"{number}.runtime").report(Kernels(b"k"))
    left = list(kernels("0.runtime").path.parent.glob("*.runtime"))
    assert len(left) == cache.KEPT


def test_shapes_name_the_limits(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps({"error": {"kind": "shape", "message": "m", "hint": "h"}}))
    with pytest.raises(UsageError):
        read_result(tmp_path, "the plan")


@pytest.mark.parametrize(("module", "asked"), [("tensorrt", [("the log", "")]), ("tensorrt_rtx", [])])
def test_full_tensorrt_is_asked_for_its_own_plugins(module: str, asked: list[tuple[str, str]]) -> None:
    """RTX has a function of that name too, and networks that cannot hold one."""
    calls: list[tuple[str, str]] = []
    library = SimpleNamespace(__name__=module, init_libnvinfer_plugins=lambda *arguments: calls.append(arguments))
    bindings.register_plugins(library, "the log", ())
    assert calls == asked


@pytest.mark.parametrize(("version", "old"), [("8.5.2.2", True), ("10.3.0", False), ("11.4.0.106", False)])
def test_tensorrt_of_another_age_is_refused_before_it_fails_somewhere(tmp_path: Path, version: str, old: bool) -> None:
    (tmp_path / "tensorrt.py").write_text(f"__version__ = '{version}'\n")
    done = launch("--hello", PYTHONPATH=str(tmp_path))
    hello = parse_hello(done.stdout, "here")
    assert hello.flavours.get("full") == (None if old else version)
    assert hello.broken.get("full") == ("TensorRT 8.5.2.2 is too old, 10.3 or newer is needed" if old else None)
