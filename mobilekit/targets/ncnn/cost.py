"""What an ncnn layer costs by its shapes: multiply-accumulates, and bytes that it must at least move.

Formulas follow the layers' own loops (``src/layer/*.cpp``); a weight's size stands in the layer's parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mobilekit.targets.ncnn.reader import ParamLayer
    from mobilekit.targets.ncnn.trace import Trace

__all__ = ["MACS", "LayerCost", "layer_costs"]

Dims = Sequence[tuple[int, ...]]
_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class LayerCost:
    """``macs``: multiplications with an addition; ``moved_bytes``: inputs, outputs (as float32) and weights, each
    once. ``None`` where a blob's size is not known."""

    macs: int | None
    moved_bytes: int | None


def layer_costs(layers: Sequence[ParamLayer], trace: Trace) -> dict[str, LayerCost]:
    """By layer name."""
    dims = {name: blob.dims for name, blob in trace.blobs.items()}
    for layer in layers:
        if layer.type == "Split" and layer.inputs[0] in dims:
            dims |= dict.fromkeys(layer.outputs, dims[layer.inputs[0]])
    costs: dict[str, LayerCost] = {}
    for layer in layers:
        blobs = [*layer.inputs, *layer.outputs]
        if any(name not in dims for name in blobs):
            costs[layer.name] = LayerCost(None, None)
            continue
        reads, makes = [dims[name] for name in layer.inputs], [dims[name] for name in layer.outputs]
        formula = MACS.get(layer.type)
        # A Split hands out references, an Input is there already.
        moved = 0 if layer.type in ("Split", "Input") else _FLOAT_BYTES * sum(map(math.prod, [*reads, *makes]))
        weights = sum(trace.weights.get(layer.name, ()))
        costs[layer.name] = LayerCost(formula(layer, reads, makes) if formula else 0, moved + weights)
    return costs


def _int(layer: ParamLayer, number: int, otherwise: int = 0) -> int:
    text = layer.param(number)
    return otherwise if text is None else int(text)


def _convolution(layer: ParamLayer, _reads: Dims, makes: Dims) -> int:
    """Each output position takes each weight once: params 6 (weight_data_size)."""
    return math.prod(makes[0][1:]) * _int(layer, 6)


def _deconvolution(layer: ParamLayer, reads: Dims, _makes: Dims) -> int:
    return math.prod(reads[0][1:]) * _int(layer, 6)


def _inner_product(layer: ParamLayer, reads: Dims, _makes: Dims) -> int:
    rows = reads[0][0] if len(reads[0]) == 2 else 1
    return rows * _int(layer, 2)


def _gemm(layer: ParamLayer, reads: Dims, makes: Dims) -> int:
    """Params 2 transA, 4 constantA, 9 constantK."""
    inner = _int(layer, 9)
    if not inner and reads and not _int(layer, 4):
        inner = reads[0][-2] if _int(layer, 2) else reads[0][-1]
    return math.prod(makes[0]) * inner


def _matmul(_layer: ParamLayer, reads: Dims, makes: Dims) -> int:
    return math.prod(makes[0]) * reads[0][-1]


def _attention(_layer: ParamLayer, reads: Dims, _makes: Dims) -> int:
    """Scores of every query with every key, and the sum over the values."""
    query, key, value = reads[:3]
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _recurrent(gates: int) -> Callable[[ParamLayer, Dims, Dims], int]:
    """Params 0 hidden, 1 size of the input's weights, 2 direction (2: both)."""

    def count(layer: ParamLayer, reads: Dims, _makes: Dims) -> int:
        hidden, directions = _int(layer, 0), 2 if _int(layer, 2) == 2 else 1
        return reads[0][0] * (_int(layer, 1) + directions * gates * hidden * hidden)

    return count


def _own_recurrent(layer: ParamLayer, reads: Dims, _makes: Dims) -> int:
    """Params 0 kind (RNN, GRU, LSTM), 1 hidden, 2 direction, 4 inputs."""
    gates, hidden, inputs = (1, 3, 4)[_int(layer, 0)], _int(layer, 1), _int(layer, 4, 1)
    rows = math.prod(reads[0]) // inputs * (2 if _int(layer, 2) == 2 else 1)
    return rows * gates * hidden * (inputs + hidden)


MACS: Mapping[str, Callable[[ParamLayer, Dims, Dims], int]] = {
    "Convolution": _convolution,
    "Convolution1D": _convolution,
    "Convolution3D": _convolution,
    "ConvolutionDepthWise": _convolution,
    "ConvolutionDepthWise1D": _convolution,
    "ConvolutionDepthWise3D": _convolution,
    "Deconvolution": _deconvolution,
    "Deconvolution1D": _deconvolution,
    "DeconvolutionDepthWise": _deconvolution,
    "DeformableConv2D": _convolution,
    "Gemm": _gemm,
    "GRU": _recurrent(3),
    "InnerProduct": _inner_product,
    "LSTM": _recurrent(4),
    "MatMul": _matmul,
    "MkRecurrent": _own_recurrent,
    "RNN": _recurrent(1),
    "SDPA": _attention,
}
"""Layers that are not here count none, as is the custom."""
