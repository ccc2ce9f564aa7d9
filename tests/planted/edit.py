"""A bundle opened for vandalism: its ``.param`` and ``.bin`` changed as a wrong converter would have written them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from mobilekit.bundle import open_bundle, write_manifest
from mobilekit.targets.ncnn.layers import LAYERS
from mobilekit.targets.ncnn.reader import ParamLayer, read_param, write_layers
from mobilekit.targets.ncnn.trace import read_trace

__all__ = ["Editor"]

_FLOAT32_TAG = b"\0\0\0\0"


class Editor:
    """A copy of the bundle ``good`` at ``copy``; :meth:`save` writes it with right checksums, so that it opens."""

    def __init__(self, good: Path, copy: Path) -> None:
        shutil.copytree(good, copy)
        bundle = open_bundle(copy)
        assert bundle.manifest.ncnn is not None
        assert bundle.manifest.ncnn.trace is not None
        self.root, self.manifest, self.artifact = copy, bundle.manifest, bundle.manifest.ncnn
        self.layers = list(read_param(copy / self.artifact.param))
        trace = read_trace(copy / bundle.manifest.ncnn.trace)
        data = (copy / self.artifact.bin).read_bytes()
        self.arrays: dict[str, list[bytes]] = {}
        at = 0
        for layer in self.layers:
            for size in trace.weights.get(layer.name, ()):
                self.arrays.setdefault(layer.name, []).append(data[at : at + size])
                at += size
        assert at == len(data)

    def save(self) -> Path:
        write_layers(self.layers, self.root / self.artifact.param)
        every = [array for layer in self.layers for array in self.arrays.get(layer.name, ())]
        (self.root / self.artifact.bin).write_bytes(b"".join(every))
        write_manifest(self.root, replace(self.manifest, ncnn=self.artifact))
        return self.root

    def find(self, kind: str, number: int = 0, where: Callable[[ParamLayer], bool] = lambda layer: True) -> ParamLayer:
        """The layer of ``kind`` number ``number`` among those that ``where`` takes; negative from the end."""
        return [layer for layer in self.layers if layer.type == kind and where(layer)][number]

    def value(self, layer: ParamLayer, name: str) -> float:
        """A number as ncnn reads it, its default where the ``.param`` has none."""
        param = LAYERS[layer.type][name]
        text = layer.param(param.id)
        return float(text if text is not None else param.default or 0)

    def set(self, layer: ParamLayer, **params: float | list[float] | None) -> None:
        """Change parameters by name; ``None`` takes one out."""
        table = LAYERS[layer.type]
        now = dict(layer.params)
        for name, value in params.items():
            param = table[name]
            key = -23300 - param.id if param.kind in ("ints", "floats") else param.id
            if value is None:
                now.pop(key, None)
            elif isinstance(value, list):
                now[key] = ",".join([str(len(value)), *map(str, value)])
            else:
                now[key] = str(value)
        self.put(layer, replace(layer, params=tuple(now.items())))

    def put(self, old: ParamLayer, *new: ParamLayer) -> None:
        """``new`` stand where ``old`` stood."""
        at = self.layers.index(old)
        self.layers[at : at + 1] = new

    def weight(
        self, layer: ParamLayer, index: int, change: Callable[[np.ndarray], np.ndarray], *, tagged: bool
    ) -> None:
        """Change the array ``index`` of the layer, flat float32; ``tagged`` where ncnn reads a tag before it."""
        data = self.arrays[layer.name][index]
        head = data[:4] if tagged else b""
        assert head in (b"", _FLOAT32_TAG)
        values = np.frombuffer(data[len(head) :], np.float32).copy()
        self.arrays[layer.name][index] = head + np.ascontiguousarray(change(values), np.float32).tobytes()
