"""What each rewrite that saves work is worth, model by model.

usage: attribution.py [--loops 60] [--only count|time] [--json FILE] [MODEL ...]

Exports each model as it is, then once more without each rule of ``FAST_RULES`` and ``FUSIONS`` that changes it, and
without activations inside of layers, and counts the arm64 instructions of one inference on one thread. The marks of
layers that one thread does are worth nothing there: with and without them the model runs in turn on two threads of this
machine, and the ratio is the median over neighbouring runs. Rows that ``FILE`` has already are kept, so
that the counting may be done on a busy machine and the timing on a quiet one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as latency_vs_pnnx.py has it; read when ncnn is loaded

import numpy as np
from _peers import MODELS, counting_harness, instructions, machine
from _runtimes import feed_of, in_turn, ncnn_model

FUSIONS = (
    "fold-affine",
    "fold-pad",
    "fuse-activation",
    "fuse-focus",
    "fuse-focus-conv",
    "fuse-group-norm",
    "fuse-hard-sigmoid",
    "fuse-layer-norm",
    "fuse-norm-scale",
    "fuse-pixel-shuffle",
    "fuse-prelu",
    "push-transpose",
)
"""Of the rules that every export needs, those that stand for layers that ncnn has."""

IN_LAYER = "activation inside of its layer"
MARKS = "layers that one thread does"

Built = tuple[str, Path, Path, dict[str, Any], list[str]]
"""The ``.param`` text, the files, the inputs by blob name, the output blobs."""


@contextmanager
def without(name: str) -> Iterator[None]:
    from mobilekit.passes import legalise

    kept = {
        which: tuple(rule for rule in getattr(legalise, which) if rule.name != name)
        for which in ("FAST_RULES", "RULES")
    }
    with patch.multiple(legalise, **kept):
        if name != IN_LAYER:
            yield
            return
        with patch("mobilekit.targets.ncnn.fuse.activation", lambda node: None):  # noqa: ARG005
            yield


def build(model: str, left_out: str, folder: Path, *, marks: bool = True) -> Built:
    from mobilekit import zoo
    from mobilekit.bundle import TensorInfo
    from mobilekit.importers.onnx import load
    from mobilekit.passes import prepare
    from mobilekit.runners.blobs import extracted, to_blob
    from mobilekit.targets.ncnn import NcnnOptions, NcnnTarget

    resolved = zoo.resolve(model)
    source = load(resolved.path)
    given = resolved.entry.inputs if resolved.entry else {}
    shapes = {spec.name: tuple(given.get(spec.name) or spec.static_shape()) for spec in source.inputs}
    with without(left_out):
        graph = prepare(source, shapes)
        artifact = NcnnTarget().build(graph, folder, NcnnOptions(fixed_sizes=marks))
    infos = {v.name: TensorInfo(name=v.name, dtype=v.dtype or "", shape=shapes[v.name]) for v in graph.inputs}
    feed = feed_of({"shapes": shapes})
    inputs = {b.blob: np.asarray(to_blob(feed[b.tensor], infos[b.tensor], b)) for b in artifact.inputs}
    param = folder / "model.param"
    return param.read_text(), param, folder / "model.bin", inputs, list(extracted(artifact.outputs))


def counted(model: str, harness: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """A row for each rule that changes the model."""
    from mobilekit.errors import MobilekitError
    from mobilekit.passes.legalise import FAST_RULES

    whole, *files = build(model, "", folder / "all")
    total = instructions(harness, *files)
    assert total is not None
    for rule in (*(rule.name for rule in FAST_RULES), *FUSIONS, IN_LAYER):
        try:
            text, *others = build(model, rule, folder / rule)
        except MobilekitError:
            continue  # without it, ncnn cannot take the model
        if text != whole and (count := instructions(harness, *others)) is not None:
            saved = round(1 - total / count, 4)
            yield {"model": model, "rule": rule, "with": total, "without": count, "saved": saved}


def timed(model: str, loops: int, folder: Path) -> Iterator[dict[str, Any]]:
    """A row for the marks, where the model has any."""
    whole, *files = build(model, "", folder / "marked")
    plain, *unmarked = build(model, "", folder / "unmarked", marks=False)
    runs = [run for run in (ncnn_model(*files), ncnn_model(*unmarked)) if run is not None]
    if plain == whole or len(runs) < 2:
        return
    with_ms, without_ms = map(np.array, in_turn(runs, loops))
    saved = round(1 - float(np.median(with_ms / without_ms)), 4)
    row = {"model": model, "rule": MARKS, "layers": whole.count(" 31=") - plain.count(" 31="), "saved": saved}
    yield row | {key: round(float(np.median(ms)), 4) for key, ms in (("with_ms", with_ms), ("without_ms", without_ms))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=(*MODELS, "pp_ocrv6_rec"))
    parser.add_argument("--loops", type=int, default=60)
    parser.add_argument("--only", choices=("count", "time"), help="count instructions only, or time the marks only")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    harness = None if options.only == "time" else counting_harness()
    rows: dict[str, dict[str, Any]] = {}
    if options.json and options.json.is_file():
        rows = {f"{row['model']} {row['rule']}": row for row in json.loads(options.json.read_text())["rows"]}
    for model in options.models:
        with tempfile.TemporaryDirectory() as name:
            parts = [] if harness is None else [counted(model, harness, Path(name))]
            parts += [] if options.only == "count" else [timed(model, options.loops, Path(name))]
            for row in chain(*parts):
                what = "time on two threads" if row["rule"] == MARKS else f"{row['without']:,} instructions"
                print(f"{model}: {row['rule']} saves {row['saved']:.2%} of {what}", flush=True)
                load = {"load": round(os.getloadavg()[0], 1)} if row["rule"] == MARKS else {}
                rows[f"{model} {row['rule']}"] = row | load
                if options.json:  # after each: an interrupted run keeps what it has
                    about = {"machine": machine(), "rows": sorted(rows.values(), key=lambda row: row["model"])}
                    options.json.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
