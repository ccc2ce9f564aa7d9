"""``mobilekit doctor``: what this machine has, what it lacks, and the one command that mends each lack.

Each check is a small function in ``CHECKS``; it looks, and never raises for what it finds. Nothing is changed, but the
instruction counter is compiled into the cache, and an adb server is started where none runs, as every adb command does.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from mobilekit.errors import MobilekitError, NoDeviceError

__all__ = ["CHECKS", "CheckResult", "diagnose"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """``ok``: there; ``missing``: optional and absent; ``broken``: what is there will not work.

    ``serves`` says what it is for, ``remedy`` is one command (or sentence) that mends it.
    """

    name: str
    state: Literal["ok", "missing", "broken"]
    found: str
    serves: str
    remedy: str = ""


def diagnose() -> tuple[CheckResult, ...]:
    """Run every check, in order."""
    return tuple(result for check in CHECKS for result in check())


def _python() -> Iterator[CheckResult]:
    yield CheckResult("Python", "ok", f"{platform.python_version()} at {sys.executable}", "everything")


_PACKAGES = ("onnx", "onnxsim", "onnxruntime", "ncnn", "numpy", "pillow", "adbutils", "pydantic", "rich", "typer")


def _packages() -> Iterator[CheckResult]:
    for name in _PACKAGES:
        found = _version(name) or (_version("onnxruntime-gpu") if name == "onnxruntime" else None)
        if found:
            yield CheckResult(name, "ok", found, "the core")
        else:
            yield CheckResult(name, "broken", "not installed", "the core", f"pip install {name}")
    if _version("onnxruntime") and _version("onnxruntime-gpu"):
        yield CheckResult(
            "onnxruntime twice",
            "broken",
            "onnxruntime and onnxruntime-gpu are installed over each other: which one runs is luck",
            "the reference",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu",
        )
    torch = _version("torch")
    yield (
        CheckResult("torch", "ok", torch, "preparing .pth zoo entries")
        if torch
        else CheckResult(
            "torch", "missing", "not installed", "preparing .pth zoo entries", "pip install 'mobilekit[torch]'"
        )
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _adb() -> Iterator[CheckResult]:
    from mobilekit.device import adb_server as adb

    try:
        program = adb.adb_program()
        yield CheckResult("adb", "ok", f"{program} ({_first_line([str(program), 'version'])})", "devices")
    except MobilekitError as error:
        yield CheckResult("adb", "broken", error.message, "devices", error.hint)
        return
    try:
        found = adb.list_devices()
    except MobilekitError as error:
        yield CheckResult("adb server", "broken", error.message, "devices", error.hint)
        return
    if not found:
        hint = "plug a phone in with USB debugging on, or: mobilekit device virtual start"
        yield CheckResult("devices", "missing", "none connected", "validate --device", hint)
    for device in found:
        usable = device.state == "device"
        remedy = "" if usable else "unlock it and allow USB debugging, or plug it in again"
        yield CheckResult(
            f"device {device.serial}", "ok" if usable else "broken", device.state, "validate --device", remedy
        )


def _tool(
    name: str, programs: tuple[str, ...], serves: str, remedy: str, *, version: tuple[str, ...] = ("--version",)
) -> Iterator[CheckResult]:
    for program in programs:
        beside_us = Path(sys.executable).parent / program
        path = shutil.which(program) or (str(beside_us) if beside_us.is_file() else None)
        if path:
            yield CheckResult(name, "ok", f"{path} ({_first_line([path, *version])})", serves)
            return
    yield CheckResult(name, "missing", "not found", serves, remedy)


def _first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (done.stdout or done.stderr).strip().split("\n", 1)[0][:100]


def _compilers() -> Iterator[CheckResult]:
    cross = "the harness for arm64-v8a (first choice)"
    yield from _tool("arm64 cross g++", ("aarch64-linux-gnu-g++",), cross, "sudo apt install g++-aarch64-linux-gnu")
    yield from _tool("g++", ("g++", "c++"), "the harness for x86_64 (first choice)", "sudo apt install g++")
    if _version("ziglang"):
        yield CheckResult("zig", "ok", f"ziglang {_version('ziglang')}", "the harness where there is no compiler")
    else:
        serves = "the harness where there is no compiler"
        yield CheckResult("zig", "missing", "not installed", serves, "pip install 'mobilekit[build]'")
    yield from _tool("cmake", ("cmake",), "building the harness", "pip install 'mobilekit[build]'")
    yield from _tool("ninja", ("ninja",), "building the harness", "pip install 'mobilekit[build]'")
    yield from _tool("ccache", ("ccache",), "building the harness again, quickly", "sudo apt install ccache")


def _ndk() -> Iterator[CheckResult]:
    serves = "harness builds with Vulkan"
    home = os.environ.get("ANDROID_NDK_HOME")
    remedy = "install the Android NDK and set ANDROID_NDK_HOME to its folder"
    if not home:
        yield CheckResult("Android NDK", "missing", "ANDROID_NDK_HOME is not set", serves, remedy)
        return
    try:
        text = (Path(home) / "source.properties").read_text()
        revision = re.search(r"Pkg\.Revision\s*=\s*(\S+)", text)
        yield CheckResult("Android NDK", "ok", f"{home} ({revision.group(1) if revision else '?'})", serves)
    except OSError:
        yield CheckResult("Android NDK", "broken", f"{home} holds no NDK (no source.properties)", serves, remedy)


def _virtual() -> Iterator[CheckResult]:
    serves = "the arm64 virtual device"
    yield from _tool("qemu-user", ("qemu-aarch64-static",), serves, "sudo apt install qemu-user-static")
    from mobilekit.device.virtual import probe
    from mobilekit.device.virtual.plugin import build_plugin

    counts = "exact instruction counts on the arm64 virtual device"
    try:
        yield CheckResult("instruction counter", "ok", str(build_plugin().path), counts)
    except MobilekitError as error:
        yield CheckResult("instruction counter", "missing", error.message, counts, error.hint)

    found = probe()
    yield CheckResult(
        "virtual device",
        "ok" if found.mode == "userns" else "missing" if found.mode else "broken",
        found.summary,
        "devices without a phone",
        found.remedy,
    )


def _vulkan() -> Iterator[CheckResult]:
    """The driver is not asked: that starts it."""
    from mobilekit.device.harness.locate import locate_vulkan

    serves = "ncnn on this machine's GPU, or on Mesa's lavapipe (--vulkan)"
    try:
        ctypes.CDLL("libvulkan.so.1")
        yield CheckResult("Vulkan", "ok", "libvulkan.so.1 is there", serves)
    except OSError:
        remedy = "sudo apt install libvulkan1 mesa-vulkan-drivers"
        yield CheckResult("Vulkan", "missing", "no libvulkan.so.1", serves, remedy)
    built = locate_vulkan()
    if built is None:
        yield CheckResult("Vulkan harness", "missing", "not built yet", serves, "mobilekit harness build --vulkan")
    else:
        yield CheckResult("Vulkan harness", "ok", str(built), serves)


def _harnesses() -> Iterator[CheckResult]:
    from mobilekit.device.harness.locate import locate_harness

    for abi in ("arm64-v8a", "x86_64"):
        path = locate_harness(abi)
        serves = f"running on {abi} devices"
        if path:
            yield CheckResult(f"harness {abi}", "ok", str(path), serves)
        else:
            remedy = f"mobilekit harness build --abi {abi}"
            yield CheckResult(f"harness {abi}", "missing", "not built yet", serves, remedy)


def _nvidia() -> Iterator[CheckResult]:
    """The driver's own library says what GPUs there are; 0.1 ms where there is none."""
    from mobilekit.targets.tensorrt.flavour import FLAVOURS
    from mobilekit.targets.tensorrt.gpus import local_gpus
    from mobilekit.targets.tensorrt.worker.trtwork.cuda import driver_version

    serves = "running TensorRT plans, and ONNX Runtime CUDA"
    try:
        for gpu in local_gpus():
            memory = f"{gpu.memory_bytes / 2**30:.1f} GiB"
            found = f"{gpu.name}, compute capability {gpu.compute_capability}, {memory}, driver {driver_version()}"
            yield CheckResult(f"GPU {gpu.index}", "ok", found, serves)
    except NoDeviceError as error:
        absent = "no libcuda" in error.message
        remedy = "install the NVIDIA driver" if absent else "check the driver with nvidia-smi"
        yield CheckResult("NVIDIA driver", "missing" if absent else "broken", error.message, serves, remedy)
    for flavour in FLAVOURS.values():
        version = next(filter(None, map(_version, flavour.packages)), None)
        if version:
            yield CheckResult(flavour.product, "ok", version, "building TensorRT plans")
        elif flavour.name == "rtx":
            remedy = "pip install 'mobilekit[tensorrt]'"
            yield CheckResult(flavour.product, "missing", "not installed", "building TensorRT plans", remedy)


def _storage() -> Iterator[CheckResult]:
    from mobilekit.paths import cache_dir

    try:
        folder = cache_dir()
    except MobilekitError as error:
        yield CheckResult("cache folder", "broken", error.message, "downloads and builds", error.hint)
        return
    free_gb = shutil.disk_usage(folder).free / 1e9
    enough = free_gb > 2
    yield CheckResult(
        "cache folder",
        "ok" if enough else "broken",
        f"{folder}, {free_gb:.1f} GB free",
        "downloads and builds",
        "" if enough else "free some space, or set MOBILEKIT_CACHE to a roomier folder",
    )


CHECKS: tuple[Callable[[], Iterator[CheckResult]], ...] = (
    _python,
    _packages,
    _adb,
    _virtual,
    _compilers,
    _ndk,
    _vulkan,
    _harnesses,
    _nvidia,
    _storage,
)
