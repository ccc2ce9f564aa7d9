"""Write ``docs/operators.md`` from the emitters' registry, the rewrite rules and the conformance results.

``python scripts/operator_table.py [--check]``; a test fails where the file is stale.
"""

from __future__ import annotations

import argparse
import collections
import csv
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mobilekit.targets.ncnn.registry import Entry

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs" / "operators.md"
RESULTS = ROOT / "tests" / "conformance" / "results.csv"

HEAD = """\
<!-- Made by scripts/operator_table.py: do not edit. -->
# Operators on ncnn

What `mobilekit export` converts to ncnn, exactly or not at all. The numbers come from ONNX's own backend node tests
(`tests/conformance`): cases that pass of those in scope, as written and with the operator's function body expanded.
A case that does not pass is refused with a reason, before anything is written; {summary}

*Emitted* operators have ncnn layers of their own; *rewritten* ones are expressed by others first. Where a layer is
named, it is one of mobilekit's own (`android-harness/layers`), always or only *where needed*: what stock layers can do
at a reasonable cost, they do. `mobilekit export` says which layers a bundle needs; with `--stock-only` it takes none.

*Data* says which
element types an emitted operator takes: `float` is float32; `any` moves elements of any type; `exact` computes with
integers and booleans too, exactly while they stay below 2^24.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether the file is as it should be")
    arguments = parser.parse_args()
    text = render()
    if arguments.check:
        if not TABLE.exists() or TABLE.read_text("utf-8") != text:
            print("docs/operators.md is stale: run python scripts/operator_table.py", file=sys.stderr)
            return 1
        return 0
    TABLE.write_text(text, encoding="utf-8")
    return 0


def render() -> str:
    """The whole page."""
    with RESULTS.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    by_op: dict[str, list[dict[str, str]]] = collections.defaultdict(list)
    for row in rows:
        by_op[row["op"]].append(row)
    registered = _registered()
    supported = sorted(op for op in by_op.keys() | registered if op in registered or _passed(by_op[op]))
    refused = sorted(by_op.keys() - set(supported))
    lines = [HEAD.format(summary=_summary(rows)), "| operator | how | data | as written | expanded | refused where |"]
    lines.append("|---|---|---|---|---|---|")
    for op in supported:
        cells = [
            f"`{op}`",
            _how(registered.get(op)),
            registered[op].data if op in registered else "",
            _score(row for row in by_op[op] if row["expanded"] == "0"),
            _score(row for row in by_op[op] if row["expanded"] == "1"),
            _reasons(by_op[op]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "## Refused", "", "| operator | cases | why |", "|---|---|---|"]
    lines += [f"| `{op}` | {len(by_op[op])} | {_reasons(by_op[op])} |" for op in refused]
    return "\n".join(lines) + "\n"


def _how(entry: Entry | None) -> str:
    if entry is None:
        return "rewritten"
    if not entry.own:
        return "emitted"
    return f"emitted; `{entry.own}` where needed" if entry.stock else f"`{entry.own}`"


def _registered() -> Mapping[str, Entry]:
    from mobilekit.passes.bounds import DOMAIN
    from mobilekit.targets.ncnn import ops
    from mobilekit.targets.ncnn.registry import REGISTRY

    assert ops
    return {entry.op: entry for entry in REGISTRY.entries() if entry.domain in ("", DOMAIN)}


def _passed(rows: Iterable[Mapping[str, str]]) -> int:
    return sum(row["class"] == "pass" for row in rows)


def _score(rows: Iterable[Mapping[str, str]]) -> str:
    listed = list(rows)
    return f"{_passed(listed)} / {len(listed)}" if listed else ""


def _summary(rows: list[dict[str, str]]) -> str:
    classes = collections.Counter(row["class"] for row in rows)
    parts = [f"{classes[kind]} {word}" for kind, word in (("pass", "pass"), ("refused", "are refused"))]
    parts += [f"{count} are of the class {kind}" for kind, count in classes.items() if kind not in ("pass", "refused")]
    return f"of {len(rows)} cases {', '.join(parts)}."


def _reasons(rows: Iterable[Mapping[str, str]]) -> str:
    """The reasons of the refused cases, the most frequent first, three at most."""
    counts = collections.Counter(row["reason"] for row in rows if row["class"] != "pass")
    shown = [f"{reason} ({count})" if count > 1 else reason for reason, count in counts.most_common(3)]
    if len(counts) > len(shown):
        shown.append(f"{len(counts) - len(shown)} more")
    return "; ".join(text.replace("|", "\\|").replace("<", "&lt;") for text in shown)


if __name__ == "__main__":
    sys.exit(main())
