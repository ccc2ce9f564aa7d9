"""``mobilekit run``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mobilekit.cli._options import (
    AsJson,
    BundleFolder,
    DeviceAloneIsConnected,
    PlanHost,
    Plugins,
    RemotePythons,
    RunTimeout,
    Threads,
    Tuned,
)

if TYPE_CHECKING:
    from mobilekit.pipeline.run import OutputSummary, RunReport

__all__ = ["register"]


def run(
    bundle: BundleFolder,
    input_: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", metavar="[NAME=]FILE", help="A picture or a .npy file. Once for each input."),
    ] = None,
    input_shape: Annotated[
        list[str] | None,
        typer.Option("--input-shape", help="NAME:1x3x640x480: what a picture becomes, of a bundle with free sizes."),
    ] = None,
    target: Annotated[str | None, typer.Option(help="ncnn or tensorrt, of a bundle with both. Default: ncnn.")] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            help="A serial of `mobilekit devices`, virtual, virtual:cortex-a76 or local; gpu or gpu:1 for a plan. "
            "Without a value: the one connected. Default: this machine.",
        ),
    ] = None,
    runner: Annotated[
        str | None,
        typer.Option(
            help="local: the ncnn model on this machine; tensorrt: the plan on its GPU; prepared: what the plan was "
            "built from, in ONNX Runtime; reference: the original in ONNX Runtime. Default: as --target says."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write raw outputs here, as NAME.npy.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many answers of a classifier to show.")] = 5,
    threads: Threads = 0,
    tuned: Tuned = True,
    vulkan: Annotated[bool, typer.Option("--vulkan", help="The ncnn model on this machine's GPU.")] = False,
    on: PlanHost = None,
    remote_python: RemotePythons = None,
    plugin: Plugins = None,
    timeout: RunTimeout = 300.0,
    json_: AsJson = False,
) -> None:
    """Run a bundle's model once and say what it answers: on this machine, on a device, or with --on its plan on another
    machine.

    A picture is prepared as the bundle says. A classifier answers with labels and probabilities; of other models
    the outputs are summed up, and -o writes them as they are.

    \b
    mobilekit run build/orientation --input page.png
    mobilekit run build/orientation --input page.png --device               on the one connected device
    mobilekit run build/orientation --input page.png --device virtual
    mobilekit run build/orientation --input page.png --runner reference --json
    mobilekit run build/orientation --input page.png --target tensorrt
    mobilekit run build/orientation --input page.png --on ssh://user@jetson
    mobilekit run build/detector --input page.png --input-shape x:1x3x736x1280 -o out
    mobilekit run build/vad --input input=audio.npy --input state=zeros.npy -o out
    """
    from mobilekit.cli._common import print_json, target_name, terminal_progress
    from mobilekit.errors import UsageError
    from mobilekit.pipeline.run import RunSettings, run
    from mobilekit.tensors import parse_named_shape

    if target is not None:
        if runner is not None:
            raise UsageError("--target and --runner both say what runs", hint="give one of them")
        runner = "local" if target_name(target) == "ncnn" else "tensorrt"
    if runner not in (None, "local", "reference", "tensorrt", "prepared"):
        raise UsageError(f"unknown runner {runner!r}", hint="local, tensorrt, prepared or reference")
    settings = RunSettings(
        device=device,
        runner=runner,  # type: ignore[arg-type]  # checked above
        top=top,
        output=output,
        threads=threads,
        tuned=tuned,
        vulkan=vulkan,
        plugins=tuple(plugin or ()),
        on=on,
        remote_pythons=tuple(remote_python or ()),
        shapes=dict(parse_named_shape(text) for text in input_shape or ()),
        timeout_s=timeout,
    )
    with terminal_progress() as progress:
        report = run(bundle, input_ or [], settings, progress)
    if json_:
        print_json(_as_json(report))
    else:
        _print(report)


def _print(report: RunReport) -> None:
    from mobilekit.cli._common import printable
    from mobilekit.report.vulkan import fallback

    runner = f"{report.runner.name} {report.runner.version}"
    if report.runner.gpu is not None:
        runner += f" on {printable(report.runner.gpu.name)}, {fallback(report.layers_on_cpu)}"
    each = f" for {report.batch} samples" if report.batch > 1 else ""
    typer.echo(f"{printable(report.model)} on {runner}: {report.latency_ms:.1f} ms{each}")
    if report.answers:
        labels = [printable(answer.label) for answer in report.answers]
        width = max(map(len, labels))
        for label, answer in zip(labels, report.answers, strict=True):
            typer.echo(f"  {label:<{width}}  {answer.probability:7.2%}")
        how = "as the model gives them" if report.scores == "probabilities" else "softmax of the model's scores"
        typer.echo(f"  (probabilities: {how})")
    for name, summary in report.outputs.items():
        if report.answers and name == report.answered_by:
            continue
        typer.echo(f"  {printable(name)}: {_in_words(summary)}")
    for summary in report.outputs.values():
        if summary.file is not None:
            typer.echo(f"  wrote {summary.file}")


def _in_words(summary: OutputSummary) -> str:
    shape = "x".join(map(str, summary.shape)) or "scalar"
    text = f"{summary.dtype} {shape}"
    if summary.minimum is not None:
        text += f", {summary.minimum:.6g} to {summary.maximum:.6g}, mean {summary.mean:.6g}"
    return text + (f", {summary.not_finite} values not finite" if summary.not_finite else "")


def _as_json(report: RunReport) -> dict[str, Any]:
    import dataclasses

    return {
        "bundle": str(report.bundle),
        "model": report.model,
        "runner": {"name": report.runner.name, "version": report.runner.version, "device": report.runner.device},
        "gpu": None if report.runner.gpu is None else report.runner.gpu.name,
        "layers_on_cpu": dict(report.layers_on_cpu),
        "latency_ms": report.latency_ms,
        "batch": report.batch,
        "inputs": {name: str(file) for name, file in report.inputs.items()},
        "answers": [dataclasses.asdict(answer) for answer in report.answers],
        "answered_by": report.answered_by,
        "scores": report.scores,
        "outputs": {
            name: {**dataclasses.asdict(summary), "file": None if summary.file is None else str(summary.file)}
            for name, summary in report.outputs.items()
        },
    }


def register(app: typer.Typer) -> None:
    app.command("run", cls=DeviceAloneIsConnected)(run)
