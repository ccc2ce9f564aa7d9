"""Bundles that somebody changed: ``run`` refuses them, or runs what they hold; never a crash of its own or a hang."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from mobilekit.bundle import MANIFEST, sha256_of
from mobilekit.pipeline.export import ExportOptions, export_model
from tests.fuzz.params import bases, mutated
from tests.models import conv_classifier, save

COUNT = 60
_ODD = (None, True, -1, 0, 2**63, 1e308, "", "../up", "/etc/hostname", "a\0b", "x" * 5000, [], {}, [[]], {"a": []})


def changed(raw: Any, rng: random.Random) -> Any:
    """The JSON with one thing in it replaced, left out, or added."""
    places: list[tuple[Any, Any]] = []
    pending = [raw]
    while pending:
        item = pending.pop()
        keys = list(item) if isinstance(item, dict) else range(len(item)) if isinstance(item, list) else ()
        for key in keys:
            places.append((item, key))
            pending.append(item[key])
    holder, key = rng.choice(places)
    way = rng.randrange(3)
    if way == 0 and isinstance(holder, dict):
        del holder[key]
    elif way == 1 and isinstance(holder, dict):
        holder["unheard of"] = holder[key]
    else:
        holder[key] = rng.choice(_ODD)
    return raw


def spoil(bundle: Path, seed: int, folder: Path) -> str:
    """Change the manifest, or the ncnn files with their checksums made right again."""
    rng = random.Random(seed)
    manifest = bundle / MANIFEST
    raw = json.loads(manifest.read_text())
    if seed % 2:
        manifest.write_text(json.dumps(changed(raw, rng)))
        return "manifest"
    kind, files = mutated(bases(folder, 0), seed)
    for name, data in ((raw["ncnn"]["param"], files.param), (raw["ncnn"]["bin"], files.weights)):
        (bundle / name).write_bytes(data)
        for entry in raw["files"]:
            if entry["path"] == name:
                entry |= {"size": len(data), "sha256": sha256_of(bundle / name)}
    manifest.write_text(json.dumps(raw))
    return kind


def main(folder: Path) -> None:
    """In a process of its own: it forks. Prints a JSON line for each bundle."""
    from tests.fuzz.server import emptied, run

    path = save(conv_classifier(), folder / "m.onnx")
    good = export_model(path, folder / "good", ExportOptions(verify=False, simplify=False)).bundle
    np.save(folder / "x.npy", np.zeros((1, 3, 8, 8), np.float32))
    for seed in range(-1, COUNT):
        work = emptied(folder / "work")
        shutil.copytree(good, work / "models")
        kind = spoil(work / "models", seed, folder / "bases") if seed >= 0 else "good"
        arguments = ["run", "models", "--input", str(folder / "x.npy"), "-o", "out"]
        done = run(arguments, work, ("models", "out"), limit_s=120)  # other work on this machine is no hang of ours
        print(json.dumps([seed, kind, done.code, list(done.left), done.stderr[-2000:]]), flush=True)


def test_spoilt_bundles(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.test_bundles", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == COUNT + 1
    assert found[0][2] == 0, found[0]
    refused = 0
    for seed, kind, code, left, said in found:
        assert code in (0, 2, 4, 5), (seed, kind, code, said)
        assert "Traceback" not in said, (seed, kind, said)
        assert "internal error" not in said, (seed, kind, said)
        assert not left, (seed, kind, left)
        assert code == 0 or "error: " in said, (seed, kind, said)
        refused += code != 0
    assert refused >= COUNT // 2


if __name__ == "__main__":
    main(Path(sys.argv[1]))
