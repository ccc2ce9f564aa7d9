"""The published JSON schemas: of the models as they are, true of real reports, and versioned as the docs say."""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from mobilekit.errors import UsageError
from mobilekit.report import json as report_json
from mobilekit.report.schemas import change, models, schema_of, version_of
from tests.unit.report import reports

ROOT = Path(__file__).parents[3]
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "report_schemas.py"), run_name="loaded by a test")
SCHEMAS = ROOT / "docs" / "schemas"


def test_a_model_that_changed_has_a_new_version_and_every_version_its_file() -> None:
    assert SCRIPT["stale"](SCHEMAS, write=False) == []


def held(value: Any, schema: Any, whole: Any, at: str = "") -> list[str]:
    """Where ``value`` is not as ``schema`` says; as much of JSON Schema as ours use."""
    if "$ref" in schema:
        return held(value, whole["$defs"][schema["$ref"].rpartition("/")[2]], whole, at)
    if "anyOf" in schema:
        ways = [held(value, way, whole, at) for way in schema["anyOf"]]
        return [] if [] in ways else [f"{at}: {value!r} is none of {len(ways)} ways"]
    if "enum" in schema or "const" in schema:
        return [] if value in schema.get("enum", [schema.get("const")]) else [f"{at}: {value!r}"]
    kinds = {"object": dict, "array": list, "string": str, "null": type(None), "boolean": bool}
    kind = schema.get("type")
    if kind in ("integer", "number"):
        right = isinstance(value, int if kind == "integer" else (int, float)) and not isinstance(value, bool)
        return [] if right else [f"{at}: {value!r} is no {kind}"]
    assert kind in kinds, (at, schema)
    if not isinstance(value, kinds[kind]):
        return [f"{at}: {value!r} is no {kind}"]
    found = []
    if kind == "object":
        fields = schema.get("properties", {})
        found += [f"{at}.{name} is missing" for name in schema.get("required", ()) if name not in value]
        for name, one in value.items():
            known = fields.get(name, schema.get("additionalProperties", True))
            if known is False:
                found.append(f"{at}.{name} is unknown")
            elif known is not True:
                found += held(one, known, whole, f"{at}.{name}")
    elif kind == "array":
        first = schema.get("prefixItems", [])
        for number, one in enumerate(value):
            found += held(one, first[number] if number < len(first) else schema["items"], whole, f"{at}[{number}]")
    return found


def examples() -> list[tuple[str, BaseModel]]:
    subject = reports.subject()
    broken = reports.report(outputs=(reports.output(relative_l2=math.inf, cosine=math.nan, psnr_db=-math.inf),))
    return [
        ("validation", subject.report),
        ("validation", broken),
        ("bisection", reports.bisection()),
        ("profile", reports.profile()),
        ("parity", reports.parity()),
    ]


@pytest.mark.parametrize("number", range(len(examples())))
def test_reports_are_as_their_schema_says(number: int) -> None:
    kind, report = examples()[number]
    schema = json.loads((SCHEMAS / f"{kind}-{version_of(kind)}.json").read_text("utf-8"))
    written = json.loads(report.model_dump_json())
    assert held(written, schema, schema) == []
    # And it does say something.
    del written["schema_version"]
    written["mobilekit_version"] = 1
    assert len(held(written, schema, schema)) == 2


def changed(edit: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    old, new = schema_of("validation"), schema_of("validation")
    edit(new)
    return old, new


def forget(schema: Any, name: str) -> None:
    del schema["properties"][name]
    schema["required"].remove(name)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda s: None, ""),
        (lambda s: s.update(description="said better"), ""),
        (lambda s: s["properties"].update(more={"type": "string"}), "minor"),
        (lambda s: s["$defs"]["LatencyReport"]["properties"].update(more={"type": "number"}), "minor"),
        (lambda s: s["$defs"]["Verdict"]["enum"].append("unsure"), "minor"),
        (lambda s: s["$defs"]["Verdict"]["enum"].remove("pass"), "major"),
        (lambda s: s["properties"]["target"]["enum"].append("litert"), "minor"),
        (lambda s: forget(s, "sentence"), "major"),
        (lambda s: s["required"].remove("sentence"), "major"),
        (lambda s: s["properties"].update(sentence={"type": "array", "items": {"type": "string"}}), "major"),
        (lambda s: s["properties"].update(model={"anyOf": [{"type": "string"}, {"type": "null"}]}), "major"),
        (lambda s: forget(s["$defs"]["OutputReport"], "cosine"), "major"),
        (lambda s: s["$defs"].pop("AnswerPair"), "major"),
    ],
)  # fmt: skip
def test_what_a_change_takes(edit: Any, said: str) -> None:
    assert change(*changed(edit)) == said


def test_a_changed_model_under_an_old_version_is_said_and_not_published(tmp_path: Path) -> None:
    assert SCRIPT["stale"](tmp_path, write=True) == []
    assert len(list(tmp_path.iterdir())) == len(models())
    assert SCRIPT["stale"](tmp_path, write=False) == []
    path = tmp_path / f"validation-{version_of('validation')}.json"
    kept = json.loads(path.read_text())
    forget(kept, "sentence")
    path.write_text(json.dumps(kept))
    (problem,) = SCRIPT["stale"](tmp_path, write=True)
    major, _, minor = version_of("validation").partition(".")
    assert f"a minor change. Raise its schema_version to {major}.{int(minor) + 1}" in problem
    assert json.loads(path.read_text()) == kept


def test_a_major_change_takes_a_major_version(tmp_path: Path) -> None:
    major, _, minor = version_of("validation").partition(".")
    old = schema_of("validation")
    old["properties"]["gone"] = {"type": "string"}
    (tmp_path / f"validation-{major}.{int(minor) - 1}.json").write_text(json.dumps(old))
    (problem,) = SCRIPT["stale"](tmp_path, write=True)
    assert "major change" in problem


def test_a_report_of_a_newer_minor_version_is_read_without_what_is_new() -> None:
    plain = reports.report()
    raw = json.loads(plain.model_dump_json())
    major, _, minor = version_of("validation").partition(".")
    raw["schema_version"] = f"{major}.{int(minor) + 1}"
    raw["outlook"] = "bright"
    raw["outputs"][0]["median"] = 0.5
    read = report_json.loads(json.dumps(raw))
    assert read.model_copy(update={"schema_version": plain.schema_version}) == plain
    raw["schema_version"] = version_of("validation")
    with pytest.raises(UsageError, match="is not known"):
        report_json.loads(json.dumps(raw))
