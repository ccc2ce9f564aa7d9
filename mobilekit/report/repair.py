"""What ``mobilekit repair`` did, as data and as text."""

from __future__ import annotations

from typing import Literal

from mobilekit.report.base import Frozen
from mobilekit.report.bisection import OutputState
from mobilekit.report.model import DeviceFacts
from mobilekit.validate.tolerance import Verdict

__all__ = ["KeptLayer", "RepairReport", "Trade", "render"]

REPAIR_SCHEMA = "1.0"


class KeptLayer(Frozen):
    """A layer that was given a mask. ``off``: the features that it does without; ``local``: its own error before
    (relative L2); ``weights``: they were stored in fp16 and are float32 now."""

    name: str
    type: str
    nodes: tuple[str, ...]
    off: tuple[str, ...]
    local: float
    weights: bool = False


class Trade(Frozen):
    """Before and after. Latencies are medians of runs in turn; ``comparable`` is False on an emulated processor."""

    latency_before_ms: float
    latency_after_ms: float
    comparable: bool
    bytes_before: int
    bytes_after: int


class RepairReport(Frozen):
    """``verdict``: of the bundle that was written, or of the old one where none was. ``rounds``: how often layers were
    chosen and all samples run again."""

    schema_version: str = REPAIR_SCHEMA
    mobilekit_version: str
    model: str
    precision: Literal["fp32", "fp16", "bf16"]
    device: DeviceFacts
    verdict: Verdict
    sentence: str
    before: tuple[OutputState, ...]
    after: tuple[OutputState, ...] = ()
    layers: tuple[KeptLayer, ...] = ()
    layer_count: int
    rounds: int
    trade: Trade | None = None
    bundle: str | None = None


def render(report: RepairReport) -> str:
    lines = [
        f"{report.model} in {report.precision} on {report.device.model}",
        "",
        f"{report.verdict.value}: {report.sentence}",
    ]
    if report.layers:
        lines += ["", f"{len(report.layers)} of {report.layer_count} layers kept in higher precision:"]
    for layer in report.layers:
        off = ", ".join(layer.off)
        extra = ", weights in float32" if layer.weights else ""
        lines.append(f"  {layer.type} {layer.name}: without {off}{extra} (its own error was {layer.local:.3g})")
    after = {state.name: state for state in report.after}
    lines += ["", "output, relative L2 before and after:"]
    for state in report.before:
        now = after.get(state.name)
        shown = f"{now.relative_l2:.3g} ({now.verdict.value})" if now is not None else "-"
        lines.append(f"  {state.name}: {state.relative_l2:.3g} ({state.verdict.value}) -> {shown}")
    if (trade := report.trade) is not None:
        ratio = trade.latency_after_ms / trade.latency_before_ms if trade.latency_before_ms else float("nan")
        note = "" if trade.comparable else ", emulated: not comparable"
        lines.append(f"latency: {trade.latency_before_ms:.2f} -> {trade.latency_after_ms:.2f} ms (x{ratio:.2f}{note})")
        lines.append(f"weights: {trade.bytes_before:,} -> {trade.bytes_after:,} bytes")
    return "\n".join(lines)
