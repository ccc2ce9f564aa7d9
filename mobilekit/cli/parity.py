"""``mobilekit parity``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mobilekit.cli._options import (
    Arithmetic,
    BundleFolder,
    Device,
    DeviceMayStandAlone,
    JsonFile,
    RunTimeout,
    Threads,
    Wait,
)

__all__ = ["register"]


def parity(
    bundle: BundleFolder,
    device: Device = None,
    inputs: Annotated[Path | None, typer.Option(help="A folder of pictures that the model is for.")] = None,
    app: Annotated[
        Path | None,
        typer.Option(
            help="A folder of tensors that your app made of them, cat.npy for cat.jpg: what does it do otherwise?"
        ),
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="As of `mobilekit validate`. Default: that of the model's task.")
    ] = None,
    threads: Threads = 0,
    precision: Arithmetic = None,
    wait: Wait = 600.0,
    timeout: RunTimeout = 300.0,
    report: Annotated[Path | None, typer.Option(help="Write a page to show: one HTML file that opens offline.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write Markdown, for a pull request.")] = None,
    json_: JsonFile = None,
) -> None:
    """How far preparing a picture differs between PC and phone, and what that does to the answers.

    Every picture is prepared by Pillow (as the bundle says), as OpenCV does it, and by ncnn's own functions on the
    device; the model runs on each tensor. Is preprocessing the gap, or the model? What is the likely cause?

    \b
    mobilekit parity build/model --device --inputs photos/                on the one connected device
    mobilekit parity build/model --device local --inputs photos/          on this machine
    mobilekit parity build/model --device --inputs photos/ --app dumped/  what does my app do differently?
    mobilekit parity build/model --device virtual --inputs photos/ --report parity.html --markdown parity.md
    """
    from mobilekit.cli._common import arithmetic, give_report, terminal_progress
    from mobilekit.paths import write_text
    from mobilekit.pipeline.parity import ParityOptions, parity_of_bundle
    from mobilekit.pipeline.parity_pictures import WorstPicture
    from mobilekit.report.parity import markdown as as_markdown
    from mobilekit.report.parity import page, render

    worst = WorstPicture()
    options = ParityOptions(
        inputs=inputs,
        app=app,
        metrics=tuple(metric or ()),
        threads=threads,
        precision=arithmetic(precision),
        timeout_s=timeout,
        wait_s=wait,
    )
    with terminal_progress() as progress:
        found = parity_of_bundle(bundle, device, options, progress, worst if report is not None else None)
    if report is not None:
        write_text(report, page(found, worst.drawn))
    if markdown is not None:
        write_text(markdown, as_markdown(found))
    give_report(found, json_, lambda: render(found))


def register(app: typer.Typer) -> None:
    app.command("parity", cls=DeviceMayStandAlone)(parity)
