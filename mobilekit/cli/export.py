"""``mobilekit export``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobilekit.cli._options import AsJson, FixedInputs, InputShapes, PlanHost, Plugins, RemotePythons, seconds

if TYPE_CHECKING:
    from mobilekit.pipeline.export import ExportReport
    from mobilekit.targets.base import TargetName
    from mobilekit.targets.tensorrt import TensorRTOptions

__all__ = ["register"]

_PLAN_TIMEOUT_S = 1800.0


def export(
    model: Annotated[str, typer.Argument(help="An ONNX file, or a zoo id (mobilekit zoo list).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The bundle: a folder to write.")],
    target: Annotated[
        list[str] | None,
        typer.Option("--target", "-t", help="What to convert to: ncnn (the default), tensorrt. Repeatable."),
    ] = None,
    precision: Annotated[
        str, typer.Option("--precision", "-p", help="fp32, fp16 or int8; TensorRT also takes tf32, bf16, fp8.")
    ] = "fp32",
    input_shape: InputShapes = None,
    input_: FixedInputs = None,
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
    drop_fake_quant: Annotated[
        bool,
        typer.Option(
            "--drop-fake-quant",
            help="Leave out the roundings of a quantised (QDQ) model: much faster, results differ by them.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the inputs that verification uses.")] = 0,
    samples: Annotated[int, typer.Option(min=1, help="How many seeded inputs verification uses.")] = 2,
    timeout: Annotated[
        float,
        seconds(
            "--timeout",
            least=1,
            help="How long one verification run may take, and the build of a plan if more than 1800 s.",
        ),
    ] = 600.0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a folder that is not a bundle.")] = False,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            "--profile",
            help="Sizes an input may have: NAME:min=1x3x224x224,opt=4x3x224x224,max=8x3x224x224. Repeatable.",
        ),
    ] = None,
    compute_capability: Annotated[str, typer.Option(help="GPUs to build for, with TensorRT for RTX: 8.6,8.9.")] = "",
    workspace: Annotated[str, typer.Option(help="Scratch memory on the GPU at most: 1GiB, 512MiB.")] = "",
    opt_level: Annotated[int | None, typer.Option(min=0, max=5, help="TensorRT's optimisation level.")] = None,
    flavour: Annotated[str, typer.Option(help="rtx or full; by default full where it and a GPU are there.")] = "",
    calib: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Pictures or .npy files to calibrate int8 (and TensorRT's fp8) with."),
    ] = None,
    calib_method: Annotated[
        str, typer.Option(help="What makes a range of the values seen: minmax, entropy or percentile.")
    ] = "minmax",
    int8_depthwise: Annotated[
        bool, typer.Option("--int8-depthwise", help="ncnn's depthwise convolutions in int8, too: smaller, but slower.")
    ] = False,
    on: PlanHost = None,
    remote_python: RemotePythons = None,
    plugin: Plugins = None,
    json_: AsJson = False,
) -> None:
    """Convert a model into a bundle that runs on a device, verified against ONNX Runtime.

    \b
    mobilekit export model.onnx -o build/model
    mobilekit export model.onnx --precision fp16 --input-shape images:1x3x320x320 -o build/model
    mobilekit export vad.onnx --input sr=16000 --input-shape input:1x512 -o build/vad
    mobilekit export detector.onnx --dynamic -o build/detector
    mobilekit export detector.onnx --dynamic-shape images:1x3x320..1280x320..1280 -o build/detector
    mobilekit export pp_lcnet_orientation -o build/orientation
    mobilekit export model.onnx --precision int8 --calib pictures/ --calib-method percentile -o build/int8
    mobilekit export model.onnx --target ncnn --target tensorrt --precision fp16 -o build/model
    mobilekit export model.onnx --target tensorrt --profile x:min=1x3x96x96,opt=1x3x224x224,max=1x3x448x448 -o build/m
    mobilekit export model.onnx --target tensorrt --precision int8 --calib pictures/ -o build/int8
    mobilekit export model.onnx --target tensorrt --precision fp16 --on ssh://user@jetson -o build/jetson
    """
    from mobilekit.cli._common import print_json, terminal_progress
    from mobilekit.errors import UsageError
    from mobilekit.pipeline.export import ExportOptions, export_model
    from mobilekit.pipeline.int8 import Calibration
    from mobilekit.sizes import parse_dynamic_shape
    from mobilekit.tensors import parse_named_shape, parse_named_value

    targets = _targets(target or ["ncnn"], precision)
    if on and "tensorrt" not in targets:
        raise UsageError("--on is where a TensorRT plan is built", hint="add --target tensorrt")
    options = ExportOptions(
        targets=targets,
        precision="fp16" if precision == "fp16" else "int8" if precision == "int8" else "fp32",
        calibration=Calibration(calib, calib_method, int8_depthwise),
        tensorrt=_tensorrt(
            precision,
            profile or [],
            compute_capability,
            workspace,
            opt_level,
            flavour,
            calib,
            calib_method,
            timeout,
            on,
            remote_python or [],
            plugin,
        )
        if "tensorrt" in targets
        else None,
        shapes=dict(parse_named_shape(text) for text in input_shape or ()),
        fixed=dict(parse_named_value(text) for text in input_ or ()),
        dynamic=dynamic,
        dynamic_shapes=dict(parse_dynamic_shape(text) for text in dynamic_shape or ()),
        labels=labels,
        preprocess=preprocess,
        simplify=simplify,
        stock_only=stock_only,
        drop_fake_quant=drop_fake_quant,
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
                "tensorrt_errors": {
                    name: {"relative_l2": e.relative_l2, "max_abs": e.max_abs}
                    for name, e in report.tensorrt_errors.items()
                },
                "tensorrt_kept_in_fp32": dict(report.tensorrt_kept),
                "seconds": dict(report.seconds),
                "peak_rss_bytes": dict(report.peak_rss_bytes),
            }
        )
        return
    _show(report)


def _show(report: ExportReport) -> None:
    from mobilekit.cli._common import remark

    total = sum(report.seconds.values())
    manifest = report.manifest
    if manifest.ncnn is not None:
        for name, error in report.errors.items():
            remark(f"  {name}: relative L2 {error.relative_l2:.2e}, max abs {error.max_abs:.2e}")
        for info in manifest.inputs:
            if info.free:
                remark(f"  {info.name} takes {info.describe()}")
        tried = "verification proved nothing" if report.errors else "NOT verified"
        state = "verified against ONNX Runtime" if manifest.verified else tried
        remark(f"{manifest.ncnn.layers} ncnn layers, {state}, {total:.1f} s")
        if int8 := manifest.ncnn.int8:
            stay = f", {len(int8.kept)} that could be stay float" if int8.kept else ""
            remark(f"{len(int8.scales)} of them in int8{stay}; calibrated with {int8.samples} inputs ({int8.method})")
        if own := manifest.ncnn.custom_layers:
            remark(
                f"needs our own layers {', '.join(own)}: `mobilekit harness layers` copies their sources for the app;"
                " --stock-only does without or refuses"
            )
    plan = manifest.tensorrt
    if plan is not None:
        for name, error in report.tensorrt_errors.items():
            remark(f"  {name} in {plan.precision}: relative L2 {error.relative_l2:.2e}")
        tried = "verification proved nothing" if report.tensorrt_errors else "prepared model NOT verified"
        state = "prepared model verified; engine not executed" if plan.verified else tried
        size = plan.plan_bytes / 1e6
        remark(
            f"TensorRT {plan.flavour} {plan.version}: {plan.layer_count} layers, {size:.1f} MB, {state}, {total:.1f} s"
        )
    typer.echo(str(report.bundle))


def _targets(names: list[str], precision: str) -> tuple[TargetName, ...]:
    from mobilekit.cli._common import target_name
    from mobilekit.errors import UsageError

    for name in names:
        target_name(name)
    if "ncnn" in names and precision not in ("fp32", "fp16", "int8"):
        raise UsageError(f"unknown precision {precision!r} for ncnn", hint="the ncnn target takes fp32, fp16 and int8")
    return tuple(name for name in ("ncnn", "tensorrt") if name in names)


def _tensorrt(
    precision: str,
    profiles: list[str],
    compute_capability: str,
    workspace: str,
    opt_level: int | None,
    flavour: str,
    calib: Path | None,
    calib_method: str,
    timeout: float,
    on: str | None,
    remote_pythons: list[str],
    plugins: list[str] | None,
) -> TensorRTOptions:
    from mobilekit.errors import UsageError
    from mobilekit.targets.tensorrt import TensorRTOptions
    from mobilekit.targets.tensorrt.prepare import parse_bytes, parse_profile

    if flavour not in ("", "rtx", "full"):
        raise UsageError(f"there is no flavour {flavour!r} of TensorRT", hint="rtx or full")
    return TensorRTOptions(
        precision=precision,  # type: ignore[arg-type]  # checked where the target's precisions are known
        profiles=dict(parse_profile(text) for text in profiles),
        compute_capabilities=tuple(part.strip() for part in compute_capability.split(",") if part.strip()),
        workspace_bytes=parse_bytes(workspace) if workspace else 0,
        optimization_level=opt_level,
        flavour=flavour or None,  # type: ignore[arg-type]
        calibration=calib,
        calibration_method=calib_method,
        plugins=tuple(plugins or ()),
        timeout_s=max(timeout, _PLAN_TIMEOUT_S),
        on=on,
        remote_pythons=tuple(remote_pythons),
    )


def register(app: typer.Typer) -> None:
    app.command("export")(export)
