"""Small ncnn models written by hand, with weights from a fixed seed."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Files:
    param: Path
    bin: Path


def write(folder: Path, lines: list[str], blobs: int, weights: bytes = b"", name: str = "model") -> Files:
    folder.mkdir(parents=True, exist_ok=True)
    files = Files(folder / f"{name}.param", folder / f"{name}.bin")
    files.param.write_text("\n".join(["7767517", f"{len(lines)} {blobs}", *lines]) + "\n")
    files.bin.write_bytes(weights)
    return files


def convolutional(folder: Path) -> Files:
    """Input "in" (3, 24, 24), 3x3 Conv + ReLU "mid" (16, 24, 24), then "logits" (10,), "branch/0:0" (8, 24, 24)."""
    rng = np.random.default_rng(7)

    def array(*shape: int, raw: bool = False) -> bytes:
        data = (rng.standard_normal(shape) * 0.2).astype("<f4").tobytes()
        return data if raw else struct.pack("<I", 0) + data

    lines = [
        "Input in 0 1 in 0=24 1=24 2=3",
        "Convolution conv1 1 1 in mid 0=16 1=3 4=1 5=1 6=432 9=1",
        "Split split 1 2 mid mid_a mid_b",
        "Convolution conv2 1 1 mid_a branch/0:0 0=8 1=1 5=1 6=128",
        "Pooling pool 1 1 mid_b pooled 0=1 4=1",
        "InnerProduct fc 1 1 pooled logits 0=10 1=1 2=160",
    ]
    weights = b"".join(
        [array(16, 3, 3, 3), array(16, raw=True), array(8, 16), array(8, raw=True), array(10, 16), array(10, raw=True)]
    )
    return write(folder, lines, 7, weights)


def chain(folder: Path, layers: int) -> Files:
    """``layers`` ReLU layers one after the other on a vector of 4; for the depth of ncnn's recursion."""
    lines = ["Input in 0 1 b0 0=4"]
    lines += [f"ReLU r{i} 1 1 b{i} b{i + 1}" for i in range(layers)]
    return write(folder, lines, layers + 1)


def slow(folder: Path) -> Files:
    """About a second of work for one inference on input "b0" (256, 128, 128): many 1x1 convolutions."""
    count = 24
    lines = ["Input in 0 1 b0 0=128 1=128 2=256"]
    lines += [f"Convolution c{i} 1 1 b{i} b{i + 1} 0=256 1=1 5=0 6=65536" for i in range(count)]
    weights = (struct.pack("<I", 0) + np.full(65536, 1e-3, "<f4").tobytes()) * count
    return write(folder, lines, count + 1, weights)
