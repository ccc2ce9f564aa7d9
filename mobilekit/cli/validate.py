"""``mobilekit validate``"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from mobilekit.cli._options import (
    Arithmetic,
    BundleFolder,
    DeviceMayStandAlone,
    InputFolder,
    JsonFile,
    PlanHost,
    Plugins,
    RemotePythons,
    RunTimeout,
    Samples,
    Seed,
    Tuned,
    Wait,
    seconds,
)

__all__ = ["register"]


def validate(
    bundle: BundleFolder,
    device: Annotated[
        str | None,
        typer.Option(
            help="A serial of `mobilekit devices`, virtual, virtual:cortex-a76, or local; for TensorRT gpu, gpu:1 or "
            "prepared. Default: the one connected; for TensorRT the GPU, else prepared."
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="ncnn or tensorrt, of a bundle with both. Default: ncnn, with --device gpu tensorrt."),
    ] = None,
    reference: Annotated[
        str,
        typer.Option(
            help="onnxruntime, onnxruntime-cuda, tensorrt (the bundle's plan), or a folder that `mobilekit reference "
            "record` wrote."
        ),
    ] = "onnxruntime",
    inputs: InputFolder = None,
    samples: Samples = 3,
    seed: Seed = 0,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Timed runs. Default: 20; 3 on a virtual device, 100 on a GPU.")
    ] = None,
    warmup: Annotated[
        int | None,
        typer.Option(min=0, help="Untimed runs before them. Default: until the times settle."),
    ] = None,
    threads: Annotated[
        str, typer.Option(help="0: as ncnn chooses; 1 on a virtual device. 1,2,4 validates with 1 and times all.")
    ] = "0",
    cluster: Annotated[
        str | None, typer.Option(help="Cores: all, big or little. big,little validates on the big ones and times both.")
    ] = None,
    precision: Arithmetic = None,
    tuned: Tuned = True,
    rtol: Annotated[
        list[str] | None,
        typer.Option(help="Largest relative L2 error: 1e-3, or OUTPUT=1e-3. Default: derived, see docs/validate.md."),
    ] = None,
    atol: Annotated[
        list[str] | None, typer.Option(help="Largest absolute error where the reference is zero or constant.")
    ] = None,
    cosine: Annotated[
        list[str] | None, typer.Option(help="Smallest cosine: 0.999, or OUTPUT=0.999; decides instead.")
    ] = None,
    psnr: Annotated[
        list[str] | None, typer.Option(help="Smallest PSNR in dB: 40, or OUTPUT=40; decides instead.")
    ] = None,
    vulkan: Annotated[
        bool, typer.Option("--vulkan", help="ncnn on the GPU of this machine (--device local) or of the device.")
    ] = False,
    ladder: Annotated[
        bool, typer.Option("--ladder", help="Every step between the original and the device: which one lost it?")
    ] = False,
    layers: Annotated[
        bool,
        typer.Option("--layers", help="In the report: each layer's time, and where it fails its error (bisect)."),
    ] = False,
    streams: Annotated[
        list[int] | None,
        typer.Option(min=1, max=64, help="On a GPU: also the throughput of so many streams. May be repeated."),
    ] = None,
    cuda_graph: Annotated[
        bool,
        typer.Option("--cuda-graph/--no-cuda-graph", help="On a GPU: launch the plan as a CUDA graph if it can be."),
    ] = True,
    on: PlanHost = None,
    remote_python: RemotePythons = None,
    plugin: Plugins = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="top1, top5, cosine, iou, text, detect, detect-map, module:function; =0.99 asks for a mean."),
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="A CSV file: FILE,LABEL for each of --inputs; gives both sides' accuracy.")
    ] = None,
    wait: Wait = 600.0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the same validation was stopped (a device that went away).")
    ] = False,
    sustained: Annotated[
        str | None, typer.Option(metavar="10m", help="Then run for so long: p50, temperature, frequency by the minute.")
    ] = None,
    single_stream: Annotated[
        bool, typer.Option("--single-stream", help="Then 1,024 queries and 60 s at least, as MLPerf; p90 is the score.")
    ] = False,
    min_queries: Annotated[
        int, typer.Option(min=1, help="Of --single-stream; fewer than 1024 are marked as not compliant.")
    ] = 1024,
    min_seconds: Annotated[
        float, seconds("--min-seconds", help="Of --single-stream; fewer than 60 are marked as not compliant.")
    ] = 60.0,
    cool_down: Annotated[
        str | None,
        typer.Option(metavar="CELSIUS[,TIMEOUT]", help="Before each timing wait for the hottest zone to fall: 40,5m."),
    ] = None,
    timeout: RunTimeout = 300.0,
    quota: Annotated[
        int | None, typer.Option(min=1, help="Megabytes that mobilekit may keep on the device. Default: 2147.")
    ] = None,
    json_: JsonFile = None,
    report_: Annotated[
        Path | None, typer.Option("--report", help="Write a report to show: one HTML file that opens offline.")
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML, for a CI server.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write Markdown, for a pull request.")] = None,
    history: Annotated[
        str | None,
        typer.Option(help="Where the run is kept: a file, postgresql://…, or none. Default: a file of your own."),
    ] = None,
    tag: Annotated[str, typer.Option(help="A word to find the run by: a commit, a branch.")] = "",
) -> None:
    """Run a bundle on a device and hold every output against ONNX Runtime, or against what was recorded of it.

    \b
    mobilekit validate build/model --device                 on the one connected device
    mobilekit validate build/model --device virtual         on an emulated arm64 phone, started if need be
    mobilekit validate build/model --device virtual:cortex-a53
    mobilekit validate build/model --device local           on this machine, with the ncnn wheel
    mobilekit validate build/model --device local --vulkan  on this machine's GPU, or Mesa's lavapipe
    mobilekit validate build/model --inputs photos/ --json report.json
    mobilekit validate build/model --target tensorrt --device gpu --streams 1 --streams 4
    mobilekit validate build/model --target tensorrt --on ssh://user@jetson      on that machine's GPU
    mobilekit validate build/model --device --reference tensorrt        ncnn held against the plan on the GPU
    mobilekit validate build/model --reference golden/      answers recorded elsewhere, on their inputs
    mobilekit validate build/model --report report.html --junit junit.xml
    mobilekit validate build/model --report report.html --layers   profiled, and bisected where it fails
    mobilekit validate build/model --rtol 1e-3 --cosine embedding=0.9999
    mobilekit validate build/model --device virtual --ladder
    mobilekit validate build/model --device --cool-down 35,10m --sustained 10m --report report.html
    mobilekit validate build/model --device --single-stream
    mobilekit validate build/model --device --threads 1,2,4 --cluster big,little

    \b
    Exit codes: 0 pass, 1 fail, 3 inconclusive, 4 no device or it went wrong.
    """
    from mobilekit.cli._common import (
        arithmetic,
        clusters,
        out_console,
        remark,
        target_name,
        terminal_progress,
        thread_counts,
    )
    from mobilekit.errors import UsageError
    from mobilekit.pipeline.endurance import LongTimings
    from mobilekit.pipeline.history import record
    from mobilekit.pipeline.layers import look_into_layers, plan_drawn
    from mobilekit.pipeline.report import ReportFiles, write_reports
    from mobilekit.pipeline.validate import ValidateOptions, validate_bundle
    from mobilekit.report import console, json
    from mobilekit.validate.endurance import SingleStream, parse_cool_down, parse_duration

    if layers and report_ is None:
        raise UsageError("--layers is about the page", hint="add --report report.html, or use profile and bisect")
    counts, cores = thread_counts(threads, least=0) or (0,), clusters(cluster)
    options = ValidateOptions(
        target=target_name(target),
        streams=tuple(streams or ()),
        cuda_graph=cuda_graph,
        plugins=tuple(plugin or ()),
        on=on,
        remote_pythons=tuple(remote_python or ()),
        reference=reference,
        inputs=inputs,
        samples=samples,
        seed=seed,
        threads=counts[0],
        cluster=cores[0] if cores else None,
        sweep=tuple(product(counts, cores or ("all",))) if len(counts) > 1 or len(cores) > 1 else (),
        warmup=warmup,
        iterations=iterations,
        precision=arithmetic(precision),
        tuned=tuned,
        rtol=_limits("--rtol", rtol),
        atol=_limits("--atol", atol),
        cosine=_limits("--cosine", cosine),
        psnr_db=_limits("--psnr", psnr),
        vulkan=vulkan,
        ladder=ladder,
        metrics=tuple(metric or ()),
        truth=truth,
        wait_s=wait,
        resume=resume,
        timeout_s=timeout,
        quota_bytes=None if quota is None else quota * 1_000_000,
        endurance=LongTimings(
            None if sustained is None else parse_duration(sustained),
            SingleStream(min_queries, min_seconds) if single_stream else None,
            None if cool_down is None else parse_cool_down(cool_down),
        ),
    )
    with terminal_progress() as progress:
        report = validate_bundle(bundle, device, options, progress)
    from mobilekit.paths import readable

    report = report.model_copy(update={"command": ("mobilekit", *map(readable, sys.argv[1:]))})
    on_stdout = json_ is not None and str(json_) == "-"
    files = ReportFiles(report_, junit, markdown, None if on_stdout else json_)
    beside = None
    if layers:
        with terminal_progress() as progress:
            beside = look_into_layers(bundle, device, options, report, progress)
    elif report_ is not None:
        with terminal_progress() as progress:
            beside = plan_drawn(bundle, report, progress)
    write_reports(report, files, inputs=inputs, beside=beside)
    if on_stdout:
        typer.echo(json.dumps(report), nl=False)
    else:
        out_console().print(console.render(report))
    # Last: a history that cannot be used must not cost the report.
    with terminal_progress() as progress:
        record(report, history, tag=tag, progress=progress)
    if report.stopped is not None:
        remark(f"error: {report.stopped.error}\nhint: {report.stopped.hint}")
        raise typer.Exit(report.stopped.exit_code)
    raise typer.Exit(report.verdict.exit_code)


def _limits(option: str, given: list[str] | None) -> dict[str, float]:
    """``["1e-3", "boxes=0.01"]`` -> ``{"": 1e-3, "boxes": 0.01}``"""
    from mobilekit.errors import UsageError

    limits: dict[str, float] = {}
    for text in given or ():
        name, _, number = text.rpartition("=")
        try:
            limits[name] = float(number)
        except ValueError:
            raise UsageError(
                f"{option} {text!r} is no number", hint=f"{option} 1e-3, or {option} OUTPUT=1e-3"
            ) from None
    return limits


def register(app: typer.Typer) -> None:
    app.command("validate", cls=DeviceMayStandAlone)(validate)
