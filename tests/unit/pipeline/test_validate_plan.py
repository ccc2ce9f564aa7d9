"""Plans validated on a machine without a GPU: what they were built from is run, and nothing more is claimed."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mobilekit.bundle import open_bundle, write_manifest
from mobilekit.errors import BundleError, ChildError, NoDeviceError, UsageError
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.pipeline.gpu_report import gpu_report
from mobilekit.pipeline.inspect_plan import inspect_plan
from mobilekit.pipeline.layers import plan_drawn
from mobilekit.pipeline.place import choose_target
from mobilekit.pipeline.run import RunSettings, run
from mobilekit.pipeline.validate import ValidateOptions, validate_bundle
from mobilekit.report import console, json
from mobilekit.report.model import ValidationReport
from mobilekit.runners.base import RunResult
from mobilekit.targets.tensorrt import TensorRTOptions
from mobilekit.targets.tensorrt.flavour import FLAVOURS, count_gpus, installed
from mobilekit.targets.tensorrt.prepare import Profile
from mobilekit.validate.tolerance import Verdict
from tests.models import conv_classifier, of_nodes, save

rtx = pytest.mark.skipif(not installed(FLAVOURS["rtx"]), reason="needs the extra [tensorrt]")
no_gpu = pytest.mark.skipif(count_gpus() > 0, reason="for machines without a GPU")

NAME = "serving_default_input:0"


def exported(folder: Path, options: ExportOptions, side: int | str = 8) -> Path:
    return export_model(save(conv_classifier(side=side), folder / "m.onnx"), folder / "out", options).bundle


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = ExportOptions(targets=("ncnn", "tensorrt"), tensorrt=TensorRTOptions("fp16"), precision="fp16")
    return exported(tmp_path_factory.mktemp("both"), options)


def text(report: ValidationReport) -> str:
    from rich.console import Console

    shown = Console(width=160, record=True, file=io.StringIO())
    shown.print(console.render(report))
    return shown.export_text()


@rtx
@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
def test_the_prepared_model_is_verified_and_the_report_says_that_it_is_all(tmp_path: Path, precision: Any) -> None:
    bundle = exported(tmp_path, ExportOptions(targets=("tensorrt",), tensorrt=TensorRTOptions(precision)))
    report = validate_bundle(bundle, "prepared")
    assert report.verdict is Verdict.PASS, report.sentence
    assert report.sentence.startswith("prepared model verified; engine not executed: ")
    assert (report.target, report.precision, report.device.kind) == ("tensorrt", precision, "prepared")
    assert report.latency is None
    assert report.gpu is None
    assert json.loads(json.dumps(report)) == report
    assert "engine not executed" in text(report)


@rtx
def test_a_damaged_plan_is_refused_wherever_it_is_damaged(both: Path, tmp_path: Path) -> None:
    """Before TensorRT sees it, and on a machine without a GPU, too."""
    bundle = tmp_path / "damaged"
    shutil.copytree(both, bundle)
    path = bundle / "tensorrt" / "model.plan"
    plan = path.read_bytes()
    other = (both / "tensorrt" / "layers.json").read_bytes()
    damages = [b"", plan[:1], plan[: len(plan) // 2], plan[:-1], plan + b"\0", other]
    for offset in np.linspace(0, len(plan) - 1, 40).astype(int):
        changed = bytearray(plan)
        changed[offset] ^= 1 << int(offset) % 8
        damages.append(bytes(changed))
    for data in damages:
        path.write_bytes(data)
        with pytest.raises(BundleError, match=r"model\.plan") as caught:
            validate_bundle(bundle, "prepared", ValidateOptions(target="tensorrt"))
        assert caught.value.hint
    path.write_bytes(plan)
    assert validate_bundle(bundle, "prepared", ValidateOptions(target="tensorrt", samples=1)).verdict is Verdict.PASS


@rtx
def test_a_wrong_prepared_model_fails(tmp_path: Path) -> None:
    bundle = exported(tmp_path, ExportOptions(targets=("tensorrt",)))
    manifest = open_bundle(bundle).manifest
    path = bundle / "tensorrt" / "model.onnx"
    model = onnx.load(path)
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    weight.CopyFrom(numpy_helper.from_array(1.2 * numpy_helper.to_array(weight), weight.name))
    onnx.save(model, path)
    write_manifest(bundle, manifest)
    report = validate_bundle(bundle, "prepared")
    assert report.verdict is Verdict.FAIL
    assert report.sentence.startswith("prepared model not verified; engine not executed: ")


@pytest.fixture(scope="module")
def eight_bits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles by precision, of a model whose answer lies around 3: a constant is off by 0.2 at most."""
    folder = tmp_path_factory.mktemp("eight")
    rng = np.random.default_rng(0)
    calibration = folder / "calibration"
    calibration.mkdir()
    for index in range(8):
        np.save(calibration / f"{index}.npy", rng.standard_normal((1, 8)).astype(np.float32))
    weights = {
        "w": (0.2 * rng.standard_normal((8, 16))).astype(np.float32),
        "b": np.full(16, 3.0, np.float32),
    }
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w"], ["product"], name="product"),
        onnx.helper.make_node("Add", ["product", "b"], ["y"], name="sum"),
    ]
    path = save(of_nodes(nodes, {"x": (1, 8)}, {"y": (1, 16)}, weights), folder / "m.onnx")
    made = {}
    for precision in ("int8", "fp8"):
        plan = TensorRTOptions(precision, calibration=calibration)  # type: ignore[arg-type]
        options = ExportOptions(targets=("tensorrt",), tensorrt=plan)
        report = export_model(path, folder / precision, options)
        assert report.manifest.tensorrt is not None
        assert report.manifest.tensorrt.verified, precision
        made[precision] = report.bundle
    return made


@rtx
@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_limits_of_8_bits_follow_from_what_they_cost(eight_bits: dict[str, Path], precision: str) -> None:
    report = validate_bundle(eight_bits[precision], "prepared")
    assert report.verdict is Verdict.PASS, report.sentence
    (output,) = report.outputs
    assert output.limits.format_cost is not None
    assert output.limits.rtol is not None
    assert 0 < output.relative_l2 <= output.limits.rtol < 0.2


@rtx
@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_a_wrong_weight_of_8_bits_fails(eight_bits: dict[str, Path], tmp_path: Path, precision: str) -> None:
    """What 8 bits cost is measured with the original's weights, so that wrong ones have no limits of their own."""
    bundle = tmp_path / "wrong"
    shutil.copytree(eight_bits[precision], bundle)
    manifest = open_bundle(bundle).manifest
    path = bundle / "tensorrt" / "model.onnx"
    model = onnx.load(path)
    weight = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [8, 16])
    turned = np.ascontiguousarray(numpy_helper.to_array(weight)[::-1])
    weight.CopyFrom(numpy_helper.from_array(turned, weight.name))
    onnx.save(model, path)
    write_manifest(bundle, manifest)
    report = validate_bundle(bundle, "prepared")
    assert report.verdict is Verdict.FAIL, report.sentence


@rtx
@no_gpu
def test_a_gpu_that_was_asked_for_is_not_replaced(both: Path) -> None:
    with pytest.raises(NoDeviceError):
        validate_bundle(both, "gpu")
    command = [sys.executable, "-m", "mobilekit", "validate", str(both), "--target", "tensorrt", "--device", "gpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 4
    assert "NVIDIA driver" in done.stderr
    assert "Traceback" not in done.stderr


@rtx
@no_gpu
def test_without_a_device_the_command_says_what_it_did_instead(both: Path) -> None:
    command = [sys.executable, "-m", "mobilekit", "validate", str(both), "--target", "tensorrt"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "not executed" in done.stderr
    assert "engine not executed" in " ".join(done.stdout.split())


@rtx
def test_the_page_draws_what_was_fused(both: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    command = [sys.executable, "-m", "mobilekit", "validate", str(both), "--target", "tensorrt", "--report", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    html = page.read_text("utf-8")
    assert "What TensorRT fused" in html
    drawing = html[html.index('class="fg"') : html.index("</svg>", html.index('class="fg"'))]
    layers = inspect_plan(both).layers
    nodes = {node for layer in layers for node in layer["onnx_nodes"]}
    assert nodes
    assert all(node in drawing for node in nodes)
    ncnn = validate_bundle(both, "local", ValidateOptions(target="ncnn", samples=1, iterations=1))
    assert plan_drawn(both, ncnn) is None


@rtx
def test_which_of_two_models_is_meant(both: Path) -> None:
    bundle = open_bundle(both)
    assert choose_target(bundle) == "ncnn"
    assert choose_target(bundle, None, "local") == "ncnn"
    assert choose_target(bundle, None, "gpu:1") == "tensorrt"
    assert choose_target(bundle, "tensorrt") == "tensorrt"
    assert choose_target(replace(bundle, manifest=replace(bundle.manifest, ncnn=None))) == "tensorrt"
    with pytest.raises(BundleError, match="no TensorRT plan"):
        choose_target(replace(bundle, manifest=replace(bundle.manifest, tensorrt=None)), None, "gpu")
    assert validate_bundle(both, "local").target == "ncnn"
    with pytest.raises(UsageError, match="does not run on 'local'"):
        validate_bundle(both, "local", ValidateOptions(target="tensorrt"))
    with pytest.raises(UsageError, match="as it was built"):
        validate_bundle(both, "prepared", ValidateOptions(precision="fp32"))


@rtx
def test_every_size_of_a_profile_is_tried(tmp_path: Path) -> None:
    profile = Profile((1, 3, 8, 8), (1, 3, 16, 16), (1, 3, 24, 24))
    settings = ExportOptions(targets=("tensorrt",), tensorrt=TensorRTOptions(profiles={NAME: profile}))
    bundle = exported(tmp_path, settings, side="S")
    report = validate_bundle(bundle, "prepared")
    assert report.verdict is Verdict.PASS
    assert [name.partition(" (")[2] for name in report.samples] == ["1x3x16x16)", "1x3x8x8)", "1x3x24x24)"]
    picture = tmp_path / "x.npy"
    np.save(picture, np.zeros((1, 3, 10, 20), np.float32))
    assert run(bundle, [str(picture)], RunSettings(runner="prepared")).tensors["scores"].size
    np.save(picture, np.zeros((1, 3, 10, 25), np.float32))
    with pytest.raises(UsageError, match=r"takes 1x3x8\.\.24x8\.\.24"):
        run(bundle, [str(picture)], RunSettings(runner="prepared"))


@rtx
@no_gpu
def test_run_picks_a_model_and_needs_a_gpu_for_the_plan(both: Path, tmp_path: Path) -> None:
    x = tmp_path / "x.npy"
    np.save(x, np.random.default_rng(0).standard_normal((1, 3, 8, 8), dtype=np.float32))
    ncnn, original, prepared = (
        run(both, [str(x)], RunSettings(runner=which)) for which in ("local", "reference", "prepared")
    )
    assert run(both, [str(x)]).runner == ncnn.runner
    assert prepared.runner.name == "ONNX Runtime CPU"
    difference = np.abs(prepared.tensors["scores"] - original.tensors["scores"]).max()
    assert 0 < difference < 1e-2
    done = subprocess.run(
        [sys.executable, "-m", "mobilekit", "run", str(both), "-i", str(x), "--target", "tensorrt"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 4
    assert "NVIDIA driver" in done.stderr
    assert "Traceback" not in done.stderr


TOLD: dict[str, Any] = {
    # The shape of a worker's answer, with made-up times: for the report, not for TensorRT.
    "version": "1.7.1.116",
    "gpu": {"name": "Some GPU", "compute_capability": "8.9", "memory_bytes": 1 << 34, "index": 0, "integrated": False},
    "driver": "570.86.10",
    "latency": {"compute": [1.0, 2.0, 3.0], "with_copies": [2.0, 3.0, 4.0], "wall": [3.0, 4.0, 5.0]},
    "throughput": [{"streams": 2, "inferences": 10, "seconds": 0.5, "per_second": 20.0, "cuda_graph": True}],
    "cuda_graph": {"used": False, "reason": "the shape of an output depends on data"},
    "runtime_cache": {"path": "x", "hit": True, "before_bytes": 1, "after_bytes": 1},
    "warmup": {"runs": 23, "stable": True},
    "device_memory_bytes": 4096,
    "first_ms": 7.0,
}


def timed(told: object) -> RunResult:
    return RunResult(outputs={}, latencies_ns=(3_000_000,), facts={"gpu": told})


def test_what_the_worker_tells_stands_in_the_report() -> None:
    from mobilekit.report.gpu import rows

    found = gpu_report(timed(TOLD), "rtx")
    assert found is not None
    assert (found.compute.p50_ms, found.with_copies.p50_ms) == (2.0, 3.0)
    assert found.throughput[0].per_second == 20.0
    shown = dict(rows(found))
    assert shown["throughput, 2 streams"] == "20.0 a second"
    assert "depends on data" in shown["launched as"]
    assert "driver 570.86.10" in shown["GPU"]
    assert gpu_report(timed({**TOLD, "runtime_cache": None}), "full") is not None


@pytest.mark.parametrize("missing", ["gpu", "latency", "warmup"])
def test_an_answer_that_lacks_something_is_an_error(missing: str) -> None:
    with pytest.raises(ChildError, match="no sense"):
        gpu_report(timed({key: value for key, value in TOLD.items() if key != missing}), "rtx")


def test_no_gpu_no_report() -> None:
    assert gpu_report(RunResult(outputs={}, latencies_ns=()), "rtx") is None
