"""What ``mobilekit repair`` did, as data and as text."""

from __future__ import annotations

from mobilekit.report.base import Frozen
from mobilekit.report.bisection import OutputState
from mobilekit.report.figures import short_ms
from mobilekit.report.model import DeviceFacts, Precision
from mobilekit.targets.base import TargetName
from mobilekit.validate.tolerance import Verdict

__all__ = ["KeptLayer", "RepairReport", "Trade", "render"]

REPAIR_SCHEMA = "1.1"


class KeptLayer(Frozen):
    """A layer that was given a mask, or a node of a plan that computes in float32. ``off``: the features (of a node,
    the number format) that it does without; ``local``: its own error before (relative L2); ``weights``: they were
    stored in fp16 and are float32 now."""

    name: str
    type: str
    nodes: tuple[str, ...]
    off: tuple[str, ...]
    local: float
    weights: bool = False


class Trade(Frozen):
    """Before and after. Latencies are medians of runs in turn, ``None`` for a plan that no GPU ran; ``comparable`` is
    False on an emulated processor. Bytes are those of ncnn's weights, or of the plan."""

    latency_before_ms: float | None = None
    latency_after_ms: float | None = None
    comparable: bool = False
    bytes_before: int
    bytes_after: int


class RepairReport(Frozen):
    """``verdict``: of the bundle that was written, or of the old one where none was. ``rounds``: how often layers were
    chosen and all samples run again."""

    schema_version: str = REPAIR_SCHEMA
    mobilekit_version: str
    target: TargetName = "ncnn"
    model: str
    precision: Precision
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
    plan, gpu = report.target == "tensorrt", report.device.vulkan
    where = "as a plan, judged without a GPU" if plan else f"on {gpu.name if gpu is not None else report.device.model}"
    lines = [f"{report.model} in {report.precision} {where}", "", f"{report.verdict.value}: {report.sentence}"]
    if report.layers:
        kept = "layers kept in higher precision" if gpu is None else "layers kept off the GPU"
        what = "nodes kept in float32" if plan else kept
        lines += ["", f"{len(report.layers)} of {report.layer_count} {what}:"]
    for layer in report.layers:
        without = "" if plan else f": without {', '.join(layer.off)}{', weights in float32' if layer.weights else ''}"
        lines.append(f"  {layer.type} {layer.name}{without} (its own error was {layer.local:.3g})")
    after = {state.name: state for state in report.after}
    lines += ["", "output, relative L2 before and after:"]
    for state in report.before:
        now = after.get(state.name)
        shown = f"{now.relative_l2:.3g} ({now.verdict.value})" if now is not None else "-"
        lines.append(f"  {state.name}: {state.relative_l2:.3g} ({state.verdict.value}) -> {shown}")
    if (trade := report.trade) is not None:
        old, new = trade.latency_before_ms, trade.latency_after_ms
        if old is not None and new is not None:
            ratio = new / old if old else float("nan")
            note = "" if trade.comparable else ", emulated: not comparable"
            lines.append(f"latency: {short_ms(old)} -> {short_ms(new)} ms (x{ratio:.2f}{note})")
        lines.append(f"{'plan' if plan else 'weights'}: {trade.bytes_before:,} -> {trade.bytes_after:,} bytes")
    return "\n".join(lines)
