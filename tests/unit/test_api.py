"""The public API: what it names exists, and importing it costs nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import mobilekit
from tests.models import conv_classifier, save


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


def test_export_imports_what_it_needs_and_no_more(tmp_path: Path) -> None:
    """Of what is slow to import: --help needs nothing, a wrong name neither; an export needs onnx and numpy only."""
    model = save(conv_classifier(), tmp_path / "model.onnx")
    script = (
        "import sys\n"
        "from mobilekit.cli.main import run\n"
        "try: run()\n"
        "except SystemExit: pass\n"
        "slow = ['PIL', 'adbutils', 'mobilekit.zoo.entry', 'ncnn', 'numpy', 'onnx', 'onnx.reference', 'onnxruntime',"
        " 'onnxsim', 'pydantic', 'rich', 'mobilekit.cli.validate']\n"
        "print('imported:', *(name for name in slow if name in sys.modules))"
    )

    def imported(*arguments: str) -> str:
        command = [sys.executable, "-c", script, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
        return done.stdout.partition("imported:")[2].strip()

    assert imported("export", "--help") == ""
    assert imported("export", "nothing.onnx", "-o", "out") == "mobilekit.zoo.entry pydantic"
    assert imported("export", str(model), "-o", "out", "--no-verify") == "numpy onnx"
