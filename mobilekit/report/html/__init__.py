"""A validation as one HTML file that opens anywhere, offline: no script, no request, every name escaped.

:func:`page` draws the sections of :mod:`mobilekit.report.html.sections` in order. A new part of the report is a
function there with ``@section``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobilekit.report.bisection import BisectionReport
    from mobilekit.report.model import ValidationReport
    from mobilekit.report.profile import ProfileReport

__all__ = ["Picture", "Subject", "page"]


@dataclass(frozen=True, slots=True)
class Picture:
    """A small JPEG of one sample: its bytes and its size in pixels.

    ``area``: left, top, width and height of the whole picture in pixels of the model's input, some of it perhaps cut
    off there; ``None`` where that is not known.
    """

    jpeg: bytes
    width: int
    height: int
    area: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """What a page is about. ``pictures`` by sample name; beside it, of the same model: ``others``, runs by name,
    ``bisection``, ``profile`` and ``plan``, the layers that TensorRT made, as ``layers.json`` has them."""

    report: ValidationReport
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    others: Sequence[tuple[str, ValidationReport]] = ()
    bisection: BisectionReport | None = None
    profile: ProfileReport | None = None
    plan: Sequence[Mapping[str, Any]] = ()


def page(subject: Subject) -> str:
    """The whole document. Sections that have nothing to say are left out."""
    from mobilekit.report.html.build import document, element
    from mobilekit.report.html.sections import SECTIONS

    parts = [part for part in (draw(subject) for draw in SECTIONS) if part is not None]
    return document(f"mobilekit: {subject.report.model}", element("main", *parts))
