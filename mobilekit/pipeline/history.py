"""Runs kept for later: written after each validation, listed and drawn by ``mobilekit history``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mobilekit.errors import SetupError, UsageError
from mobilekit.progress import SILENT, Progress

if TYPE_CHECKING:
    from mobilekit.history.store import Entry
    from mobilekit.report.model import ValidationReport

__all__ = ["draw", "list_runs", "record", "recorded_report"]


def record(
    report: ValidationReport, history: str | None = None, *, tag: str = "", progress: Progress = SILENT
) -> int | None:
    """Keep ``report`` in ``history`` (a file, ``postgresql://…``, ``none``); its number, ``None`` where it is not kept.

    A history that cannot be used is an error where the user named it, and a remark where it is only the default: a
    verdict is not lost for a locked file.
    """
    from mobilekit.history.store import History, location

    try:
        url = location(history)
        if url is None:
            return None
        with History(url) as opened:
            return opened.add(report, tag=tag)
    except (SetupError, UsageError) as error:
        if history is not None:
            raise
        progress.note(f"not kept in the history: {error.message}")
        return None


def list_runs(
    history: str | None = None, *, model: str | None = None, device: str | None = None, limit: int = 50
) -> Sequence[Entry]:
    """The newest first. Raises :class:`UsageError` where ``history`` names a file that is absent, and what
    :class:`mobilekit.history.store.History` does."""
    from mobilekit.history.store import History, location, must_be_there

    must_be_there(history)
    url = location(history)
    if url is None:
        return []
    with History(url) as opened:
        return opened.entries(model=model, device=device, limit=limit)


def recorded_report(number: int, history: str | None = None) -> ValidationReport:
    from mobilekit.history.store import History, location, must_be_there

    must_be_there(history)
    url = location(history)
    if url is None:
        raise UsageError("there is no history to look into", hint="leave --history none away")
    with History(url) as opened:
        return opened.report(number)


def draw(entries: Sequence[Entry], path: Path) -> None:
    """An HTML page with latency and error over time for each model, device and precision; whole or not at all."""
    from mobilekit.paths import write_text
    from mobilekit.report.html.build import document, element, figure, table
    from mobilekit.report.html.charts import series

    groups: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in reversed(entries):
        groups.setdefault((entry.model, entry.device, entry.precision), []).append(entry)
    parts = [element("h1", "History")]
    for (model, device, precision), runs in groups.items():
        parts.append(element("h2", f"{model}, {precision}, {device}"))
        times = [run.p50_ms for run in runs if run.p50_ms is not None]
        errors = [run.relative_l2 for run in runs if run.relative_l2 is not None]
        for values, name, unit in ((times, "latency p50", "ms"), (errors, "relative L2", "")):
            chart = series(values, f"{name} of {model}", unit=unit, across="run")
            if chart is not None:
                parts.append(figure(chart, f"{name}, run by run"))
        header = ["run", "at (UTC)", "verdict", "relative L2", "p50", "threads", "tag"]
        parts.append(table(header, [_row(run) for run in runs]))
    write_text(path, document("mobilekit history", element("main", *parts)))


def _row(run: Entry) -> list[str]:
    return [
        str(run.id),
        f"{run.at:%Y-%m-%d %H:%M}",
        run.verdict,
        "-" if run.relative_l2 is None else f"{run.relative_l2:.3g}",
        "-" if run.p50_ms is None else f"{run.p50_ms:.4g} ms" + ("" if run.comparable else " (emulated)"),
        str(run.threads or "auto"),
        run.tag,
    ]
