"""A comparison of two bundles as data, and as text for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mobilekit.report.base import Frozen
from mobilekit.report.model import DeviceFacts
from mobilekit.validate.regression import Answer
from mobilekit.validate.tolerance import Verdict

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = [
    "SCHEMA_VERSION",
    "ComparisonReport",
    "GateResult",
    "InstructionDifference",
    "LatencyDifference",
    "Side",
    "render",
]

SCHEMA_VERSION = "1.2"
_STYLE = {
    Answer.BETTER: "bold green",
    Answer.SAME: "bold green",
    Answer.WORSE: "bold red",
    Answer.INCONCLUSIVE: "bold yellow",
    Verdict.PASS: "bold green",
    Verdict.FAIL: "bold red",
    Verdict.INCONCLUSIVE: "bold yellow",
}


class Side(Frozen):
    """One of the two. ``relative_l2`` is its worst output's error against its own reference over the samples;
    ``instructions`` of an inference, on a virtual device."""

    name: str
    model: str
    model_sha256: str
    precision: str
    recorded: bool = False
    verdict: Verdict
    relative_l2: float | None
    p50_ms: float | None
    instructions: int | None = None


class LatencyDifference(Frozen):
    """``ratio``: B's time over A's, within ``low`` to ``high`` with ``confidence``, and within ``same_low`` to
    ``same_high`` with ``same_confidence``, which *same* and a gate that holds go by; ``detectable``: the smallest
    relative change that could have been told from none; ``sessions``: log ratios of the rounds, by fresh load."""

    answer: Answer
    ratio: float
    low: float
    high: float
    confidence: float
    same_low: float
    same_high: float
    same_confidence: float
    detectable: float
    margin: float
    interleaved: bool
    sessions: tuple[tuple[float, ...], ...] = ()


class InstructionDifference(Frozen):
    """``ratio``: B's instructions over A's, exact."""

    answer: Answer
    ratio: float


class GateResult(Frozen):
    gate: str
    verdict: Verdict
    reason: str


class ComparisonReport(Frozen):
    """``verdict``: the worst of the gates, ``pass`` where there are none: then the answer is for the reader.

    On a virtual device ``instructions`` answer, and ``latency`` is ``None``."""

    schema_version: str = SCHEMA_VERSION
    kind: Literal["comparison"] = "comparison"
    mobilekit_version: str
    a: Side
    b: Side
    device: DeviceFacts
    threads: int = Field(ge=0)
    latency: LatencyDifference | None
    instructions: InstructionDifference | None = None
    remark: str = ""
    gates: tuple[GateResult, ...] = ()
    verdict: Verdict
    sentence: str


def render(report: ComparisonReport) -> RenderableType:
    """For ``rich``: both sides, the difference with its interval, every gate."""
    from rich.box import ROUNDED
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from mobilekit.report.console import plain

    table = Table(box=ROUNDED, title=Text(f"mobilekit compare on {plain(report.device.model or report.device.serial)}"))
    for column in ("", "A", "B"):
        table.add_column(column, overflow="fold")
    sides = (report.a, report.b)
    rows = [
        ("bundle", [plain(side.name) + (" (recorded)" if side.recorded else "") for side in sides]),
        ("model, precision", [f"{plain(side.model)}, {side.precision}" for side in sides]),
        ("verdict", [side.verdict.value for side in sides]),
        ("relative L2", ["-" if side.relative_l2 is None else f"{side.relative_l2:.3g}" for side in sides]),
        ("latency p50", ["-" if side.p50_ms is None else f"{side.p50_ms:.3f} ms" for side in sides]),
    ]
    if any(side.instructions is not None for side in sides):
        rows.append(("instructions", ["-" if s.instructions is None else f"{s.instructions:,}" for s in sides]))
    for name, values in rows:
        table.add_row(Text(name, style="bold"), *(Text(value) for value in values))
    lines: list[RenderableType] = [table]
    found = report.latency or report.instructions
    if found is not None:
        answer = found.answer
        lines.append(Text.assemble((answer.value.upper(), _STYLE[answer]), f": {plain(report.sentence, 400)}"))
    else:
        lines.append(Text(plain(report.sentence, 400)))
    lines += [
        Text.assemble(f"gate {plain(gate.gate)}: ", (gate.verdict.value, _STYLE[gate.verdict]), f", {gate.reason}")
        for gate in report.gates
    ]
    return Group(*lines)
