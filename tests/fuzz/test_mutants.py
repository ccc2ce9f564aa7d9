"""500 mutated models through ``inspect`` and ``export``; ``python -m tests.fuzz.run`` makes as many as one likes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.fuzz.mutations import KINDS, mutant
from tests.fuzz.params import RESULTS as PARAMS
from tests.fuzz.run import RESULTS

COUNT, SHARDS = 500, 4


def examined(start: int, count: int, step: int) -> list[dict[str, str]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.run", "--start", str(start), "--count", str(count), "--step", str(step)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("shard", range(SHARDS))
def test_mutated_models(shard: int) -> None:
    found = examined(shard, COUNT - shard, SHARDS)
    bad = [f"seed {one['seed']} {one['kind']} {one['command']}: {one['problem']}" for one in found if one["problem"]]
    assert not bad, "\n".join(bad)
    assert len(found) == 2 * COUNT // SHARDS
    outcomes = Counter((one["command"], one["outcome"]) for one in found)
    # Some survive their mutation, and most do not: else nothing was tried.
    assert outcomes["export", "done"] >= 5, outcomes
    assert outcomes["export", "bad model"] >= 20, outcomes


def test_a_seed_gives_the_same_mutant_and_all_kinds_come() -> None:
    made = [mutant(seed) for seed in range(len(KINDS))]
    assert [one.kind for one in made] == list(KINDS)
    assert [one.model for one in made] == [mutant(seed).model for seed in range(len(KINDS))]


def test_the_recorded_run_of_ncnn_files() -> None:
    """No fault but in stock ncnn's own code."""
    recorded = json.loads(PARAMS.read_text())
    assert recorded["mutants"] >= 3000
    assert sum(sum(counts.values()) for counts in recorded["outcomes"].values()) == recorded["mutants"]
    assert not any("undefined" in counts for counts in recorded["outcomes"].values())
    assert all(" in ncnn::" in fault for fault in recorded["faults"])


def test_the_recorded_run_of_models_found_nothing() -> None:
    recorded = json.loads(RESULTS.read_text())
    assert recorded["problems"] == 0
    assert recorded["mutants"] >= 10_000
    assert set(recorded["outcomes"]) == set(KINDS)
    assert sum(sum(counts.values()) for counts in recorded["outcomes"].values()) == 2 * recorded["mutants"]
