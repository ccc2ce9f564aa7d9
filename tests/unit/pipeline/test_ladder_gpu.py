"""The GPU's rung, with a stand-in for the GPU: what it says is judged and attributed, and why it is missing is told."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from mobilekit.device.harness.build import build_harness
from mobilekit.device.harness.toolchains import ABIS, host_abi
from mobilekit.errors import (
    HarnessCrashError,
    HarnessError,
    HarnessTimeoutError,
    MobilekitError,
    SetupError,
    UsageError,
)
from mobilekit.pipeline import place
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.pipeline.formats import number_format
from mobilekit.pipeline.run import RunSettings, run
from mobilekit.pipeline.validate import ValidateOptions, validate_bundle
from mobilekit.report.console import render
from mobilekit.report.ladder import RungReport
from mobilekit.report.model import DeviceFacts, ValidationReport
from mobilekit.report.vulkan import VulkanFacts, fallback
from mobilekit.runners.base import Runner, RunOptions, RunResult
from mobilekit.validate.rounding import NumberFormat
from mobilekit.validate.tolerance import Verdict
from tests.models import of_nodes, save

GPU = VulkanFacts(
    name="Some GPU", type="integrated", driver="sdk", api_version="1.3.0", fp16=True, fp16_arithmetic=True
)
Change = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    weights = {"w": np.asarray(np.random.default_rng(5).standard_normal((4, 3, 3, 3)), np.float32)}
    graph = of_nodes([helper.make_node("Conv", ["x", "w"], ["y"])], {"x": (1, 3, 8, 8)}, {"y": (1, 4, 6, 6)}, weights)
    export_model(save(graph, folder / "m.onnx"), folder / "b", ExportOptions(verify=False))
    return folder / "b"


class _Gpu:
    """Another runner's answers, changed; or an error."""

    def __init__(self, inner: Runner, change: Change | MobilekitError) -> None:
        self._inner, self._change = inner, change

    def run(self, inputs: Mapping[str, Any], options: RunOptions) -> RunResult:
        assert options.vulkan
        if isinstance(self._change, MobilekitError):
            raise self._change
        result = self._inner.run(inputs, replace(options, vulkan=False))
        outputs = {name: self._change(array) for name, array in result.outputs.items()}
        return replace(result, outputs=outputs, layers_on_cpu={"Softmax": 2})


def climbed(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, change: Change | MobilekitError, precision: Any = None
) -> tuple[ValidationReport, RungReport]:
    right = place.open_place

    @contextmanager
    def opened(of: Any, device: str | None = None, *, vulkan: bool = False, **others: Any) -> Iterator[Any]:
        with right(of, device, **others) as (runner, facts):
            if not vulkan:
                yield runner, facts
            else:
                yield _Gpu(runner, change), facts.model_copy(update={"vulkan": GPU})

    monkeypatch.setattr(place, "open_place", opened)
    monkeypatch.setattr("mobilekit.device.harness.locate.locate_vulkan", lambda: Path("there"))
    options = ValidateOptions(samples=1, warmup=0, iterations=1, ladder=True, precision=precision)
    report = validate_bundle(bundle, "local", options)
    assert report.ladder is not None
    return report, next(rung for rung in report.ladder.rungs if rung.name == "device gpu")


def test_a_right_gpu_is_named_with_the_layers_that_it_left_to_the_cpu(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, rung = climbed(bundle, monkeypatch, lambda array: array)
    assert rung.verdict is Verdict.PASS
    assert "Some GPU, 2 layers on the CPU (2 Softmax)" in rung.title
    assert (rung.format, rung.before) == ("fp32", "device cpu")
    assert report.ladder is not None
    assert report.ladder.lost_at is None


@pytest.mark.parametrize("factor", [1.01, np.nan])
def test_a_wrong_answer_is_lost_at_the_gpu(bundle: Path, monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    report, rung = climbed(bundle, monkeypatch, lambda array: array * np.float32(factor))
    assert rung.verdict is Verdict.FAIL
    assert report.ladder is not None
    assert report.ladder.lost_at == "device gpu"
    assert "the GPU computes something else than the CPU beside it" in report.ladder.sentence
    assert report.verdict is Verdict.PASS, "the verdict stays the processor's"


def test_half_precision_has_the_limits_of_half_precision(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, rung = climbed(bundle, monkeypatch, lambda array: array.astype(np.float16).astype(np.float32), "fp16")
    assert (rung.format, rung.verdict) == ("fp16", Verdict.PASS)


@pytest.mark.parametrize("error", [HarnessCrashError("the harness", signal=11), HarnessError("a layer failed")])
def test_a_driver_that_dies_is_a_fail_of_its_rung(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, error: HarnessError
) -> None:
    report, rung = climbed(bundle, monkeypatch, error)
    assert rung.verdict is Verdict.FAIL
    assert error.message in rung.outputs[0].reason
    assert report.ladder is not None
    assert report.ladder.lost_at == "device gpu"


@pytest.mark.parametrize("error", [SetupError("no Vulkan driver"), HarnessTimeoutError("too slow")])
def test_what_is_not_there_or_takes_too_long_is_left_out_by_name(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, error: MobilekitError
) -> None:
    report, rung = climbed(bundle, monkeypatch, error)
    assert rung.omitted == error.message
    assert report.ladder is not None
    assert report.ladder.lost_at is None


def test_the_table_has_the_gpu(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    report, _ = climbed(bundle, monkeypatch, lambda array: array)
    on_gpu = report.model_copy(
        update={"device": report.device.model_copy(update={"vulkan": GPU}), "layers_on_cpu": {"MkTopK": 1}}
    )
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(render(on_gpu))
    text = console.export_text()
    assert "Some GPU (sdk, Vulkan 1.3.0, integrated); 1 layer on the CPU (1 MkTopK)" in text
    assert "on Some GPU, 2 layers on the CPU (2 Softmax)" in text, "the ladder's rung"
    assert ValidationReport.model_validate_json(on_gpu.model_dump_json()) == on_gpu


def test_layers_on_the_cpu_in_words() -> None:
    assert fallback({}) == "every layer on the GPU"
    assert fallback({"A": 1, "C": 3, "B": 3}) == "7 layers on the CPU (3 B, 3 C, 1 A)"


def test_formats_follow_what_the_gpu_can() -> None:
    def form(weights: Any, arithmetic: Any, *, fp16: bool) -> NumberFormat:
        gpu = GPU.model_copy(update={"fp16": fp16})
        facts = DeviceFacts(
            kind="local", serial="local", model="m", abi="x86_64", runner="r", runner_version="1", vulkan=gpu
        )
        return number_format(weights, arithmetic, facts)

    assert form("fp32", "fp16", fp16=True) == NumberFormat("fp16", "fp16")
    assert form("fp16", "fp16", fp16=False) == NumberFormat("fp16", "fp32")
    assert form("fp32", "fp16", fp16=False) == NumberFormat("fp32", "fp32")
    assert form("fp16", "fp32", fp16=True) == NumberFormat("fp16", "fp32")


def test_only_the_ncnn_model_runs_on_vulkan(bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 8, 8), np.float32))
    with pytest.raises(UsageError, match="ncnn model"):
        run(bundle, [str(tmp_path / "x.npy")], RunSettings(runner="reference", vulkan=True))


def test_a_vulkan_harness_is_built_for_this_machine_alone() -> None:
    other = next(abi for abi in ABIS if abi != host_abi())
    with pytest.raises(UsageError, match="this machine"):
        build_harness(other, vulkan=True)
    with pytest.raises(UsageError, match="this machine"):
        build_harness(host_abi() or "x86_64", toolchain="zig", vulkan=True)
