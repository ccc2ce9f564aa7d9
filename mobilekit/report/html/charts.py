"""Charts as SVG: bars, histograms, series. Each has a name for a screen reader and a title on every mark.

Drawn here and not by a plotting library: those that draw for a browser put 4 MB of script into every report, do not
follow the reader's dark mode, and cannot be reached by keyboard (docs/decisions/0005).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from mobilekit.report.html.build import Element, element

__all__ = ["Bar", "Block", "Curve", "bars", "curves", "histogram", "icicle", "series"]

_WIDTH, _HEIGHT = 460, 190
_MOST = 1e30
_DEEPEST = 8
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 22, 34


@dataclass(frozen=True, slots=True)
class Bar:
    """``style``: a class of the style sheet (``pass``, ``fail``, ``b``). ``label`` is written under the bar."""

    label: str
    value: float
    style: str = ""
    title: str = ""


def _canvas(name: str, *children: Element | None, height: int = _HEIGHT, style: str = "") -> Element:
    return element(
        "svg", element("title", name), *children, viewBox=f"0 0 {_WIDTH} {height}", role="img", tabindex=0,
        aria_label=name, **({"class_": style} if style else {}),
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
    """Three digits, plain where that is short."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def _ticks(low: float, high: float, *, log: bool = False, whole: bool = False) -> list[tuple[float, str]]:
    """Places from ``low`` to ``high`` (``log``: of decimal logarithms) that are round numbers, and their names;
    ``whole`` ones only."""
    if log and high - low >= 1.5:
        step = max(1, math.ceil((high - low) / 6))
        return [(float(n), f"1e{n:g}") for n in range(math.ceil(low), math.floor(high) + 1) if n % step == 0]
    if log:
        return [(low + share * (high - low), f"{10 ** (low + share * (high - low)):.1e}") for share in (0, 0.5, 1)]
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 0.0
    if power == 0.0 or not math.isfinite(power):
        return [(low, _number(low)), (high, _number(high))]
    wide = next((power * part for part in (1.0, 2.0, 5.0) if power * part >= rough * 0.999), power * 10)
    wide = max(wide, 1.0) if whole else wide
    first, count = math.ceil(low / wide - 1e-9), math.floor((high - low) / wide + 1e-9) + 1
    places = [(first + n) * wide for n in range(count)]
    digits = max(0, -math.floor(math.log10(wide)))
    return [(at, f"{at:,.{digits}f}" if 1e-4 <= wide < 1e7 else f"{at:.3g}") for at in places if at <= high]


def _frame(
    low: float, high: float, top: float, *, unit: str, across: str, log: bool = False, counts: bool = False
) -> list[Element]:
    """The axes: ``across`` from ``low`` to ``high`` along the bottom, ``unit`` from 0 to ``top`` at the left;
    ``counts``: that is a number of things, else the bottom is."""
    y, wide = _HEIGHT - _BOTTOM, _WIDTH - _LEFT - _RIGHT
    parts = [_line(_LEFT, y, _WIDTH - _RIGHT, y)]
    for place, text in _ticks(low, high, log=log, whole=not counts):
        share = (place - low) / (high - low)
        x = _LEFT + share * wide
        anchor = "start" if share < 0.03 else "end" if share > 0.95 else "middle"
        parts += [_line(x, y, x, y + 4), _text(x, y + 16, text, anchor)]
    for place, text in _ticks(0.0, top, whole=counts):
        height = y - place / top * (y - _TOP)
        parts += [_line(_LEFT, height, _WIDTH - _RIGHT, height), _text(_LEFT - 6, height + 4, text, "end")]
    parts += [_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 3, across), _text(2, 11, unit, "start")]
    return parts


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
    # No time is below 0, and no axis either.
    low, high = low - pad if log or low < 0 else max(0.0, low - pad), high + pad
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
        side = 1 if x < _WIDTH / 2 else -1
        drawn += [
            _line(x, _TOP, x, _HEIGHT - _BOTTOM, "limit"),
            _text(x + 4 * side, _TOP + 10, "limit", "start" if side > 0 else "end"),
        ]
    frame = _frame(low, high, float(max(bins)), unit="how many", across=unit, log=log, counts=True)
    return _canvas(name, *frame, *drawn, style="plot")


def series(
    values: Sequence[float], name: str, *, unit: str, across: str, marked: Collection[int] = ()
) -> Element | None:
    """Values from 0 upwards in order, as a line; those at ``marked`` stand out. ``None`` for fewer than two."""
    usable = _drawable(values)
    if len(usable) < 2:
        return None
    top = max(usable) if max(usable) > 0 else 1.0
    tall, step = _HEIGHT - _TOP - _BOTTOM, (_WIDTH - _LEFT - _RIGHT) / (len(usable) - 1)
    places = [(_LEFT + i * step, _HEIGHT - _BOTTOM - max(v, 0.0) / top * tall) for i, v in enumerate(usable)]
    line = element("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in places), class_="line")
    far = set(marked) if len(usable) == len(values) else set()
    dots = [
        element("circle", element("title", f"{i + 1}: {_number(v)} {unit}"), cx=f"{x:.1f}", cy=f"{y:.1f}",
                r=3.5 if i in far else 2.2, class_="dot fail" if i in far else "dot")
        for i, ((x, y), v) in enumerate(zip(places, usable, strict=True))
        if len(usable) <= 120 or i in far
    ]  # fmt: skip
    frame = _frame(1, len(usable), top, unit=unit, across=across)
    return _canvas(name, *frame, line, *dots, style="plot")


def bars(
    values: Sequence[Bar], name: str, *, unit: str, log: bool = False, limit: float | None = None
) -> Element | None:
    """A bar for each value, one under another, with room for long labels. ``log``: lengths by the logarithm."""
    usable = [replace(bar, value=value) for bar in values for value in _drawable([bar.value], log=log)]
    if not usable:
        return None
    row, label_width = 22, 180
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
        text = bar.label if len(bar.label) <= 23 else bar.label[:10] + "…" + bar.label[-12:]
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
class Curve:
    """``values``: one for each place along the bottom, ``None`` where there is none; ``style``: ``""`` or ``"b"``."""

    name: str
    values: Sequence[float | None]
    style: str = ""


def curves(
    drawn: Sequence[Curve],
    names: Sequence[str],
    name: str,
    *,
    unit: str,
    across: str,
    limits: Sequence[float] = (),
    mark: int | None = None,
) -> Element | None:
    """Values over an ordinal axis (layers, say) by their logarithms. ``names``: of the places; ``mark``: one of them.

    Zeros lie on the bottom; what is not finite, on the top edge as a cross. ``None`` where nothing can be drawn.
    """
    every = [value for curve in drawn for value in curve.values if value is not None]
    usable = [math.log10(value) for value in _drawable([*every, *limits], log=True)]
    if not every or not names or not usable:
        return None
    low, high = math.floor(min(usable) - 0.2), math.ceil(max(usable) + 0.2)
    y, wide, tall = _HEIGHT - _BOTTOM, _WIDTH - _LEFT - _RIGHT, _HEIGHT - _BOTTOM - _TOP
    step = wide / max(1, len(names) - 1)
    parts: list[Element] = [_text(2, 11, unit, "start"), _text(_LEFT + wide / 2, _HEIGHT - 3, across)]
    for place, text in _ticks(low, high, log=True):
        height = y - (place - low) / (high - low) * tall
        parts += [_line(_LEFT, height, _WIDTH - _RIGHT, height), _text(_LEFT - 6, height + 4, text, "end")]
    for place, text in _ticks(1, max(2, len(names)), whole=True):
        x = _LEFT + (place - 1) * step
        if x <= _WIDTH - _RIGHT:
            parts += [_line(x, y, x, y + 4), _text(x, y + 16, text, "end" if x > _WIDTH - 30 else "middle")]
    if mark is not None and 0 <= mark < len(names):
        x = _LEFT + mark * step
        parts.append(_line(x, _TOP, x, y, "mark"))
    for limit in _drawable(limits, log=True):
        height = y - (math.log10(limit) - low) / (high - low) * tall
        parts.append(_line(_LEFT, height, _WIDTH - _RIGHT, height, "limit"))
    for curve in drawn:
        places: list[tuple[float, float]] = []
        dots = []
        for index, value in enumerate(curve.values[: len(names)]):
            if value is None:
                continue
            x = _LEFT + index * step
            title = element("title", f"{names[index]}: {curve.name} {value:.3g}")
            if not math.isfinite(value):
                dots.append(element("path", title, d=f"M{x - 4:.1f} {_TOP}l8 8m0 -8l-8 8", class_="cross"))
                continue
            shown = math.log10(_drawable([value], log=True)[0]) if value > 0 else float(low)
            height = y - max(shown - low, 0.0) / (high - low) * tall
            places.append((x, height))
            dots.append(element("circle", title, cx=f"{x:.1f}", cy=f"{height:.1f}", r=2.6,
                                class_=f"dot {curve.style}".strip()))  # fmt: skip
        points = " ".join(f"{x:.1f},{height:.1f}" for x, height in places)
        parts += [element("polyline", points=points, class_=f"line {curve.style}".strip()), *dots]
    return _canvas(name, *parts, style="plot")


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
    deep = [level for level in range(_DEEPEST) if sum(b.value for b in usable if len(b.path) > level) > total / 50]
    depth = len(deep)
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
    fits = int(width / 7.2)
    if fits < 3:
        return [box]
    text = path[-1] if len(path[-1]) <= fits else path[-1][: fits - 1] + "…"
    return [box, element("text", text, x=f"{x + 3:.1f}", y=y + 14, class_="on")]
