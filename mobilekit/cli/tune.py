"""``mobilekit tune``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mobilekit.cli._options import (
    BundleFolder,
    Device,
    DeviceMayStandAlone,
    InputFolder,
    JsonFile,
    RunTimeout,
    Samples,
    Seed,
    Wait,
    seconds,
)

__all__ = ["register"]


def tune(
    bundle: BundleFolder,
    device: Device = None,
    threads: Annotated[str | None, typer.Option(help="1,2,4. Default: powers of two up to the cores.")] = None,
    cluster: Annotated[
        str | None, typer.Option(help="all,big,little. Default: all three where the processor has both kinds.")
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32,fp16: the arithmetic to try.")] = "fp32,fp16",
    winograd: Annotated[
        bool | None, typer.Option("--winograd/--no-winograd", help="Winograd's convolutions. Default: try both.")
    ] = None,
    packing: Annotated[
        bool | None, typer.Option("--packing/--no-packing", help="Channels in packs. Default: try both.")
    ] = None,
    inputs: InputFolder = None,
    samples: Samples = 3,
    seed: Seed = 0,
    rtol: Annotated[
        float | None, typer.Option(help="Largest relative L2 error. Default: derived for each arithmetic.")
    ] = None,
    budget: Annotated[float, seconds("--budget", help="How long the sweep may take, about.")] = 300.0,
    wait: Wait = 600.0,
    timeout: RunTimeout = 300.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure, and leave the bundle as it is.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Go by a virtual device's times, not by its instructions.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="Write a page with all settings: one HTML file.")] = None,
    json_: JsonFile = None,
) -> None:
    """Find ncnn's fastest setting for a bundle on a device, and write it into the bundle.

    Threads, core cluster, fp16, Winograd and packing are tried together, each beside the default; a setting whose
    answers are wrong is never chosen, and one that is not clearly faster than the default neither. validate, run,
    profile and compare then use it on such a device; --no-tuned there does without.

    \b
    mobilekit tune build/model --device                       on the one connected device
    mobilekit tune build/model --device local --threads 1,2 --precision fp32
    mobilekit tune build/model --device --budget 600 --report tune.html
    mobilekit tune build/model --device virtual --dry-run     by exact instruction counts, on one thread

    \b
    Exit codes: 0 a setting is chosen, or the default is best; 1 the bundle is wrong as it is; 3 nobody can say;
    4 no device or it went wrong.
    """
    from mobilekit.cli._common import clusters, give_report, terminal_progress, thread_counts
    from mobilekit.paths import write_text
    from mobilekit.pipeline.tune import TuneOptions, tune_bundle
    from mobilekit.report.tune import page, render

    options = TuneOptions(
        threads=thread_counts(threads),
        clusters=clusters(cluster),
        precisions=_precisions(precision),
        winograd=(True, False) if winograd is None else (winograd,),
        packing=(True, False) if packing is None else (packing,),
        inputs=inputs,
        samples=samples,
        seed=seed,
        rtol=rtol,
        budget_s=budget,
        wait_s=wait,
        timeout_s=timeout,
        write=not dry_run,
        force=force,
    )
    with terminal_progress() as progress:
        found = tune_bundle(bundle, device, options, progress)
    if report is not None:
        write_text(report, page(found))
    give_report(found, json_, lambda: render(found))
    raise typer.Exit(found.exit_code)


def _precisions(text: str) -> tuple[Literal["fp32", "fp16"], ...]:
    from mobilekit.cli._common import some_of

    return tuple(some_of("--precision", text, ("fp32", "fp16")))  # type: ignore[arg-type]  # checked there


def register(app: typer.Typer) -> None:
    app.command("tune", cls=DeviceMayStandAlone)(tune)
