"""The JSON schemas of all reports (draft 2020-12), and how far two versions of one are apart.

``schema_version`` is ``MAJOR.MINOR``. Minor rises where a report says more: a field, or a value of an enumeration, that
was not there. Major rises where what a reader knows is no longer so: a field is gone, may be missing, or is of another
type. ``scripts/report_schemas.py`` writes ``docs/schemas/`` and holds to that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic.json_schema import GenerateJsonSchema

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic_core import core_schema

__all__ = ["Change", "change", "models", "schema_of", "version_of"]

Change = Literal["", "minor", "major"]
_WORDS = ("description", "title")


class _Written(GenerateJsonSchema):
    """As reports are written: what is not finite is a string."""

    def float_schema(self, schema: core_schema.FloatSchema) -> dict[str, Any]:
        return {"anyOf": [super().float_schema(schema), {"enum": ["Infinity", "-Infinity", "NaN"]}]}


def models() -> Mapping[str, type[BaseModel]]:
    """Every report that ``--json`` writes with a ``schema_version``, by its kind."""
    from mobilekit.report.bisection import BisectionReport
    from mobilekit.report.comparison import ComparisonReport
    from mobilekit.report.model import ValidationReport
    from mobilekit.report.parity import ParityReport
    from mobilekit.report.profile import ProfileReport
    from mobilekit.report.repair import RepairReport
    from mobilekit.report.tune import TuneReport

    return {
        "validation": ValidationReport,
        "comparison": ComparisonReport,
        "bisection": BisectionReport,
        "profile": ProfileReport,
        "parity": ParityReport,
        "repair": RepairReport,
        "tuning": TuneReport,
    }


def version_of(kind: str) -> str:
    version: str = models()[kind].model_fields["schema_version"].default
    return version


def schema_of(kind: str) -> dict[str, Any]:
    """What ``--json`` writes for a report of ``kind``. Raises :class:`KeyError` where there is no such kind."""
    made = models()[kind].model_json_schema(mode="serialization", schema_generator=_Written)
    made["properties"]["schema_version"] = {"const": version_of(kind)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:mobilekit:{kind}:{version_of(kind)}",
        **made,
    }


def change(old: Mapping[str, Any], new: Mapping[str, Any]) -> Change:
    """What became of a reader's knowledge from ``old`` to ``new``, two of :func:`schema_of`; words do not count."""
    before, after = _objects(old), _objects(new)
    found: Change = "minor" if after.keys() - before.keys() else ""
    for name in before:
        each: Change = "major" if name not in after else _of_object(before[name], after[name])
        if each == "major":
            return "major"
        found = each or found
    return found


def _objects(schema: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By name; the report itself under none."""
    plain = _without_words(schema)
    found: dict[str, dict[str, Any]] = {**plain.pop("$defs", {}), "": plain}
    for name in ("$id", "$schema"):
        plain.pop(name, None)
    plain.get("properties", {}).pop("schema_version", None)
    return found


def _without_words(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_words(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {}
    for key, value in schema.items():
        # A field may have the name of a word.
        if key in ("properties", "$defs"):
            made[key] = {name: _without_words(one) for name, one in value.items()}
        elif key not in _WORDS:
            made[key] = _without_words(value)
    return made


def _of_object(old: dict[str, Any], new: dict[str, Any]) -> Change:
    before, after = old.get("properties", {}), new.get("properties", {})
    rest = [{key: value for key, value in one.items() if key not in ("properties", "required")} for one in (old, new)]
    found = _of_type(*rest)
    if before.keys() - after.keys() or set(old.get("required", ())) - set(new.get("required", ())):
        return "major"
    changes = [found, *(_of_type(before[name], after[name]) for name in before)]
    if "major" in changes:
        return "major"
    return "minor" if "minor" in changes or after.keys() - before.keys() else ""


def _of_type(old: Any, new: Any) -> Change:
    if _without(old, "default") == _without(new, "default"):
        return ""
    same = _without_enumerations(old) == _without_enumerations(new)
    return "minor" if same and _values(old) <= _values(new) else "major"


def _without(schema: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name != key}


def _without_enumerations(schema: Any) -> Any:
    """With a mark where the values of an enumeration, or the one of a constant, were."""
    if isinstance(schema, list):
        return [_without_enumerations(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {
        key: _without_enumerations(value) for key, value in schema.items() if key not in ("enum", "const", "default")
    }
    return {**made, "enum": None} if {"enum", "const"} & schema.keys() else made


def _values(schema: Any) -> set[str]:
    """Every value of every enumeration within."""
    if isinstance(schema, list):
        return set().union(*map(_values, schema))
    if not isinstance(schema, dict):
        return set()
    own = {repr(value) for value in schema.get("enum", [])}
    own |= {repr(schema["const"])} if "const" in schema else set()
    return own.union(*map(_values, schema.values()))
