"""``mobilekit repair``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mobilekit.cli._device_option import DeviceMayStandAlone

__all__ = ["register"]


def repair(
    bundle: Annotated[Path, typer.Argument(help="A folder that mobilekit export wrote.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder of the new bundle.")],
    device: Annotated[
        str | None,
        typer.Option(
            help="A serial of `mobilekit devices`, virtual, virtual:cortex-a76, or local. Default: the one connected."
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="ncnn or tensorrt, of a bundle with both. Default: ncnn where there is one.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp16 or bf16: what it is to be right in. Default: what it was exported for.")
    ] = None,
    inputs: Annotated[
        Path | None, typer.Option(help="A folder of pictures or .npy files to run instead of seeded inputs.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="How many seeded inputs.")] = 3,
    seed: Annotated[int, typer.Option(help="Seed of the first; the next ones count on.")] = 0,
    threads: Annotated[int, typer.Option(min=0, max=256, help="0: as ncnn chooses; 1 on a virtual device.")] = 0,
    rtol: Annotated[float | None, typer.Option(help="Largest relative L2 error of the outputs.")] = None,
    most_layers: Annotated[int, typer.Option(min=1, help="How many layers may be kept in higher precision.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="How often to choose layers and to run all samples again.")] = 8,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that one run may take.")] = 300.0,
    force: Annotated[bool, typer.Option("--force", help="Take the place of an existing folder.")] = False,
    json_: Annotated[
        Path | None, typer.Option("--json", help="Write the report as JSON; - prints it instead of the text.")
    ] = None,
) -> None:
    """Keep the layers that half precision costs most in higher precision, in a new bundle that passes.

    \b
    mobilekit repair build/model --device virtual --precision fp16 -o build/model-fp16
    mobilekit repair build/model --device local --precision bf16 -o build/model-bf16
    mobilekit repair build/plan --target tensorrt --rtol 1e-2 -o build/plan-mended      no GPU needed

    \b
    Exit codes: 0 a bundle that passes (or it does already), 1 the budget does not suffice, 4 no device.
    """
    from mobilekit.cli._common import give_report, terminal_progress
    from mobilekit.errors import UsageError
    from mobilekit.pipeline.repair import RepairOptions, repair_bundle
    from mobilekit.report.repair import render

    if target not in (None, "ncnn", "tensorrt"):
        raise UsageError(f"there is no target {target!r}", hint="ncnn or tensorrt")
    if precision not in (None, "fp16", "bf16"):
        raise UsageError(f"nothing to repair for in {precision!r}", hint="fp16 or bf16")
    options = RepairOptions(
        inputs=inputs,
        samples=samples,
        seed=seed,
        threads=threads,
        precision=precision,  # type: ignore[arg-type]
        rtol=rtol,
        most_layers=most_layers,
        rounds=rounds,
        replace=force,
        timeout_s=timeout,
    )
    with terminal_progress() as progress:
        report = repair_bundle(bundle, output, device, options, progress, target=target)  # type: ignore[arg-type]
    give_report(report, json_, lambda: render(report))
    raise typer.Exit(report.verdict.exit_code)


def register(app: typer.Typer) -> None:
    app.command("repair", cls=DeviceMayStandAlone)(repair)
