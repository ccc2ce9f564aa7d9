"""Layers of an emitted model in int8: which can be, and what they become (``src/layer/convolution.cpp``,
``convolutiondepthwise.cpp``, ``innerproduct.cpp``).

Such a layer rounds what it reads with one scale, multiplies integers, and gives floats again: its neighbours need not
know. Only layers whose weights are a node's own, unchanged, are taken: then the same can be written into the ONNX graph
(:func:`mobilekit.precision.int8.fake_quantise`), and what ncnn computes be held against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from mobilekit.precision.int8 import LARGEST, quantised, rows_of, scales_of, weighs
from mobilekit.targets.ncnn.emit import Layer, Model, Weights, raw

if TYPE_CHECKING:
    from mobilekit.graph import Graph, Node
    from mobilekit.tensors import Array

__all__ = ["KINDS", "Candidate", "candidates", "with_int8"]

KINDS = frozenset({"Convolution", "ConvolutionDepthWise", "InnerProduct"})

_LARGEST_SUM = 2**31 - 1
_WINOGRAD = 1 << 6
"""Feature mask: no Winograd."""
_WINOGRAD_FACTOR = 576
"""Winograd F(4,3) in integers sums this many times the result (``convolution_3x3_winograd_int8.h``) in 32 bits."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A layer that can be int8: the ``node`` it was made of, the ``tensor`` of the graph that it reads."""

    layer: Layer
    node: Node
    tensor: str


def candidates(graph: Graph, model: Model) -> tuple[Candidate, ...]:
    """The layers of ``model``, emitted from ``graph``, that can be int8, in order."""
    layers = {layer.name: layer for layer in model.layers}
    found = []
    for node in graph.nodes:
        made = [layers[name] for name in model.nodes.get(node.label, ()) if name in layers]
        heavy = [layer for layer in made if layer.weights]
        x = node.inputs[0] if node.inputs else None
        if len(heavy) == 1 and heavy[0].type in KINDS and x is not None and weighs(node) and _is_exact(heavy[0], node):
            found.append(Candidate(heavy[0], node, x.name))
    return tuple(found)


def _is_exact(layer: Layer, node: Node) -> bool:
    """Whether the layer's weights are the node's, finite, and no sum of their products with int8 leaves 32 bits."""
    rows = rows_of(node)
    if layer.exact or layer.params.get("pad_value") or sum(part.size for part in layer.weights[0].parts) != rows.size:
        return False
    if not np.array_equal(_flat(layer.weights[0]), rows.reshape(-1)):
        return False
    return bool(np.isfinite(rows).all()) and LARGEST * LARGEST * rows.shape[1] <= _LARGEST_SUM


def _flat(weights: Weights) -> Array:
    return np.concatenate([part.reshape(-1) for part in weights.parts])


def with_int8(model: Model, scales: Mapping[str, float]) -> Model:
    """``model`` with the layers that ``scales`` names (each with the scale of what it reads) in int8."""
    layers = tuple(_in_int8(layer, scales[layer.name]) if layer.name in scales else layer for layer in model.layers)
    return replace(model, layers=layers, int8=MappingProxyType(dict(scales)))


def _in_int8(layer: Layer, scale: float) -> Layer:
    outputs = layer.params["num_output"]
    assert isinstance(outputs, int)
    group = layer.params.get("group", 0)
    assert isinstance(group, int)
    rows = _flat(layer.weights[0]).reshape(outputs, -1)
    weight_scales = scales_of(rows, group)
    numbers = quantised(rows, weight_scales)
    return replace(
        layer,
        params={**layer.params, "int8_scale_term": 1},
        weights=(
            Weights((numbers,), tagged=True),
            *layer.weights[1:],
            raw(weight_scales),
            raw(np.array([scale], np.float32)),
        ),
        mask=layer.mask | (_WINOGRAD if _overflows(layer, numbers) else 0),
    )


def _overflows(layer: Layer, numbers: Array) -> bool:
    """Whether some input could make Winograd's sums leave 32 bits, which ncnn does not notice."""
    params = layer.params
    if layer.type != "Convolution" or (params["kernel_w"], params["kernel_h"]) != (3, 3):
        return False
    largest = int(np.abs(numbers.astype(np.int32)).sum(axis=1).max(initial=0)) * LARGEST
    return largest * _WINOGRAD_FACTOR > _LARGEST_SUM
