"""How ``mobilekit inspect BUNDLE`` shows what an export wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mobilekit.bundle import Bundle

__all__ = ["show_bundle"]


def show_bundle(bundle: Bundle) -> None:
    from rich.markup import escape
    from rich.table import Table

    from mobilekit.cli._common import out_console
    from mobilekit.tensors import format_shape

    console = out_console()
    manifest = bundle.manifest
    facts = Table.grid(padding=(0, 2))
    rows = [("model", f"{manifest.model.id} (opset {manifest.model.opset})")]
    if manifest.ncnn is not None:
        own = f", own layers {', '.join(manifest.ncnn.custom_layers)}" if manifest.ncnn.custom_layers else ""
        rows.append(("ncnn", f"{manifest.ncnn.precision}, {manifest.ncnn.layers} layers{own}"))
        if (int8 := manifest.ncnn.int8) is not None:
            seen = f"calibrated with {int8.samples} inputs ({int8.method})"
            rows.append(("int8", f"{len(int8.scales)} layers, {seen}"))
            reasons = dict.fromkeys(int8.kept.values())
            for why in reasons:
                layers = [layer for layer, each in int8.kept.items() if each == why]
                rows.append(("float", f"{', '.join(layers[:3])}{', ...' if len(layers) > 3 else ''}: {why}"))
    rows.append(("size", f"{bundle.size_bytes / 1e6:.2f} MB"))
    rows.append(("verified", "yes" if manifest.verified else "no"))
    if manifest.sizes:
        sizes = ["; ".join(format_shape(shape) for shape in each.values()) for each in manifest.sizes]
        rows.append(("sizes tried", ", ".join(sizes)))
    rows += [("tuned", f"{tuned.setting}; on {tuned.place}") for tuned in manifest.tuned]
    for key, value in rows:
        facts.add_row(key, escape(value))
    console.print(facts)
    tensors = Table("", "name", "type", "shape", "default", box=None, padding=(0, 2, 0, 0))
    for kind, infos in (("input", manifest.inputs), ("output", manifest.outputs)):
        for info in infos:
            default = format_shape(info.shape) if info.free else ""
            tensors.add_row(kind, escape(info.name), info.dtype, info.describe(), default)
    console.print(tensors)
