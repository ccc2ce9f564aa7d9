"""A validation's files: HTML, JUnit, Markdown, JSON; and ``mobilekit report``, which makes them from a JSON report."""

from __future__ import annotations

import io
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mobilekit.errors import UsageError

if TYPE_CHECKING:
    from mobilekit.report.html import Picture
    from mobilekit.report.model import ValidationReport

__all__ = ["ReportFiles", "read_report", "write_reports"]

_MOST_PICTURES = 12
_THUMBNAIL = 320


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Where to write what; ``None``: not at all."""

    html: Path | None = None
    junit: Path | None = None
    markdown: Path | None = None
    json: Path | None = None


def write_reports(
    report: ValidationReport,
    files: ReportFiles,
    *,
    inputs: Path | None = None,
    command: Sequence[str] = (),
    others: Sequence[Path] = (),
) -> None:
    """Each file whole or not at all.

    ``inputs``: the folder that the samples came from, for the pictures of the worst ones. ``command`` is shown as what
    repeats the run. ``others``: JSON reports of the same model that stand beside it in the HTML. Raises
    :class:`UsageError` for one that is none, :class:`~mobilekit.errors.StorageError` where there is no room.
    """
    from mobilekit.paths import write_text
    from mobilekit.report import json, junit, markdown

    if files.json is not None:
        json.write(report, files.json)
    if files.junit is not None:
        write_text(files.junit, junit.dumps(report))
    if files.markdown is not None:
        write_text(files.markdown, markdown.dumps(report))
    if files.html is not None:
        from mobilekit.report.html import Subject, page

        beside = [(path.stem, read_report(path)) for path in others]
        strange = next(
            (path for path, (_, other) in zip(others, beside, strict=True) if other.model != report.model), None
        )
        if strange is not None:
            raise UsageError(f"{strange} is a report of another model", hint=f"give reports of {report.model}")
        subject = Subject(report, _pictures(report, inputs), shlex.join(command), beside)
        write_text(files.html, page(subject))


def read_report(path: Path) -> ValidationReport:
    """The report that ``validate --json`` wrote. Raises :class:`UsageError`."""
    from mobilekit.report.json import loads

    try:
        return loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", hint="give what validate --json wrote") from error


def _pictures(report: ValidationReport, folder: Path | None) -> Mapping[str, Picture]:
    """Small copies of the worst samples' pictures; a file that has gone, or is none, is left out."""
    from PIL import Image, UnidentifiedImageError

    from mobilekit.report.html import Picture
    from mobilekit.report.html.sections import worst_samples

    found: dict[str, Picture] = {}
    if folder is None:
        return found
    for one in worst_samples(report)[:_MOST_PICTURES]:
        path = folder / one.name
        if path.parent != folder or path.suffix.lower() == ".npy":
            continue
        try:
            with Image.open(path) as opened:
                opened.draft("RGB", (_THUMBNAIL * 2, _THUMBNAIL * 2))
                small = opened.convert("RGB")
            small.thumbnail((_THUMBNAIL, _THUMBNAIL))
        except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError):
            continue
        data = io.BytesIO()
        small.save(data, "JPEG", quality=80)
        found[one.name] = Picture(data.getvalue(), *small.size)
    return found
