"""A plan's runner distrusts what a worker, perhaps on another machine, says of its run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilekit.bundle import TensorRTArtifact
from mobilekit.errors import ChildError
from mobilekit.pipeline.gpu_report import gpu_report
from mobilekit.runners.base import RunOptions, RunResult
from mobilekit.targets.tensorrt import inspect
from mobilekit.targets.tensorrt.flavour import FLAVOURS
from mobilekit.targets.tensorrt.host import Gpu, Hello
from mobilekit.targets.tensorrt.runner import PlanRunner

ARTIFACT = TensorRTArtifact(
    onnx="tensorrt/model.onnx",
    plan="tensorrt/model.plan",
    layers="tensorrt/layers.json",
    flavour="rtx",
    version="1.7.1.116",
    precision="fp32",
    compute_capabilities=(),
    profiles={},
    layer_count=1,
    plan_bytes=1,
    workspace_bytes=0,
    optimization_level=None,
    reproducible=True,
)


class Says:
    """A machine whose worker says ``answer``, whatever it is given."""

    name = "ssh://the-box"

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer

    def __enter__(self) -> Says:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def hello(self) -> Hello:
        raise AssertionError("nobody asks")

    def perform(self, folder: Path, **_: object) -> dict[str, Any]:
        np.save(folder / "y.npy", np.ones(2, np.float32))
        return self.answer


ANSWER = {"version": "1", "outputs": [{"y": "y.npy"}], "latency": {"wall": [2.0]}, "load_ms": 1.0}


def run(tmp_path: Path, answer: dict[str, Any], *doubles: str) -> RunResult:
    gpu = Gpu(0, "a GPU", "8.9", 1 << 30, False)
    with PlanRunner(tmp_path, ARTIFACT, Says(answer), gpu, doubles=doubles) as runner:
        return runner.run({"x": np.zeros(1, np.float32)}, RunOptions())


INSPECTED = {
    "version": "10.3.0",
    "gpu": {},
    "information": '{"Layers": []}',
    "bindings": [{"name": "x", "mode": "input", "dtype": "Float", "shape": [-1], "profiles": [[[1], [2], [4]]]}],
    "device_memory_bytes": 1024,
    "warnings": [],
}


def test_what_a_plan_says_of_itself(tmp_path: Path) -> None:
    told = inspect(tmp_path / "a.plan", FLAVOURS["full"], Says(INSPECTED), timeout_s=1.0)
    assert told.device_memory_bytes == 1024
    assert told.bindings[0].profiles == (((1,), (2,), (4,)),)


@pytest.mark.parametrize(
    "wrong", [{"information": None}, {"bindings": [{}]}, {"device_memory_bytes": "much"}, {"bindings": "x"}]
)
def test_what_it_says_may_make_no_sense(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ChildError, match="makes no sense"):
        inspect(tmp_path / "a.plan", FLAVOURS["full"], Says({**INSPECTED, **wrong}), timeout_s=1.0)


def test_an_answer_that_makes_sense(tmp_path: Path) -> None:
    result = run(tmp_path, ANSWER)
    assert result.latencies_ns == (2_000_000,)
    np.testing.assert_array_equal(result.outputs["y"], np.ones(2, np.float32))


def test_answers_have_the_types_that_the_model_gives_them(tmp_path: Path) -> None:
    """Else every answer to a float64 model would be a mismatch: a plan has no wider type than float32."""
    assert run(tmp_path, ANSWER).outputs["y"].dtype == np.float32
    assert run(tmp_path, ANSWER, "y", "z").outputs["y"].dtype == np.float64


@pytest.mark.parametrize(
    "wrong",
    [
        {"latency": {"wall": [float("inf")]}},
        {"latency": {"wall": [float("nan")]}},
        {"latency": None},
        {"load_ms": "soon"},
        {"outputs": []},
        {"outputs": [["y.npy"]]},
    ],
)
def test_one_that_makes_none_is_an_error_of_the_worker(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ChildError, match="makes no sense"):
        run(tmp_path, {**ANSWER, **wrong})


@pytest.mark.parametrize("time_ms", [float("inf"), float("nan"), "soon", None])
def test_times_that_are_none_make_no_report(time_ms: object) -> None:
    gpu = {"name": "a GPU", "compute_capability": "8.9", "memory_bytes": 1}
    answer = {"gpu": gpu, "latency": {"compute": [time_ms]}, "runtime_cache": None, "driver": "1", "version": "1"}
    with pytest.raises(ChildError, match="what makes no sense"):
        gpu_report(RunResult(outputs={}, latencies_ns=(1,), load_ns=1, facts={"gpu": answer}), "rtx")
