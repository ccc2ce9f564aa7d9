"""What goes wrong while a plan is built: each said clearly, and nothing is left behind."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from mobilekit.errors import (
    BuildError,
    ChildTimeoutError,
    MissingExtraError,
    MobilekitError,
    SetupError,
    UnsupportedModelError,
    UsageError,
)
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.targets.tensorrt import TensorRTOptions
from mobilekit.targets.tensorrt.flavour import FLAVOURS, installed
from mobilekit.targets.tensorrt.prepare import Profile
from tests.models import conv_classifier, of_nodes, save

NAME = "serving_default_input:0"
rtx = pytest.mark.skipif(not installed(FLAVOURS["rtx"]), reason="needs the extra [tensorrt]")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(conv_classifier(side="S"), tmp_path / "models" / "m.onnx")


def refusal(model: Path, folder: Path, settings: TensorRTOptions, *, sized: bool = True) -> MobilekitError:
    """The error; and nothing was written beside the models."""
    shapes = {NAME: (1, 3, 8, 8)} if sized else {}
    options = ExportOptions(targets=("tensorrt",), tensorrt=settings, shapes=shapes)
    with pytest.raises(MobilekitError) as caught:
        export_model(model, folder / "out", options)
    assert [path.name for path in folder.iterdir() if path != model.parent] in ([], ["stand-in"])
    return caught.value


@rtx
@pytest.mark.parametrize("op", ["Conv", "Softmax"])
def test_too_little_workspace(tmp_path: Path, op: str) -> None:
    """Of products RTX says that there are no tactics, of what is kept between layers that it is out of memory."""
    folder = tmp_path / "models"
    weights = {"k": np.random.default_rng(0).standard_normal((64, 64, 3, 3)).astype(np.float32)}
    nodes, shape = [helper.make_node("Conv", ["i", "k"], ["c"])], (1, 64, 62, 62)
    if op == "Softmax":
        nodes = [helper.make_node(op, [a], [b], axis=axis) for axis, (a, b) in enumerate(("ia", "ab", "bc"), 1)]
        weights, shape = {}, (1, 64, 64, 64)
    path = save(of_nodes(nodes, {"i": (1, 64, 64, 64)}, {"c": shape}, weights), folder / "m.onnx")
    error = refusal(path, tmp_path, TensorRTOptions(workspace_bytes=1024), sized=False)
    assert isinstance(error, BuildError)
    assert "1024 bytes of workspace" in error.message
    assert "--workspace" in error.hint


@rtx
def test_a_build_that_takes_too_long(model: Path, tmp_path: Path) -> None:
    error = refusal(model, tmp_path, TensorRTOptions(timeout_s=0.01))
    assert isinstance(error, ChildTimeoutError)
    assert "--timeout" in error.hint


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        (Profile((1, 3, 8), (1, 3, 8), (1, 3, 9)), "4 axes"),
        (Profile((1, 4, 8, 8), (1, 4, 8, 8), (1, 4, 9, 8)), "not 1x4x8x8"),
        (Profile((1, 3, 8, 8), (1, 3, 8, 8), (4, 3, 8, 8)), "axis 0 cannot vary"),
    ],
)
@rtx
def test_profiles_that_do_not_fit(model: Path, tmp_path: Path, profile: Profile, said: str) -> None:
    error = refusal(model, tmp_path, TensorRTOptions(profiles={NAME: profile}), sized=False)
    assert isinstance(error, UsageError)
    assert said in error.message
    assert error.hint


@rtx
def test_an_input_without_a_profile_or_a_shape(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["a", "b"], ["y"])]
    path = save(of_nodes(nodes, {"a": (1, "n"), "b": (1, "m")}, {"y": (1, "k")}), tmp_path / "models" / "m.onnx")
    settings = TensorRTOptions(profiles={"a": Profile((1, 2), (1, 4), (1, 8))})
    error = refusal(path, tmp_path, settings, sized=False)
    assert isinstance(error, UsageError)
    assert "'b'" in error.message


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (TensorRTOptions("int8"), "real inputs"),
        (TensorRTOptions("fp8"), "real inputs"),
        (TensorRTOptions("int8", calibration=Path("nowhere")), "no folder nowhere"),
        (TensorRTOptions("int8", calibration=Path(), calibration_method="best"), "calibration method"),
        (TensorRTOptions(optimization_level=6), "optimisation level 6"),
        (TensorRTOptions("fp64"), "unknown precision"),  # type: ignore[arg-type]
    ],
)
def test_settings_are_refused_before_any_work(tmp_path: Path, settings: TensorRTOptions, said: str) -> None:
    """The model could not be prepared either: that is not what is said."""
    nodes = [helper.make_node("Unheard", ["x"], ["h"]), helper.make_node("NonZero", ["h"], ["y"])]
    path = save(of_nodes(nodes, {"x": (1, "n")}, {"y": (2, "m")}), tmp_path / "models" / "m.onnx")
    error = refusal(path, tmp_path, settings, sized=False)
    assert isinstance(error, UsageError)
    assert said in error.message
    assert error.hint


@rtx
@pytest.mark.parametrize("capability", ["9.9", "abc", "8.6.1", "-1"])
def test_a_capability_that_no_gpu_has(model: Path, tmp_path: Path, capability: str) -> None:
    error = refusal(model, tmp_path, TensorRTOptions(compute_capabilities=(capability,)))
    assert isinstance(error, UsageError)
    assert "8.6" in error.hint


def test_the_extra_is_not_installed(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)  # as far as Python can tell, it is not there
    error = refusal(model, tmp_path, TensorRTOptions(flavour="rtx"))
    assert isinstance(error, MissingExtraError)
    assert "mobilekit[tensorrt]" in error.hint


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """A module of TensorRT's name that goes wrong as a broken installation does: when it is imported."""
    package = folder / "stand-in"
    package.mkdir()
    (package / "tensorrt_rtx.py").write_text(body)
    monkeypatch.syspath_prepend(package)
    monkeypatch.setenv("PYTHONPATH", f"{package}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


def test_libraries_that_cannot_be_loaded(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, "import ctypes\nctypes.CDLL('libtensorrt_rtx.so.0.absent')")
    error = refusal(model, tmp_path, TensorRTOptions(flavour="rtx"))
    assert isinstance(error, SetupError)
    assert "libtensorrt_rtx.so.0.absent" in error.message
    assert "install it again" in error.hint


@pytest.mark.parametrize(("body", "name"), [("os.abort()", "SIGABRT"), ("os.kill(os.getpid(), 9)", "SIGKILL")])
def test_a_builder_that_dies(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, name: str
) -> None:
    stand_in(tmp_path, monkeypatch, f"import os\n{body}")
    error = refusal(model, tmp_path, TensorRTOptions(flavour="rtx"))
    assert isinstance(error, BuildError)
    assert name in error.message


@rtx
def test_every_operator_that_is_not_known(tmp_path: Path) -> None:
    """A Fourier transform of that length is no product with a matrix of a sensible size."""
    nodes = [
        helper.make_node("Swirl", ["x"], ["h"], name="first", domain="com.example"),
        helper.make_node("DFT", ["h"], ["y"], name="second"),
    ]
    proto = of_nodes(nodes, {"x": (1, 8192, 1)}, {"y": (1, 8192, 2)})
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    proto.graph.value_info.append(helper.make_tensor_value_info("h", onnx.TensorProto.FLOAT, (1, 8192, 1)))
    error = refusal(save(proto, tmp_path / "models" / "m.onnx"), tmp_path, TensorRTOptions(), sized=False)
    assert isinstance(error, UnsupportedModelError)
    assert [(f.node, f.op) for f in error.findings] == [("first", "com.example.Swirl"), ("second", "DFT")]
    assert all("no such operator" in finding.reason for finding in error.findings)


def command(model: Path, folder: Path, *more: str) -> list[str]:
    shape = f"{NAME}:1x3x8x8"
    return [
        *(sys.executable, "-m", "mobilekit", "export", str(model), "--target", "tensorrt"),
        *("--input-shape", shape, "-o", str(folder / "out"), *more),
    ]


@rtx
def test_a_full_disk(model: Path, tmp_path: Path) -> None:
    """A limit on how long a file may be, which the model stays under and the plan does not."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = subprocess.run(
        command(model, tmp_path), capture_output=True, text=True, timeout=120, preexec_fn=limit, check=False
    )
    assert done.returncode == 4, done.stderr
    assert "no space left" in done.stderr
    assert "hint: free some space" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


SLOW_WORKER = """
import os, sys, time
if "--serve" in sys.argv or "--serve" in sys.orig_argv:  # small models build in a fifth of a second
    with open(os.environ["MOBILEKIT_BEGAN"] + ".new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(file.name, os.environ["MOBILEKIT_BEGAN"])
    time.sleep(600)
"""


@rtx
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_build_leaves_nothing(model: Path, tmp_path: Path, number: int, code: int) -> None:
    scratch, slow, started = (
        tmp_path / "models" / "scratch",
        tmp_path / "models" / "slow",
        tmp_path / "models" / "began",
    )
    scratch.mkdir()
    slow.mkdir()
    (slow / "sitecustomize.py").write_text(SLOW_WORKER)
    env = {**os.environ, "TMPDIR": str(scratch), "PYTHONPATH": str(slow), "MOBILEKIT_BEGAN": str(started)}
    with subprocess.Popen(command(model, tmp_path), stderr=subprocess.PIPE, text=True, env=env) as process:
        until = time.monotonic() + 60
        while not started.exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(number)
        _, words = process.communicate(timeout=60)
    assert process.returncode == code, words
    assert not Path(f"/proc/{started.read_text()}").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["models"]
    assert not list(scratch.glob("mobilekit*"))  # ONNX Runtime leaves a file of its own


@rtx
def test_constants_of_a_type_that_it_lacks_are_told_by_their_nodes(tmp_path: Path) -> None:
    """The parser says that an initializer failed, and names neither it nor a node."""
    scale, zero = np.array(2e-4, np.float32), np.array(0, np.int16)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="to"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], name="from"),
    ]
    model = of_nodes(nodes, {"x": (2, 8)}, {"y": (2, 8)}, {"s": scale, "z": zero}, opset=21)
    error = refusal(save(model, tmp_path / "models" / "m.onnx"), tmp_path, TensorRTOptions(), sized=False)
    assert isinstance(error, UnsupportedModelError)
    assert [(finding.node, finding.op) for finding in error.findings] == [
        ("to", "QuantizeLinear"),
        ("from", "DequantizeLinear"),
    ]
    assert all("int16" in finding.reason and finding.remedy for finding in error.findings)


@rtx
def test_every_output_whose_size_depends_on_data_is_listed(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("NonZero", ["r"], ["places"]),
        helper.make_node("Compress", ["r", "kept"], ["some"]),
    ]
    outputs = {"places": (2, "n"), "some": ("m",)}
    model = of_nodes(nodes, {"x": (2, 8), "kept": (16,)}, outputs)
    model.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.BOOL
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    error = refusal(save(model, tmp_path / "models" / "m.onnx"), tmp_path, TensorRTOptions(), sized=False)
    assert isinstance(error, UnsupportedModelError)
    assert [(finding.node, finding.op) for finding in error.findings] == [("places", "NonZero"), ("some", "Compress")]


@rtx
def test_a_model_that_onnx_runtime_has_no_kernels_for_is_told_how(tmp_path: Path) -> None:
    weight = helper.make_tensor("w", onnx.TensorProto.BFLOAT16, [8, 4], [0.5] * 32)
    nodes = [
        helper.make_node("Cast", ["x"], ["b"], to=onnx.TensorProto.BFLOAT16),
        helper.make_node("MatMul", ["b", "w"], ["c"]),
        helper.make_node("Cast", ["c"], ["y"], to=onnx.TensorProto.FLOAT),
    ]
    model = of_nodes(nodes, {"x": (2, 8)}, {"y": (2, 4)})
    model.graph.initializer.append(weight)
    path = save(model, tmp_path / "models" / "m.onnx")
    assert "--no-verify" in refusal(path, tmp_path, TensorRTOptions(), sized=False).hint
    report = export_model(path, tmp_path / "out", ExportOptions(targets=("tensorrt",), verify=False))
    assert report.manifest.tensorrt is not None
