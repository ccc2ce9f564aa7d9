"""Faults planted into good bundles of public models: is each called fail, and is its layer named?

usage: planted.py [--good] [--json FILE] [NAME ...]

Every fault of ``tests/planted/`` (or those whose name or model contains a NAME) is put into a bundle of each
model that it is for; ``validate`` and ``bisect`` judge it on this machine, a fault of half precision on the virtual
arm64 device. ``--good`` instead validates the good bundles of all zoo models (or those whose id contains a NAME), none
of which may fail. Rows are kept under the user's cache folder as they come: what was stopped goes on, and what was
judged by the same code is not judged again. Exit code 1 where anything is other than it should be.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _good import all_good
from _rows import Rows, code_digest

from tests.planted.edit import Editor
from tests.planted.faults import Fault
from tests.planted.sounds import FAULTS


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
    options = ValidateOptions(precision="fp16" if half else "fp32", samples=fault.samples, warmup=0, iterations=1)
    report = validate_bundle(bad, device, options)
    fp32 = validate_bundle(bad, "local", ValidateOptions(warmup=0, iterations=1)).verdict.value if half else None
    found = bisect_bundle(bad, device, BisectOptions(samples=fault.samples, precision="fp16" if half else None))
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


def plant(names: list[str], rows: Rows) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, fault in enumerate(FAULTS):
            for model in fault.models:
                if names and not any(each in f"{fault.name} {model}" for each in names):
                    continue
                row = rows.get(f"{fault.name}, {model}")
                if row is None:
                    bad = folder / f"bad{number}-{model}"
                    row = rows.add(f"{fault.name}, {model}", judge(fault, model, exported(model, folder / model), bad))
                    shutil.rmtree(bad)
                print("ok " if _right(row) else "BAD", model, "|", fault.name, "|", row["sentence"], flush=True)
                yield row


def _right(row: dict[str, Any]) -> bool:
    return bool(row["validate"] == "fail" and row["stage_right"] and row["layer_right"])


def main() -> int:
    from mobilekit.paths import cache_dir

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--json", type=Path, help="write the rows there in the end")
    parser.add_argument("--good", action="store_true")
    arguments = parser.parse_args()
    kind = "good" if arguments.good else "planted"
    known = Rows(cache_dir("benchmarks") / f"{kind}.jsonl", code_digest())
    rows = list(all_good(arguments.names, known) if arguments.good else plant(arguments.names, known))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if arguments.good:
        counts = Counter(f"{row['precision']} {row['device']}: {row['validate']}" for row in rows)
        print("\n".join(f"{what} {count}" for what, count in sorted(counts.items())))
        return int(any(row["validate"] in ("fail", "error") for row in rows))
    failed = sum(row["validate"] == "fail" for row in rows)
    print(f"{failed} of {len(rows)} called fail, {sum(map(_right, rows))} of them with the right stage and layer")
    return int(not all(map(_right, rows)))


if __name__ == "__main__":
    raise SystemExit(main())
