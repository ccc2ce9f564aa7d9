"""Pre-processing parity as data, and as text, HTML and Markdown."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mobilekit.report.base import Frozen
from mobilekit.report.model import DeviceFacts, ReferenceFacts

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = [
    "SCHEMA_VERSION",
    "TITLES",
    "CauseReport",
    "Effect",
    "PairReport",
    "ParityReport",
    "PathName",
    "PixelDifference",
    "PreparedPicture",
    "SamplePair",
    "markdown",
    "page",
    "render",
    "sentence",
]

SCHEMA_VERSION = "1.0"
PathName = Literal["pillow", "opencv", "ncnn", "app"]
TITLES: dict[PathName, str] = {
    "pillow": "Pillow",
    "opencv": "OpenCV-like",
    "ncnn": "ncnn on the device",
    "app": "your app",
}
_NEAR = 2.0
"""Gaps whose ratio is less are called about as large."""


class PixelDifference(Frozen):
    """Two tensors of one picture, in grey levels of 0 to 255 (``relative_l2``: of the tensors as they are).

    ``row``, ``column`` and ``channel`` (a letter of the model's order) are where they differ most, ``first_level`` and
    ``second_level`` what is there.
    """

    max_levels: float
    mean_levels: float
    relative_l2: float
    channel: str
    row: int
    column: int
    first_level: float
    second_level: float


class Effect(Frozen):
    """How far one output of the model moves: relative L2, the median over the pictures and the largest."""

    output: str
    median: float
    largest: float
    worst_sample: str


class SamplePair(Frozen):
    """``effects``: relative L2 by output between the reference's two answers; ``agreement``: each metric's value."""

    sample: str
    width: int
    height: int
    difference: PixelDifference
    effects: dict[str, float]
    agreement: dict[str, float]


class CauseReport(Frozen):
    """What makes the difference, from :class:`mobilekit.validate.parity.Cause`; ``text`` says it in words."""

    deviations: tuple[str, ...]
    known: bool
    explained: float
    levels: float
    left_levels: float
    text: str


class PairReport(Frozen):
    """Two ways to prepare the same pictures, and what their difference alone does to the reference model's answers.

    ``worst`` is the picture's difference whose largest grey level is the largest of all, ``mean_levels`` the mean over
    the pictures. ``changed``: by metric, how many pictures' answers are not the same.
    """

    first: PathName
    second: PathName
    max_levels: float
    mean_levels: float
    relative_l2: float
    worst_sample: str
    worst: PixelDifference
    effects: tuple[Effect, ...]
    agreement: dict[str, float]
    changed: dict[str, int]
    cause: CauseReport | None
    samples: tuple[SamplePair, ...]


class ParityReport(Frozen):
    """``model_effects``: the same tensors (Pillow's) in the reference and on the device: the model's own error.

    ``subject`` names the pair that is held against it: Pillow's tensors, which ``validate`` uses, and the app's where
    it gave some, else those of ncnn on the device.
    """

    schema_version: str = SCHEMA_VERSION
    kind: Literal["parity"] = "parity"
    mobilekit_version: str
    model: str
    model_sha256: str
    device: DeviceFacts
    reference: ReferenceFacts
    precision: str
    input: str
    preprocess: str
    samples: int = Field(ge=1)
    pairs: tuple[PairReport, ...]
    subject: tuple[PathName, PathName]
    model_effects: tuple[Effect, ...]
    model_agreement: dict[str, float]
    model_changed: dict[str, int]
    larger: Literal["preprocessing", "model", "alike", "none"]
    sentence: str


@dataclass(frozen=True, slots=True)
class PreparedPicture:
    """What a way to prepare a picture made of it, for the page: a PNG file's bytes."""

    title: str
    png: bytes


def largest(effects: Sequence[Effect]) -> Effect | None:
    """The output that moves most, by the median."""
    return max(effects, key=lambda effect: (effect.median, effect.largest), default=None)


def sentence(
    pair: PairReport, model: Sequence[Effect], model_changed: dict[str, int], samples: int
) -> tuple[Literal["preprocessing", "model", "alike", "none"], str]:
    """Which gap is the larger one, and what most likely makes it, in one sentence."""
    ours, theirs = largest(pair.effects), largest(model)
    if ours is None or theirs is None:
        return "none", "no output of the model says anything for these pictures, so no gap can be told"
    gap, error = ours.median, theirs.median
    figures = (
        f"pixels of {TITLES[pair.second]} instead of Pillow's move {ours.output} by {gap:.2g} (relative L2, median), "
        f"the device's arithmetic moves {theirs.output} by {error:.2g}"
    )
    changes = [
        f"{name} changes in {count} of {samples} pictures, by the model's own error in {model_changed.get(name, 0)}"
        for name, count in pair.changed.items()
    ]
    cause = f"; {pair.cause.text}" if pair.cause is not None else ""
    told = "; ".join([figures, *changes]) + cause
    if gap == 0 and error == 0:
        return "none", f"neither preprocessing nor the model makes any difference: {told}"
    if gap > _NEAR * error:
        return "preprocessing", f"preprocessing is the larger gap: {told}"
    if error > _NEAR * gap:
        return "model", f"the model on the device is the larger gap: {told}"
    return "alike", f"preprocessing and the model are gaps of about the same size: {told}"


def _place(difference: PixelDifference) -> str:
    return (
        f"{difference.channel} at row {difference.row}, column {difference.column}: "
        f"{difference.first_level:.1f} and {difference.second_level:.1f}"
    )


def _rows(report: ParityReport) -> list[list[str]]:
    rows = []
    for pair in report.pairs:
        effect = largest(pair.effects)
        rows.append(
            [
                f"{TITLES[pair.first]} / {TITLES[pair.second]}",
                f"{pair.max_levels:.2f}",
                f"{pair.mean_levels:.3f}",
                f"{pair.relative_l2:.3g}",
                "-" if effect is None else f"{effect.median:.2e} {effect.output}",
                _agreements(pair.agreement, pair.changed),
            ]
        )
    error = largest(report.model_effects)
    if error is not None:
        moved = f"{error.median:.2e} {error.output}"
        agreed = _agreements(report.model_agreement, report.model_changed)
        rows.append(["the model's own error", "", "", "", moved, agreed])
    return rows


def _agreements(agreement: dict[str, float], changed: dict[str, int]) -> str:
    return ", ".join(f"{name} {value:.3f} ({changed[name]} changed)" for name, value in agreement.items()) or "-"


_HEADER = ["prepared by", "max", "mean", "relative L2", "moves the model", "answers"]


def _remarks(report: ParityReport) -> list[str]:
    """Where each pair differs most; and the cause, of the pair that the sentence is not about."""
    found = []
    for pair in report.pairs:
        name = f"{TITLES[pair.first]} / {TITLES[pair.second]}"
        found.append(f"{name}: largest in {pair.worst_sample}, {_place(pair.worst)}")
        if pair.cause is not None and (pair.first, pair.second) != report.subject:
            found.append(f"{name}: {pair.cause.text}")
    return found


def _summary(report: ParityReport) -> str:
    where = report.device.model or report.device.serial
    return f"{report.samples} pictures, {report.precision} on {where}, reference {report.reference.name}"


def render(report: ParityReport) -> RenderableType:
    """For ``rich``: every pair of ways, the model's own error, causes, and the sentence."""
    from rich.box import SIMPLE
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from mobilekit.report.console import plain

    title = f"mobilekit parity: {plain(report.model)}, grey levels of 0 to 255"
    table = Table(box=SIMPLE, title=Text(title))
    for index, name in enumerate(_HEADER):
        table.add_column(name, overflow="fold", justify="right" if 1 <= index <= 3 else "left")
    for row in _rows(report):
        table.add_row(*(Text(plain(cell, 160)) for cell in row))
    lines = [plain(f"prepared as: {report.preprocess}", 300), *(plain(line, 400) for line in _remarks(report))]
    told = Text.assemble((plain(report.sentence, 700), "bold"))
    return Group(table, Text("\n".join(lines)), told)


def markdown(report: ParityReport) -> str:
    """For a comment on a pull request."""
    from mobilekit.report.markdown import code

    lines = [
        f"### Pre-processing parity of {code(report.model)}",
        "",
        _escaped(report.sentence),
        "",
        f"{report.samples} pictures, {report.precision} on {code(report.device.model or report.device.serial)}, "
        f"prepared as {code(report.preprocess)}",
        "",
        "| " + " | ".join(_HEADER) + " |",
        "|" + "---|" * len(_HEADER),
    ]
    lines += ["| " + " | ".join(_escaped(cell) for cell in row) + " |" for row in _rows(report)]
    lines += ["", *(f"- {_escaped(line)}" for line in _remarks(report))]
    lines += ["", f"<sub>mobilekit {report.mobilekit_version}, model {code(report.model_sha256[:12])}</sub>"]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """Text that no name in it can make into markup."""
    from mobilekit.report.console import plain

    return "".join(f"\\{c}" if c in r"\`*_{}[]()<>#|!~&@" else c for c in plain(text, 700))


def page(report: ParityReport, pictures: Sequence[PreparedPicture] = ()) -> str:
    """One HTML file that opens offline: the sentence, a chart of what moves the model, all pairs, all pictures;
    ``pictures``: one as it was prepared in different ways, to look at."""
    from mobilekit.report.html.build import document, element, figure, table
    from mobilekit.report.html.charts import Bar, bars

    marks = []
    for pair in report.pairs:
        effect = largest(pair.effects)
        if effect is not None:
            marks.append(Bar(f"{TITLES[pair.first]} / {TITLES[pair.second]}", effect.median, title=effect.output))
    error = largest(report.model_effects)
    if error is not None:
        marks.append(Bar("the model's own error", error.median, title=error.output))
    chart = bars(marks, "what moves the model's output", unit="relative L2", log=True)
    drawn = (
        figure(chart, "relative L2 of the output that moves most, median over the pictures")
        if chart is not None
        else None
    )
    parts = []
    if pictures:
        cards = []
        for one in pictures:
            shown = element("img", alt=one.title, class_="region")
            shown.set("src", "data:image/png;base64," + base64.b64encode(one.png).decode())
            cards.append(element("div", shown, one.title, class_="card"))
        parts.append(element("div", *cards, class_="grid"))
    for pair in report.pairs:
        rows = [
            [
                one.sample,
                f"{one.width}x{one.height}",
                f"{one.difference.max_levels:.2f}",
                f"{one.difference.mean_levels:.3f}",
                f"{one.difference.relative_l2:.3g}",
                _place(one.difference),
                ", ".join(f"{value:.2e}" for value in one.effects.values()),
                ", ".join(f"{name} {value:.3f}" for name, value in one.agreement.items()) or "-",
            ]
            for one in pair.samples
        ]
        title = f"{TITLES[pair.first]} / {TITLES[pair.second]}"
        header = ["picture", "size", *_HEADER[1:4], "largest at", "moves the model", "answers"]
        parts.append(element("h2", title))
        if pair.cause is not None:
            parts.append(element("p", pair.cause.text))
        parts.append(table(header, rows, caption=f"{title}, picture by picture"))
    main = element(
        "main", element("h1", f"pre-processing parity: {report.model}"),
        element("p", report.sentence, class_="verdict"), element("p", _summary(report), class_="faint"),
        element("p", f"prepared as: {report.preprocess}", class_="faint"), drawn,
        table(_HEADER, _rows(report), caption="each pair of ways to prepare the same pictures, in grey levels"),
        *(element("p", line) for line in _remarks(report)), *parts,
    )  # fmt: skip
    return document(f"mobilekit parity: {report.model}", main)
