"""Every name of TensorRT's API that we use is there in each version that we claim, or is asked for first.

``api.csv`` was recorded from NVIDIA's own bindings by ``scripts/tensorrt_api.py``, which says how.
"""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from mobilekit.targets.tensorrt.flavour import FLAVOURS, installed

ROOT = Path(__file__).resolve().parents[4]
RTX_ONLY = {
    # Targets that are not the present GPU.
    "ComputeCapability",
    "num_compute_capabilities",
    "set_compute_capability",
    # The kernels that it compiles when it first runs.
    "DynamicShapesKernelSpecializationStrategy",
    "EAGER",
    "IRuntimeCache",
    "create_runtime_cache",
    "deserialize",
    "dynamic_shapes_kernel_specialization_strategy",
    "is_stream_capturable",
    "set_runtime_cache",
    # What it says of a plan before it loads it.
    "CUDA_ERROR",
    "EngineInvalidityDiagnostics",
    "EngineValidity",
    "INSUFFICIENT_GPU_MEMORY",
    "INVALID",
    "MALFORMED_ENGINE",
    "OLD_CUDA_DRIVER",
    "OLD_CUDA_RUNTIME",
    "UNSUPPORTED_CC",
    "VERSION_MISMATCH",
    "get_engine_validity",
}
"""Used where the module is known to be TensorRT for RTX; the first full version that has one of them is no problem."""

SINCE = {"create_runtime_config": "full 10.16"}
"""Used for RTX alone as well, though newer full versions have it."""

OTHERS = {"from_address", "last_error", "answer", "begin", "free", "warned", "layers", "shift"}
"""ctypes' and our own, which the script cannot tell."""


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tensorrt_api", ROOT / "scripts" / "tensorrt_api.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


API = script()
ROWS = [line for line in API.TABLE.read_text().splitlines() if not line.startswith("#")]
TABLE = {row["name"]: row for row in csv.DictReader(ROWS)}
VERSIONS = [name for name in next(iter(TABLE.values())) if name != "name"]
FULL = [version for version in VERSIONS if version.startswith("full")]


def known(path: Path) -> set[str]:
    """The names of TensorRT in the file; a driver's begin as the driver's do."""
    return {n for n in API.names_used(path) if n not in OTHERS and not n.startswith(("cu", "nvml"))}


def test_the_table_covers_the_versions_that_we_claim() -> None:
    assert VERSIONS == ["full 10.3", "full 10.16", "full 11.0", "full 11.4", "rtx 1.7"]
    assert all(set(row.values()) <= {row["name"], "yes", "no"} for row in TABLE.values())


def test_it_tells_versions_apart() -> None:
    def has(name: str) -> str:
        return "".join(TABLE[name][version][0] for version in VERSIONS)

    assert has("IInt8EntropyCalibrator2") == "yynnn"
    assert has("device_memory_size") == "yynnn"
    assert has("create_runtime_config") == "nyyyy"
    assert has("get_engine_validity") == has("set_compute_capability") == "nnnny"


@pytest.mark.parametrize("path", API.USERS, ids=lambda path: path.name)
def test_each_name_is_recorded(path: Path) -> None:
    missing = sorted(known(path) - TABLE.keys())
    assert not missing, f"{missing}: run scripts/tensorrt_api.py, whose table does not have them"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", API.USERS, ids=lambda path: path.name)
def test_each_name_is_there_or_is_asked_for(path: Path, version: str) -> None:
    absent = {name for name in known(path) & TABLE.keys() if TABLE[name][version] == "no"} - API.guarded(path)
    if version in FULL:
        absent -= RTX_ONLY | SINCE.keys()
    assert not absent, f"{version} has no {sorted(absent)}: ask with hasattr first"


def test_the_exceptions_are_real() -> None:
    used = {name for path in API.USERS for name in known(path)}
    assert used >= RTX_ONLY
    for name in RTX_ONLY:
        assert TABLE[name]["rtx 1.7"] == "yes", name
        assert all(TABLE[name][version] == "no" for version in FULL), name


def test_a_name_that_does_not_exist_would_be_noticed(tmp_path: Path) -> None:
    path = tmp_path / "worker.py"
    path.write_text("def f(config):\n    config.set_memory_pool_limits(1)\n    getattr(config, 'never', None)\n")
    assert known(path) - TABLE.keys() == {"set_memory_pool_limits", "never"}
    assert API.guarded(path) == {"never"}


@pytest.mark.skipif(not installed(FLAVOURS["rtx"]), reason="needs the extra [tensorrt]")
def test_the_table_agrees_with_the_bindings_that_are_here() -> None:
    import tensorrt_rtx as trt

    there = set(dir(trt))
    for value in vars(trt).values():
        there |= set(dir(value))
        for inner in vars(value).values() if isinstance(value, type) else ():
            there |= set(dir(inner)) if isinstance(inner, type) else set()
    for path in API.USERS:
        for name in known(path) - {"reallocate_output"}:  # which we write and TensorRT calls
            assert (name in there) == (TABLE[name]["rtx 1.7"] == "yes"), name
