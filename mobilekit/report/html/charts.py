"""Charts as SVG: bars, histograms, series. Each has a name for a screen reader and a title on every mark.

Drawn here and not by a plotting library: those that draw for a browser put 4 MB of script into every report, do not
follow the reader's dark mode, and cannot be reached by keyboard (docs/decisions/0010).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from mobilekit.report.html.build import Element, element

__all__ = ["Bar", "Block", "bars", "histogram", "icicle", "series"]

_WIDTH, _HEIGHT = 520, 200
_MOST = 1e30
_DEEPEST = 8
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 12, 34


@dataclass(frozen=True, slots=True)
class Bar:
    """``style``: a class of the style sheet (``pass``, ``fail``, ``b``). ``label`` is written under the bar."""

    label: str
    value: float
    style: str = ""
    title: str = ""


def _canvas(name: str, *children: Element | None, height: int = _HEIGHT) -> Element:
    return element(
        "svg", element("title", name), *children, viewBox=f"0 0 {_WIDTH} {height}", role="img", tabindex=0,
        aria_label=name,
    )  # fmt: skip


def _line(x1: float, y1: float, x2: float, y2: float, style: str = "axis") -> Element:
    return element("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", class_=style)


def _text(x: float, y: float, text: str, anchor: str = "middle") -> Element:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)


def _drawable(values: Iterable[float], *, log: bool = False) -> list[float]:
    """The finite ones (above 0 for ``log``); what is beyond 1e30, or for ``log`` below 1e-30, is drawn there."""
    usable = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
    return [max(min(value, _MOST), 1 / _MOST if log else -_MOST) for value in usable]


def _number(value: float) -> str:
    return f"{value:.3g}"


def _frame(low: float, high: float, bottom: str, top: str, *, unit: str, log: bool = False) -> list[Element]:
    """The axes: the value axis from ``low`` to ``high`` along the bottom, ``bottom`` to ``top`` at the left."""
    y = _HEIGHT - _BOTTOM
    parts = [_line(_LEFT, y, _WIDTH - _RIGHT, y), _line(_LEFT, _TOP, _LEFT, y)]
    for step in range(5):
        share = step / 4
        x = _LEFT + share * (_WIDTH - _LEFT - _RIGHT)
        anchor = "start" if step == 0 else "end" if step == 4 else "middle"
        parts += [_line(x, y, x, y + 4), _text(x, y + 16, _tick(low + share * (high - low), log), anchor)]
    parts += [_text(_LEFT - 6, _TOP + 8, top, "end"), _text(_LEFT - 6, y, bottom, "end")]
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 4, unit))
    return parts


def _tick(value: float, log: bool) -> str:
    return f"{10**value:.1e}" if log else _number(value)


def histogram(
    values: Sequence[float], name: str, *, unit: str, limit: float | None = None, log: bool = False
) -> Element | None:
    """How often which value; ``limit`` is drawn as a line. ``log``: over the decimal logarithm, of values above 0.

    ``None`` where there is no finite value to draw.
    """
    usable = _drawable(values, log=log)
    if not usable:
        return None
    place = (lambda value: math.log10(value)) if log else (lambda value: value)
    points = [place(value) for value in usable]
    marks = [*points] + ([place(limit)] if limit is not None and (limit > 0 or not log) else [])
    low, high = min(marks), max(marks)
    pad = (high - low) * 0.05 or max(abs(high) * 0.05, 0.5 if log else 1e-12)
    low, high = low - pad, high + pad
    count = max(8, min(40, round(math.sqrt(len(points)) * 2)))
    bins = [0] * count
    for point in points:
        bins[min(count - 1, int((point - low) / (high - low) * count))] += 1
    width = (_WIDTH - _LEFT - _RIGHT) / count
    scale = (_HEIGHT - _TOP - _BOTTOM) / max(bins)
    drawn = []
    for index, number in enumerate(bins):
        edges = [low + (index + end) * (high - low) / count for end in (0, 1)]
        shown = " to ".join(_number(10**edge if log else edge) for edge in edges)
        mark = element(
            "rect", element("title", f"{shown}: {number}"), x=f"{_LEFT + index * width:.1f}", class_="bar",
            y=f"{_HEIGHT - _BOTTOM - number * scale:.1f}", width=f"{max(width - 1, 0.5):.1f}",
            height=f"{number * scale:.1f}",
        )  # fmt: skip
        drawn.append(mark)
    if limit is not None and (limit > 0 or not log):
        x = _LEFT + (place(limit) - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)
        drawn += [_line(x, _TOP, x, _HEIGHT - _BOTTOM, "limit"), _text(x - 4, _TOP + 8, "limit", "end")]
    return _canvas(name, *_frame(low, high, "0", str(max(bins)), unit=unit, log=log), *drawn)


def series(values: Sequence[float], name: str, *, unit: str, across: str) -> Element | None:
    """Values in order, as a line. ``None`` for fewer than two."""
    usable = _drawable(values)
    if len(usable) < 2:
        return None
    top, bottom = max(usable), min(0.0, min(usable))
    span, tall = (top - bottom) or 1.0, _HEIGHT - _TOP - _BOTTOM
    step = (_WIDTH - _LEFT - _RIGHT) / (len(usable) - 1)
    places = [(_LEFT + i * step, _HEIGHT - _BOTTOM - (v - bottom) / span * tall) for i, v in enumerate(usable)]
    line = element("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in places), class_="line")
    dots = []
    if len(usable) <= 120:
        dots = [
            element("circle", element("title", f"{i + 1}: {_number(v)} {unit}"), cx=f"{x:.1f}", cy=f"{y:.1f}", r=2.2,
                    class_="dot")
            for i, ((x, y), v) in enumerate(zip(places, usable, strict=True))
        ]  # fmt: skip
    frame = _frame(1, len(usable), _number(bottom), f"{_number(top)} {unit}", unit=across)
    return _canvas(name, *frame, line, *dots)


def bars(
    values: Sequence[Bar], name: str, *, unit: str, log: bool = False, limit: float | None = None
) -> Element | None:
    """A bar for each value, one under another, with room for long labels. ``log``: lengths by the logarithm."""
    usable = [replace(bar, value=value) for bar in values for value in _drawable([bar.value], log=log)]
    if not usable:
        return None
    row, label_width = 22, 190
    place = (lambda value: math.log10(value)) if log else (lambda value: value)
    marks = [place(bar.value) for bar in usable] + ([place(limit)] if limit else [])
    high = max(marks)
    low = min(marks) - max(0.5, (high - min(marks)) * 0.1) if log else min(0.0, min(marks))
    # Divided first: over a span of 1e-308 the scale itself would be infinite.
    span, wide = (high - low) or 1.0, _WIDTH - label_width - 70
    drawn: list[Element] = []
    for index, bar in enumerate(usable):
        y = 6 + index * row
        length = max((place(bar.value) - low) / span * wide, 1)
        text = bar.label if len(bar.label) <= 30 else bar.label[:14] + "…" + bar.label[-14:]
        drawn += [
            _text(label_width - 6, y + 13, text, "end"),
            element(
                "rect", element("title", bar.title or f"{bar.label}: {_number(bar.value)} {unit}"), x=label_width,
                y=y, width=f"{length:.1f}", height=row - 6, class_=f"bar {bar.style}".strip(),
            ),
            _text(label_width + length + 4, y + 13, _number(bar.value), "start"),
        ]  # fmt: skip
    height = 12 + row * len(usable)
    if limit:
        x = label_width + (place(limit) - low) / span * wide
        drawn.append(_line(x, 2, x, height - 4, "limit"))
    made = _canvas(name, *drawn, height=height)
    # As tall as its rows: the sheet's limit is for charts of one height.
    made.set("style", f"max-height: {height * 1.5:.0f}px")
    return made


@dataclass(frozen=True, slots=True)
class Block:
    """``path``: names from the outermost to the innermost."""

    path: tuple[str, ...]
    value: float


def icicle(blocks: Sequence[Block], name: str, *, unit: str) -> Element | None:
    """A flame-like chart: a row for each depth, widths by value, what belongs together side by side in its order."""
    usable = [block for block in blocks if math.isfinite(block.value) and block.value > 0]
    total = sum(block.value for block in usable)
    if not usable or not math.isfinite(total):
        return None
    row = 22
    depth = min(_DEEPEST, max(len(block.path) for block in usable))
    drawn: list[Element] = []
    for level in range(depth):
        start = 0.0
        for key, width in _runs(usable, level):
            if key is not None:
                drawn += _cell(key, start / total, width / total, level * row, f"{_number(width)} {unit}", level)
            start += width
    return _canvas(name, *drawn, height=depth * row + 4)


def _runs(blocks: Sequence[Block], level: int) -> list[tuple[tuple[str, ...] | None, float]]:
    """Neighbours with one path down to ``level``, as one; ``None`` for a path that ends above."""
    found: list[tuple[tuple[str, ...] | None, float]] = []
    for block in blocks:
        key = block.path[: level + 1] if len(block.path) > level else None
        if found and found[-1][0] == key:
            found[-1] = key, found[-1][1] + block.value
        else:
            found.append((key, block.value))
    return found


def _cell(path: tuple[str, ...], start: float, share: float, y: float, amount: str, level: int) -> list[Element]:
    x, width = start * _WIDTH, share * _WIDTH
    title = element("title", f"{'/'.join(path)}: {amount}, {share:.1%}")
    style = "bar b" if level % 2 else "bar"
    box = element("rect", title, x=f"{x:.1f}", y=y, width=f"{max(width - 0.5, 0.1):.1f}", height=20, class_=style)
    fits = int(width / 6.5)
    if fits < 3:
        return [box]
    text = path[-1] if len(path[-1]) <= fits else path[-1][: fits - 1] + "…"
    return [box, element("text", text, x=f"{x + 3:.1f}", y=y + 14, class_="on")]
