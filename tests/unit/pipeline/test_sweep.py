"""``validate --threads 1,2 --cluster big,little``: every setting timed in turns, what cannot be is said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mobilekit.pipeline.export import export_model
from mobilekit.pipeline.sweep import sweep
from mobilekit.report.console import render
from mobilekit.report.html import Subject, page
from mobilekit.report.json import loads
from mobilekit.runners.base import RunnerInfo, RunOptions, RunResult
from tests.e2e.bench import mobilekit
from tests.models import conv_classifier, save


class Clock:
    """A runner that computes nothing: a millisecond for each thread it is given, and the settings in order."""

    def __init__(self, facts: Mapping[str, object]) -> None:
        self.facts = facts
        self.seen: list[tuple[int, str]] = []

    def __enter__(self) -> Clock:
        return self

    def __exit__(self, *exc: object) -> None: ...

    def info(self) -> RunnerInfo:
        return RunnerInfo("clock", "1", "here")

    def run(self, inputs: Mapping[str, Any], options: RunOptions) -> RunResult:
        self.seen.append((options.threads, options.cluster))
        return RunResult({}, (options.threads * 1_000_000,) * options.iterations, facts=self.facts)


def test_all_are_timed_to_and_fro() -> None:
    clock = Clock({"cores": {"all": 8, "big": 4, "little": 4}, "cluster_applied": True})
    ways = [RunOptions(threads=threads, cluster="big") for threads in (1, 2, 4)]
    rows = sweep(clock, {}, ways, 20)
    assert [(row.threads, row.p50_ms, row.runs) for row in rows] == [(1, 1.0, 20), (2, 2.0, 20), (4, 4.0, 20)]
    assert [threads for threads, _ in clock.seen] == [1, 2, 4, 4, 2, 1, 1, 2, 4, 4, 2, 1]


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"cores": {"all": 4, "big": 4, "little": 0}}, "all alike"),
        ({"cores": {"all": 4, "big": 2, "little": 2}, "cluster_applied": False}, "does not let us"),
    ],
)
def test_cores_that_were_not_used_have_no_time(facts: Mapping[str, object], said: str) -> None:
    rows = sweep(Clock(facts), {}, [RunOptions(threads=1, cluster="little")], 20)
    assert rows[0].p50_ms is None
    assert said in rows[0].remark


def test_the_report_shows_every_setting_and_validates_with_the_first(tmp_path: Path) -> None:
    export_model(save(conv_classifier(), tmp_path / "m.onnx"), tmp_path / "b")
    done = mobilekit(
        "validate", tmp_path / "b", "--device", "local", "--samples", 1, "--threads", "1,2", "--json", "-",
        "--history", "none",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = loads(done.stdout)
    assert report.settings.threads == 1
    assert [(row.threads, row.cluster) for row in report.sweep] == [(1, "all"), (2, "all")]
    assert all(row.p50_ms for row in report.sweep)
    assert "Threads and cores" in page(Subject(report))
    from rich.console import Console

    console = Console(width=200)
    with console.capture() as shown:
        console.print(render(report))
    assert "2 threads: " in shown.get()
    raw = json.loads(done.stdout)
    del raw["sweep"]  # a report from before
    assert loads(json.dumps(raw)).sweep == ()


@pytest.mark.parametrize("options", [["--threads", "1,two"], ["--threads", "300"], ["--cluster", "small"]])
def test_odd_ones_are_usage_errors(tmp_path: Path, options: list[str]) -> None:
    done = mobilekit("validate", tmp_path, "--device", "local", *options)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert options[0] in done.stderr
