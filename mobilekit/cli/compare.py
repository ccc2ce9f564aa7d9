"""``mobilekit compare``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mobilekit.cli._options import (
    Arithmetic,
    Device,
    DeviceMayStandAlone,
    InputFolder,
    JsonFile,
    Samples,
    Seed,
    Threads,
    Tuned,
    seconds,
)

__all__ = ["register"]


def compare(
    a: Annotated[Path, typer.Argument(help="A bundle, or the JSON report of an earlier validate (a baseline).")],
    b: Annotated[Path, typer.Argument(help="The bundle that is to be judged.")],
    device: Device = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(help="latency:+5%, on a virtual device instructions:+1%; error, error:+20%. Repeatable."),
    ] = None,
    margin: Annotated[str, typer.Option(help="What counts as the same speed: 3% or 0.03.")] = "3%",
    budget: Annotated[float, seconds("--budget", help="How long timing may take.")] = 120.0,
    inputs: InputFolder = None,
    samples: Samples = 3,
    seed: Seed = 0,
    threads: Threads = 0,
    precision: Arithmetic = None,
    tuned: Tuned = True,
    json_: JsonFile = None,
) -> None:
    """Is B slower, or less right, than A? Both run in turns on the same device.

    \b
    mobilekit compare build/old build/new --device                    better, worse, same or inconclusive
    mobilekit compare build/old build/new --device local --gate latency:+5% --gate error
    mobilekit compare baseline.json build/new --device --json -       against a recorded run
    mobilekit compare build/old build/new --device virtual --gate instructions:+1%     exact, by instruction counts

    \b
    Exit codes: 0 every gate holds (or none is given), 1 a gate fails, 3 inconclusive, 4 no device or it went wrong.
    """
    from mobilekit.cli._common import arithmetic, give_report, terminal_progress
    from mobilekit.pipeline.compare import CompareOptions, parse_gate, parse_share
    from mobilekit.pipeline.compare import compare as library
    from mobilekit.report.comparison import render

    options = CompareOptions(
        inputs=inputs,
        samples=samples,
        seed=seed,
        threads=threads,
        precision=arithmetic(precision),
        tuned=tuned,
        margin=parse_share(margin),
        budget_s=budget,
        gates=tuple(parse_gate(text) for text in gate or ()),
    )
    with terminal_progress() as progress:
        report = library(a, b, device, options, progress)
    give_report(report, json_, lambda: render(report))
    raise typer.Exit(report.verdict.exit_code)


def register(app: typer.Typer) -> None:
    app.command("compare", cls=DeviceMayStandAlone)(compare)
