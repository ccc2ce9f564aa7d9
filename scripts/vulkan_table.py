"""Run models of the zoo through Vulkan and write what came of it: ``benchmarks/results/vulkan.csv`` and
``docs/vulkan-models.md``.

``python scripts/vulkan_table.py ID ...`` measures these and keeps what is known of the others; it fetches what is not
cached; without any it writes the page anew. ``--check`` only says whether the page is what the data give. Measuring
needs ``mobilekit harness build --vulkan``.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from pathlib import Path
from typing import Literal

from mobilekit.errors import MobilekitError
from mobilekit.pipeline.bisect import BisectOptions, bisect_bundle
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.pipeline.validate import ValidateOptions, validate_bundle
from mobilekit.report.vulkan import fallback
from mobilekit.validate.tolerance import Verdict

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "benchmarks" / "results" / "vulkan.csv"
PAGE = ROOT / "docs" / "vulkan-models.md"
PRECISIONS: tuple[Literal["fp32", "fp16"], ...] = ("fp32", "fp16")
HELD = ("verdict", "error", "note")
FIELDS = ["id", "gpu", "layers", "on_cpu", *(f"{precision}_{what}" for precision in PRECISIONS for what in HELD)]

HEAD = """\
<!-- Made by scripts/vulkan_table.py: do not edit. -->
# Real models through Vulkan

`mobilekit validate BUNDLE --device local --vulkan` on seeded inputs, in float32 and in half precision (an fp32 bundle
with fp16 storage and arithmetic). *Error* is the worst relative L2 of any output against ONNX Runtime on the original;
what fails is named by `mobilekit bisect --vulkan`. Measured on {gpu}. See [vulkan](vulkan.md).

| model | ncnn layers | not on the GPU | fp32 | error | fp16 | error |
|---|---|---|---|---|---|---|
"""


def measure(id_: str) -> dict[str, str]:
    row = dict.fromkeys(FIELDS, "") | {"id": id_}
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "out"
        try:
            made = export_model(id_, bundle, ExportOptions(verify=False))
        except MobilekitError as error:
            return row | {"fp32_verdict": type(error).__name__, "fp32_note": error.message}
        assert made.manifest.ncnn is not None
        row["layers"] = str(made.manifest.ncnn.layers)
        for precision in PRECISIONS:
            row |= {f"{precision}_{name}": text for name, text in held(bundle, precision, row).items()}
    return row


def held(bundle: Path, precision: Literal["fp32", "fp16"], row: dict[str, str]) -> dict[str, str]:
    """The verdict, the error and a note; ``row`` gets what does not depend on the precision."""
    options = ValidateOptions(samples=2, warmup=0, iterations=1, precision=precision, vulkan=True)
    try:
        report = validate_bundle(bundle, "local", options)
    except MobilekitError as error:
        return {"verdict": type(error).__name__, "error": "", "note": error.message.splitlines()[0]}
    assert report.device.vulkan is not None
    row["gpu"] = report.device.vulkan.describe()
    row["on_cpu"] = fallback(report.layers_on_cpu)
    note = "" if report.verdict is Verdict.PASS else report.sentence
    if report.verdict is Verdict.FAIL:
        try:
            note = bisect_bundle(bundle, "local", BisectOptions(samples=2, precision=precision, vulkan=True)).sentence
        except MobilekitError as error:
            note = f"bisect: {error.message.splitlines()[0]}"
    worst = max(output.relative_l2 for output in report.outputs)
    return {"verdict": report.verdict.value, "error": f"{worst:.1e}", "note": note}


def read() -> dict[str, dict[str, str]]:
    if not DATA.exists():
        return {}
    with DATA.open(encoding="utf-8", newline="") as file:
        return {row["id"]: dict(row) for row in csv.DictReader(file)}


def page(rows: dict[str, dict[str, str]]) -> str:
    ordered = [rows[id_] for id_ in sorted(rows)]
    gpus = " and ".join(sorted({row["gpu"] for row in ordered if row["gpu"]}))
    text = HEAD.format(gpu=gpus)
    for row in ordered:
        on_cpu = row["on_cpu"].partition(" layer")[0] if "on the CPU" in row["on_cpu"] else "0"
        kinds = row["on_cpu"].partition("(")[2].rstrip(")")
        cells = [f"`{row['id']}`", row["layers"], f"{on_cpu}{f': {kinds}' if kinds else ''}"]
        for precision in PRECISIONS:
            cells += [row[f"{precision}_verdict"], row[f"{precision}_error"] or "-"]
        text += "| " + " | ".join(cells) + " |\n"
    notes = [
        f"- `{row['id']}`, {precision}: {row[f'{precision}_note']}\n"
        for row in ordered
        for precision in PRECISIONS
        if row[f"{precision}_note"]
    ]
    return text + ("\nWhat is not right, and where:\n\n" + "".join(notes) if notes else "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ids", nargs="*")
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    rows = read()
    if given.check:
        return 0 if PAGE.read_text(encoding="utf-8") == page(rows) else 1
    for id_ in given.ids:
        rows[id_] = measure(id_)
        print(rows[id_], file=sys.stderr)
        with DATA.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows[each] for each in sorted(rows))
    PAGE.write_text(page(rows), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
