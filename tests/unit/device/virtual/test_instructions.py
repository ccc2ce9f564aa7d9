"""The instruction counter's parts: which instruction needs what, and what is said where it cannot be had."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from mobilekit.device.virtual.instructions import CLASSES
from mobilekit.device.virtual.plugin import build_plugin, plugin_api
from mobilekit.errors import MissingToolError
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
