"""The examples do what their pages say, as far as a machine without a GPU goes."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest

from mobilekit.errors import ModelError, UsageError
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.pipeline.inspect_plan import inspect_plan
from mobilekit.pipeline.validate import ValidateOptions, validate_bundle
from mobilekit.runners.ort import OrtRunner
from mobilekit.targets.tensorrt import MODEL, PLAN, TensorRTOptions, build, check
from mobilekit.targets.tensorrt.flavour import FLAVOURS, installed
from mobilekit.targets.tensorrt.host import WORKER
from mobilekit.validate.tolerance import Verdict

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
RTX = FLAVOURS["rtx"]
rtx = pytest.mark.skipif(not installed(RTX), reason="needs the extra [tensorrt]")


def made(example: str, path: Path) -> Path:
    command = [sys.executable, str(EXAMPLES / example / "make_model.py"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == str(path)
    return path


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made("custom_function", tmp_path_factory.mktemp("gated") / "gated.onnx")


def test_an_operator_given_as_functions_runs_on_ncnn(gated: Path, tmp_path: Path) -> None:
    report = export_model(gated, tmp_path / "out")
    assert report.manifest.verified
    verdict = validate_bundle(tmp_path / "out", "local", ValidateOptions(iterations=1, warmup=0)).verdict
    assert verdict is Verdict.PASS


@rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_and_is_fused_by_tensorrt(gated: Path, tmp_path: Path, precision: str) -> None:
    settings = TensorRTOptions(precision)  # type: ignore[arg-type]
    report = export_model(gated, tmp_path / "out", ExportOptions(targets=("tensorrt",), tensorrt=settings))
    assert report.manifest.tensorrt is not None
    assert report.manifest.tensorrt.verified
    view = inspect_plan(tmp_path / "out")
    assert max(len(layer["onnx_nodes"]) for layer in view.layers) >= 4  # Conv, LeakyRelu, HardSigmoid, Mul


@rtx
def test_tensorrt_takes_the_functions_as_they_are_too(gated: Path, tmp_path: Path) -> None:
    assert onnx.load(gated).functions
    assert check(gated, RTX, TensorRTOptions()) == ()
    (tmp_path / MODEL).parent.mkdir()
    (tmp_path / MODEL).write_bytes(gated.read_bytes())
    artifact = build(tmp_path, RTX, TensorRTOptions())
    assert (tmp_path / PLAN).stat().st_size == artifact.plan_bytes > 1000


def imported(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def roll() -> ModuleType:
    if not installed(RTX):
        pytest.skip("needs the extra [tensorrt]")
    return imported("roll_plugin", EXAMPLES / "plugin" / "roll_plugin.py")


@pytest.mark.parametrize("shift", [0, 1, 3, 11, 12, 13, -1, -25])
@pytest.mark.parametrize("shape", [(12,), (1, 3, 4), (0, 4)])
def test_the_plugin_copies_what_numpy_rolls(roll: ModuleType, shape: tuple[int, ...], shift: int) -> None:
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    given, out = x.tobytes(), bytearray(b"\xff" * x.nbytes)
    for to, source, length in roll.copies(shape, shift, x.itemsize):
        out[to : to + length] = given[source : source + length]
    right = np.roll(x.ravel(), shift).reshape(shape)
    np.testing.assert_array_equal(np.frombuffer(out, np.float32).reshape(shape), right)


def test_the_plugin_is_what_tensorrts_bindings_take(roll: ModuleType) -> None:
    trt = roll.trt
    creator = roll.RollCreator()
    assert [field.name for field in creator.field_names] == ["shift"]
    five = np.array([5])
    fields = trt.PluginFieldCollection([trt.PluginField("shift", five, trt.PluginFieldType.INT64)])
    plugin = creator.create_plugin("roll", fields, trt.TensorRTPhase.BUILD)
    assert isinstance(plugin, trt.IPluginV3)
    other = plugin.clone()
    serialized = other.get_fields_to_serialize()
    reused = [np.full(1, 7, np.int64) for _ in range(10_000)]  # takes the place of what was not kept
    assert [int(field.data[0]) for field in serialized] == [5]
    del reused
    for kind in (trt.PluginCapabilityType.CORE, trt.PluginCapabilityType.BUILD, trt.PluginCapabilityType.RUNTIME):
        assert plugin.get_capability_interface(kind) is plugin
    descs = []
    for kind in (trt.DataType.HALF, trt.DataType.HALF):
        tensor = trt.DynamicPluginTensorDesc()
        tensor.desc.type, tensor.desc.format = kind, trt.TensorFormat.LINEAR
        descs.append(tensor)
    assert all(plugin.supports_format_combination(position, descs, 1) for position in (0, 1))
    descs[1].desc.type = trt.DataType.FLOAT
    assert not plugin.supports_format_combination(1, descs, 1)


@rtx
def test_the_worker_registers_it_and_says_what_it_cannot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a process of its own, as it is: the registry is the process's."""
    (tmp_path / "not_a_creator.py").write_text(
        "class Plain:\n    pass\n\n\nclass Broken:\n    def __init__(self):\n        1 / 0\n"
    )
    (tmp_path / "other.py").write_text("from roll_plugin import RollCreator as Same\n")
    script = f"""
import sys
sys.path[:0] = [{str(EXAMPLES / "plugin")!r}, {str(tmp_path)!r}]
import tensorrt_rtx as trt
from mobilekit.targets.tensorrt.worker.trtwork import base, bindings
log = bindings.logger(trt)
bindings.register_plugins(trt, log, ["roll_plugin:RollCreator"])
assert "Roll" in [creator.name for creator in trt.get_plugin_registry().all_creators]
bindings.register_plugins(trt, log, ["roll_plugin:RollCreator"])  # as for the second plan that a process loads
for wrong in ("roll_plugin:Absent", "no_such_module:X", "not_a_creator:Plain", "not_a_creator:Broken", "other:Same"):
    try:
        bindings.register_plugins(trt, log, [wrong])
    except base.WorkError as error:
        assert wrong in error.message and error.hint
    else:
        raise AssertionError(wrong)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_a_plugin_is_refused_for_rtx_before_anything_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made("plugin", tmp_path / "rolled.onnx")
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.Fail):
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    if not installed(RTX):
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", ModuleType("tensorrt_rtx"))
        sys.modules["tensorrt_rtx"].__spec__ = importlib.util.spec_from_loader("tensorrt_rtx", None)
    plugins = ("roll_plugin:RollCreator",)
    settings = TensorRTOptions(plugins=plugins, flavour="rtx")
    with pytest.raises(UsageError, match="takes no plugins") as caught:
        export_model(path, tmp_path / "out", ExportOptions(targets=("tensorrt",), tensorrt=settings, verify=False))
    assert "local function" in caught.value.hint
    with pytest.raises(UsageError, match="cannot be verified"):
        export_model(path, tmp_path / "out", ExportOptions(targets=("tensorrt",), tensorrt=settings))
    assert "roll_plugin" not in sys.modules
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["os", "os.system", "a:b:c", ":X", "a:", "../x:Y", "a b:C"])
def test_what_names_no_plugin(tmp_path: Path, name: str) -> None:
    path = made("plugin", tmp_path / "rolled.onnx")
    settings = TensorRTOptions(plugins=(name,))
    with pytest.raises(UsageError, match="names no plugin"):
        export_model(path, tmp_path / "out", ExportOptions(targets=("tensorrt",), tensorrt=settings, verify=False))


def test_onnx_runtime_names_the_operator_that_it_lacks(tmp_path: Path) -> None:
    path = made("plugin", tmp_path / "rolled.onnx")
    with pytest.raises(ModelError, match=r"has no operator com\.example\.Roll") as caught, OrtRunner(path):
        pass
    assert "local function" in caught.value.hint
    assert "--reference DIR" in caught.value.hint


def test_the_worker_is_the_only_one_to_import_it() -> None:
    package = WORKER.parents[2]
    users = [path for path in package.rglob("*.py") if "register_plugins" in path.read_text()]
    assert users
    assert all(path.is_relative_to(WORKER) for path in users)
