"""How large is the HTML report of many samples with pictures, and how long does writing it take?

usage: report_size.py [--samples 500] [--json FILE] [MODEL ...]

Each model (pp_lcnet_orientation and yolov8n_nudenet by default) is validated for real, on this machine, over pictures
of 1600 x 1200 that are drawn here and kept as JPEG; then its report is written five times. Seconds are of writing
alone, reading and shrinking the pictures of the worst samples included.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

MODELS = ("pp_lcnet_orientation", "yolov8n_nudenet")
TRIES = 5
MOST_BYTES, MOST_SECONDS = 10_000_000, 5.0


def draw(folder: Path, count: int) -> None:
    """Blurred grounds with words on them, no two alike: photographs compress about as badly."""
    from PIL import Image, ImageDraw, ImageFont

    folder.mkdir()
    rng = random.Random(1)  # pictures, not secrets
    font = ImageFont.load_default(120)
    for number in range(count):
        ground = Image.frombytes("RGB", (40, 30), rng.randbytes(40 * 30 * 3))
        picture = ground.resize((1600, 1200), Image.Resampling.BICUBIC)
        pen = ImageDraw.Draw(picture)
        for line in range(4):
            pen.text((rng.randint(40, 700), 80 + 270 * line), f"{rng.randint(10**5, 10**7)}", "black", font)
        picture.save(folder / f"picture-{number:04}.jpg", quality=90)


def measure(model: str, pictures: Path, folder: Path) -> dict[str, Any]:
    from mobilekit import ExportOptions, ValidateOptions, export_model, validate_bundle
    from mobilekit.pipeline.report import ReportFiles, write_reports

    bundle = folder / model
    export_model(model, bundle, ExportOptions(verify=False))
    began = time.perf_counter()
    report = validate_bundle(bundle, "local", ValidateOptions(inputs=pictures, warmup=1, iterations=100, threads=1))
    validated = time.perf_counter() - began
    files = ReportFiles(html=folder / f"{model}.html", json=folder / f"{model}.json")
    seconds, cpu = [], []
    for _ in range(TRIES):
        began, worked = time.perf_counter(), time.process_time()
        write_reports(report, files, inputs=pictures)
        seconds.append(time.perf_counter() - began)
        cpu.append(time.process_time() - worked)
    assert files.html is not None
    assert files.json is not None
    row = {
        "model": model,
        "samples": len(report.samples),
        "shown": len(report.shown),
        "validated_s": round(validated, 1),
        "written_s": [round(each, 3) for each in sorted(seconds)],
        "written_cpu_s": [round(each, 3) for each in sorted(cpu)],
        "html_bytes": files.html.stat().st_size,
        "json_bytes": files.json.stat().st_size,
    }
    row["within"] = row["html_bytes"] < MOST_BYTES and max(seconds) < MOST_SECONDS
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder / "pictures", arguments.samples)
        for model in arguments.models or MODELS:
            rows.append(measure(model, folder / "pictures", folder))
            print(json.dumps(rows[-1]), flush=True)
            if arguments.json is not None:  # as far as it got
                arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0 if all(row["within"] for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
