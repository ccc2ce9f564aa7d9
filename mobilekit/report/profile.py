"""Where the time goes, layer by layer: as data and for the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

from mobilekit.report.base import Frozen
from mobilekit.report.fit import Fitting
from mobilekit.report.model import DeviceFacts

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

__all__ = ["SCHEMA_VERSION", "LayerProfile", "Peak", "ProfileReport", "by_type", "render"]

SCHEMA_VERSION = "1.0"
_MOST_ROWS = 30
_LEAST_PART = 0.5
_APART = "one by one the layers take far less: threads wait for one another or for other programs; try --threads 1"
_WHOLE_NAMES = "whole names"
_DISPENSABLE = (_WHOLE_NAMES, "GB/s", "MMAC", "GFLOP/s", "ONNX nodes", "of roof")
"""Columns, the first to go first where the terminal is narrow; but before that long names are cut."""
_NAME_LENGTH = 30


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

    ranked = sorted(report.layers, key=lambda layer: layer.mean_ms, reverse=True)
    table = Fitting(partial(_table, report.model, report.layers_ms, ranked[:_MOST_ROWS]), _DISPENSABLE)
    kinds = Table(box=SIMPLE)
    kinds.add_column("type")
    for name in ("layers", "ms", "share"):
        kinds.add_column(name, justify="right")
    for kind, (count, ms) in by_type(report.layers).items():
        kinds.add_row(kind, str(count), f"{ms:.{_digits(report.layers_ms)}f}", f"{ms / (report.layers_ms or 1):.1%}")
    more = len(ranked) - _MOST_ROWS
    lines = [f"p50 {report.p50_ms:.3f} ms, of which layers {report.layers_ms:.3f} ms"]
    if report.layers_ms < _LEAST_PART * report.p50_ms:
        lines.append(_APART)
    if report.peak is not None:
        lines.append(f"measured peak: {report.peak.gflops:.1f} GFLOP/s, {report.peak.gbytes_s:.1f} GB/s")
    if report.device.virtual:
        lines.append("a virtual device: shares and times are the emulator's")
    return Group(table, *([Text(f"and {more} more layers")] if more > 0 else []), kinds, Text("\n".join(lines)))


def _table(model: str, whole_ms: float, layers: Sequence[LayerProfile], without: Collection[str]) -> Table:
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    from mobilekit.report.console import plain

    def cut(name: str) -> str:
        # Names of one model begin alike.
        return name if _WHOLE_NAMES not in without or len(name) <= _NAME_LENGTH else "…" + name[1 - _NAME_LENGTH :]

    table = Table(box=SIMPLE, title=Text(f"mobilekit profile: {plain(model)}"))
    words: dict[str, Callable[[LayerProfile], str]] = {
        "layer": lambda layer: plain(cut(layer.name), 40),
        "type": lambda layer: plain(layer.type, 40),
        "ONNX nodes": lambda layer: plain(cut(", ".join(layer.nodes)), 60),
    }
    figures: dict[str, Callable[[LayerProfile], str]] = {
        "ms": lambda layer: f"{layer.mean_ms:.{_digits(whole_ms)}f}",
        "share": lambda layer: f"{layer.share:.1%}",
        "MMAC": lambda layer: "-" if not layer.macs else f"{layer.macs / 1e6:.2f}",
        "GFLOP/s": lambda layer: _figure(layer.gflops),
        "GB/s": lambda layer: _figure(layer.gbytes_s),
        "of roof": lambda layer: "-" if layer.of_roof is None else f"{layer.of_roof:.0%} {layer.bound or ''}",
    }
    words, figures = ({name: cell for name, cell in all_.items() if name not in without} for all_ in (words, figures))
    for name in words:
        table.add_column(name, min_width=10)
    for name, cell in figures.items():
        # Names give way, figures do not.
        widest = max([len(name), *(len(cell(layer)) for layer in layers)])
        table.add_column(name, justify="right", no_wrap=True, min_width=widest)
    for layer in layers:
        names = [Text(cell(layer), no_wrap=True, overflow="ellipsis") for cell in words.values()]
        table.add_row(*names, *(cell(layer) for cell in figures.values()))
    return table


def by_type(layers: Sequence[LayerProfile]) -> dict[str, tuple[int, float]]:
    """Type -> number of layers and their milliseconds, the slowest first."""
    found: dict[str, tuple[int, float]] = {}
    for layer in layers:
        count, ms = found.get(layer.type, (0, 0.0))
        found[layer.type] = count + 1, ms + layer.mean_ms
    return dict(sorted(found.items(), key=lambda item: item[1][1], reverse=True))


def _digits(whole_ms: float) -> int:
    """After the point, for the milliseconds of a layer: a thousandth of all layers still shows."""
    return min(max(3, 3 - math.floor(math.log10(whole_ms))), 6) if whole_ms > 0 else 3


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
