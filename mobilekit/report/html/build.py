"""HTML elements from Python values. Text is escaped by the serialiser, so no name can become markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from xml.etree import ElementTree

from mobilekit.report.console import plain
from mobilekit.report.html.style import STYLE

__all__ = ["Element", "document", "element", "figure", "legend", "prose", "table"]

Element = ElementTree.Element
_LONGEST = 4000
_SHORT = 14


def element(tag: str, *children: Element | str | float | None, **attributes: str | float) -> Element:
    """``element("a", "text", href="#x", class_="y")``. Control characters in texts are shown as escapes; ``None``
    children are left out; ``_`` at an attribute's end is dropped, inside it is ``-``."""
    made = ElementTree.Element(tag, {name.rstrip("_").replace("_", "-"): str(v) for name, v in attributes.items()})
    for child in children:
        if child is None:
            continue
        if isinstance(child, Element):
            made.append(child)
            continue
        text = plain(str(child), _LONGEST)
        if len(made):
            made[-1].tail = (made[-1].tail or "") + text
        else:
            made.text = (made.text or "") + text
    return made


def table(header: Sequence[str], rows: Iterable[Sequence[Element | str]], *, caption: str = "") -> Element:
    """A table that scrolls sideways by itself where the screen is narrow; reachable by keyboard, for that."""
    head = element("thead", element("tr", *(element("th", name, scope="col") for name in header)))
    body = element("tbody", *(element("tr", *(_cell(cell) for cell in row)) for row in rows))
    inside = element("table", element("caption", caption) if caption else None, head, body)
    return element("div", inside, class_="scroll", tabindex=0, role="region", aria_label=caption or "table")


def _cell(content: Element | str) -> Element:
    if isinstance(content, Element):
        return element("td", content)
    return element("td", content, class_="whole") if len(content) <= _SHORT else element("td", *prose(content))


def prose(text: str) -> list[Element | str]:
    """The text, its small numbers held together: 1.5e-07 that is broken at its hyphen reads as another number."""
    parts = re.split(r"(\d[\d.]*e-\d+)", text)
    return [element("span", part, class_="whole") if index % 2 else part for index, part in enumerate(parts) if part]


def figure(drawing: Element, caption: str, data: Element | None = None) -> Element:
    """A drawing with a caption, and the numbers behind it for those who cannot see it or want to copy them."""
    more = element("details", element("summary", "the numbers"), data) if data is not None else None
    return element("figure", drawing, element("figcaption", caption), more)


def legend(*entries: tuple[str, str]) -> Element:
    """What colours mean: (text, class of the style sheet)."""
    marks = [element("span", element("span", class_=f"key {style}"), f" {text}") for text, style in entries]
    return element("p", *marks, class_="legend faint")


def document(title: str, body: Element) -> str:
    """A whole page. Its policy forbids every request, even if a name should slip through as markup."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("link", rel="icon", href="data:,"),
        element("title", title),
    )
    style = ElementTree.SubElement(head, "style")
    style.text = STYLE
    html = element("html", head, element("body", body), lang="en")
    return "<!DOCTYPE html>\n" + ElementTree.tostring(html, encoding="unicode", method="html") + "\n"
