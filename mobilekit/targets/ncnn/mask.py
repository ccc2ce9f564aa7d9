"""Keep layers of a written model in higher precision: ncnn's feature mask, and what has to stand around it.

A layer reads its mask (parameter 31, ``get_masked_option`` in ``src/net.cpp``) when it is loaded and at every run. One
whose 16-bit storage is off does not convert what it reads: a ``Squeeze`` of nothing, which knows float32 only, stands
before it then. On a GPU nothing converts it at all, so that such a layer runs on the CPU.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mobilekit.errors import BundleError
from mobilekit.targets.ncnn.layers import FEATURE_MASK
from mobilekit.targets.ncnn.reader import ParamLayer
from mobilekit.targets.ncnn.trace import Trace

__all__ = ["Feature", "masked", "read_weights", "write_weights"]


class Feature(enum.IntFlag):
    """What a bit of the mask switches off."""

    FP16_ARITHMETIC = 1 << 0
    FP16_STORAGE = 1 << 1
    BF16_STORAGE = 1 << 2
    INT8 = 1 << 3
    VULKAN = 1 << 4
    SGEMM = 1 << 5
    WINOGRAD = 1 << 6
    THREADS = 1 << 7


_STORAGE = Feature.FP16_STORAGE | Feature.BF16_STORAGE
_ALWAYS_FLOAT32 = frozenset({"Input", "MemoryData", "Squeeze"})


def mask_of(layer: ParamLayer) -> Feature:
    return Feature(int(layer.param(FEATURE_MASK) or 0))


def masked(
    layers: Sequence[ParamLayer], trace: Trace, masks: Mapping[str, Feature]
) -> tuple[tuple[ParamLayer, ...], Trace]:
    """The model with ``masks`` (by layer name) on top of those it has."""
    made: list[ParamLayer] = []
    wide: set[str] = set()
    kept: set[str] = set()
    blobs = dict(trace.blobs)
    names = {layer.name for layer in layers} | {blob for layer in layers for blob in layer.outputs}
    for layer in layers:
        mask = mask_of(layer) | masks.get(layer.name, Feature(0))
        if layer.type == "Split" and layer.inputs[0] in kept:
            mask |= _STORAGE  # else the copies are rounded
        stored = bool(mask & _STORAGE)
        mask |= Feature.VULKAN if stored else Feature(0)
        inputs = list(layer.inputs)
        if stored and layer.name in masks:
            for index, blob in enumerate(inputs):
                if blob in wide:
                    continue
                copy = _fresh(f"{layer.name}/float32", names)
                made.append(ParamLayer("Squeeze", copy, (blob,), (copy,), ()))
                inputs[index] = copy
                if blob in blobs:
                    blobs[copy] = blobs[blob]
        if stored or layer.type in _ALWAYS_FLOAT32:
            wide.update(layer.outputs)
        kept.update(layer.outputs if stored else ())
        params = {**dict(layer.params), FEATURE_MASK: str(int(mask))} if mask else dict(layer.params)
        made.append(replace(layer, inputs=tuple(inputs), params=tuple(sorted(params.items(), key=_place))))
    return tuple(made), Trace(blobs, trace.weights)


def _place(param: tuple[int, str]) -> int:
    """Arrays are written at -23300 - id; all stand in the order of their ids."""
    return -23300 - param[0] if param[0] <= -23300 else param[0]


def _fresh(stem: str, names: set[str]) -> str:
    name, number = stem, 0
    while name in names:
        number += 1
        name = f"{stem}_{number}"
    names.add(name)
    return name


def read_weights(path: Path, layers: Sequence[ParamLayer], trace: Trace) -> dict[str, tuple[bytes, ...]]:
    """By layer, its arrays as they stand in the ``.bin``. Raises :class:`BundleError` where the file is another's."""
    found: dict[str, tuple[bytes, ...]] = {}
    with path.open("rb") as file:
        for layer in layers:
            if sizes := trace.weights.get(layer.name):
                found[layer.name] = tuple(file.read(size) for size in sizes)
                if [len(data) for data in found[layer.name]] != list(sizes):
                    raise BundleError(f"{path} is too short for its trace", hint="export the model again")
        if file.read(1):
            raise BundleError(f"{path} is longer than its trace says", hint="export the model again")
    return found


def write_weights(
    path: Path, layers: Sequence[ParamLayer], weights: Mapping[str, Sequence[bytes]]
) -> dict[str, tuple[int, ...]]:
    """The ``.bin`` for ``layers``; the sizes for its trace."""
    sizes: dict[str, tuple[int, ...]] = {}
    with path.open("wb") as file:
        for layer in layers:
            if arrays := weights.get(layer.name):
                for data in arrays:
                    file.write(data)
                sizes[layer.name] = tuple(map(len, arrays))
    return sizes
