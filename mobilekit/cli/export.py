"""``mobilekit export``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def export(
    model: Annotated[str, typer.Argument(help="An ONNX file, or a zoo id (mobilekit zoo list).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The bundle: a folder to write.")],
    target: Annotated[str, typer.Option("--target", "-t", help="What to convert to: ncnn.")] = "ncnn",
    precision: Annotated[str, typer.Option("--precision", "-p", help="fp32 or fp16 weights and arithmetic.")] = "fp32",
    input_shape: Annotated[
        list[str] | None,
        typer.Option("--input-shape", help="NAME:1x3x224x224; the shape is what follows the last colon. Repeatable."),
    ] = None,
    input_: Annotated[
        list[str] | None,
        typer.Option(
            "--input", metavar="NAME=VALUE", help="Fix an input: NAME=16000, NAME=[1,2], NAME=value.npy. Repeatable."
        ),
    ] = None,
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Leave symbolic axes free (not the batch): one bundle, many input sizes.")
    ] = False,
    dynamic_shape: Annotated[
        list[str] | None,
        typer.Option(
            "--dynamic-shape",
            help="NAME:1x3x320..1280x..: which axes are free, and their sizes; MIN..MAX/MULTIPLE. Repeatable.",
        ),
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Class names, one a line.")] = None,
    preprocess: Annotated[
        Path | None, typer.Option(help="How a picture becomes the input: a TOML file (docs/zoo.md).")
    ] = None,
    verify: Annotated[bool, typer.Option(help="Hold the result against ONNX Runtime before it is written.")] = True,
    verify_passes: Annotated[
        bool,
        typer.Option("--verify-passes", help="Hold every rewrite against ONNX Runtime; names the wrong one. Slow."),
    ] = False,
    simplify: Annotated[bool, typer.Option(help="Run onnxsim first.")] = True,
    stock_only: Annotated[
        bool, typer.Option("--stock-only", help="Use no layers but ncnn's own; refuse what they cannot do.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the inputs that verification uses.")] = 0,
    samples: Annotated[int, typer.Option(min=1, help="How many seeded inputs verification uses.")] = 2,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds one verification run may take.")] = 600.0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a folder that is not a bundle.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Convert a model into a bundle that runs on a device, verified against ONNX Runtime.

    \b
    mobilekit export model.onnx -o build/model
    mobilekit export model.onnx --precision fp16 --input-shape images:1x3x320x320 -o build/model
    mobilekit export vad.onnx --input sr=16000 --input-shape input:1x512 -o build/vad
    mobilekit export detector.onnx --dynamic -o build/detector
    mobilekit export detector.onnx --dynamic-shape images:1x3x320..1280x320..1280 -o build/detector
    mobilekit export pp_lcnet_orientation -o build/orientation
    """
    from mobilekit.cli._common import print_json, remark, terminal_progress
    from mobilekit.errors import UsageError
    from mobilekit.pipeline.export import ExportOptions, export_model
    from mobilekit.sizes import parse_dynamic_shape
    from mobilekit.tensors import parse_named_shape, parse_named_value

    if target != "ncnn":
        raise UsageError(f"unknown target {target!r}", hint="the target is ncnn")
    if precision not in ("fp32", "fp16"):
        raise UsageError(f"unknown precision {precision!r}", hint="the ncnn target takes fp32 and fp16")
    options = ExportOptions(
        precision="fp16" if precision == "fp16" else "fp32",
        shapes=dict(parse_named_shape(text) for text in input_shape or ()),
        fixed=dict(parse_named_value(text) for text in input_ or ()),
        dynamic=dynamic,
        dynamic_shapes=dict(parse_dynamic_shape(text) for text in dynamic_shape or ()),
        labels=labels,
        preprocess=preprocess,
        simplify=simplify,
        stock_only=stock_only,
        verify=verify,
        verify_passes=verify_passes,
        seed=seed,
        samples=samples,
        replace=force,
        timeout_s=timeout,
    )
    with terminal_progress() as progress:
        report = export_model(model, output, options, progress)
    if json_:
        print_json(
            {
                "bundle": str(report.bundle),
                "manifest": report.manifest.to_json(),
                "errors": {
                    name: {"relative_l2": e.relative_l2, "max_abs": e.max_abs} for name, e in report.errors.items()
                },
                "seconds": dict(report.seconds),
            }
        )
        return
    assert report.manifest.ncnn is not None
    for name, error in report.errors.items():
        remark(f"  {name}: relative L2 {error.relative_l2:.2e}, max abs {error.max_abs:.2e}")
    for info in report.manifest.inputs:
        if info.free:
            remark(f"  {info.name} takes {info.describe()}")
    tried = "verification proved nothing" if report.errors else "NOT verified"
    state = "verified against ONNX Runtime" if report.manifest.verified else tried
    total = sum(report.seconds.values())
    remark(f"{report.manifest.ncnn.layers} ncnn layers, {state}, {total:.1f} s")
    if own := report.manifest.ncnn.custom_layers:
        remark(
            f"needs our own layers {', '.join(own)}: an app adds mobilekit_layers.h of android-harness/layers;"
            " --stock-only does without or refuses"
        )
    typer.echo(str(report.bundle))


def register(app: typer.Typer) -> None:
    app.command("export")(export)
