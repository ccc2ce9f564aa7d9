"""``mobilekit inspect``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mobilekit.cli._options import AsJson, FixedInputs, InputShapes

if TYPE_CHECKING:
    from mobilekit.pipeline.inspect import ModelReport
    from mobilekit.tensors import FixedValue

__all__ = ["register"]


def inspect(
    model: Annotated[str, typer.Argument(help="An ONNX file, a zoo id (mobilekit zoo list), or a bundle.")],
    input_shape: InputShapes = None,
    input_: FixedInputs = None,
    target: Annotated[
        list[str] | None, typer.Option("--target", "-t", help="Ask this target only. Repeatable; all by default.")
    ] = None,
    graph: Annotated[
        Path | None,
        typer.Option(help="Draw what TensorRT fused, of a bundle with a plan: FILE.html, FILE.svg or FILE.dot."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Ask a bundle's plan itself, loaded on this GPU: gpu, gpu:1.")
    ] = None,
    on: Annotated[str | None, typer.Option(help="On a GPU of another machine: ssh://user@host.")] = None,
    json_: AsJson = False,
) -> None:
    """Show what a model is, what it costs, and what targets cannot take of it; of a bundle, what it holds.

    \b
    mobilekit inspect model.onnx
    mobilekit inspect model.onnx --input-shape images:1x3x320x320
    mobilekit inspect vad.onnx --input sr=16000 --input-shape input:1x512
    mobilekit inspect pp_lcnet_orientation --json
    mobilekit inspect build/model
    mobilekit inspect build/model --target tensorrt
    mobilekit inspect build/model --target tensorrt --graph fusions.html
    mobilekit inspect build/model --target tensorrt --device gpu
    """
    from mobilekit import zoo
    from mobilekit.cli._common import print_json, terminal_progress
    from mobilekit.errors import UsageError
    from mobilekit.pipeline.inspect import inspect_model
    from mobilekit.tensors import parse_named_shape, parse_named_value

    if Path(model).is_dir():
        from mobilekit.bundle import open_bundle
        from mobilekit.cli._bundle import show_bundle
        from mobilekit.cli._plan import plan_facts, show_plan
        from mobilekit.pipeline.inspect_plan import draw_plan, inspect_plan, inspect_plan_on_gpu

        bundle = open_bundle(Path(model), check=False)
        if bundle.manifest.ncnn is not None and not (graph or device or on or "tensorrt" in (target or ())):
            if json_:
                print_json(bundle.manifest.to_json())
            else:
                show_bundle(bundle)
            return
        asked = device is not None or on is not None
        view = inspect_plan_on_gpu(Path(model), device or "gpu", on) if asked else inspect_plan(Path(model))
        if graph is not None:
            typer.echo(draw_plan(view, graph, bundle.manifest.model.id))
            return
        if json_:
            print_json(plan_facts(view))
        else:
            show_plan(view)
        return
    if graph is not None or device is not None or on is not None:
        raise UsageError(
            "--graph, --device and --on are about the plan of a bundle",
            hint="mobilekit export MODEL --target tensorrt -o DIR, then inspect DIR",
        )
    shapes = dict(parse_named_shape(text) for text in input_shape or ())
    with terminal_progress() as progress:
        resolved = zoo.resolve(model, progress)
        defaults = {} if resolved.entry is None else {k: tuple(v) for k, v in resolved.entry.inputs.items()}
        fixed: dict[str, FixedValue] = {} if resolved.entry is None else {**resolved.entry.fixed}
        fixed |= dict(parse_named_value(text) for text in input_ or ())
        report = inspect_model(resolved.path, {**defaults, **shapes}, progress, targets=target, fixed=fixed)
    if json_:
        print_json(_facts(report))
    else:
        _show(report)


def _facts(report: ModelReport) -> dict[str, Any]:
    from dataclasses import asdict

    facts = asdict(report)
    facts["path"] = str(report.path)
    facts["opsets"] = {domain or "ai.onnx": version for domain, version in report.opsets.items()}
    return facts


def _show(report: ModelReport) -> None:
    from rich.markup import escape
    from rich.table import Table

    from mobilekit.cli._common import out_console
    from mobilekit.tensors import format_shape

    def short(shape: tuple[int | str | None, ...]) -> str:
        # Exporters name an axis by the whole formula of its size.
        return format_shape(tuple(None if isinstance(a, str) and len(a) > 20 else a for a in shape))

    console = out_console()
    opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in report.opsets.items())
    macs = "unknown" if report.macs is None else _scaled(report.macs)
    peak = "unknown" if report.peak_activation_bytes is None else _bytes(report.peak_activation_bytes)
    facts = Table.grid(padding=(0, 2))
    for key, value in (
        ("model", str(report.path)),
        ("file", _bytes(report.size_bytes) + "".join(f" + {name}" for name in report.external_files)),
        ("producer", report.producer or "not said"),
        ("opset", f"{opsets} (IR {report.ir_version})"),
        ("parameters", f"{_scaled(report.parameter_count)} ({_bytes(report.parameter_bytes)})"),
        ("multiply-accumulates", macs),
        ("peak activation memory", peak),
    ):
        facts.add_row(key, escape(value))
    console.print(facts)
    tensors = Table("", "name", "type", "shape", "fixed to", box=None, padding=(0, 2, 0, 0))
    for kind, specs, fixed in (
        ("input", report.inputs, report.shapes),
        ("output", report.outputs, report.output_shapes),
    ):
        for spec in specs:
            shape = fixed.get(spec.name)
            now = format_shape(shape) if shape is not None and shape != spec.shape else ""
            tensors.add_row(kind, escape(spec.name), spec.dtype, escape(short(spec.shape)), now)
    console.print(tensors)
    operators = Table("operator", "count", "multiply-accumulates", box=None, padding=(0, 2, 0, 0))
    for name, count in report.operators.items():
        share = report.macs_by_operator.get(name)
        operators.add_row(escape(name), str(count), _scaled(share) if share else "")
    console.print(operators)
    if report.unknown:
        console.print(f"not known: {report.unknown}", markup=False)
    for target in report.targets:
        if target.supported:
            own = f" with our own layers {', '.join(target.custom_layers)}" if target.custom_layers else ""
            console.print(f"{target.name}: takes every node{own}", markup=False)
        elif target.supported is None:
            console.print(f"{target.name}: cannot be told before the shapes are fixed", markup=False)
        else:
            console.print(f"{target.name}: cannot take {len(target.findings)} node(s)", markup=False)
            for finding in target.findings:
                console.print(f"  {finding.op} at {finding.node}: {finding.reason}", markup=False)
                if finding.remedy:
                    console.print(f"    remedy: {finding.remedy}", markup=False)


def _scaled(number: int) -> str:
    """``3_200_000`` -> ``"3.20 M"``."""
    for unit, name in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number / unit:.2f} {name}"
    return str(number)


def _bytes(number: int) -> str:
    return f"{number / 1e6:.2f} MB" if number >= 10**6 else f"{number / 1e3:.1f} kB"


def register(app: typer.Typer) -> None:
    app.command("inspect")(inspect)
