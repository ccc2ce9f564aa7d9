"""The map in docs/architecture.md names every room, in the order that import-linter holds."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_room_is_on_the_map_in_the_order_of_imports() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    layers = config["tool"]["importlinter"]["contracts"][0]["layers"]
    rows = [line.split("|")[1] for line in (ROOT / "docs" / "architecture.md").read_text().splitlines() if "|" in line]
    named = [name.split("/")[0] for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert [name for name in dict.fromkeys(named) if name in layers] == layers
    assert {name for name in dict.fromkeys(named) if name not in layers} == {
        "android-harness",
        "model_zoo",
        "tests",
        "benchmarks",
        "scripts",
        "docs",
    }
