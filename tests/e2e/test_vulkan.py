"""ncnn on a GPU through Vulkan: where a harness for it is built (``make vulkan``), on whatever driver is there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from mobilekit.device.harness.client import HarnessSession
from mobilekit.device.harness.locate import locate_vulkan
from mobilekit.device.harness.protocol import LoadOptions
from mobilekit.device.harness.reports import Gpu
from mobilekit.device.harness.toolchains import host_abi
from mobilekit.errors import HarnessError, SetupError
from mobilekit.pipeline.bisect import BisectOptions, bisect_bundle, open_traced
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.pipeline.repair import RepairOptions, repair_bundle
from mobilekit.pipeline.validate import ValidateOptions, validate_bundle
from mobilekit.report.repair import render
from mobilekit.targets.ncnn.mask import Feature, masked
from mobilekit.targets.ncnn.reader import write_layers
from mobilekit.validate.tolerance import Verdict
from tests.models import of_nodes, save
from tests.planted.edit import Editor
from tests.unit.device.harness import harness_models as models

pytestmark = [pytest.mark.vulkan, pytest.mark.timeout(900)]

RNG = np.random.default_rng(12)
IN = np.asarray(RNG.standard_normal((3, 24, 24)), np.float32)


@pytest.fixture
def session() -> Iterator[HarnessSession]:
    program = locate_vulkan()
    if program is None:
        pytest.skip("no harness with Vulkan is built: make vulkan")
    with HarnessSession.connect_local(program) as opened:
        if not opened.gpus().gpus:
            pytest.skip("no Vulkan driver here: apt install mesa-vulkan-drivers")
        yield opened


@pytest.fixture
def gpu(session: HarnessSession) -> Gpu:
    return next(gpu for gpu in session.gpus().gpus if gpu.chosen)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two convolutions, a sum, and an operator of mobilekit's own, which has no Vulkan form."""
    folder = tmp_path_factory.mktemp("vulkan")
    weights = {
        "v": np.asarray(RNG.standard_normal((16, 3, 3, 3)) * 0.2, np.float32),
        "w": np.asarray(RNG.standard_normal((16, 16, 3, 3)) * 0.2, np.float32),
        "k": np.array([3]),
    }
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["a"], name="one", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "w"], ["b"], name="two", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["b", "a"], ["y"], name="add"),
        helper.make_node("TopK", ["y", "k"], ["t", "places"], name="top", axis=1),
    ]
    graph = of_nodes(nodes, {"x": (1, *IN.shape)}, {"y": (1, 16, 24, 24), "t": (1, 3, 24, 24)}, weights)
    export_model(save(graph, folder / "m.onnx"), folder / "b", ExportOptions(verify=False))
    return folder / "b"


def distance(found: np.ndarray, right: np.ndarray) -> float:
    return float(np.linalg.norm(found - right) / np.linalg.norm(right))


def test_the_gpu_computes_what_the_cpu_does_and_is_named(session: HarnessSession, gpu: Gpu, tmp_path: Path) -> None:
    files = models.convolutional(tmp_path)
    outputs = {}
    for vulkan in (False, True):
        loaded = session.load(str(files.param), str(files.bin), LoadOptions(vulkan=vulkan))
        assert (loaded.gpu is not None) is vulkan
        outputs[vulkan] = session.infer({"in": IN}).outputs
    assert loaded.gpu is not None
    assert loaded.gpu.name == gpu.name
    assert loaded.gpu.layers_on_cpu == {}
    assert not loaded.gpu.fp16_storage
    for name, right in outputs[False].items():
        assert distance(outputs[True][name], right) < 1e-5
    assert any(not np.array_equal(outputs[True][name], outputs[False][name]) for name in outputs[True])
    with pytest.raises(HarnessError, match="on the CPU only"):
        session.infer({"in": IN}, layer_times=True)


def test_a_layer_with_the_vulkan_bit_runs_on_the_cpu_and_no_other(
    session: HarnessSession, bundle: Path, tmp_path: Path
) -> None:
    _, artifact, trace, layers = open_traced(bundle)
    found = {}
    for name, masks in {"all": {}, "one": {"one": Feature.VULKAN}, "add": {"add": Feature.VULKAN}}.items():
        path = tmp_path / f"{name}.param"
        write_layers(masked(layers, trace, masks)[0], path)
        loaded = session.load(str(path), str(bundle / artifact.bin), LoadOptions(vulkan=True))
        assert loaded.gpu is not None
        found[name] = (loaded.gpu.layers_on_cpu, session.infer({"x": IN}, ["a", "y"]).outputs)
    own = found["all"][0]
    assert own["MkTopK"] == 1
    assert not own.keys() & {"Convolution", "BinaryOp"}
    assert found["one"][0] == {**own, "Convolution": 1}
    assert found["add"][0] == {**own, "BinaryOp": 1}
    plain, one, add = (found[name][1] for name in ("all", "one", "add"))
    # The same sums in another order, by another kernel; a sum of two numbers is the same everywhere.
    assert not np.array_equal(plain["a"], one["a"])
    assert distance(one["a"], plain["a"]) < 1e-5
    np.testing.assert_array_equal(plain["y"], add["y"])
    np.testing.assert_array_equal(plain["a"], add["a"])


def test_a_layer_in_float32_between_halves_reads_what_they_made(
    session: HarnessSession, gpu: Gpu, bundle: Path, tmp_path: Path
) -> None:
    if not (gpu.fp16_packed or gpu.fp16_storage):
        pytest.skip("the GPU has no half precision")
    _, artifact, trace, layers = open_traced(bundle)

    def computed(name: str, options: LoadOptions, masks: dict[str, Feature]) -> np.ndarray:
        path = tmp_path / f"{name}.param"
        write_layers(masked(layers, trace, masks)[0], path)
        session.load(str(path), str(bundle / artifact.bin), options)
        return session.infer({"x": IN}, ["y"]).outputs["y"]

    half = LoadOptions.for_precision("fp16", vulkan=True)
    exact = computed("exact", LoadOptions(), {})
    plain = distance(computed("plain", half, {}), exact)
    assert 1e-4 < plain < 2e-2
    for layer in ("two", "add"):
        kept = computed(layer, half, {layer: Feature.FP16_ARITHMETIC | Feature.FP16_STORAGE})
        # As halves read as floats it would be off by far more.
        assert 0 < distance(kept, exact) < 1.2 * plain


def test_a_good_bundle_passes_on_the_gpu_and_climbs_to_it(bundle: Path, gpu: Gpu) -> None:
    options = ValidateOptions(samples=2, iterations=2, warmup=0, vulkan=True, ladder=True)
    report = validate_bundle(bundle, "local", options)
    assert report.verdict is Verdict.PASS, report.sentence
    assert report.device.vulkan is not None
    assert report.device.vulkan.name == gpu.name
    assert report.layers_on_cpu["MkTopK"] == 1
    assert report.latency is not None
    assert report.latency.comparable is (gpu.type != "cpu")
    assert report.ladder is not None
    rungs = {rung.name: rung for rung in report.ladder.rungs}
    assert rungs["device cpu"].verdict is Verdict.PASS
    assert rungs["device gpu"].verdict is Verdict.PASS
    assert gpu.name in rungs["device gpu"].title
    assert "1 MkTopK" in rungs["device gpu"].title
    assert report.ladder.lost_at is None


def test_a_wrong_bundle_fails_on_the_gpu(bundle: Path, gpu: Gpu, tmp_path: Path) -> None:
    editor = Editor(bundle, tmp_path / "bad")
    editor.weight(editor.find("Convolution", 1), 0, lambda flat: flat[::-1], tagged=True)
    bad = editor.save()
    report = validate_bundle(bad, "local", ValidateOptions(samples=1, iterations=1, warmup=0, vulkan=True))
    assert report.verdict is Verdict.FAIL
    found = bisect_bundle(bad, "local", BisectOptions(samples=1, vulkan=True))
    assert found.first is not None
    assert found.first.layers[-1].name == editor.find("Convolution", 1).name


def test_what_only_the_gpu_cannot_hold_is_lost_at_its_rung(gpu: Gpu, tmp_path: Path) -> None:
    if host_abi() != "x86_64" or not (gpu.fp16_packed or gpu.fp16_storage):
        pytest.skip("needs a CPU without half precision beside a GPU with it")
    # 1e5 is beyond float16 between the two, and back in range behind them.
    weights = {
        "v": np.asarray(RNG.standard_normal((8, 3, 1, 1)) * 1e5, np.float32),
        "w": np.asarray(RNG.standard_normal((8, 8, 1, 1)) * 1e-5, np.float32),
    }
    nodes = [helper.make_node("Conv", ["x", "v"], ["a"]), helper.make_node("Conv", ["a", "w"], ["y"])]
    graph = of_nodes(nodes, {"x": (1, 3, 8, 8)}, {"y": (1, 8, 8, 8)}, weights)
    export_model(save(graph, tmp_path / "m.onnx"), tmp_path / "b", ExportOptions(verify=False))
    options = ValidateOptions(samples=1, iterations=1, warmup=0, precision="fp16", ladder=True, rtol=0.1)
    report = validate_bundle(tmp_path / "b", "local", options)
    assert report.ladder is not None
    rungs = {rung.name: rung for rung in report.ladder.rungs}
    assert rungs["device cpu"].verdict is Verdict.PASS
    assert rungs["device gpu"].verdict is Verdict.FAIL
    assert rungs["device gpu"].format == "fp16"
    assert report.ladder.lost_at == "device gpu"
    assert "the GPU" in report.ladder.sentence


def test_run_says_where_it_ran(bundle: Path, gpu: Gpu, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", IN[None])
    command = [sys.executable, "-m", "mobilekit", "run", bundle, "--input", tmp_path / "x.npy", "--vulkan", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["gpu"] == gpu.name
    assert told["layers_on_cpu"]["MkTopK"] == 1


@pytest.mark.usefixtures("session")
def test_a_machine_without_a_driver_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = models.convolutional(tmp_path)
    monkeypatch.setenv("VK_DRIVER_FILES", "/nonexistent.json")
    monkeypatch.setenv("VK_ICD_FILENAMES", "/nonexistent.json")
    program = locate_vulkan()
    assert program is not None
    with HarnessSession.connect_local(program) as blind:
        assert blind.gpus().gpus == ()
        with pytest.raises(SetupError, match="no Vulkan driver") as caught:
            blind.load(str(files.param), str(files.bin), LoadOptions(vulkan=True))
        assert "mesa-vulkan-drivers" in caught.value.hint


def test_a_layer_that_the_gpu_gets_wrong_is_left_to_the_processor(gpu: Gpu, tmp_path: Path) -> None:
    """ncnn's GELU is the tanh approximation on a GPU, whatever the layer says."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["mixed"], name="mix"),
        helper.make_node("Gelu", ["mixed"], ["bent"], name="bend"),
        helper.make_node("Conv", ["bent", "v"], ["y"], name="last"),
    ]
    weights = {name: np.asarray(RNG.standard_normal((8, 8, 1, 1)), np.float32) for name in ("w", "v")}
    model = of_nodes(nodes, {"x": (1, 8, 6, 6)}, {"y": (1, 8, 6, 6)}, weights, opset=20)
    export_model(save(model, tmp_path / "m.onnx"), tmp_path / "bundle", ExportOptions(verify=False))
    options = ValidateOptions(vulkan=True, warmup=0, iterations=1)
    assert validate_bundle(tmp_path / "bundle", "local", options).verdict is Verdict.FAIL
    report = repair_bundle(tmp_path / "bundle", tmp_path / "mended", "local", RepairOptions(vulkan=True))
    assert report.verdict is Verdict.PASS
    assert [(layer.type, layer.off) for layer in report.layers] == [("GELU", ("vulkan",))]
    assert "layers kept off the GPU" in render(report)
    mended = validate_bundle(tmp_path / "mended", "local", options)
    assert mended.verdict is Verdict.PASS
    assert mended.layers_on_cpu == {"GELU": 1}


def test_what_the_processor_gets_wrong_too_is_not_the_gpus_doing(gpu: Gpu, bundle: Path, tmp_path: Path) -> None:
    editor = Editor(bundle, tmp_path / "bad")
    layer = editor.find("Convolution", 0)
    editor.weight(layer, 0, lambda flat: flat * 2, tagged=True)
    report = repair_bundle(editor.save(), tmp_path / "mended", "local", RepairOptions(vulkan=True))
    assert report.verdict is Verdict.FAIL
    assert "not the GPU's doing" in report.sentence
    assert not (tmp_path / "mended").exists()
