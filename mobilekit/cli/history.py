"""``mobilekit history``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def history(
    model: Annotated[str | None, typer.Option(help="Only runs of this model.")] = None,
    device: Annotated[str | None, typer.Option(help="Only runs on this device, as listed.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 20,
    show: Annotated[int | None, typer.Option(help="Print the whole JSON report of the run of this number.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw latency and error over time into this HTML file.")] = None,
    where: Annotated[
        str | None,
        typer.Option("--history", help="A file, or postgresql://user@host/database. Default: $MOBILEKIT_HISTORY."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="The list as JSON.")] = False,
) -> None:
    """List earlier validations, or draw them over time.

    \b
    mobilekit history                                   the last 20 runs
    mobilekit history --model yolov8n --plot runs.html  latency and error over time
    mobilekit history --show 12 > run.json              a baseline for mobilekit compare
    """
    from mobilekit.cli._common import out_console, print_json, remark
    from mobilekit.pipeline.history import draw, list_runs, recorded_report

    if show is not None:
        from mobilekit.report import json

        typer.echo(json.dumps(recorded_report(show, where)), nl=False)
        return
    found = list_runs(where, model=model, device=device, limit=limit)
    if plot is not None:
        draw(found, plot)
        remark(f"wrote {plot}")
    if json_:
        from dataclasses import asdict

        print_json([{**asdict(entry), "at": entry.at.isoformat()} for entry in found])
        return
    if not found:
        remark("no runs are kept yet: mobilekit validate keeps each one")
        return
    from mobilekit.history.console import render

    out_console().print(render(found))


def register(app: typer.Typer) -> None:
    app.command("history")(history)
