"""What ``mobilekit tune`` tried and chose, as data, as text for the terminal, and as a page."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from mobilekit.report.base import Frozen
from mobilekit.report.comparison import LatencyDifference
from mobilekit.report.model import DeviceFacts
from mobilekit.tuning import Setting
from mobilekit.validate.tolerance import Verdict

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["TUNE_SCHEMA", "Outcome", "SettingReport", "TuneReport", "page", "render"]

TUNE_SCHEMA = "1.1"

Outcome = Literal["tuned", "default", "undecided", "wrong"]
_EXIT = {"tuned": 0, "default": 0, "undecided": 3, "wrong": 1}
_STYLE = {"tuned": "bold green", "default": "bold green", "undecided": "bold yellow", "wrong": "bold red"}


class SettingReport(Frozen):
    """One setting. ``verdict`` of its outputs over all samples; ``None``: it does not run, ``reason`` says why, or was
    not tried and has none. ``relative_l2``: the worst output's.

    ``p50_ms`` within ``p50_low_ms`` to ``p50_high_ms`` (95%, of these runs); ``ratio``: its time over the default's,
    each block beside one of the default, the median of ``turns`` of them. A first look that only chose who goes on.
    ``instructions`` of an inference: on a virtual device they decide, not times.
    """

    setting: Setting
    verdict: Verdict | None
    reason: str
    relative_l2: float | None = None
    p50_ms: float | None = None
    p50_low_ms: float | None = None
    p50_high_ms: float | None = None
    ratio: float | None = None
    turns: int = 0
    instructions: int | None = None


class TuneReport(Frozen):
    """``settings``: the default first. ``outcome``: ``tuned``, a setting is clearly faster than the default
    (``chosen``); ``default``, none is; ``undecided``, nobody can say here; ``wrong``, the bundle's answers are wrong as
    it is. ``latency``: the last candidate against the default, measured anew after the choice; ``written``: the
    manifest was changed."""

    schema_version: str = TUNE_SCHEMA
    kind: Literal["tuning"] = "tuning"
    mobilekit_version: str
    model: str
    device: DeviceFacts
    default: Setting
    settings: tuple[SettingReport, ...]
    outcome: Outcome
    chosen: Setting | None = None
    latency: LatencyDifference | None = None
    written: bool = False
    sentence: str

    @property
    def exit_code(self) -> int:
        return _EXIT[self.outcome]


_TIMES = ("p50 ms", "times default", "turns")


def _header(report: TuneReport) -> list[str]:
    return ["setting", "answers", "error", *(("instructions",) if _counted(report) else _TIMES)]


def _counted(report: TuneReport) -> bool:
    return any(one.instructions is not None for one in report.settings)


def _row(report: TuneReport, one: SettingReport) -> list[str]:
    mark = " (chosen)" if one.setting == report.chosen else " (default)" if one.setting == report.default else ""
    cost = [
        "-" if one.p50_ms is None else f"{one.p50_ms:.3f}",
        "-" if one.ratio is None else f"{one.ratio:.3f}",
        str(one.turns or "-"),
    ]
    if _counted(report):
        cost = ["-" if one.instructions is None else f"{one.instructions:,}"]
    return [
        f"{one.setting}{mark}",
        one.reason or "not tried" if one.verdict is None else one.verdict.value,
        "-" if one.relative_l2 is None else f"{one.relative_l2:.2g}",
        *cost,
    ]


def _ranked(report: TuneReport) -> list[SettingReport]:
    """The cheapest first; of which nothing is known last."""

    def cost(one: SettingReport) -> float:
        if one.instructions is not None:
            return one.instructions
        return one.ratio if one.ratio is not None else 1.0 if one.setting == report.default and one.p50_ms else math.inf

    return sorted(report.settings, key=cost)


def _excluded(report: TuneReport) -> list[str]:
    """The settings that are out of the question, and why: wrong, or unproven where the default is proven right."""
    default = report.settings[0].verdict
    return [
        f"never chosen ({one.verdict.value}): {one.setting}: {one.reason}"
        for one in report.settings
        if one.verdict is not None and one.verdict not in (Verdict.PASS, default)
    ]


def render(report: TuneReport) -> RenderableType:
    """For ``rich``: every setting, the cheapest first, and the answer."""
    from rich.box import ROUNDED
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from mobilekit.report.console import plain

    where = plain(report.device.model or report.device.serial)
    table = Table(box=ROUNDED, title=Text(f"mobilekit tune {plain(report.model)} on {where}"))
    for column in _header(report):
        table.add_column(column, overflow="fold")
    shown = [one for one in _ranked(report) if one.verdict is not None or one.reason]
    for one in shown:
        table.add_row(*(Text(plain(cell, 200)) for cell in _row(report, one)))
    lines: list[RenderableType] = [table]
    lines += [Text(plain(line, 400)) for line in _excluded(report)]
    if left := len(report.settings) - len(shown):
        lines.append(Text(f"{left} more settings were not tried: the budget was spent (--budget)"))
    lines.append(Text.assemble((report.outcome.upper(), _STYLE[report.outcome]), f": {plain(report.sentence, 600)}"))
    return Group(*lines)


def page(report: TuneReport) -> str:
    """One HTML file that opens offline: the answer, bars of the times, the whole table."""
    from mobilekit.report.html.build import document, element, figure, table
    from mobilekit.report.html.charts import Bar, bars

    ranked = _ranked(report)
    if _counted(report):
        counts = [Bar(str(one.setting), one.instructions) for one in ranked if one.instructions is not None]
        caption, chart = "exact, on one thread", bars(counts, "instructions by setting", unit="instructions")
    else:
        times = [Bar(str(one.setting), one.p50_ms) for one in ranked if one.p50_ms is not None]
        caption = "median milliseconds of each setting" + (": the emulator's" if report.device.virtual else "")
        chart = bars(times, "time by setting", unit="ms")
    where = report.device.model or report.device.serial
    main = element(
        "main",
        element("h1", f"tune: {report.model}"),
        element("p", f"{report.outcome}: {report.sentence}"),
        element("p", f"on {where}, {report.device.abi}; default: {report.default}", class_="faint"),
        *([] if chart is None else [figure(chart, caption)]),
        element("h2", "All settings"),
        table(_header(report), [_row(report, one) for one in ranked], caption="the cheapest first"),
        *(element("p", line) for line in _excluded(report)),
    )
    return document(f"mobilekit tune: {report.model}", main)
