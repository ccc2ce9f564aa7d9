"""Faults planted into good bundles of public models: is each called fail, and is its layer named?

usage: planted.py [--json FILE] [--good] [NAME ...]

Every fault of ``tests/planted/faults.py`` (or those whose name or model contains a NAME) is put into a bundle of each
model that it is for; ``validate`` and ``bisect`` judge it on this machine, a fault of half precision on the virtual
arm64 device. ``--good`` instead validates the good bundles of all zoo models, none of which may fail.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.planted.edit import Editor
from tests.planted.faults import FAULTS, Fault


def exported(model: str, folder: Path) -> Path:
    """A bundle of the model, made once; not verified, for that is what happens here."""
    from mobilekit import ExportOptions, export_model

    if not folder.exists():
        export_model(model, folder, ExportOptions(verify=False))
    return folder


def judge(fault: Fault, model: str, good: Path, copy: Path) -> dict[str, Any]:
    from mobilekit import ValidateOptions, validate_bundle
    from mobilekit.pipeline.bisect import BisectOptions, bisect_bundle

    editor = Editor(good, copy)
    planted = fault.plant(editor)
    bad = editor.save()
    half = fault.precision == "fp16"
    device = "virtual" if half else "local"
    options = ValidateOptions(precision="fp16" if half else "fp32", warmup=0, iterations=1)
    report = validate_bundle(bad, device, options)
    fp32 = validate_bundle(bad, "local", ValidateOptions(warmup=0, iterations=1)).verdict.value if half else None
    found = bisect_bundle(bad, device, BisectOptions(precision="fp16" if half else None))
    named = [layer.name for layer in found.first.layers] if found.first is not None else []
    layer_right = bool(set(named) & set(planted.layers)) if planted.layers else not named
    return {
        "fault": fault.name,
        "model": model,
        "precision": fault.precision,
        "validate": report.verdict.value,
        "validate_in_fp32": fp32,
        "bisect": found.verdict.value,
        "stage": found.stage,
        "stage_right": found.stage == planted.stage,
        "planted": list(planted.layers),
        "named": named,
        "layer_right": layer_right,
        "runs": found.runs,
        "sentence": found.sentence,
    }


def plant(names: list[str], out: Path | None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, fault in enumerate(FAULTS):
            for model in fault.models:
                if names and not any(each in f"{fault.name} {model}" for each in names):
                    continue
                row = judge(fault, model, exported(model, folder / model), folder / f"bad{number}-{model}")
                rows.append(row)
                if out is not None:  # as far as it got
                    out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
                good = row["validate"] == "fail" and row["stage_right"] and row["layer_right"]
                print("ok " if good else "BAD", row["model"], "|", row["fault"], "|", row["sentence"], flush=True)
    return rows


def all_good() -> list[dict[str, Any]]:
    from mobilekit import ValidateOptions, validate_bundle, zoo

    rows: list[dict[str, Any]] = []
    for model in [entry.id for entry in zoo.list_entries()]:
        with tempfile.TemporaryDirectory() as name:
            bundle = exported(model, Path(name) / "bundle")
            report = validate_bundle(bundle, "local", ValidateOptions(warmup=0, iterations=1))
        error = max(output.relative_l2 for output in report.outputs)
        rows.append({"model": model, "validate": report.verdict.value, "error": error})
        print(report.verdict.value, model, report.sentence, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--good", action="store_true")
    arguments = parser.parse_args()
    rows = all_good() if arguments.good else plant(arguments.names, arguments.json)
    if arguments.good:
        print(f"{sum(row['validate'] == 'fail' for row in rows)} of {len(rows)} good bundles are called fail")
    else:
        failed = sum(row["validate"] == "fail" for row in rows)
        named = sum(row["stage_right"] and row["layer_right"] for row in rows)
        print(f"{failed} of {len(rows)} called fail, {named} with the right layer")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
