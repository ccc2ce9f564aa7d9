"""The page of real models is made of measured data, and names every model of the zoo."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path

import pytest

from mobilekit import zoo

ROOT = Path(__file__).resolve().parents[3]


def test_every_model_of_the_zoo_is_verified() -> None:
    with (ROOT / "benchmarks" / "results" / "models.csv").open(newline="") as file:
        rows = {row["id"]: row["result"] for row in csv.DictReader(file)}
    assert set(rows) == {entry.id for entry in zoo.list_entries()}
    assert {id_: result for id_, result in rows.items() if result != "verified"} == {}


def test_the_page_is_what_the_data_give(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("model_table", ROOT / "scripts" / "model_table.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(sys, "argv", ["model_table.py", "--check"])
    assert script.main() == 0
