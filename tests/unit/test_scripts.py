"""The scripts behind make: they load, with what they import from the library still there."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[2] / "scripts").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_loads(script: Path) -> None:
    loaded = runpy.run_path(str(script), run_name="loaded by a test")
    assert loaded["__doc__"]


def test_the_demo_says_what_it_does() -> None:
    demo = Path(__file__).parents[2] / "scripts" / "demo.py"
    done = subprocess.run([sys.executable, demo, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout
