"""How ``mobilekit inspect BUNDLE --target tensorrt`` shows a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobilekit.pipeline.inspect_plan import PlanView

__all__ = ["plan_facts", "show_plan"]


def plan_facts(view: PlanView) -> dict[str, Any]:
    """JSON-able values."""
    from dataclasses import asdict

    return asdict(view)


def show_plan(view: PlanView) -> None:
    from rich.markup import escape
    from rich.table import Table

    from mobilekit.cli._common import out_console
    from mobilekit.tensors import format_shape

    console = out_console()
    plan = view.artifact
    built_for = ", ".join(plan.compute_capabilities) or "TensorRT's own choice"
    memory = "known only where it is loaded on a GPU: --device gpu"
    if view.device_memory_bytes is not None:
        memory = f"{view.device_memory_bytes / 1e6:.2f} MB of scratch on {view.gpu}"
    facts = Table.grid(padding=(0, 2))
    for key, value in (
        ("plan", f"TensorRT {plan.flavour} {plan.version}, {plan.precision}, {plan.plan_bytes / 1e6:.2f} MB"),
        ("compute capability", built_for),
        ("same bytes again", "yes" if plan.reproducible else "only with the same timing cache"),
        ("device memory", memory),
    ):
        facts.add_row(key, escape(value))
    console.print(facts)
    tensors = Table("", "name", "type", "shape", "profiles", box=None, padding=(0, 2, 0, 0))
    for binding in view.bindings:
        profiles = "; ".join(
            " .. ".join(format_shape(tuple(shape)) for shape in sizes) for sizes in binding["profiles"]
        )
        tensors.add_row(
            binding["mode"],
            escape(binding["name"]),
            binding["dtype"],
            escape(format_shape(tuple(binding["shape"]))),
            escape(profiles),
        )
    console.print(tensors)
    if not view.layers:
        told = "TensorRT's build log told of no layers in a form that is known here"
        console.print(f"{told}: add --device gpu where the plan's GPU is", markup=False)
        return
    layers = Table("layer", "kind", "types", "ONNX nodes", box=None, padding=(0, 2, 0, 0))
    for layer in view.layers:
        types = "/".join(dict.fromkeys(tensor["dtype"] for tensor in layer["outputs"]))
        layers.add_row(escape(layer["name"]), layer["kind"], types, escape(", ".join(layer["onnx_nodes"])))
    console.print(layers)
    fused = sum(len(layer["onnx_nodes"]) > 1 for layer in view.layers)
    console.print(f"{len(view.layers)} layers, {fused} of them of several ONNX nodes", markup=False)
    for warning in view.warnings:
        console.print(f"TensorRT warned: {warning}", markup=False)
