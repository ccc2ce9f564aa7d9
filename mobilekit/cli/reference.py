"""``mobilekit reference record`` and ``mobilekit reference show``"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobilekit.cli._options import (
    AsJson,
    BundleFolder,
    InputFolder,
    PlanHost,
    Plugins,
    RemotePythons,
    RunTimeout,
    Samples,
    Seed,
)

if TYPE_CHECKING:
    from mobilekit.pipeline.record import RecordReport

__all__ = ["register"]

reference = typer.Typer(
    name="reference",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Keep a reference's answers, for machines that cannot compute them.",
)


@reference.command("record")
def _record(
    bundle: BundleFolder,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")],
    inputs: InputFolder = None,
    samples: Samples = 3,
    seed: Seed = 0,
    intermediates: Annotated[
        bool, typer.Option("--intermediates", help="Record every tensor of the original model, too.")
    ] = False,
    provider: Annotated[str, typer.Option(help="Who computes: cpu, cuda (ONNX Runtime) or tensorrt.")] = "cpu",
    on: PlanHost = None,
    remote_python: RemotePythons = None,
    plugin: Plugins = None,
    timeout: RunTimeout = 300.0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a folder that is not a recording.")] = False,
    json_: AsJson = False,
) -> None:
    """Record what the reference answers, with its inputs and checksums; `validate --reference DIR` replays it.

    \b
    mobilekit reference record build/model -o golden/
    mobilekit reference record build/model --inputs photos/ --intermediates -o golden/
    mobilekit reference record build/model --samples 20 --seed 7 --provider cuda -o golden/
    mobilekit reference record build/model --provider tensorrt --on ssh://user@jetson -o golden/
    mobilekit validate build/model --device --reference golden/
    """
    from mobilekit.cli._common import remark, terminal_progress
    from mobilekit.pipeline.record import RecordOptions, record_reference

    options = RecordOptions(
        inputs,
        samples,
        seed,
        intermediates,
        provider,
        timeout,
        force,
        on=on,
        remote_pythons=tuple(remote_python or ()),
        plugins=tuple(plugin or ()),
    )
    with terminal_progress() as progress:
        report = record_reference(bundle, output, options, progress)
    _print(report, json_, remark)
    if not json_:
        typer.echo(str(report.folder))


@reference.command("show")
def _show(
    folder: Annotated[Path, typer.Argument(help="A folder that mobilekit reference record wrote.")],
    json_: Annotated[bool, typer.Option("--json", help="Print its manifest as JSON.")] = False,
) -> None:
    """Check a recording, every byte of it, and show what it holds.

    \b
    mobilekit reference show golden/
    mobilekit reference show golden/ --json
    """
    from mobilekit.pipeline.record import show_recording

    _print(show_recording(folder), json_, typer.echo)


def _print(report: RecordReport, json_: bool, say: Callable[[str], None]) -> None:
    from mobilekit.cli._common import print_json
    from mobilekit.tensors import format_shape

    manifest = report.manifest
    if json_:
        print_json({"folder": str(report.folder), "size_bytes": report.size_bytes, **manifest.model_dump(mode="json")})
        return
    provider = manifest.provider
    where = ", ".join(part for part in (provider.machine, provider.gpu) if part)
    first = manifest.samples[0]
    inner = sum(tensor.role == "intermediate" for tensor in first.tensors)
    say(f"{manifest.model.id}, sha256 {manifest.model.sha256[:12]}…, by {provider.name} {provider.version} on {where}")
    for tensor in first.tensors:
        if tensor.role != "intermediate":
            say(f"  {tensor.role} {tensor.name}: {tensor.dtype} {format_shape(tensor.shape)}")
    if inner:
        say(f"  {inner} intermediate tensors")
    for name, why in manifest.left_out.items():
        say(f"  {name} is left out: {why}")
    say(f"{len(manifest.samples)} samples, {report.size_bytes / 1e6:.1f} MB: {', '.join(_names(report))}")


def _names(report: RecordReport) -> list[str]:
    names = [sample.name for sample in report.manifest.samples]
    return names if len(names) <= 6 else [*names[:5], "..."]


def register(app: typer.Typer) -> None:
    app.add_typer(reference)
