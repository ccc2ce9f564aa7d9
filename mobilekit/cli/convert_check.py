"""``mobilekit convert-check``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobilekit.cli._options import AsJson, FixedInputs, InputShapes, seconds

if TYPE_CHECKING:
    from mobilekit.pipeline.convert_check import ConvertCheckReport, Side

__all__ = ["register"]

_EXIT = {"right": 0, "wrong": 1, "does not run": 1, "does not load": 1, "inconclusive": 3, "refused": 5, "failed": 5}


def convert_check(
    model: Annotated[str, typer.Argument(help="An ONNX file, or a zoo id (mobilekit zoo list).")],
    against: Annotated[str, typer.Option("--against", help="The other converter: pnnx.")] = "pnnx",
    pnnx: Annotated[Path | None, typer.Option("--pnnx", help="The pnnx binary (default: the one on PATH).")] = None,
    input_shape: InputShapes = None,
    input_: FixedInputs = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of both runs.")] = 2,
    iterations: Annotated[int, typer.Option(min=1, help="Timed runs in each round.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of the inputs.")] = 0,
    samples: Annotated[int, typer.Option(min=1, help="How many seeded inputs both are held against.")] = 2,
    timeout: Annotated[float, seconds("--timeout", least=1, help="How long a conversion or a run may take.")] = 300.0,
    json_: AsJson = False,
) -> None:
    """Convert a model with mobilekit and with pnnx, and hold both against ONNX Runtime.

    Says of each: does it convert, load, run; is it right; how fast, how many layers, how large. The exit code is
    mobilekit's: 0 right, 1 wrong, 3 inconclusive, 5 refused; 4 where pnnx is missing.

    \b
    mobilekit convert-check model.onnx --against pnnx
    mobilekit convert-check model.onnx --pnnx ~/pnnx/pnnx --input-shape images:1x3x320x320 --json
    """
    from mobilekit.cli._common import print_json, terminal_progress
    from mobilekit.errors import UsageError
    from mobilekit.pipeline.convert_check import ConvertCheckOptions
    from mobilekit.pipeline.convert_check import convert_check as check
    from mobilekit.tensors import parse_named_shape, parse_named_value

    if against != "pnnx":
        raise UsageError(f"unknown converter {against!r}", hint="--against pnnx")
    options = ConvertCheckOptions(
        shapes=dict(parse_named_shape(text) for text in input_shape or ()),
        fixed=dict(parse_named_value(text) for text in input_ or ()),
        pnnx=pnnx,
        threads=threads,
        iterations=iterations,
        seed=seed,
        samples=samples,
        timeout_s=timeout,
    )
    with terminal_progress() as progress:
        report = check(model, options, progress)
    if json_:
        from dataclasses import asdict

        print_json(asdict(report))
    else:
        _print(report)
    raise typer.Exit(_EXIT[report.ours.outcome])


def _print(report: ConvertCheckReport) -> None:
    from rich.box import ROUNDED
    from rich.table import Table
    from rich.text import Text

    from mobilekit.cli._common import out_console
    from mobilekit.report.console import plain

    table = Table(box=ROUNDED, title=Text(f"{plain(report.model)}, held against {report.reference}"))
    table.add_column("")
    for side in (report.ours, report.theirs):
        table.add_column(plain(side.converter), overflow="fold")
    rows = [_row(side) for side in (report.ours, report.theirs)]
    for name in rows[0]:
        table.add_row(name, *(Text(plain(row[name], 300)) for row in rows))
    console = out_console()
    console.print(table)
    console.print(report.sentence, markup=False)


def _row(side: Side) -> dict[str, str]:
    return {
        "outcome": side.outcome,
        "why": side.reason,
        "worst error": "" if not side.errors else f"relative L2 {max(side.errors.values()):.2e}",
        "latency": "" if side.latency_ms is None else f"{side.latency_ms:.2f} ms",
        "conversion": "" if side.seconds is None else f"{side.seconds:.2f} s",
        "layers": "" if side.layers is None else str(side.layers),
        "size": "" if side.size_bytes is None else f"{side.size_bytes / 1e6:.2f} MB",
    }


def register(app: typer.Typer) -> None:
    app.command("convert-check")(convert_check)
