"""What the ncnn target makes of a graph: blobs, layers with their weights, and the model that they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mobilekit.bundle import NcnnBlob
from mobilekit.errors import Finding
from mobilekit.targets.ncnn.layers import OWN_LAYERS
from mobilekit.targets.ncnn.layout import Dims
from mobilekit.targets.ncnn.node import Refuse

if TYPE_CHECKING:
    from mobilekit.tensors import Array

__all__ = ["EXACT_INTEGER", "Blob", "Layer", "Model", "ParamValue", "Weights", "as_float", "raw", "tagged"]

ParamValue = int | float | str | Sequence[int] | Sequence[float]
EXACT_INTEGER = 1 << 24
"""Integers up to this magnitude are exact in float32."""


@dataclass(eq=False, slots=True)
class Blob:
    """One ncnn blob: its Mat dims (outermost first) and the ONNX tensor it is named after, if any.

    ``holds``: the ONNX tensor whose elements it holds, in the same row-major order; a Reshape of it does so, too.
    """

    dims: Dims
    tensor: str | None = None
    holds: str | None = None


@dataclass(frozen=True, slots=True)
class Weights:
    """One array of the ``.bin`` file: ``parts`` written one after another, under one tag if ``tagged``.

    Tagged arrays (those that ncnn loads with type 0) may be stored as fp16, or are int8, as their ``parts`` then are.
    """

    parts: tuple[Array, ...]
    tagged: bool
    exact: bool = False
    """Never to be stored as fp16."""


@dataclass(eq=False, slots=True)
class Layer:
    type: str
    name: str
    inputs: list[Blob]
    outputs: list[Blob]
    params: dict[str, ParamValue]
    weights: tuple[Weights, ...] = ()
    exact: bool = False
    """It carries whole numbers (or their bits), or numbers so small that half precision would lose them: it stays in
    float32 on a device."""
    mask: int = 0
    """Features that are switched off for it, beside those that follow from ``exact``."""


@dataclass(frozen=True, slots=True)
class Model:
    """What came out: layers in order, how inputs and outputs stand, which node made which layers, what was refused."""

    layers: tuple[Layer, ...]
    inputs: tuple[tuple[NcnnBlob, Blob], ...]
    outputs: tuple[tuple[NcnnBlob, Blob], ...]
    nodes: dict[str, tuple[str, ...]]
    findings: tuple[Finding, ...]
    rows: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    """:attr:`mobilekit.graph.Graph.rows`"""
    int8: Mapping[str, float] = field(default_factory=dict)
    """Layers in int8: the scale of what each reads."""

    @property
    def custom_layers(self) -> tuple[str, ...]:
        """The types of our own layers among them."""
        return tuple(sorted({layer.type for layer in self.layers if layer.type in OWN_LAYERS}))


def as_float(array: Array, label: str) -> Array:
    """``array`` as float32; integers and booleans exactly, or :class:`Refuse`."""
    if array.dtype == np.float32:
        return array
    if array.dtype.kind in "iub":
        if array.size and array.dtype.kind != "b" and max(abs(int(array.min())), abs(int(array.max()))) > EXACT_INTEGER:
            raise Refuse(f"{label!r} holds integers above 2^24, which float32 cannot hold", "use smaller integers")
        return array.astype(np.float32)
    if array.dtype in (np.float16, np.float64):
        return array.astype(np.float32)
    raise Refuse(f"{label!r} is {array.dtype}, ncnn computes with float32", "cast it to float32")


def raw(*parts: Array) -> Weights:
    """An array without a tag (loaded by ncnn with type 1): always float32."""
    return Weights(tuple(as_float(part, "a weight") for part in parts), tagged=False)


def tagged(*parts: Array) -> Weights:
    """An array with a tag (loaded by ncnn with type 0): float32, or fp16 on request."""
    return Weights(tuple(as_float(part, "a weight") for part in parts), tagged=True)
