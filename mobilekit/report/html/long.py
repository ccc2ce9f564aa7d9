"""Long timings on the page: what they came to, in words, and a sustained run's curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mobilekit.report.endurance import rows
from mobilekit.report.html.build import Element, figure, table
from mobilekit.report.html.charts import series

if TYPE_CHECKING:
    from mobilekit.report.endurance import SustainedReport
    from mobilekit.report.model import ValidationReport

__all__ = ["endurance_parts"]

_FIVE_MINUTES = 300


def endurance_parts(report: ValidationReport) -> list[Element]:
    """Nothing where nothing took long."""
    said = rows(report.sustained, report.single_stream, report.cool_downs)
    if not said:
        return []
    curves = [] if report.sustained is None else _curves(report.sustained)
    return [table(["", ""], [list(row) for row in said]), *curves]


def _curves(sustained: SustainedReport) -> list[Element]:
    found = sustained.stretches
    across = "minute" if sustained.asked_s >= _FIVE_MINUTES else "fifth of the run"
    curves = (
        ([one.p50_ms for one in found], "p50", "ms"),
        ([one.temperature_celsius for one in found], "temperature", "°C"),
        ([one.frequency_khz and one.frequency_khz / 1e6 for one in found], "frequency of all cores together", "GHz"),
    )
    drawn = []
    for values, name, unit in curves:
        whole = [value for value in values if value is not None]
        chart = series(whole, f"{name} of the sustained run", unit=unit, across=across)
        if chart is not None and len(whole) == len(found):
            drawn.append(figure(chart, f"{name}, {across} by {across}"))
    cells = [
        [
            f"{one.start_s:.0f} s",
            str(one.inferences),
            f"{one.p50_ms:.3g} ms",
            f"{one.p90_ms:.3g} ms",
            "-" if one.temperature_celsius is None else f"{one.temperature_celsius:.1f} °C",
            "-" if one.frequency_khz is None else f"{one.frequency_khz / 1e6:.2f} GHz",
        ]
        for one in found
    ]
    header = ["from", "inferences", "p50", "p90", "hottest zone", "all cores"]
    return [*drawn, table(header, cells, caption="the sustained run")]
