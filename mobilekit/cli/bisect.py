"""``mobilekit bisect``"""

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
    PlanHost,
    RelativeL2,
    RemotePythons,
    RunTimeout,
    Seed,
    Threads,
)

__all__ = ["register"]


def bisect(
    bundle: BundleFolder,
    device: Device = None,
    target: Annotated[
        str | None, typer.Option(help="ncnn or tensorrt, of a bundle with both. Default: ncnn where there is one.")
    ] = None,
    on: PlanHost = None,
    remote_python: RemotePythons = None,
    inputs: InputFolder = None,
    samples: Annotated[int, typer.Option(min=1, help="How many seeded inputs; the worst of them is looked into.")] = 3,
    seed: Seed = 0,
    mode: Annotated[
        str,
        typer.Option(
            help="auto; accumulated: errors on the model's own inputs alone; local: every layer fed the "
            "reference's values."
        ),
    ] = "auto",
    precision: Annotated[
        str | None, typer.Option(help="fp32, fp16 or bf16. Default: what the bundle was exported for.")
    ] = None,
    vulkan: Annotated[
        bool, typer.Option("--vulkan", help="On the GPU of this machine (--device local) or of the device.")
    ] = False,
    threads: Threads = 0,
    rtol: RelativeL2 = None,
    atol: Annotated[
        float | None, typer.Option(help="Largest absolute error where the reference is zero or constant.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Inferences on the device at most.")] = 15,
    run_megabytes: Annotated[int, typer.Option(min=1, help="What one of them may feed and capture.")] = 64,
    timeout: RunTimeout = 300.0,
    bundle_repro: Annotated[
        Path | None, typer.Option(help="Write the smallest model that shows the fault into this folder.")
    ] = None,
    report_: Annotated[
        Path | None, typer.Option("--report", help="Write a page with every layer's error: one HTML file.")
    ] = None,
    json_: JsonFile = None,
) -> None:
    """Find the first layer of a bundle's ncnn model that goes wrong, or the first node of its TensorRT plan.

    \b
    mobilekit bisect build/model --device virtual
    mobilekit bisect build/model --device local --inputs photos/
    mobilekit bisect build/model --device local --precision bf16 --mode local
    mobilekit bisect build/model --device local --vulkan
    mobilekit bisect build/model --device local --bundle-repro build/repro
    mobilekit bisect build/model --device local --report bisect.html
    mobilekit bisect build/plan --target tensorrt --device prepared      no GPU: what the plan is built from

    \b
    Exit codes: 0 nothing is wrong, 1 the layer is named, 3 inconclusive, 4 no device or it went wrong.
    """
    from mobilekit.cli._common import give_report, target_name, terminal_progress
    from mobilekit.errors import UsageError
    from mobilekit.paths import write_text
    from mobilekit.pipeline.bisect import BisectOptions, bisect_bundle
    from mobilekit.report.bisection_text import render
    from mobilekit.report.html.layers import bisection_page

    if precision not in (None, "fp32", "fp16", "bf16"):
        raise UsageError(f"unknown precision {precision!r}", hint="fp32, fp16 or bf16")
    if mode not in ("auto", "accumulated", "local"):
        raise UsageError(f"unknown mode {mode!r}", hint="auto, accumulated or local")
    options = BisectOptions(
        inputs=inputs,
        samples=samples,
        seed=seed,
        threads=threads,
        precision=precision,  # type: ignore[arg-type]
        vulkan=vulkan,
        mode=mode,  # type: ignore[arg-type]
        rtol=rtol,
        atol=atol,
        runs=runs,
        run_bytes=run_megabytes * 1024 * 1024,
        timeout_s=timeout,
        repro=bundle_repro,
        on=on,
        remote_pythons=tuple(remote_python or ()),
    )
    with terminal_progress() as progress:
        report = bisect_bundle(bundle, device, options, progress, target=target_name(target))
    if report_ is not None:
        write_text(report_, bisection_page(report))
    give_report(report, json_, lambda: render(report))
    raise typer.Exit(report.verdict.exit_code)


def register(app: typer.Typer) -> None:
    app.command("bisect", cls=DeviceMayStandAlone)(bisect)
