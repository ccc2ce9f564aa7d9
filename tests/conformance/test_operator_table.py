"""docs/operators.md is what the registry and the results say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_is_not_stale() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/operator_table.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
