"""The worst samples as cards: the picture, both sides' answers drawn on it, and the same in figures beneath."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mobilekit.report.html.build import Element, element
from mobilekit.report.worst import WORST, worst_samples

if TYPE_CHECKING:
    from mobilekit.report.answers import Box, Mask, SampleAnswer
    from mobilekit.report.html import Picture, Subject
    from mobilekit.report.model import AnswerPair, SampleErrors

__all__ = ["cards"]

_MOST_ROWS = 6
_ALPHA = 150
_DIFFERS = (255, 0, 60, 235)
# Distinct on most pictures, and for the colour-blind: Okabe and Ito's eight, without black.
_COLOURS = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66))


def cards(subject: Subject) -> Element | None:
    """A grid of the worst samples, or ``None`` where nothing more is known of them than their errors' histogram."""
    report = subject.report
    answers = {pair.sample: pair for pair in report.answers}
    shown = {answer.sample: answer for answer in report.shown}
    made = []
    for one in worst_samples(report.sample_errors)[:WORST]:
        picture, pair, answer = subject.pictures.get(one.name), answers.get(one.name), shown.get(one.name)
        if picture is None and pair is None and answer is None and len(report.sample_errors) < 2:
            continue
        made.append(_card(one, picture, answer, pair))
    return element("div", *made, class_="grid") if made else None


def _card(one: SampleErrors, picture: Picture | None, answer: SampleAnswer | None, pair: AnswerPair | None) -> Element:
    worst = max(one.relative_l2.items(), key=lambda item: math.inf if item[1] != item[1] else item[1], default=None)
    error = None
    if worst is not None:
        where = f" in {worst[0]}" if len(one.relative_l2) > 1 else ""
        error = element("div", f"relative L2 {worst[1]:.3g}{where}", class_="faint")
    line = element("div", element("span", one.verdict.value, class_=f"word {one.verdict.value}"), f" {one.name}")
    wide = " wide" if answer is not None and answer.mask is not None else ""
    return element("div", _drawn(one.name, picture, answer), line, error, _said(answer, pair), class_="card" + wide)


def _drawn(name: str, picture: Picture | None, answer: SampleAnswer | None) -> Element | None:
    if answer is not None and answer.mask is not None:
        reference, device = answer.mask.reference, answer.mask.device
        panels = [
            element("div", _shot(f"{who}, {name}", picture, answer, [_region(mask, other, answer)]),
                    element("div", who, class_="faint"))
            for who, mask, other in (("reference", reference, None), ("device", device, reference))
        ]  # fmt: skip
        return element("div", *panels, class_="pair")
    boxes = _boxes(answer) if answer is not None else []
    return _shot(name, picture, answer, boxes) if picture is not None or boxes else None


def _shot(name: str, picture: Picture | None, answer: SampleAnswer | None, marks: Sequence[Element]) -> Element:
    """The picture with ``marks`` over it, which are in pixels of the model's input."""
    below = None
    if picture is not None:
        source = "data:image/jpeg;base64," + base64.b64encode(picture.jpeg).decode()
        below = element("img", alt=f"the sample {name}", width=picture.width, height=picture.height, src=source)
    over = None
    if marks and answer is not None:
        area = picture.area if picture is not None and picture.area else (0, 0, answer.width, answer.height)
        over = element(
            "svg", element("title", f"both answers for {name}"), *marks, viewBox=" ".join(f"{side:g}" for side in area),
            preserveAspectRatio="none", role="img", aria_label=f"both answers for {name}", class_="over",
        )  # fmt: skip
    made = element("div", below, over, class_="shot")
    if picture is None and answer is not None:
        made.set("style", f"aspect-ratio: {answer.width} / {answer.height}")
    return made


def _boxes(answer: SampleAnswer) -> list[Element]:
    """The reference's broad, the device's narrow: where they agree one lies inside the other."""
    drawn = []
    for number, pair in enumerate(answer.boxes or (), 1):
        for box, style in ((pair.reference, "theirs"), (pair.device, "ours")):
            if box is not None and _is_finite(box):
                title = element("title", f"{number}: {pair.label} {box.score:.1%}")
                mark = element(
                    "rect", title, x=f"{box.left:.1f}", y=f"{box.top:.1f}", width=f"{max(box.right - box.left, 0):.1f}",
                    height=f"{max(box.bottom - box.top, 0):.1f}", class_=f"found {style}",
                )  # fmt: skip
                drawn.append((style == "ours", mark))
    return [mark for _, mark in sorted(drawn, key=lambda item: item[0])]


def _is_finite(box: Box) -> bool:
    return all(math.isfinite(side) and abs(side) < 1e6 for side in (box.left, box.top, box.right, box.bottom))


def _region(mask: Mask, other: Mask | None, answer: SampleAnswer) -> Element:
    """The classes as colours over the input; what ``other`` has otherwise stands out."""
    source = "data:image/png;base64," + base64.b64encode(_png(mask, other)).decode()
    return element(
        "image", href=source, x=0, y=0, width=answer.width, height=answer.height, preserveAspectRatio="none",
        class_="region",
    )  # fmt: skip


def _png(mask: Mask, other: Mask | None) -> bytes:
    from PIL import Image

    ours = _pixels(mask)
    theirs = _pixels(other) if other is not None and (other.width, other.height) == (mask.width, mask.height) else ours
    # Class 0 is as a rule the background.
    colours = [(0, 0, 0, 0), *((*colour, _ALPHA) for colour in _COLOURS), _DIFFERS]
    indices = [
        len(colours) - 1 if a != b else 0 if a == 0 else 1 + (a - 1) % len(_COLOURS)
        for a, b in zip(ours, theirs, strict=True)
    ]
    image = Image.new("P", (mask.width, mask.height))
    image.putpalette([part for colour in colours for part in colour[:3]])
    image.putdata(indices)
    data = io.BytesIO()
    image.save(data, "PNG", transparency=bytes(colour[3] for colour in colours), optimize=True)
    return data.getvalue()


def _pixels(mask: Mask) -> list[int]:
    """One class a pixel, whatever the runs of an untrusted report add up to."""
    wanted = mask.width * mask.height
    found: list[int] = []
    for number, length in mask.runs:
        found += [number] * max(0, min(length, wanted - len(found)))
    return found + [0] * (wanted - len(found))


def _said(answer: SampleAnswer | None, pair: AnswerPair | None) -> Element | None:
    """Both answers in figures."""
    if answer is not None and answer.boxes is not None:
        if not answer.boxes:
            return element("p", "neither found anything", class_="faint")
        rows = [
            [pair.label, *("none" if box is None else f"{box.score:.1%}" for box in (pair.reference, pair.device))]
            for pair in sorted(answer.boxes, key=lambda pair: pair.reference is not None and pair.device is not None)
        ]
        alone = sum(pair.reference is None or pair.device is None for pair in answer.boxes)
        same = f"{len(answer.boxes) - alone} of {len(answer.boxes)} found by both"
        return _rows(["", "reference", "device"], rows, answer.more_boxes, same)
    if answer is not None and answer.mask is not None:
        return element("p", f"the same class in {answer.mask.agreement:.2%} of the pixels")
    if answer is not None and answer.classes:
        rows = [[each.label, f"{each.reference:.1%}", f"{each.device:.1%}"] for each in answer.classes]
        return _rows(["", "reference", "device"], rows, 0, "")
    if pair is not None:
        return element(
            "dl",
            element("dt", "reference"), element("dd", f"{pair.reference_label} {pair.reference_probability:.1%}"),
            element("dt", "device"), element("dd", f"{pair.device_label} {pair.device_probability:.1%}"),
        )  # fmt: skip
    return None


def _rows(header: Sequence[str], rows: Sequence[Sequence[str]], hidden: int, caption: str) -> Element:
    head = element("thead", element("tr", *(element("th", name, scope="col") for name in header)))
    body = element("tbody", *(element("tr", *(element("td", cell) for cell in row)) for row in rows[:_MOST_ROWS]))
    more = len(rows) - _MOST_ROWS + hidden if len(rows) > _MOST_ROWS else hidden
    told = ", ".join(filter(None, (caption, f"{more} not listed" if more else "")))
    return element("div", element("table", head, body), element("div", told, class_="faint") if told else None)
