"""A validation as one HTML file that opens anywhere, offline: no script, no request, every name escaped.

:func:`page` draws the sections of :mod:`mobilekit.report.html.sections` in order. A new part of the report is a
function there with ``@section``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mobilekit.report.model import ValidationReport

__all__ = ["Picture", "Subject", "page"]


@dataclass(frozen=True, slots=True)
class Picture:
    """A small JPEG of one sample: its bytes and its size in pixels."""

    jpeg: bytes
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Subject:
    """What a page is about. ``pictures`` by sample name; ``command`` repeats the run; ``others``: earlier runs of the
    same model, to stand beside it, by name."""

    report: ValidationReport
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    command: str = ""
    others: Sequence[tuple[str, ValidationReport]] = ()


def page(subject: Subject) -> str:
    """The whole document. Sections that have nothing to say are left out."""
    from mobilekit.report.html.build import document, element
    from mobilekit.report.html.sections import SECTIONS

    parts = [part for part in (draw(subject) for draw in SECTIONS) if part is not None]
    return document(f"mobilekit: {subject.report.model}", element("main", *parts))
