"""``mobilekit repair``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mobilekit.cli._options import (
    BundleFolder,
    Device,
    DeviceMayStandAlone,
    InputFolder,
    JsonFile,
    RelativeL2,
    RunTimeout,
    Samples,
    Seed,
    Threads,
)

__all__ = ["register"]


def repair(
    bundle: BundleFolder,
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder of the new bundle.")],
    device: Device = None,
    target: Annotated[
        str | None, typer.Option(help="ncnn or tensorrt, of a bundle with both. Default: ncnn where there is one.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp16 or bf16: what it is to be right in. Default: what it was exported for.")
    ] = None,
    vulkan: Annotated[
        bool, typer.Option("--vulkan", help="For the GPU: what it gets wrong is left to the processor.")
    ] = False,
    inputs: InputFolder = None,
    samples: Samples = 3,
    seed: Seed = 0,
    threads: Threads = 0,
    rtol: RelativeL2 = None,
    most_layers: Annotated[int, typer.Option(min=1, help="How many layers may be kept in higher precision.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="How often to choose layers and to run all samples again.")] = 8,
    timeout: RunTimeout = 300.0,
    force: Annotated[bool, typer.Option("--force", help="Take the place of an existing folder.")] = False,
    json_: JsonFile = None,
) -> None:
    """Keep the layers that half precision costs most in higher precision, in a new bundle that passes.

    \b
    mobilekit repair build/model --device virtual --precision fp16 -o build/model-fp16
    mobilekit repair build/model --device local --precision bf16 -o build/model-bf16
    mobilekit repair build/model --device local --vulkan -o build/model-gpu             float32, too
    mobilekit repair build/plan --target tensorrt --rtol 1e-2 -o build/plan-mended      no GPU needed

    \b
    Exit codes: 0 a bundle that passes (or it does already), 1 the budget does not suffice, 4 no device.
    """
    from mobilekit.cli._common import give_report, target_name, terminal_progress
    from mobilekit.errors import UsageError
    from mobilekit.pipeline.repair import RepairOptions, repair_bundle
    from mobilekit.report.repair import render

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
        vulkan=vulkan,
        timeout_s=timeout,
    )
    with terminal_progress() as progress:
        report = repair_bundle(bundle, output, device, options, progress, target=target_name(target))
    give_report(report, json_, lambda: render(report))
    raise typer.Exit(report.verdict.exit_code)


def register(app: typer.Typer) -> None:
    app.command("repair", cls=DeviceMayStandAlone)(repair)
