"""The public API: what it names exists, and importing it costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import mobilekit


@pytest.mark.parametrize("name", mobilekit.__all__)
def test_each_public_name_is_there_and_documented(name: str) -> None:
    assert getattr(mobilekit, name).__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        _ = mobilekit.nothing


def test_help_imports_neither_onnx_nor_numpy() -> None:
    script = (
        "import sys; sys.argv = ['mobilekit', '--help']\n"
        "from mobilekit.cli.main import run\n"
        "try: run()\n"
        "except SystemExit: pass\n"
        "heavy = {'onnx', 'numpy', 'pydantic', 'onnxruntime', 'adbutils', 'PIL'} & set(sys.modules)\n"
        "sys.stderr.write(','.join(sorted(heavy)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "export" in done.stdout
