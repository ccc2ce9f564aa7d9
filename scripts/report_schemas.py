"""Write ``docs/schemas/KIND-VERSION.json``, the JSON schema of every report that ``--json`` writes.

``python scripts/report_schemas.py [--check]``. A version that was published stays as it is: where a report's model has
changed since, the file of that version is not written again, and the version that it takes is said. ``--check`` only
says what is not as it should be; a test does that.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "schemas"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say what is not as it should be")
    check = parser.parse_args().check
    problems = stale(FOLDER, write=not check)
    print("\n".join(problems), file=sys.stderr, end="\n" if problems else "")
    return int(bool(problems))


def stale(folder: Path, *, write: bool) -> list[str]:
    """What is wrong with the schemas in ``folder``, each a sentence; ``write`` mends what a file mends."""
    from mobilekit.report.schemas import change, models, schema_of, version_of

    problems = []
    for kind in models():
        made, version = schema_of(kind), version_of(kind)
        path = folder / f"{kind}-{version}.json"
        known = published(folder, kind)
        earlier = [number for number in known if number < _numbers(version)]
        if (there := known.get(_numbers(version))) is not None:
            if found := change(there, made):
                problems.append(
                    f"the model of the {kind} report is no longer what was published as {version}: a {found} change. "
                    f"Raise its schema_version to {_next(version, found)} and run python scripts/report_schemas.py"
                )
                continue
        elif (
            earlier
            and (found := change(known[max(earlier)], made)) == "major"
            and max(earlier)[0] == _numbers(version)[0]
        ):
            problems.append(
                f"the {kind} report has a major change since {_text(max(earlier))}, so {version} will not do"
            )
            continue
        if write:
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(made, indent=1, sort_keys=True) + "\n", "utf-8")
        elif there is None:
            problems.append(f"docs/schemas has no {path.name}: run python scripts/report_schemas.py")
    return problems


def published(folder: Path, kind: str) -> dict[tuple[int, int], dict[str, Any]]:
    """The schemas of that kind in ``folder``, by version."""
    return {
        _numbers(path.stem.rpartition("-")[2]): json.loads(path.read_text("utf-8"))
        for path in folder.glob(f"{kind}-*.json")
    }


def _numbers(version: str) -> tuple[int, int]:
    major, _, minor = version.partition(".")
    return int(major), int(minor)


def _text(numbers: tuple[int, int]) -> str:
    return f"{numbers[0]}.{numbers[1]}"


def _next(version: str, change: str) -> str:
    major, minor = _numbers(version)
    return _text((major + 1, 0) if change == "major" else (major, minor + 1))


if __name__ == "__main__":
    raise SystemExit(main())
