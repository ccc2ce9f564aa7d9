"""pnnx, the converter that comes with ncnn: found, run in a scratch folder, its model described as one of ours."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mobilekit import interrupts
from mobilekit.errors import MissingToolError, UsageError, signal_name

if TYPE_CHECKING:
    from mobilekit.bundle import Manifest, NcnnBlob, TensorInfo

__all__ = ["PeerFailure", "PeerModel", "find_pnnx", "run_pnnx"]

_SUFFIX = {
    "float32": "f32",
    "float16": "f16",
    "float64": "f64",
    "int64": "i64",
    "int32": "i32",
    "int16": "i16",
    "int8": "i8",
    "uint8": "u8",
}
_INPUT = re.compile(r'ex\.input\("in(\d+)",\s*ncnn\.Mat\(in\d+[^,()]*(?:\([^()]*\))?(?:,\s*batch_index=(\d+))?\)')
_OUTPUT = re.compile(r"\bout(\d+)\.numpy\((?:batch_index=(\d+))?\)")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class PeerFailure(Exception):  # noqa: N818 - a row of the table, not an error of ours
    """What the converter did instead of converting, as a sentence."""


@dataclass(frozen=True, slots=True)
class PeerModel:
    """pnnx's ncnn model under ``root``, with a manifest by which our runners run it."""

    root: Path
    manifest: Manifest
    size_bytes: int


def find_pnnx(path: Path | None) -> Path:
    """``path``, or the ``pnnx`` on PATH; :class:`MissingToolError` says how to get it."""
    if path is not None:
        if not path.is_file() or not os.access(path, os.X_OK):
            raise UsageError(f"{path} is no program", hint="--pnnx takes the pnnx binary")
        return path.resolve()
    found = shutil.which("pnnx")
    if found is None:
        raise MissingToolError(
            "pnnx is not on PATH",
            hint="its wheel holds a binary that needs no torch: pip download --no-deps pnnx, unzip it, chmod +x "
            "pnnx/pnnx, and give it with --pnnx",
        )
    return Path(found)


def run_pnnx(
    program: Path,
    model: Path,
    folder: Path,
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
    *,
    timeout_s: float,
) -> PeerModel:
    """Convert ``folder/model.onnx``, a copy of the model that lies there, with float32 weights.

    Raises :class:`PeerFailure` where pnnx crashes, runs past ``timeout_s``, reports failure, or leaves no model
    behind whatever its exit code says.
    """
    shapes = ",".join(f"[{','.join(map(str, info.shape))}]{_suffix(info)}" for info in inputs)
    _run([str(program), model.name, f"inputshape={shapes}", "fp16=0"], folder, timeout_s)
    stem = model.name.removesuffix(".onnx")
    param, weights, script = (folder / f"{stem}{end}" for end in (".ncnn.param", ".ncnn.bin", "_ncnn.py"))
    if not param.is_file() or not weights.is_file() or param.stat().st_size == 0:
        raise PeerFailure("it ended with exit code 0 and wrote no ncnn model")
    text = script.read_text("utf-8", "replace") if script.is_file() else ""
    return PeerModel(folder, _manifest(param, weights, text, inputs, outputs), param.stat().st_size + _size(weights))


def _size(path: Path) -> int:
    return path.stat().st_size


def _suffix(info: TensorInfo) -> str:
    try:
        return _SUFFIX[info.dtype]
    except KeyError:
        raise PeerFailure(f"it cannot be told of an input of type {info.dtype} ({info.name!r})") from None


def _run(command: Sequence[str], folder: Path, timeout_s: float) -> None:
    log = folder / "pnnx.log"
    with (
        log.open("wb") as output,
        interrupts.started(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise PeerFailure(f"it did not end within {timeout_s:g} s") from None
    if code < 0:
        raise PeerFailure(f"it crashed ({signal_name(-code)}){_last_line(log)}")
    if code:
        raise PeerFailure(f"it ended with exit code {code}{_last_line(log)}")


def _last_line(log: Path) -> str:
    text = _COLOUR.sub("", log.read_bytes()[-4000:].decode("utf-8", "replace"))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f": {lines[-1][:200]}" if lines else ""


def _manifest(
    param: Path, weights: Path, script: str, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]
) -> Manifest:
    """How ONNX's inputs and outputs stand in pnnx's model, as the script says that pnnx writes beside it."""
    from mobilekit.bundle import BatchPlace, Manifest, ModelInfo, NcnnArtifact, NcnnBatch

    lines = param.read_text("utf-8", "replace").splitlines()
    layers = [line.split() for line in lines[2:] if line.strip()]
    there = {blob for layer in layers for blob in _outputs_of(layer)}
    batch_in, batch_out = _batches(_INPUT, script), _batches(_OUTPUT, script)
    sizes = {info.shape[axis] for i, info in enumerate(inputs) if (axis := batch_in.get(i)) is not None}
    if len(sizes) > 1:
        raise PeerFailure(f"its inputs have batches of different sizes: {', '.join(map(str, sorted(sizes)))}")
    size = sizes.pop() if sizes else 1
    blobs_in = tuple(
        _blob(info, f"in{index}", batch_in.get(index)) for index, info in enumerate(inputs) if f"in{index}" in there
    )
    blobs_out = tuple(_blob(info, f"out{index}", batch_out.get(index)) for index, info in enumerate(outputs))
    missing = [info.name for index, info in enumerate(outputs) if f"out{index}" not in there]
    if missing:
        raise PeerFailure(f"its model has no output for {', '.join(map(repr, missing))}")
    places = {
        info.name: BatchPlace(axis=axis) for i, info in enumerate(inputs) if (axis := batch_in.get(i)) is not None
    }
    places |= {
        info.name: BatchPlace(axis=axis) for i, info in enumerate(outputs) if (axis := batch_out.get(i)) is not None
    }
    return Manifest(
        mobilekit_version="",
        model=ModelInfo(id="pnnx", file="model.onnx", sha256="0" * 64, opset=0),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        ncnn=NcnnArtifact(
            param=param.name,
            bin=weights.name,
            precision="fp32",
            inputs=blobs_in,
            outputs=blobs_out,
            layers=len(layers),
            depth=len(layers),
            batch=NcnnBatch(size=size, places=places) if size > 1 else None,
            ncnn_version="",
        ),
    )


def _outputs_of(layer: Sequence[str]) -> Sequence[str]:
    """Of a line of a ``.param`` file: type, name, counts of inputs and outputs, their names, parameters."""
    with suppress(IndexError, ValueError):
        taken, given = int(layer[2]), int(layer[3])
        return layer[4 + taken : 4 + taken + given]
    return ()


def _batches(pattern: re.Pattern[str], script: str) -> Mapping[int, int]:
    return {int(index): int(axis) for index, axis in pattern.findall(script) if axis}


def _blob(info: TensorInfo, blob: str, batch: int | None) -> NcnnBlob:
    from mobilekit.bundle import NcnnBlob

    axes = tuple(axis for axis in range(len(info.shape)) if axis != batch)
    if len(axes) > 4:
        raise PeerFailure(f"{info.name!r} has {len(axes)} axes in its model, ncnn takes four")
    # Its models read whole numbers as such.
    return NcnnBlob(tensor=info.name, blob=blob, axes=axes, kind="int32" if "int" in info.dtype else "float32")
