"""Nothing of a user's model is collected for anybody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from onnx import helper

from tests.models import of_nodes, save

_SUPPRESSES = ("CI", "TF_BUILD", "GITHUB_ACTIONS", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS")


@pytest.mark.parametrize(
    "program", [("-c", "import mobilekit, onnxruntime"), ("-m", "mobilekit", "export", "m.onnx", "-o", "out")]
)
def test_no_identifier_is_made_and_nothing_is_queued(program: tuple[str, ...], tmp_path: Path) -> None:
    # ONNX Runtime's telemetry would leave both under HOME, as of 1.29.
    save(of_nodes([helper.make_node("Relu", ["x"], ["y"])], {"x": (1, 3)}, {"y": (1, 3)}, {}), tmp_path / "m.onnx")
    home = tmp_path / "home"
    home.mkdir()
    env = {name: value for name, value in os.environ.items() if name not in _SUPPRESSES and not name.startswith("XDG_")}
    env |= {"HOME": str(home), "MOBILEKIT_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, *program], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not [path for path in home.rglob("*") if "onnxruntime" in path.name]
