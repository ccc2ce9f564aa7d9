"""Where the time goes, layer by layer: as data and for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from mobilekit.report.base import Frozen
from mobilekit.report.model import DeviceFacts

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["SCHEMA_VERSION", "LayerProfile", "Peak", "ProfileReport", "by_type", "render"]

SCHEMA_VERSION = "1.0"
_MOST_ROWS = 30


class Peak(Frozen):
    """What ncnn reaches on the device with these settings: 1x1 convolutions, and an elementwise layer."""

    gflops: float
    gbytes_s: float


class LayerProfile(Frozen):
    """``mean_ms`` of one inference; ``share`` of all layers' time.

    ``gflops`` (two operations a multiply-accumulate) and ``gbytes_s``: what it reached when it was fastest;
    ``of_roof``: the share of what the roofline allows there, ``bound`` by what.
    """

    name: str
    type: str
    nodes: tuple[str, ...]
    mean_ms: float
    min_ms: float
    share: float
    macs: int | None
    moved_bytes: int | None
    gflops: float | None
    gbytes_s: float | None
    of_roof: float | None
    bound: Literal["compute", "memory"] | None


class ProfileReport(Frozen):
    """``layers_ms``: their sum; ``p50_ms``: of whole inferences, measured without the layers' clocks."""

    schema_version: str = SCHEMA_VERSION
    kind: Literal["profile"] = "profile"
    mobilekit_version: str
    model: str
    precision: str
    device: DeviceFacts
    threads: int
    iterations: int
    p50_ms: float
    layers_ms: float
    peak: Peak | None
    layers: tuple[LayerProfile, ...]


def render(report: ProfileReport) -> RenderableType:
    """The slowest layers, and what each type takes in all."""
    from rich.box import SIMPLE
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from mobilekit.report.console import plain

    table = Table(box=SIMPLE, title=Text(f"mobilekit profile: {plain(report.model)}"))
    for name in ("layer", "type", "ONNX nodes"):
        table.add_column(name, overflow="ellipsis", no_wrap=True)
    for name in ("ms", "share", "MMAC", "GFLOP/s", "GB/s", "of roof"):
        table.add_column(name, justify="right", no_wrap=True)
    ranked = sorted(report.layers, key=lambda layer: layer.mean_ms, reverse=True)
    for layer in ranked[:_MOST_ROWS]:
        table.add_row(
            Text(plain(layer.name, 40)),
            layer.type,
            Text(plain(", ".join(layer.nodes), 60)),
            f"{layer.mean_ms:.3f}",
            f"{layer.share:.1%}",
            "-" if not layer.macs else f"{layer.macs / 1e6:.2f}",
            _figure(layer.gflops),
            _figure(layer.gbytes_s),
            "-" if layer.of_roof is None else f"{layer.of_roof:.0%} {layer.bound or ''}",
        )
    kinds = Table(box=SIMPLE)
    kinds.add_column("type")
    for name in ("layers", "ms", "share"):
        kinds.add_column(name, justify="right")
    for kind, (count, ms) in by_type(report.layers).items():
        kinds.add_row(kind, str(count), f"{ms:.3f}", f"{ms / (report.layers_ms or 1):.1%}")
    more = len(ranked) - _MOST_ROWS
    lines = [f"p50 {report.p50_ms:.3f} ms, of which layers {report.layers_ms:.3f} ms"]
    if report.peak is not None:
        lines.append(f"measured peak: {report.peak.gflops:.1f} GFLOP/s, {report.peak.gbytes_s:.1f} GB/s")
    if report.device.virtual:
        lines.append("a virtual device: shares and times are the emulator's")
    return Group(table, *([Text(f"and {more} more layers")] if more > 0 else []), kinds, Text("\n".join(lines)))


def by_type(layers: Sequence[LayerProfile]) -> dict[str, tuple[int, float]]:
    """Type -> number of layers and their milliseconds, the slowest first."""
    found: dict[str, tuple[int, float]] = {}
    for layer in layers:
        count, ms = found.get(layer.type, (0, 0.0))
        found[layer.type] = count + 1, ms + layer.mean_ms
    return dict(sorted(found.items(), key=lambda item: item[1][1], reverse=True))


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
