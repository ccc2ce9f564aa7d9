"""Layers too small to share out: waking a second thread costs more than it takes off.

ncnn enters a parallel region in every layer, and a recurrent one in every step. Bit 7 of a layer's feature mask
(``src/net.cpp``) runs it on the calling thread alone, whatever the number of threads the app asks for.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mobilekit.targets.ncnn.emit import Layer

__all__ = ["SINGLE_THREAD", "is_small"]

SINGLE_THREAD = 1 << 7
"""Of the feature mask."""

_MOST_PRODUCTS = 1 << 16
"""Multiplications of one parallel region that one thread does: 16,384 instructions of four lanes, some 5 to 10
microseconds. docs/decisions/0006 has the measurements."""

_PRODUCTS_AN_ELEMENT = 10
"""What one element of an element-wise layer counts as: reading and writing it takes longer than to compute it."""

_RECURRENT = frozenset({"GRU", "LSTM", "RNN"})
_BY_ELEMENT = frozenset(
    {
        "AbsVal",
        "BatchNorm",
        "BinaryOp",
        "Clip",
        "Concat",
        "Crop",
        "ELU",
        "GELU",
        "HardSigmoid",
        "HardSwish",
        "LayerNorm",
    }
    | {"Mish", "PReLU", "Padding", "Permute", "Pooling", "RMSNorm", "ReLU", "Reduction", "Scale", "Sigmoid", "Slice"}
    | {"Softmax", "Swish", "TanH", "UnaryOp"}
)


def is_small(layer: Layer) -> bool:
    """Whether one thread alone does ``layer`` sooner, at the sizes that its blobs have."""
    return 0 < _products(layer) <= _MOST_PRODUCTS


def _products(layer: Layer) -> int:
    """Multiplications of the layer, of one step where it is recurrent; 0 where that is not known."""
    weights = sum(part.size for array in layer.weights for part in array.parts)
    if layer.type in _RECURRENT:
        return weights
    filters = layer.params.get("num_output")
    if isinstance(filters, int) and layer.type.startswith(("Convolution", "InnerProduct")):
        return math.prod(layer.outputs[0].dims) * weights // filters
    if layer.type in _BY_ELEMENT:
        return _PRODUCTS_AN_ELEMENT * max(math.prod(blob.dims) for blob in [*layer.inputs, *layer.outputs])
    return 0
