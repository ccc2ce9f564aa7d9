"""The instruction counter's parts: which instruction needs what, and what is said where it cannot be had."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from mobilekit.device.virtual.instructions import CLASSES, count_instructions
from mobilekit.device.virtual.plugin import build_plugin, plugin_api
from mobilekit.errors import HarnessCrashError, MissingToolError
from mobilekit.paths import data_dir

VECTORS = Path(__file__).with_name("isa.txt")
"""``ENCODING CLASS TEXT`` a line, as GNU as assembles them."""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_every_instruction_is_in_the_class_of_what_it_needs(tmp_path: Path) -> None:
    source, program = tmp_path / "classes.c", tmp_path / "classes"
    source.write_text(
        '#include <stdio.h>\n#include "isa.h"\n'
        'int main(void) { unsigned w; while (scanf("%x", &w) == 1) printf("%d\\n", mk_isa(w)); }\n'
    )
    subprocess.run(["gcc", "-I", data_dir("android-harness") / "qemu", "-o", program, source], check=True)
    rows = [line.split(" ", 2) for line in VECTORS.read_text().splitlines()]
    words = "\n".join(row[0] for row in rows)
    done = subprocess.run([program], input=words, capture_output=True, text=True, check=True)
    found = [CLASSES[int(number)] for number in done.stdout.split()]
    wrong = [(text, kind, wanted) for (_, wanted, text), kind in zip(rows, found, strict=True) if kind != wanted]
    assert wrong == []
    assert set(found) == set(CLASSES)


def test_the_api_fits_the_qemu() -> None:
    said = "qemu-aarch64 version {} (Debian 1:7.2+dfsg-7)\nCopyright (c) 2003-2022"
    apis = [plugin_api(said.format(version)) for version in ("6.2.0", "8.2.2", "9.0.1", "9.1.0", "10.0.2")]
    assert apis == [1, 1, 2, 3, 3]


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingToolError, match="qemu-aarch64") as caught:
        build_plugin()
    assert "qemu-user" in caught.value.hint


ABORTS = """#!/bin/sh
[ "$1" = --version ] && echo "qemu-aarch64 version 7.2.0" && exit
echo again >> "{folder}/runs"
[ "$(wc -l < "{folder}/runs")" -gt {times} ] || kill -ABRT $$
echo "mobilekit-count 10 10 0 0 0 0 0 0 0 0" >&2
echo "mobilekit-count 17 17 0 0 0 0 0 0 0 0" >&2
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
@pytest.mark.parametrize("times", [1, 9])
def test_a_run_that_the_emulator_aborted_is_made_again(
    times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, program, network = tmp_path / "bin", tmp_path / "bin" / "qemu-aarch64", tmp_path / "m.param"
    folder.mkdir()
    program.write_text(ABORTS.format(folder=tmp_path, times=times))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    network.write_text("7767517\n1 1\nInput in 0 1 in\n")
    if times == 1:
        assert count_instructions(program, network, network, {}, ["in"]).total == 7
    else:
        with pytest.raises(HarnessCrashError):
            count_instructions(program, network, network, {}, ["in"])
