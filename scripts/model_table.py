"""Export every model of the zoo and write what came of it: ``benchmarks/results/models.csv`` and ``docs/models.md``.

The page's second table is of architectures without trained weights, ``benchmarks/results/architectures.csv``: measured
by hand, since exporting those takes PyTorch and the packages that define them.

``python scripts/model_table.py [ID ...]`` measures all, or these and keeps what is known of the others; it fetches what
is not cached. ``--check`` only says whether the page is what the data give.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from pathlib import Path

from mobilekit import zoo
from mobilekit.errors import MobilekitError
from mobilekit.pipeline.export import export_model
from mobilekit.pipeline.inspect import inspect_model

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "benchmarks" / "results" / "models.csv"
ARCHITECTURES = ROOT / "benchmarks" / "results" / "architectures.csv"
PAGE = ROOT / "docs" / "models.md"
FIELDS = ["id", "nodes", "layers", "outputs", "result", "relative_l2", "allowed"]

HEAD = """\
<!-- Made by scripts/model_table.py: do not edit. -->
# Real models

Models that other projects ship in registry packages, each through `mobilekit export ID` as the zoo describes it, at the
default settings (fp32, two seeded inputs): {count} of {total} verified against ONNX Runtime on the original. None of
the weights is part of mobilekit; each keeps its own licence (`mobilekit zoo info ID`).

*Nodes* are the original's, functions and bodies included; *error* is the worst relative L2 of any output. Where more
than 1e-3 was allowed the reason stands below.

| model | what | package | licence | nodes | ncnn layers | result | error |
|---|---|---|---|---|---|---|---|
"""

TAIL = """
- `ddddocr_common_old` is quantised while it runs; the converted model computes in floats, without that rounding.
- Text detectors say almost zero everywhere on inputs without text. Numbers of 1e-6 behind a sigmoid are rounding noise:
  ONNX Runtime with and without its optimisations differs by as much, and such a difference is no failure.
"""

SECOND = """
## Vision architectures with random weights

Small or full-size versions of {count} architectures as the packages define them, with seeded random weights, exported
by PyTorch 2.13 (`torch.onnx.export`: *traced* is the older exporter, *dynamo* the newer one) and put through
`mobilekit export` at fp32 and fp16. An empty cell was not measured. Random weights test the graph, not accuracy.

| architecture | package | exporter | ncnn layers | fp32 | error | fp16 | error | remark |
|---|---|---|---|---|---|---|---|---|
"""


def architectures() -> str:
    with ARCHITECTURES.open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = ["| " + " | ".join(row.values()) + " |\n" for row in rows]
    return SECOND.format(count=len({row["model"] for row in rows})) + "".join(lines)


def measure(id_: str) -> dict[str, str]:
    entry = zoo.find_entry(id_)
    row = dict.fromkeys(FIELDS, "") | {"id": id_}
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = zoo.fetch(id_).path
            report = inspect_model(path, entry.inputs, fixed=entry.fixed, targets=[])
            row["nodes"] = str(sum(report.operators.values()))
            made = export_model(id_, Path(folder) / "out")
        except MobilekitError as error:
            return row | {"result": f"{type(error).__name__}: {error.message}"}
    assert made.manifest.ncnn is not None
    worst = max(error.relative_l2 for error in made.errors.values())
    return row | {
        "layers": str(made.manifest.ncnn.layers),
        "outputs": str(len(made.errors)),
        "result": "verified" if made.manifest.verified else "inconclusive",
        "relative_l2": f"{worst:.1e}",
        "allowed": "" if made.manifest.rtol is None else f"{made.manifest.rtol:g}",
    }


def page(rows: dict[str, dict[str, str]]) -> str:
    lines = []
    for id_, row in sorted(rows.items()):
        entry = zoo.find_entry(id_)
        source = entry.source
        package = f"{source.pypi} {source.version}" if isinstance(source, zoo.PypiSource) else ""
        cells = [f"`{id_}`", entry.title, package, entry.license, row["nodes"], row["layers"], row["result"]]
        lines.append("| " + " | ".join([*cells, row["relative_l2"]]) + " |\n")
    verified = sum(row["result"] == "verified" for row in rows.values())
    return HEAD.format(count=verified, total=len(rows)) + "".join(lines) + TAIL + architectures()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ids", nargs="*")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    rows: dict[str, dict[str, str]] = {}
    if DATA.is_file():
        with DATA.open(newline="") as file:
            rows = {row["id"]: row for row in csv.DictReader(file)}
    if not arguments.check:
        for id_ in arguments.ids or [entry.id for entry in zoo.list_entries()]:
            rows[id_] = measure(id_)
            print(*rows[id_].values(), flush=True)
            with DATA.open("w", newline="") as file:
                writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(row for _, row in sorted(rows.items()))
        PAGE.write_text(page(rows), encoding="utf-8")
    if PAGE.read_text(encoding="utf-8") != page(rows):
        print(f"{PAGE} is stale: run {Path(__file__).name}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
