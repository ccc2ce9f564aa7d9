"""A report as a JSON file, and back. Infinities and NaN are the strings ``"Infinity"``, ``"-Infinity"``, ``"NaN"``.

A report of a newer minor schema is read without the fields that are not known here
(:mod:`mobilekit.report.schemas` says what a version means).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mobilekit.errors import UsageError
from mobilekit.fields import first_wrong
from mobilekit.paths import write_text
from mobilekit.report.model import SCHEMA_VERSION, ValidationReport

__all__ = ["dumps", "loads", "write"]


def dumps(report: ValidationReport) -> str:
    return report.model_dump_json(indent=2) + "\n"


def write(report: ValidationReport, path: Path) -> None:
    """Whole or not at all; raises :class:`~mobilekit.errors.StorageError`."""
    write_text(path, dumps(report))


def loads(text: str) -> ValidationReport:
    """Read a report back. Raises :class:`UsageError` where it is none, or of another major schema."""
    try:
        raw = json.loads(text)
        major, minor = (int(part) for part in f"{raw['schema_version']}.0".split(".")[:2])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"this is no validation report: {error}") from error
    known, newest = (int(part) for part in SCHEMA_VERSION.split("."))
    if major < known:
        raise UsageError(
            f"the report has the schema {raw['schema_version']}, older than {SCHEMA_VERSION}", hint="validate again"
        )
    if major > known:
        raise UsageError(
            f"the report has the schema {raw['schema_version']}, newer than {SCHEMA_VERSION}",
            hint="pip install -U mobilekit",
        )
    try:
        return _read(text, raw, ahead=minor > newest)
    except ValidationError as error:
        raise UsageError(f"the report is not valid: {first_wrong(error)}") from error


def _read(text: str, raw: dict[str, Any], *, ahead: bool) -> ValidationReport:
    try:
        return ValidationReport.model_validate_json(text)
    except ValidationError as error:
        unknown = [one["loc"] for one in error.errors() if one["type"] == "extra_forbidden"]
        if not ahead or not unknown:
            raise
    for *path, name in unknown:
        where: Any = raw
        for part in path:
            where = where[part]
        del where[name]
    return ValidationReport.model_validate_json(json.dumps(raw))
