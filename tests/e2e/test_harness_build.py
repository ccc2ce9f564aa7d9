"""The real build: our C++ tests under ctest, here and under qemu; the wheel; static binaries with large alignment."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mobilekit.device.harness.build import build_harness, ncnn_prefix
from mobilekit.device.harness.toolchains import find_tool, find_toolchain
from mobilekit.device.harness.wheel import make_wheel
from mobilekit.errors import MissingToolError
from mobilekit.paths import data_dir

pytestmark = [pytest.mark.timeout(3600), pytest.mark.slow]

_HOST = {"x86_64": "x86_64", "aarch64": "arm64-v8a"}.get(platform.machine(), "x86_64")


def _needs_toolchain(abi: str) -> None:
    try:
        find_toolchain(abi, static_only=True)
    except MissingToolError as error:
        pytest.skip(error.message)


@pytest.mark.parametrize("abi", ["x86_64", "arm64-v8a"])
def test_cpp_tests_pass(abi: str, tmp_path: Path) -> None:
    _needs_toolchain(abi)
    emulator = shutil.which("qemu-aarch64-static")
    if abi != _HOST and (abi != "arm64-v8a" or emulator is None):
        pytest.skip(f"nothing here runs {abi} programs")
    _, _, arguments = ncnn_prefix(abi)
    cmake, ninja = find_tool("cmake"), find_tool("ninja")
    configure = [
        *(cmake, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}", "-DMOBILEKIT_TESTS=ON"),
        *("-S", data_dir("android-harness"), "-B", tmp_path, *arguments),
    ]
    if abi != _HOST:
        configure.append(f"-DCMAKE_CROSSCOMPILING_EMULATOR={emulator};-cpu;max")
    for command in (configure, [ninja, "-C", tmp_path, "harness-tests"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    ctest = shutil.which("ctest") or str(cmake.with_name("ctest"))
    done = subprocess.run([ctest, "--test-dir", tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "100% tests passed" in done.stdout


@pytest.mark.parametrize(("abi", "machine"), [("x86_64", 62), ("arm64-v8a", 183)])
def test_the_binary_is_static_stripped_and_aligned(abi: str, machine: int) -> None:
    _needs_toolchain(abi)
    data = build_harness(abi, static_only=True).path.read_bytes()
    # ELF64: e_machine at 18, e_phoff at 32, e_phentsize and e_phnum at 54; program headers of 56 bytes.
    assert data[:5] == b"\x7fELF\x02"
    assert struct.unpack_from("<H", data, 18) == (machine,)
    (offset,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    headers = [struct.unpack_from("<IIQQQQQQ", data, offset + i * size) for i in range(count)]
    assert 3 not in [kind for kind, *_ in headers], "it asks for a dynamic linker"
    assert {align for kind, *_, align in headers if kind == 1} == {65536}
    assert b".symtab" not in data


def test_a_cached_build_takes_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    _needs_toolchain(_HOST)
    first = build_harness(_HOST, static_only=True)
    again = build_harness(_HOST, static_only=True)
    assert again.cached
    assert again.path == first.path


def test_the_wheel_is_reproducible_installs_and_is_found(tmp_path: Path) -> None:
    _needs_toolchain(_HOST)
    wheel = make_wheel(tmp_path / "a", [_HOST])
    again = make_wheel(tmp_path / "b", [_HOST])
    assert wheel.read_bytes() == again.read_bytes()
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        record = next(name for name in names if name.endswith("RECORD"))
        assert {line.split(",")[0] for line in archive.read(record).decode().splitlines()} == set(names)
        assert any(name.endswith("ncnn-LICENSE.txt") for name in names)
        facts = json.loads(archive.read("mobilekit_harness/wheel.json"))
        program = archive.read(f"mobilekit_harness/{_HOST}/mobilekit-harness")
        assert facts["harnesses"][_HOST]["sha256"] == hashlib.sha256(program).hexdigest()
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", site, wheel]
    subprocess.run(command, check=True, capture_output=True)
    code = f"from mobilekit.device.harness.locate import locate_harness; print(locate_harness({_HOST!r}))"
    env = {**os.environ, "PYTHONPATH": str(site), "MOBILEKIT_CACHE": str(tmp_path / "empty")}
    env.pop("MOBILEKIT_HARNESS_DIR", None)
    found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    path = Path(found.stdout.strip())
    assert path == site / "mobilekit_harness" / _HOST / "mobilekit-harness"
    assert json.loads(subprocess.run([path, "info"], capture_output=True, check=True).stdout)["abi"] == _HOST
