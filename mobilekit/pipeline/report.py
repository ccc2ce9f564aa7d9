"""A validation's files: HTML, JUnit, Markdown, JSON; and ``mobilekit report``, which makes them from a JSON report."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mobilekit.errors import UsageError
from mobilekit.fields import first_wrong, unreadable

if TYPE_CHECKING:
    from mobilekit.preprocess import Preprocess
    from mobilekit.report.bisection import BisectionReport
    from mobilekit.report.html import Picture
    from mobilekit.report.model import ValidationReport
    from mobilekit.report.profile import ProfileReport

_Model = TypeVar("_Model", "BisectionReport", "ProfileReport")

__all__ = ["Beside", "ReportFiles", "read_beside", "read_report", "write_reports"]

_THUMBNAIL = 320


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Where to write what; ``None``: not at all."""

    html: Path | None = None
    junit: Path | None = None
    markdown: Path | None = None
    json: Path | None = None


@dataclass(frozen=True, slots=True)
class Beside:
    """What stands with a validation on its page: other runs by name, its first bad layer, its layers' times, the
    layers of its plan (``layers.json``)."""

    runs: Sequence[tuple[str, ValidationReport]] = ()
    bisection: BisectionReport | None = None
    profile: ProfileReport | None = None
    plan: Sequence[Mapping[str, Any]] = ()

    def models(self) -> list[tuple[str, str]]:
        """The model of each."""
        single = (("the bisection", self.bisection), ("the profile", self.profile))
        return [(name, run.model) for name, run in self.runs] + [(n, one.model) for n, one in single if one is not None]


def write_reports(
    report: ValidationReport,
    files: ReportFiles,
    *,
    inputs: Path | None = None,
    beside: Beside | None = None,
) -> None:
    """Each file whole or not at all.

    ``inputs``: the folder that the samples came from, for the pictures of the worst ones. ``beside``: what stands with
    it in the HTML. Raises :class:`UsageError` where that is of another model,
    :class:`~mobilekit.errors.StorageError` where there is no room.
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

        beside = beside or Beside()
        for name, model in beside.models():
            if model != report.model:
                raise UsageError(f"{name} is a report of another model", hint=f"give reports of {report.model}")
        subject = Subject(report, _pictures(report, inputs), beside.runs, beside.bisection, beside.profile, beside.plan)
        write_text(files.html, page(subject))


def read_beside(paths: Sequence[Path]) -> Beside:
    """Reports to stand beside one: of validations, one of a bisection, one of a profile. Raises :class:`UsageError`."""
    from mobilekit.report.bisection import BisectionReport
    from mobilekit.report.profile import ProfileReport

    runs: list[tuple[str, ValidationReport]] = []
    bisections: list[BisectionReport] = []
    profiles: list[ProfileReport] = []
    for path in paths:
        raw = _raw(path)
        kind = raw.get("kind") if isinstance(raw, dict) else None
        if kind == "bisection":
            bisections.append(_parsed(path, BisectionReport))
        elif kind == "profile":
            profiles.append(_parsed(path, ProfileReport))
        else:
            runs.append((path.stem, read_report(path)))
    for many, what in ((bisections, "bisections"), (profiles, "profiles")):
        if len(many) > 1:
            raise UsageError(f"these are {len(many)} {what}", hint="give one beside the validations")
    return Beside(runs, next(iter(bisections), None), next(iter(profiles), None))


def _raw(path: Path) -> object:
    import json

    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read: {unreadable(error)}", hint="give what --json wrote") from error


def _parsed(path: Path, model: type[_Model]) -> _Model:
    from pydantic import ValidationError

    try:
        return model.model_validate_json(path.read_text("utf-8"))
    except ValidationError as error:
        raise UsageError(
            f"{path} is not valid: {first_wrong(error)}", hint="make it again with this version"
        ) from error


def read_report(path: Path) -> ValidationReport:
    """The report that ``validate --json`` wrote. Raises :class:`UsageError`."""
    from mobilekit.report.json import loads

    try:
        return loads(path.read_text("utf-8"))
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", hint=error.hint or "give what validate --json wrote") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} cannot be read: {unreadable(error)}", hint="give what validate --json wrote"
        ) from error


def _pictures(report: ValidationReport, folder: Path | None) -> Mapping[str, Picture]:
    """Small copies of the worst samples' pictures, upright; a file that has gone, or is none, is left out."""
    from mobilekit.preprocess import open_picture
    from mobilekit.report.html import Picture
    from mobilekit.report.worst import WORST, worst_samples

    found: dict[str, Picture] = {}
    if folder is None:
        return found
    shown = {answer.sample: answer for answer in report.shown}
    for one in worst_samples(report.sample_errors)[:WORST]:
        path = folder / one.name
        if path.parent != folder or path.suffix.lower() == ".npy":
            continue
        try:
            small = open_picture(path, "RGB", at_least=_THUMBNAIL)
        except UsageError:
            continue
        answer = shown.get(one.name)
        area = None if answer is None else _area(report.preprocess, small.size, answer.height, answer.width)
        small.thumbnail((_THUMBNAIL, _THUMBNAIL))
        data = io.BytesIO()
        small.save(data, "JPEG", quality=80)
        found[one.name] = Picture(data.getvalue(), *small.size, area)
    return found


def _area(
    spec: Preprocess | None, size: tuple[int, int], height: int, width: int
) -> tuple[float, float, float, float] | None:
    """Where the picture lies in the model's input: left, top, width, height."""
    from mobilekit.preprocess import placement

    if spec is None:
        return None
    wide, high, left, top = placement(spec, size, height, width)
    return left, top, wide, high
