"""What is known of each model in each precision, and the table of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PRECISIONS = ("fp32", "fp16", "int8")
STREAMS = (1, 2, 4)


@dataclass(frozen=True)
class Peer:
    """ONNX Runtime on the same prepared model: times of whole runs as the host sees them, or why there are none."""

    p50_ms: float | None = None
    per_second: dict[int, float] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class Row:
    """One model in one precision. ``state``: ``built``, ``refused`` (the target or the format does not take it, with
    the reason), ``failed``; after the run ``pass``, ``fail`` or ``inconclusive``. Errors are relative L2 against
    ONNX Runtime on the original; ``latency_p50_ms`` is the host's, copies included, ``compute_p50_ms`` the plan alone;
    ``took_s`` all that was done for the row.
    """

    model: str
    precision: str
    state: str
    reason: str = ""
    build_s: float | None = None
    plan_bytes: int | None = None
    layers: int | None = None
    prepared_error: float | None = None
    error: float | None = None
    latency_p50_ms: float | None = None
    compute_p50_ms: float | None = None
    per_second: dict[int, float] = field(default_factory=dict)
    peers: dict[str, Peer] = field(default_factory=dict)
    took_s: float = 0.0


def read_row(told: Mapping[str, Any]) -> Row:
    """A row as it was written."""
    peers = {
        name: Peer(peer["p50_ms"], _rates(peer["per_second"]), peer["problem"]) for name, peer in told["peers"].items()
    }
    return Row(**{**told, "peers": peers, "per_second": _rates(told["per_second"])})


def _rates(told: Mapping[str, float]) -> dict[int, float]:
    return {int(streams): rate for streams, rate in told.items()}


def table(rows: Sequence[Row]) -> str:
    """For a terminal and for Markdown alike."""
    names = sorted({name for row in rows for name in row.peers})
    head = ["model", "precision", "result", "error", "prepared", "p50 ms", "plan ms"]
    head += [f"{streams}/s" for streams in STREAMS] + [f"{name} p50 ms" for name in names] + ["plan MB", "build s"]
    lines = [head]
    for row in rows:
        peers = [row.peers.get(name, Peer()) for name in names]
        lines.append(
            [row.model, row.precision, row.state, _error(row.error), _error(row.prepared_error)]
            + [_number(row.latency_p50_ms, 3), _number(row.compute_p50_ms, 3)]
            + [_number(row.per_second.get(streams), 0) for streams in STREAMS]
            + [_number(found.p50_ms, 3) for found in peers]
            + [_number(row.plan_bytes / 1e6 if row.plan_bytes else None, 1), _number(row.build_s, 1)]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    text = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
    text += [f"{row.model} {row.precision}: {row.reason}" for row in rows if row.reason]
    problems = [f"{name}: {peer.problem}" for row in rows for name, peer in row.peers.items() if peer.problem]
    text += dict.fromkeys(problems)
    return "\n".join(text)


def _error(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
