"""A bisection as plain text for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mobilekit.tensors import format_shape

if TYPE_CHECKING:
    from mobilekit.report.bisection import BisectionReport, Suspect, TensorRange

__all__ = ["render"]


_COLUMNS, _LABEL = 80, 13


def render(report: BisectionReport) -> str:
    return "\n".join(_folded(line) for line in _lines(report))


def _folded(line: str) -> str:
    """What goes on behind a label stays behind it."""
    if not line.startswith("  "):
        return line
    behind = " " * _LABEL
    parts = textwrap.wrap(line, _COLUMNS, subsequent_indent=behind, break_long_words=False, break_on_hyphens=False)
    return "\n".join(parts)


def _lines(report: BisectionReport) -> Iterator[str]:
    device = report.device
    yield f"{report.model} ({report.precision}) on {device.model} ({device.runner} {device.runner_version})"
    yield f"against {report.reference.name} {report.reference.version}, {report.sample}"
    yield ""
    yield f"{report.verdict.value}: {report.sentence}"
    if report.first is not None:
        yield ""
        yield from _suspect(report.first)
    if report.others:
        yield ""
        yield "other layers, by their own error:"
        for other in report.others:
            yield f"  {other.layers[-1].type} {other.layers[-1].name}: {_number(other.local)}"
    yield ""
    tail = f"{report.runs} of {report.run_limit} runs of the device"
    if report.exhausted:
        tail += "; the search is not at its end: give more --runs"
    if report.unmapped:
        tail += f"; {len(report.unmapped)} layers hold no tensor that can be compared"
    yield tail
    if report.repro is not None:
        yield f"a reproduction is in {report.repro}: its README.txt says how to run it"


def _suspect(suspect: Suspect) -> Iterator[str]:
    for layer in suspect.layers:
        params = " ".join(f"{name}={value}" for name, value in layer.params.items())
        yield f"  layer      {layer.type} {layer.name}  {params}"
    for node, operator in zip(suspect.nodes, suspect.operators, strict=True):
        yield f"  ONNX node  {node}{f' ({operator})' if operator else ''}"
    yield f"  error      {_number(suspect.local)} on right inputs, {_number(suspect.accumulated)} accumulated"
    for tensor in suspect.inputs:
        yield f"  input      {tensor.tensor} {_range(tensor)}"
    if suspect.expected is not None:
        yield f"  expected   {suspect.tensor} {_range(suspect.expected)}"
    if suspect.actual is not None:
        yield f"  actual     {_range(suspect.actual)}"
    for cause in suspect.causes:
        yield f"  looks like {cause}"


def _range(tensor: TensorRange) -> str:
    text = f"{format_shape(tensor.shape)}, {tensor.minimum:.4g} to {tensor.maximum:.4g}"
    return text + (f", {tensor.nonfinite} not finite" if tensor.nonfinite else "")


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"relative L2 {value:.3g}"
