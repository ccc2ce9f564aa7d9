"""Tool chains, and CMake and ninja as children: with a project that needs no compiler, so in seconds."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mobilekit.device.harness import toolchains
from mobilekit.device.harness.build import build_harness, built_harnesses
from mobilekit.device.harness.compile import Compilation
from mobilekit.device.harness.locate import find_harness, locate_harness
from mobilekit.device.harness.toolchains import find_tool, find_toolchain
from mobilekit.errors import BuildError, FetchError, MissingToolError, SetupError, UsageError

NDK = ("ANDROID_NDK_HOME", "ANDROID_NDK_ROOT", "ANDROID_NDK")


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*NDK, "MOBILEKIT_HARNESS_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def no_compilers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A PATH that holds only what a test puts there, and no ziglang."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not (Path(p) / "ziglang").is_dir()])
    return folder


def _program(path: Path, says: str) -> None:
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)


def test_the_ndk_comes_first_and_brings_vulkan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "build" / "cmake").mkdir(parents=True)
    (tmp_path / "build" / "cmake" / "android.toolchain.cmake").touch()
    (tmp_path / "source.properties").write_text("Pkg.Desc = Android NDK\nPkg.Revision = 27.1.1\n")
    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path))
    found = find_toolchain("arm64-v8a")
    assert (found.name, found.version, found.static, found.vulkan) == ("ndk", "NDK 27.1.1", False, True)
    assert "-DNCNN_VULKAN=ON" in found.ncnn_args
    # The virtual device has no Android linker.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        _program(tmp_path / "aarch64-linux-gnu-g++", "gcc 12")
        _program(tmp_path / "g++", "gcc 12")
        assert find_toolchain("arm64-v8a", static_only=True).name == "gcc"


def test_a_wrong_ndk_folder_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path))
    with pytest.raises(SetupError, match="holds no Android NDK"):
        find_toolchain("arm64-v8a")


def test_without_any_compiler_one_command_is_named(no_compilers: Path) -> None:
    if toolchains._zig("arm64-v8a") is not None:
        pytest.skip("ziglang is installed")
    with pytest.raises(MissingToolError) as caught:
        find_toolchain("arm64-v8a")
    assert caught.value.hint == "pip install 'mobilekit[build]'"
    _program(no_compilers / "apt-get", "")
    with pytest.raises(MissingToolError) as caught:
        find_toolchain("arm64-v8a")
    assert caught.value.hint.startswith("sudo apt install g++")


def test_a_toolchain_that_is_asked_for_and_missing_is_an_error(no_compilers: Path) -> None:
    with pytest.raises(MissingToolError, match="no ndk toolchain"):
        find_toolchain("arm64-v8a", "ndk")
    with pytest.raises(MissingToolError, match="no gcc toolchain"):
        find_toolchain("arm64-v8a", "gcc")


@pytest.mark.parametrize(("abi", "toolchain"), [("mips", "auto"), ("arm64-v8a", "msvc")])
def test_unknown_names_are_usage_errors(abi: str, toolchain: str) -> None:
    with pytest.raises(UsageError, match="unknown"):
        build_harness(abi, toolchain=toolchain)
    with pytest.raises(UsageError):
        build_harness("arm64-v8a", jobs=0)
    with pytest.raises(UsageError):
        locate_harness("mips")


def test_a_missing_tool_names_its_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingToolError) as caught:
        find_tool("no-such-build-tool")
    assert caught.value.hint == "pip install 'mobilekit[build]'"


def test_nothing_built_is_none_or_an_error(private_cache: Path) -> None:
    assert built_harnesses("arm64-v8a") == ()
    if locate_harness("arm64-v8a") is None:
        with pytest.raises(SetupError, match="no harness for arm64-v8a"):
            find_harness("arm64-v8a", build=False)


def test_a_given_folder_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, private_cache: Path) -> None:
    monkeypatch.setenv("MOBILEKIT_HARNESS_DIR", str(tmp_path / "given"))
    with pytest.raises(SetupError, match="MOBILEKIT_HARNESS_DIR"):
        locate_harness("x86_64")
    program = tmp_path / "given" / "x86_64" / "mobilekit-harness"
    program.parent.mkdir(parents=True)
    program.touch()
    assert locate_harness("x86_64") == program


def test_no_network_is_a_fetch_error_and_leaves_nothing(private_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mobilekit.device.harness.source import ncnn_source

    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(FetchError, match="ncnn"):
        ncnn_source()
    assert [p for p in private_cache.rglob("*") if p.is_file()] == []


class _Counting:
    def __init__(self) -> None:
        self.total: float | None = None
        self.done = 0.0

    def step(self, text: str) -> None: ...

    def note(self, text: str) -> None: ...

    @contextmanager
    def task(self, text: str, total: float | None = None, *, unit: str = "") -> Iterator[_Counting]:
        self.total = total
        yield self

    def advance(self, amount: float = 1) -> None:
        self.done += amount

    def describe(self, text: str) -> None: ...


def _project(folder: Path, command: str) -> Path:
    folder.mkdir()
    (folder / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.18)\nproject(p NONE)\n"
        "add_custom_command(OUTPUT a COMMAND ${CMAKE_COMMAND} -E touch a)\n"
        f"add_custom_command(OUTPUT b COMMAND {command} DEPENDS a)\n"
        "add_custom_target(everything ALL DEPENDS a b)\n"
    )
    return folder


def _run(tmp_path: Path, command: str, progress: _Counting) -> None:
    compilation = Compilation(find_tool("cmake"), find_tool("ninja"), 1, tmp_path / "log")
    compilation.run(
        "compiling the test",
        source=_project(tmp_path / "source", command),
        build=tmp_path / "build",
        arguments=[],
        targets=["everything"],
        environment={},
        progress=progress,
    )


def test_progress_counts_ninjas_steps(tmp_path: Path) -> None:
    progress = _Counting()
    _run(tmp_path, "${CMAKE_COMMAND} -E touch b", progress)
    assert (tmp_path / "build" / "b").exists()
    assert progress.total
    assert progress.done == progress.total


def test_a_failed_step_is_a_build_error_with_its_lines_and_the_log(tmp_path: Path) -> None:
    with pytest.raises(BuildError) as caught:
        _run(tmp_path, "echo this went wrong && false", _Counting())
    assert str(tmp_path / "log") in caught.value.message
    assert "this went wrong" in caught.value.hint


def test_ctrl_c_ends_the_whole_build(tmp_path: Path) -> None:
    marker = str(tmp_path / "sleeper")

    def running() -> bool:
        return marker in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout

    ended = threading.Event()

    def interrupt() -> None:
        while not running() and not ended.wait(0.05):
            pass
        if not ended.is_set():  # else the signal would meet another test
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    script = Path(marker)
    script.write_text("sleep 3600\n")
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            _run(tmp_path, f"sh {shlex.quote(str(script))}", _Counting())
    finally:
        ended.set()
        thread.join()
    deadline = time.monotonic() + 60  # ninja passes the signal on; its children end a moment later
    while running() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running()
