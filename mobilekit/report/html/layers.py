"""What happens layer by layer: where the error begins (a bisection), where the time goes (a profile)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from mobilekit.report.fusion_graph import KEY, summary, svg
from mobilekit.report.html.build import Element, document, element, figure, legend, prose, table
from mobilekit.report.html.charts import Bar, Block, Curve, bars, curves, icicle
from mobilekit.report.profile import by_type
from mobilekit.tensors import format_shape

if TYPE_CHECKING:
    from mobilekit.report.bisection import BisectionReport, Suspect, TensorRange
    from mobilekit.report.profile import LayerProfile, ProfileReport

__all__ = ["bisection_page", "bisection_parts", "fusion_parts", "profile_page", "profile_parts"]

_MOST_BARS = 20
_MOST_SHOWN = 60
"""Layers of a plan whose drawing is open from the start."""


def bisection_page(report: BisectionReport) -> str:
    """One HTML file that opens offline."""
    device = report.device
    where = f"{report.precision} on {device.model or device.serial} ({device.runner} {device.runner_version})"
    against = f"against {report.reference.name} {report.reference.version}, {report.sample}"
    main = element(
        "main",
        element("h1", f"bisect: {report.model}"),
        element(
            "div", element("div", report.verdict.value, class_="word"), element("div", *prose(report.sentence)),
            class_=f"verdict {report.verdict.value}",
        ),
        element("p", f"{where}, {against}", class_="faint"),
        *bisection_parts(report),
    )  # fmt: skip
    return document(f"mobilekit bisect: {report.model}", main)


def bisection_parts(report: BisectionReport) -> list[Element]:
    """The suspect in figures, the error of every layer that was measured, and what the search took."""
    parts: list[Element] = []
    if report.first is not None:
        parts.append(_suspect(report.first))
    points = sorted(report.curve, key=lambda point: point.rank)
    guilty = report.first.blob if report.first is not None else None
    chart = curves(
        [
            Curve("accumulated", [point.accumulated for point in points]),
            Curve("local", [point.local for point in points], "b"),
        ],
        [point.tensor or point.blob for point in points],
        "error of each layer",
        unit="relative L2",
        across="layers, in the order of computing",
        limits=[report.limit],
        mark=next((index for index, point in enumerate(points) if point.blob == guilty), None),
    )
    if chart is not None:
        rows = [[point.tensor, point.blob, _number(point.accumulated), _number(point.local)] for point in points]
        data = table(["tensor", "blob", "accumulated", "local"], rows, caption="every tensor that was measured")
        caption = "relative L2 of each layer that was measured; dashed: what counts as wrong; broad: the layer found"
        key = legend(("accumulated: on the model's own inputs", "a"), ("local: fed the reference's values", "b"))
        parts += [key, figure(chart, caption, data)]
    tail = f"{report.runs} of {report.run_limit} runs of the device"
    if report.exhausted:
        tail += "; the search is not at its end"
    if report.unmapped:
        tail += f"; {len(report.unmapped)} layers hold no tensor that can be compared"
    return [*parts, element("p", tail, class_="faint")]


def _suspect(suspect: Suspect) -> Element:
    facts: list[tuple[str, str]] = []
    for layer in suspect.layers:
        params = " ".join(f"{name}={value}" for name, value in layer.params.items())
        facts.append(("layer", f"{layer.type} {layer.name} {params}"))
    for node, operator in zip(suspect.nodes, suspect.operators, strict=False):
        facts.append(("ONNX node", f"{node} ({operator})" if operator else node))
    facts += [
        ("local error", _number(suspect.local)),
        ("accumulated", _number(suspect.accumulated)),
        *((f"input {each.tensor}", _range(each)) for each in suspect.inputs),
        *(("expected", _range(each)) for each in (suspect.expected,) if each is not None),
        *(("actual", _range(each)) for each in (suspect.actual,) if each is not None),
        *(("looks like", cause) for cause in suspect.causes),
    ]
    pairs = [part for name, value in facts for part in (element("dt", name), element("dd", value))]
    return element("dl", *pairs)


def _range(tensor: TensorRange) -> str:
    text = f"{format_shape(tensor.shape)}, {tensor.minimum:.4g} to {tensor.maximum:.4g}"
    return text + (f", {tensor.nonfinite} not finite" if tensor.nonfinite else "")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def profile_page(report: ProfileReport) -> str:
    """One HTML file that opens offline."""
    main = element("main", element("h1", f"profile: {report.model}"), *profile_parts(report))
    return document(f"mobilekit profile: {report.model}", main)


def profile_parts(report: ProfileReport) -> list[Element]:
    """A flame-like chart by module, bars by type and of the slowest layers, the whole table."""
    where = report.device.model or report.device.serial
    threads = f"{report.threads or 'auto'} thread{'' if report.threads == 1 else 's'}"
    summary = f"{report.precision} on {where}, {threads}: p50 {report.p50_ms:.3f} ms"
    if report.peak is not None:
        summary += f"; measured peak {report.peak.gflops:.1f} GFLOP/s, {report.peak.gbytes_s:.1f} GB/s"
    if report.device.virtual:
        summary += " (a virtual device: times are the emulator's)"
    ranked = sorted(report.layers, key=lambda layer: layer.mean_ms, reverse=True)
    blocks = [Block(_path(layer), layer.mean_ms) for layer in report.layers]
    kinds = [Bar(f"{kind} ({count})", ms) for kind, (count, ms) in by_type(report.layers).items()][:_MOST_BARS]
    slow = [Bar(layer.name, layer.mean_ms, title=", ".join(layer.nodes)) for layer in ranked[:_MOST_BARS]]
    flame = icicle(blocks, "time by module", unit="ms")
    charts = [
        figure(chart, caption)
        for chart, caption in (
            (bars(kinds, "time by type of layer", unit="ms"), "milliseconds by type of layer"),
            (bars(slow, "the slowest layers", unit="ms"), "milliseconds of the slowest layers"),
        )
        if chart is not None
    ]
    header = ["layer", "type", "ONNX nodes", "ms", "share", "MMAC", "GFLOP/s", "GB/s", "of roof"]
    rows = [
        [
            layer.name,
            layer.type,
            ", ".join(layer.nodes),
            f"{layer.mean_ms:.4f}",
            f"{layer.share:.1%}",
            "-" if not layer.macs else f"{layer.macs / 1e6:.2f}",
            _figure(layer.gflops),
            _figure(layer.gbytes_s),
            "-" if layer.of_roof is None else f"{layer.of_roof:.0%}",
        ]
        for layer in report.layers
    ]
    return [
        element("p", summary, class_="faint"),
        *([] if flame is None else [figure(flame, "time by module: names split at dots and slashes")]),
        element("div", *charts, class_="charts"),
        element("details", element("summary", "all layers"), table(header, rows, caption="in the order of computing")),
    ]


def fusion_parts(layers: Sequence[Mapping[str, Any]]) -> list[Element]:
    """What TensorRT made of the model: a box for each layer with the ONNX nodes fused into it."""
    # Inside HTML the namespace goes without saying, and ElementTree would write a prefix for it.
    text = svg(layers).replace(' xmlns="http://www.w3.org/2000/svg"', "", 1)
    drawing = ElementTree.fromstring(text)  # noqa: S314  # we wrote it, and it declares no entities
    attributes = {"open": "open"} if len(layers) <= _MOST_SHOWN else {}
    return [
        element("p", f"{summary(layers)}. {KEY}", class_="faint"),
        element(
            "details",
            element("summary", "the drawing"),
            element("div", drawing, class_="scroll", tabindex=0, role="region", aria_label="what was fused"),
            **attributes,
        ),
    ]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _path(layer: LayerProfile) -> tuple[str, ...]:
    name = layer.nodes[0] if layer.nodes else layer.name
    return tuple(part for part in re.split(r"[/.]", name) if part) or (layer.name,)
