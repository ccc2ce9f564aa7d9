"""The sample app: our layers compiled as an app compiles them, against the harness build's ncnn, without warnings."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mobilekit.device.harness.build import ncnn_prefix
from mobilekit.device.harness.toolchains import find_tool, find_toolchain
from mobilekit.errors import MissingToolError
from mobilekit.paths import data_dir
from tests.e2e.own_layer_lab import HOST_ABI, layer

pytestmark = pytest.mark.timeout(3600)

_FLAGS = "-fno-exceptions -fno-rtti -std=c++11 -Wall -Wextra -Werror"


def test_the_sample_builds_without_warnings_and_runs(tmp_path: Path) -> None:
    try:
        find_toolchain(HOST_ABI, static_only=True)
    except MissingToolError as error:
        pytest.skip(error.message)
    _, _, arguments = ncnn_prefix(HOST_ABI)
    cmake, ninja = find_tool("cmake"), find_tool("ninja")
    source = data_dir("android-harness") / "layers" / "sample"
    configure = [
        *(cmake, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DCMAKE_CXX_FLAGS={_FLAGS}"),
        *("-S", source, "-B", tmp_path / "build", *arguments),
    ]
    for command in (configure, [ninja, "-C", tmp_path / "build"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    lines = [
        layer("Input", "in", [], ["x"], {0: 9}),
        layer("MkTopK", "top", ["x"], ["values", "positions"], {1: 9, 3: 3}),
    ]
    (tmp_path / "m.param").write_text("\n".join(["7767517", "2 3", *lines]) + "\n")
    (tmp_path / "m.bin").write_bytes(b"")
    command = [tmp_path / "build" / "sample", tmp_path / "m.param", tmp_path / "m.bin", "x=9", "values", "positions"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    # 0 2 4 1 3 0 2 4 1: the largest are both fours, then the three
    assert done.stdout == "values: 4 4 3\npositions: 2 7 4\n"
