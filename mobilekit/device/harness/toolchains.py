"""Which compiler builds the harness for an ABI: the NDK, gcc (native or cross), or zig from PyPI, in that order."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mobilekit.errors import MissingToolError, SetupError, UsageError
from mobilekit.paths import data_dir

__all__ = ["ABIS", "TOOLCHAINS", "Toolchain", "find_tool", "find_toolchain", "host_abi"]

ABIS: Mapping[str, str] = {"arm64-v8a": "aarch64", "x86_64": "x86_64"}
TOOLCHAINS = ("auto", "ndk", "gcc", "zig")
_NDK_VARIABLES = ("ANDROID_NDK_HOME", "ANDROID_NDK_ROOT", "ANDROID_NDK")
_NDK_PLATFORM = "android-24"  # Vulkan's first Android version


@dataclass(frozen=True, slots=True)
class Toolchain:
    """``version`` identifies the compiler in cache keys and reports; ``static`` binaries run on any Linux kernel.

    ``ncnn_args`` and ``common_args`` go to CMake, for ncnn alone and for both projects; ``environment`` is added to
    the build's; ``files`` are those of ``android-harness`` that belong to this toolchain alone. An NDK build has
    Vulkan, needs Android's linker, and so does not run on the virtual device.
    """

    name: str
    abi: str
    version: str
    static: bool = True
    vulkan: bool = False
    common_args: tuple[str, ...] = ()
    ncnn_args: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()


def find_tool(name: str) -> Path:
    """``cmake`` or ``ninja``: from PATH, beside this Python, or in the PyPI package of that name."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name) or shutil.which(name, path=beside)
    if found is None and (spec := importlib.util.find_spec(name)) and spec.origin:
        package = Path(spec.origin).parent
        found = next((str(p) for p in (package / "data" / "bin" / name, package / "bin" / name) if p.is_file()), None)
    if found is None:
        raise MissingToolError(f"building the harness needs {name}", hint="pip install 'mobilekit[build]'")
    return Path(found)


def find_toolchain(abi: str, wanted: str = "auto", *, static_only: bool = False) -> Toolchain:
    """The best toolchain that this machine has for ``abi``, or the one named.

    ``static_only`` leaves out the NDK, whose binaries need Android's own linker (the virtual device has none).

    Raises :class:`UsageError` for an unknown name, :class:`MissingToolError` with the command that installs one.
    """
    if abi not in ABIS:
        raise UsageError(f"unknown ABI {abi!r}", hint=f"one of {', '.join(ABIS)}")
    if wanted not in TOOLCHAINS:
        raise UsageError(f"unknown toolchain {wanted!r}", hint=f"one of {', '.join(TOOLCHAINS)}")
    finders: dict[str, Callable[[str], Toolchain | None]] = {"ndk": _ndk, "gcc": _gcc, "zig": _zig}
    if static_only:
        del finders["ndk"]
    for name, finder in finders.items():
        if wanted in ("auto", name) and (found := finder(abi)):
            return found
    hints = {
        "ndk": "set ANDROID_NDK_HOME to an installed Android NDK",
        "gcc": f"sudo apt install {_gcc_package(abi)}",
        "zig": "pip install 'mobilekit[build]'",
    }
    best = "gcc" if shutil.which("apt-get") else "zig"
    kind = "no compiler" if wanted == "auto" else f"no {wanted} toolchain"
    raise MissingToolError(
        f"there is {kind} for {abi} on this machine", hint=hints[best if wanted == "auto" else wanted]
    )


def _ndk(abi: str) -> Toolchain | None:
    for variable in _NDK_VARIABLES:
        value = os.environ.get(variable)
        if not value:
            continue
        root = Path(value)
        file = root / "build" / "cmake" / "android.toolchain.cmake"
        if not file.is_file():
            raise SetupError(f"{variable} is {value}, which holds no Android NDK", hint=f"correct or unset {variable}")
        properties = root / "source.properties"
        text = properties.read_text() if properties.is_file() else ""
        revision = next((line.partition("=")[2].strip() for line in text.splitlines() if "Revision" in line), "unknown")
        common = (
            f"-DCMAKE_TOOLCHAIN_FILE={file}",
            f"-DANDROID_ABI={abi}",
            f"-DANDROID_PLATFORM={_NDK_PLATFORM}",
            "-DANDROID_STL=c++_static",
        )
        return Toolchain("ndk", abi, f"NDK {revision}", False, True, common, ("-DNCNN_VULKAN=ON",))
    return None


def _machine() -> str:
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine())


def host_abi() -> str | None:
    """The ABI that this machine runs, where it is Linux."""
    return (
        next((abi for abi, machine in ABIS.items() if machine == _machine()), None) if sys.platform == "linux" else None
    )


def _gcc_package(abi: str) -> str:
    return "g++" if ABIS[abi] == _machine() else f"g++-{ABIS[abi].replace('_', '-')}-linux-gnu"


def _gcc(abi: str) -> Toolchain | None:
    processor = ABIS[abi]
    files: tuple[str, ...] = ()
    if sys.platform == "linux" and processor == _machine():
        compiler = shutil.which("g++") or shutil.which("c++")
        args: tuple[str, ...] = () if compiler is None else (f"-DCMAKE_CXX_COMPILER={compiler}",)
        c_compiler = shutil.which("gcc") or shutil.which("cc")
        args += () if c_compiler is None else (f"-DCMAKE_C_COMPILER={c_compiler}",)
    else:
        compiler = shutil.which(f"{processor}-linux-gnu-g++")
        files = (f"cmake/{processor}-linux-gnu.cmake",)
        args = (f"-DCMAKE_TOOLCHAIN_FILE={_file(files[0])}",)
    if compiler is None:
        return None
    return Toolchain("gcc", abi, _version(compiler, "--version"), common_args=args, files=files)


def _zig(abi: str) -> Toolchain | None:
    spec = importlib.util.find_spec("ziglang")
    program = Path(spec.origin).parent / "zig" if spec and spec.origin else None
    if program is None or not program.is_file():
        return None
    processor = ABIS[abi]
    files = ("cmake/zig.cmake", "cmake/zig-wrapper.sh")
    return Toolchain(
        "zig",
        abi,
        f"zig {_version(str(program), 'version')}",
        common_args=(f"-DCMAKE_TOOLCHAIN_FILE={_file(files[0])}", f"-DMOBILEKIT_PROCESSOR={processor}"),
        ncnn_args=("-DNCNN_SIMPLEOMP=ON",),  # zig brings no OpenMP runtime
        environment={"MOBILEKIT_ZIG": str(program), "MOBILEKIT_ZIG_TARGET": f"{processor}-linux-musl"},
        files=files,
    )


def _file(name: str) -> Path:
    return data_dir("android-harness") / name


def _version(program: str, option: str) -> str:
    try:
        done = subprocess.run([program, option], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise SetupError(f"{program} does not run: {error}", hint="reinstall it, or choose --toolchain") from error
    return (done.stdout.strip().splitlines() or ["unknown"])[0]
