"""Mutated ``.param`` and ``.bin`` files through the harness built with sanitizers (``scripts/asan_harness.py``).

``python -m tests.fuzz.params --count 3300 --jobs 2 --record``. Each is run once; what came of it is counted by kind:
``done``, ``refused`` (an exit code of the harness's and a message), ``memory`` (ASan's exit code 99: an access that no
file may cause), ``undefined`` (UBSan's, in our own code), ``died`` (a signal) or ``hang``. ``--record`` writes
``params.json`` beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from mobilekit.bundle import TensorInfo
from mobilekit.device.harness.build import build_harness
from mobilekit.errors import MobilekitError
from mobilekit.importers.onnx import load
from mobilekit.passes import prepare
from mobilekit.runners.blobs import to_blob
from mobilekit.targets.ncnn import NcnnOptions, NcnnTarget
from mobilekit.targets.ncnn.layers import LAYERS
from tests.models import conv_classifier, save
from tests.property.graphs import RandomChoices, build
from tests.property.makers import MAKERS

__all__ = ["KINDS", "Files", "bases", "mutated"]

RESULTS = Path(__file__).with_name("params.json")
_ASAN_EXIT = 99
_LIMIT_S = 20.0
_NUMBERS = (
    "-1",
    "0",
    "1",
    "7",
    "65536",
    "2147483647",
    "-2147483648",
    "99999999999",
    "1e38",
    "nan",
    "inf",
    "x",
    "",
    "-233",
)


@dataclass(frozen=True)
class Files:
    """A model as ncnn reads it, and its inputs by blob."""

    param: bytes
    weights: bytes
    inputs: dict[str, np.ndarray]
    outputs: tuple[str, ...]


def bases(folder: Path, count: int = 24) -> list[Files]:
    """Converted models: a classifier, and random graphs."""
    found: list[Files] = []
    models = [conv_classifier()]
    for seed in range(count):
        builder = build(RandomChoices(seed), MAKERS, 4)
        models.append(builder.model([made.outputs[0] for made in builder.nodes[-2:]]))
    for index, model in enumerate(models):
        try:
            graph = prepare(load(save(model, folder / f"{index}.onnx")), {}, simplify=False)
            artifact = NcnnTarget().build(graph, folder / str(index) / "ncnn", NcnnOptions())
        except MobilekitError:
            continue
        infos = {
            v.name: TensorInfo(name=v.name, dtype=str(v.dtype), shape=tuple(int(str(axis)) for axis in v.shape or ()))
            for v in graph.inputs
        }
        rng = np.random.default_rng(index)
        inputs = {
            b.blob: to_blob(rng.integers(0, 2, infos[b.tensor].shape).astype(infos[b.tensor].dtype), infos[b.tensor], b)
            for b in artifact.inputs
        }
        read = [(folder / str(index) / name).read_bytes() for name in (artifact.param, artifact.bin)]
        found.append(Files(read[0], read[1], inputs, tuple(blob.blob for blob in artifact.outputs)))
    return found


def _bits(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 8)) if changed else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _parameter(text: str, rng: random.Random) -> str:
    """Another number in one ``id=value``."""
    found = list(re.finditer(r"(?<= )(-?\d+)=(\S*)", text))
    if not found:
        return text
    one = rng.choice(found)
    return text[: one.start(2)] + rng.choice(_NUMBERS) + text[one.end(2) :]


def _parameter_id(text: str, rng: random.Random) -> str:
    found = list(re.finditer(r"(?<= )(-?\d+)=", text))
    if not found:
        return text
    one = rng.choice(found)
    number = rng.choice(("-1", "31", "32", "64", "-23300", "-23331", "-23332", "-23400", "99999", "3", "18"))
    return text[: one.start(1)] + number + text[one.end(1) :]


def _array(text: str, rng: random.Random) -> str:
    lines = text.splitlines()
    at = rng.randrange(2, len(lines))
    length = rng.choice(("1000000000", "-1", "2147483647", "3", "0", "1"))
    lines[at] += f" -{23300 + rng.randrange(32)}={length},{rng.choice(_NUMBERS)}"
    return "\n".join(lines) + "\n"


def _type(text: str, rng: random.Random) -> str:
    lines = text.splitlines()
    at = rng.randrange(2, len(lines))
    words = lines[at].split(" ")
    words[0] = rng.choice((*LAYERS, *LAYERS, "NoSuch", "", "x" * 300))
    lines[at] = " ".join(words)
    return "\n".join(lines) + "\n"


def _word(text: str, rng: random.Random) -> str:
    """Counts and names of one layer."""
    lines = text.splitlines()
    at = rng.randrange(1, len(lines))
    words = lines[at].split(" ")
    words[rng.randrange(len(words))] = rng.choice((*_NUMBERS, "x" * 300, "x" * 100_000, *text.split()[3:12]))
    lines[at] = " ".join(words)
    return "\n".join(lines) + "\n"


def _lines(text: str, rng: random.Random) -> str:
    lines = text.splitlines()
    a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
    way = rng.randrange(4)
    if way == 0:
        lines[a], lines[b] = lines[b], lines[a]
    elif way == 1:
        lines.insert(a, lines[b])
    elif way == 2:
        del lines[a]
    else:
        lines[a] = lines[a][: rng.randrange(len(lines[a]) + 1)]
    if rng.random() < 0.5 and len(lines) > 2:
        tops = sum(int(words[3]) for line in lines[2:] if len(words := line.split()) > 3 and words[3].isdigit())
        lines[1] = f"{len(lines) - 2} {tops}"
    return "\n".join(lines) + "\n"


def _arity(text: str, rng: random.Random) -> str:
    """One input or output of a layer fewer, or an output more; the counts agree with it."""
    lines = text.splitlines()
    at = rng.randrange(2, len(lines))
    words = lines[at].split(" ")
    bottoms, tops = int(words[2]), int(words[3])
    first = 4 + bottoms
    way = rng.choice(("more", "bottom", "bottom", "top"))
    if way == "bottom" and bottoms:
        del words[4 + rng.randrange(bottoms)]
        words[2] = str(bottoms - 1)
    elif way == "top" and tops:
        del words[first + rng.randrange(tops)]
        words[3] = str(tops - 1)
    else:
        words.insert(first + tops, f"more{rng.randrange(1000)}")
        words[3] = str(tops + 1)
    lines[at] = " ".join(words)
    made = sum(int(line.split(" ")[3]) for line in lines[2:])
    lines[1] = f"{len(lines) - 2} {made}"
    return "\n".join(lines) + "\n"


def _text(change: Callable[[str, random.Random], str]) -> Callable[[Files, random.Random], tuple[bytes, bytes]]:
    def mutate(files: Files, rng: random.Random) -> tuple[bytes, bytes]:
        text = files.param.decode()
        for _ in range(rng.choice((1, 1, 2))):
            text = change(text, rng)
        return text.encode(), files.weights

    return mutate


def _cut_weights(files: Files, rng: random.Random) -> tuple[bytes, bytes]:
    return files.param, files.weights[: rng.randrange(len(files.weights) + 1)]


def _tags(files: Files, rng: random.Random) -> tuple[bytes, bytes]:
    """Another storage type where a weight begins, or somewhere in it."""
    data = bytearray(files.weights)
    at = rng.choice((0, 4 * rng.randrange(max(1, len(data) // 4))))
    data[at : at + 4] = rng.choice((0x01306B47, 0x000D4B38, 0x0002C056, 1, 0xFFFFFFFF)).to_bytes(4, "little")
    return files.param, bytes(data)


KINDS: dict[str, Callable[[Files, random.Random], tuple[bytes, bytes]]] = {
    "parameter": _text(_parameter),
    "parameter id": _text(_parameter_id),
    "array": _text(_array),
    "layer type": _text(_type),
    "arity": _text(_arity),
    "word": _text(_word),
    "lines": _text(_lines),
    "bits of the param": lambda files, rng: (_bits(files.param, rng), files.weights),
    "bits of the weights": lambda files, rng: (files.param, _bits(files.weights, rng)),
    "weights cut short": _cut_weights,
    "tags": _tags,
}


def mutated(models: list[Files], seed: int) -> tuple[str, Files]:
    """The same for the same seed; the kinds take turns."""
    rng = random.Random(seed)
    kind = list(KINDS)[seed % len(KINDS)]
    files = rng.choice(models)
    param, weights = KINDS[kind](files, rng)
    return kind, Files(param, weights, files.inputs, files.outputs)


def run(harness: Path, files: Files, folder: Path) -> tuple[str, str]:
    """What the harness made of it, and what it said."""
    (folder / "m.param").write_bytes(files.param)
    (folder / "m.bin").write_bytes(files.weights)
    command = [str(harness), "run", "--param", "m.param", "--bin", "m.bin", "--out", "out"]
    for index, (blob, array) in enumerate(files.inputs.items()):
        np.save(folder / f"{index}.npy", array)
        command += ["--input", f"{blob}={index}.npy"]
    options = "exitcode=99:allocator_may_return_null=1:max_allocation_size_mb=2048:detect_leaks=0"
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "ASAN_OPTIONS": options, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "hang", ""
    if done.returncode == _ASAN_EXIT:
        return "memory", done.stderr
    if "runtime error: " in done.stderr:
        return "undefined", done.stderr
    if done.returncode < 0:
        return "died", f"signal {-done.returncode} {done.stderr}"
    return ("done" if done.returncode == 0 else "refused"), done.stderr


def where(report: str) -> str:
    """The kind of a fault and the first frame of it in ncnn or in the harness."""
    undefined = re.search(r"([\w/.]+\.(?:cpp|h)):\d+:\d+: runtime error: (.*)", report)
    if undefined:
        return f"{undefined[2]} in {undefined[1]}"
    kind = re.search(r"AddressSanitizer:? ([\w-]+)", report)
    frame = re.search(r"#\d+ 0x\w+ in ((?:ncnn|mobilekit)::[\w:~<>]+)", report)
    return f"{kind[1] if kind else report[:60].strip()} in {frame[1] if frame else 'elsewhere'}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--harness", type=Path, help="built with AddressSanitizer; else it is looked for, or built")
    parser.add_argument("--record", action="store_true", help=f"write {RESULTS.name}")
    options = parser.parse_args()
    harness = (options.harness or build_harness("x86_64", sanitize=True).path).resolve()
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    faults: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="mobilekit-fuzz-") as name:
        folder = Path(name)
        models = bases(folder / "bases")

        def one(seed: int) -> tuple[int, str, str, str]:
            kind, files = mutated(models, seed)
            own = folder / f"work{threading.get_ident()}"
            own.mkdir(exist_ok=True)
            return (seed, kind, *run(harness, files, own))

        pool = ThreadPoolExecutor(options.jobs)
        for seed, kind, outcome, said in pool.map(one, range(options.start, options.start + options.count)):
            counts[kind][outcome] += 1
            if outcome not in ("done", "refused"):
                place = where(said) if outcome != "hang" else "hang"
                if not faults[place]:
                    print(f"seed {seed} {kind}: {place}", flush=True)
                faults[place] += 1
    result = {
        "start": options.start,
        "mutants": options.count,
        "command": f"python -m tests.fuzz.params --start {options.start} --count {options.count}",
        "versions": {"ncnn": version("ncnn"), "numpy": version("numpy")},
        "outcomes": {kind: dict(sorted(found.items())) for kind, found in counts.items()},
        "faults": dict(faults.most_common()),
    }
    text = json.dumps(result, indent=1) + "\n"
    if options.record:
        RESULTS.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
