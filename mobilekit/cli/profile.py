"""``mobilekit profile``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mobilekit.cli._options import Arithmetic, BundleFolder, Device, DeviceMayStandAlone, JsonFile, Threads, Tuned

__all__ = ["register"]


def profile(
    bundle: BundleFolder,
    device: Device = None,
    inputs: Annotated[Path | None, typer.Option(help="A folder of pictures or .npy files; the first is run.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the input that is made up otherwise.")] = 0,
    threads: Threads = 0,
    iterations: Annotated[int | None, typer.Option(min=1, help="Timed runs. Default: 20; 2 where virtual.")] = None,
    precision: Arithmetic = None,
    tuned: Tuned = True,
    peak: Annotated[bool, typer.Option(help="Measure what the device can do, for the roofline.")] = True,
    report: Annotated[Path | None, typer.Option(help="Write a page with a flame-like chart: one HTML file.")] = None,
    json_: JsonFile = None,
) -> None:
    """Where a model's time goes, layer by layer: milliseconds, multiply-accumulates, GFLOP/s, bytes, roofline.

    \b
    mobilekit profile build/model --device                     on the one connected device
    mobilekit profile build/model --device local --threads 1 --report profile.html
    """
    from mobilekit.cli._common import arithmetic, give_report, terminal_progress
    from mobilekit.paths import write_text
    from mobilekit.pipeline.profile import ProfileOptions, profile_bundle
    from mobilekit.report.html.layers import profile_page
    from mobilekit.report.profile import render

    options = ProfileOptions(
        inputs=inputs,
        seed=seed,
        threads=threads,
        iterations=iterations,
        precision=arithmetic(precision),
        tuned=tuned,
        peak=peak,
    )
    with terminal_progress() as progress:
        found = profile_bundle(bundle, device, options, progress)
    if report is not None:
        write_text(report, profile_page(found))
    give_report(found, json_, lambda: render(found))


def register(app: typer.Typer) -> None:
    app.command("profile", cls=DeviceMayStandAlone)(profile)
