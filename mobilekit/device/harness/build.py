"""Building the harness for an ABI: ncnn first, then our program, each cached by what it was made from.

::

    cache/sources/ncnn-VERSION/          unpacked sdist
    cache/ncnn/ABI/KEY/                  installed ncnn (library, headers), made once for each compiler
    cache/build/ncnn-ABI-KEY/            objects of an ncnn build that was interrupted; taken up again
    cache/harness/ABI/KEY/               mobilekit-harness, build.json
    cache/harness-vulkan/ABI/KEY/        one that computes on this machine's GPU, too
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from mobilekit.device.harness.compile import Compilation
from mobilekit.device.harness.source import NCNN_SHA256, NCNN_VERSION, ncnn_source
from mobilekit.device.harness.toolchains import ABIS, Toolchain, find_tool, find_toolchain, host_abi
from mobilekit.errors import UsageError
from mobilekit.paths import Scratch, atomic_dir, cache_dir, data_dir, state_dir
from mobilekit.progress import SILENT, Progress

__all__ = ["PROGRAM", "BuiltHarness", "build_harness", "built_harnesses", "ncnn_prefix"]

PROGRAM = "mobilekit-harness"
_VULKAN = "harness-vulkan"


@dataclass(frozen=True, slots=True)
class BuiltHarness:
    """A harness on this machine. ``toolchain`` is the compiler's name and version; ``cached`` if it was there."""

    abi: str
    path: Path
    toolchain: str
    static: bool
    vulkan: bool
    cached: bool = True


def build_harness(
    abi: str,
    *,
    toolchain: str = "auto",
    static_only: bool = False,
    sanitize: bool = False,
    vulkan: bool = False,
    jobs: int | None = None,
    progress: Progress = SILENT,
) -> BuiltHarness:
    """Build for ``abi`` with the best toolchain present, or take the cached build of the same sources.

    ``vulkan`` builds one for this machine's Vulkan driver: not static, since a driver is a shared library, and kept
    apart from the one without, which stays small. It needs gcc for this machine; an NDK build has Vulkan anyway.

    ``sanitize`` builds ncnn and the harness with AddressSanitizer, the harness's own code with
    UndefinedBehaviorSanitizer too: not static, slow, never found by :func:`built_harnesses`, for tests that feed it
    damaged files. It needs gcc.

    Interrupted, it ends all compilers and keeps only objects that the next build can use. Raises
    :class:`~mobilekit.errors.MissingToolError` naming the command that mends it,
    :class:`~mobilekit.errors.BuildError` with the log's path and its last lines,
    :class:`~mobilekit.errors.FetchError` where ncnn's source cannot be had.
    """
    if jobs is not None and jobs < 1:
        raise UsageError(f"{jobs} jobs", hint="-j takes at least 1")
    if vulkan and (abi != host_abi() or toolchain not in ("auto", "gcc")):
        raise UsageError(
            "a harness for this machine's Vulkan driver is built by gcc, for this machine",
            hint="an NDK build (--toolchain ndk) has Vulkan for phones; else leave --abi and --toolchain out",
        )
    chosen = find_toolchain(abi, "gcc" if sanitize or vulkan else toolchain, static_only=static_only)
    if sanitize:
        chosen = _sanitized(chosen)
    if vulkan:
        chosen = _with_vulkan(chosen)
    kind = "harness-asan" if sanitize else _VULKAN if vulkan else "harness"
    folder = cache_dir(kind, abi) / _harness_key(chosen)
    if (folder / PROGRAM).is_file():
        return _described(folder, abi)
    cmake, ninja = find_tool("cmake"), find_tool("ninja")
    with _lock(f"{kind}-{abi}", progress):
        if (folder / PROGRAM).is_file():  # another process built it while we waited
            return _described(folder, abi)
        compilation = Compilation(cmake, ninja, jobs, state_dir("logs") / f"{kind}-{abi}.log")
        prefix = _ncnn(chosen, compilation, progress)
        # -static is the linker's business; where the program is not static, it still has no other dependency.
        with (
            Scratch("harness") as scratch,
            atomic_dir(folder) as temporary,
        ):
            compilation.run(
                f"compiling the harness for {abi}",
                source=data_dir("android-harness"),
                build=scratch,
                arguments=[*_common_arguments(chosen, scratch), *_harness_arguments(chosen, prefix)],
                targets=[PROGRAM],
                environment=chosen.environment,
                progress=progress,
            )
            shutil.copy2(scratch / PROGRAM, temporary / PROGRAM)
            (temporary / PROGRAM).chmod(0o755)
            facts = {
                "toolchain": chosen.version,
                "static": chosen.static,
                "vulkan": chosen.vulkan,
                "ncnn": NCNN_VERSION,
            }
            (temporary / "build.json").write_text(json.dumps(facts, indent=2) + "\n")
    return BuiltHarness(abi, folder / PROGRAM, chosen.version, chosen.static, chosen.vulkan, cached=False)


def built_harnesses(abi: str, *, vulkan: bool = False) -> tuple[BuiltHarness, ...]:
    """Cached builds of the current sources for ``abi``, the newest first, whatever compiler made them. ``vulkan``:
    those for this machine's Vulkan driver."""
    if abi not in ABIS:
        raise UsageError(f"unknown ABI {abi!r}", hint=f"one of {', '.join(ABIS)}")
    current = _sources_key()
    folders = [
        f for f in cache_dir(_VULKAN if vulkan else "harness", abi).glob(f"{current}-*") if (f / PROGRAM).is_file()
    ]
    folders.sort(key=lambda f: (f / PROGRAM).stat().st_mtime, reverse=True)
    return tuple(_described(folder, abi) for folder in folders)


def ncnn_prefix(abi: str, *, toolchain: str = "auto", progress: Progress = SILENT) -> tuple[Path, Toolchain, list[str]]:
    """An installed ncnn, its toolchain, and CMake's arguments for a project that links it (our C++ tests do)."""
    chosen = find_toolchain(abi, toolchain)
    compilation = Compilation(find_tool("cmake"), find_tool("ninja"), None, state_dir("logs") / f"harness-{abi}.log")
    with _lock(f"harness-{abi}", progress):
        prefix = _ncnn(chosen, compilation, progress)
    tools = cache_dir("zig-tools") if chosen.name == "zig" else prefix
    return prefix, chosen, [*_common_arguments(chosen, tools), *_harness_arguments(chosen, prefix)]


def _ncnn(toolchain: Toolchain, compilation: Compilation, progress: Progress) -> Path:
    key = _ncnn_key(toolchain)
    prefix = cache_dir("ncnn", toolchain.abi) / key
    if (prefix / "lib").is_dir():
        return prefix
    source = ncnn_source(progress)
    build = cache_dir("build", f"ncnn-{toolchain.abi}-{key}")
    options = data_dir("android-harness") / "cmake" / "ncnn-options.cmake"
    compilation.run(
        f"compiling ncnn for {toolchain.abi} ({toolchain.version})",
        source=source,
        build=build,
        arguments=[
            "-C",
            str(options),
            f"-DNCNN_VERSION={NCNN_VERSION.rpartition('.')[2]}",
            *_common_arguments(toolchain, build),
            *toolchain.ncnn_args,
        ],
        targets=["all"],
        environment=toolchain.environment,
        progress=progress,
    )
    with atomic_dir(prefix) as temporary:
        compilation.install(build, temporary, environment=toolchain.environment)
    shutil.rmtree(build, ignore_errors=True)
    return prefix


def _sanitized(toolchain: Toolchain) -> Toolchain:
    """One set of kernels, little optimised: what a test of damaged files needs, and a third of the time to build."""
    return replace(
        toolchain,
        static=False,
        common_args=(*toolchain.common_args, "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -g1", "-DMOBILEKIT_SANITIZE=ON"),
        ncnn_args=(*toolchain.ncnn_args, "-DNCNN_ASAN=ON", "-DNCNN_RUNTIME_CPU=OFF"),
    )


def _with_vulkan(toolchain: Toolchain) -> Toolchain:
    """ncnn loads the driver by itself and compiles shaders with its own glslang. What a GPU does not take runs on the
    CPU; one set of kernels will do for that, the oldest, and halves the build."""
    kernels = [f"-DNCNN_{name}=OFF" for name in ("RUNTIME_CPU", "AVX", "FMA", "F16C", "AVX2")]
    return replace(
        toolchain,
        static=False,
        vulkan=True,
        ncnn_args=(*toolchain.ncnn_args, "-DNCNN_VULKAN=ON", *(kernels if toolchain.abi == "x86_64" else ())),
    )


def _common_arguments(toolchain: Toolchain, build: Path) -> list[str]:
    arguments = list(toolchain.common_args)
    if toolchain.name == "zig":
        tools = build / "zig-tools"
        tools.mkdir(parents=True, exist_ok=True)
        for tool in ("zig-cc", "zig-c++", "zig-ar", "zig-ranlib"):
            link = tools / tool
            if not link.is_symlink():
                link.symlink_to(data_dir("android-harness") / "cmake" / "zig-wrapper.sh")
        arguments.append(f"-DMOBILEKIT_ZIG_TOOLS={tools}")
    if ccache := shutil.which("ccache"):
        arguments.append(f"-DCMAKE_CXX_COMPILER_LAUNCHER={ccache}")
    return arguments


def _harness_arguments(toolchain: Toolchain, prefix: Path) -> list[str]:
    return [
        f"-DCMAKE_PREFIX_PATH={prefix}",
        f"-DCMAKE_FIND_ROOT_PATH={prefix}",
        f"-DMOBILEKIT_TOOLCHAIN={toolchain.version}",
        f"-DMOBILEKIT_STATIC={'ON' if toolchain.static else 'OFF'}",
    ]


def _described(folder: Path, abi: str) -> BuiltHarness:
    try:
        facts = json.loads((folder / "build.json").read_text())
        return BuiltHarness(
            abi, folder / PROGRAM, str(facts["toolchain"]), bool(facts["static"]), bool(facts["vulkan"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return BuiltHarness(abi, folder / PROGRAM, "unknown", static=True, vulkan=False)


def _digest(parts: Sequence[str | bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:16]


def _files(*patterns: str) -> list[str | bytes]:
    root = data_dir("android-harness")
    found = sorted({file for pattern in patterns for file in root.glob(pattern) if file.is_file()})
    return [part for file in found for part in (str(file.relative_to(root)), file.read_bytes())]


def _sources_key() -> str:
    return _digest(
        [NCNN_SHA256, *_files("CMakeLists.txt", "src/**/*", "layers/*.h", "layers/CMakeLists.txt", "layers/src/*")]
    )


def _portable(arguments: Sequence[str]) -> list[str]:
    """Arguments without this machine's folders, so that moving the checkout does not build everything again."""
    root = str(data_dir("android-harness"))
    return [argument.replace(root, "") for argument in arguments]


def _ncnn_key(toolchain: Toolchain) -> str:
    arguments = _portable([*toolchain.common_args, *toolchain.ncnn_args])
    files = _files("cmake/ncnn-options.cmake", *toolchain.files)
    return _digest([NCNN_SHA256, toolchain.name, toolchain.version, *arguments, *files])


def _harness_key(toolchain: Toolchain) -> str:
    return f"{_sources_key()}-{_ncnn_key(toolchain)}"


@contextmanager
def _lock(name: str, progress: Progress) -> Iterator[None]:
    """One build of an ABI at a time on this machine; the others wait, and then find it done."""
    path = cache_dir("locks") / f"{name}.lock"
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.step("waiting for another process that builds the harness")
            fcntl.flock(file, fcntl.LOCK_EX)
        file.write(f"{os.getpid()}\n")
        yield
