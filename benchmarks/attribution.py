"""What each rule that saves work is worth: arm64 instructions of one inference without it, model by model.

usage: attribution.py [--json FILE] [MODEL ...]

Exports each model as it is, then once more without each rule of ``FAST_RULES`` that changes it, and counts.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from _instructions import Counter
from _runtimes import feed_of

MODELS = ("yolov8n_nudenet", "mtcnn_rnet", "mtcnn_onet", "pp_ocrv6_rec")


def build(model: str, without: str, folder: Path) -> tuple[str, Path, Path, dict[str, Any], list[str]]:
    """The ``.param`` text, the files, the inputs by blob name, the output blobs."""
    from mobilekit import zoo
    from mobilekit.bundle import TensorInfo
    from mobilekit.importers.onnx import load
    from mobilekit.passes import legalise, prepare
    from mobilekit.runners.blobs import extracted, to_blob
    from mobilekit.targets.ncnn import NcnnOptions, NcnnTarget

    resolved = zoo.resolve(model)
    source = load(resolved.path)
    given = resolved.entry.inputs if resolved.entry else {}
    shapes = {spec.name: tuple(given.get(spec.name) or spec.static_shape()) for spec in source.inputs}
    kept = tuple(rule for rule in legalise.FAST_RULES if rule.name != without)
    with patch.object(legalise, "FAST_RULES", kept):
        graph = prepare(source, shapes)
    artifact = NcnnTarget().build(graph, folder, NcnnOptions())
    infos = {v.name: TensorInfo(name=v.name, dtype=v.dtype or "", shape=shapes[v.name]) for v in graph.inputs}
    feed = feed_of({"shapes": shapes})
    inputs = {b.blob: np.asarray(to_blob(feed[b.tensor], infos[b.tensor], b)) for b in artifact.inputs}
    param = folder / "model.param"
    return param.read_text(), param, folder / "model.bin", inputs, list(extracted(artifact.outputs))


def attribute(model: str, counter: Counter) -> list[dict[str, Any]]:
    from mobilekit.passes.legalise import FAST_RULES

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        whole, *files = build(model, "", Path(name) / "all")
        total = counter.count(*files)
        assert total is not None
        for rule in FAST_RULES:
            text, *files = build(model, rule.name, Path(name) / rule.name)
            if text != whole and (count := counter.count(*files)) is not None:
                saved = round(1 - total / count, 4)
                rows.append({"model": model, "rule": rule.name, "with": total, "without": count, "saved": saved})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    counter = Counter()
    if counter.missing:
        raise SystemExit(f"{counter.missing} is missing")
    rows: list[dict[str, Any]] = []
    for model in options.models:
        for row in attribute(model, counter):
            print(f"{model}: {row['rule']} saves {row['saved']:.2%} of {row['without']:,} instructions", flush=True)
            rows.append(row)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
