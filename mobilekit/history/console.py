"""The list of runs for the terminal. Every name in it is untrusted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mobilekit.report.console import plain

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mobilekit.history.store import Entry

__all__ = ["render"]

_STYLE = {"pass": "green", "fail": "red", "inconclusive": "yellow"}


def render(entries: Sequence[Entry]) -> RenderableType:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, padding=0)
    for name in ("run", "at (UTC)", "model", "device", "verdict", "rel. L2", "p50 ms", "tag"):
        # At 80 columns a model's name still takes two lines, not ten.
        width = {"model": 14, "device": 9}.get(name)
        table.add_column(name, overflow="fold", no_wrap=name not in ("model", "device", "tag"), min_width=width)
    for entry in entries:
        time = "-" if entry.p50_ms is None else f"{entry.p50_ms:.4g}{'' if entry.comparable else '*'}"
        table.add_row(
            str(entry.id),
            f"{entry.at:%Y-%m-%d %H:%M}",
            Text(f"{plain(entry.model)} ({entry.target} {entry.precision})"),
            Text(plain(entry.device, 40)),
            Text(entry.verdict, style=_STYLE.get(entry.verdict, "")),
            "-" if entry.relative_l2 is None else f"{entry.relative_l2:.3g}",
            time,
            Text(plain(entry.tag, 40)),
        )
    if any(entry.p50_ms is not None and not entry.comparable for entry in entries):
        table.caption = "* on a virtual device: the emulator's time"
    return table
