"""``mobilekit doctor``"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

__all__ = ["register"]


def doctor(json_: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False) -> None:
    """Say what this machine has and lacks, and the one command that mends each lack.

    \b
    mobilekit doctor
    mobilekit doctor --json

    Leaves with exit code 4 where something that is there will not work; optional things that are absent are no error.
    """
    from mobilekit.cli._common import out_console, print_json
    from mobilekit.pipeline.doctor import diagnose

    results = diagnose()
    if json_:
        print_json([asdict(result) for result in results])
    else:
        console = out_console()
        mark = {"ok": ("ok     ", "green"), "missing": ("missing", "yellow"), "broken": ("broken ", "red")}
        for result in results:
            text, style = mark[result.state]
            console.print(text, style=style, end="  ")
            console.print(f"{result.name}: {result.found}", markup=False, soft_wrap=True)
            if result.remedy:
                console.print(f"         for {result.serves}: {result.remedy}", markup=False, soft_wrap=True)
    if any(result.state == "broken" for result in results):
        raise typer.Exit(4)


def register(app: typer.Typer) -> None:
    app.command("doctor")(doctor)
