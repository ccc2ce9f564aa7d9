"""A graph as an ONNX file, however large: weights that protobuf cannot hold stand in a file beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import onnx
from onnx.external_data_helper import set_external_data

from mobilekit.importers.convert import to_proto
from mobilekit.importers.tensors import to_tensor

if TYPE_CHECKING:
    from mobilekit.graph import Graph
    from mobilekit.tensors import Array

__all__ = ["LARGE_BYTES", "write_graph"]

LARGE_BYTES = 1 << 30
"""Weights beyond this stand in a file of their own beside the model: protobuf ends at 2 GB."""

_SMALL_BYTES = 1024
_ALIGNMENT = 64


def write_graph(graph: Graph, path: Path, *, large_bytes: int = LARGE_BYTES) -> None:
    """Write the graph to ``path``, and where its weights are more than ``large_bytes`` all of more than a kilobyte to
    ``path`` with ``.data`` behind it: one at a time, so that no copy of them all is held."""
    if sum(value.const.nbytes for value in graph.values() if value.const is not None) <= large_bytes:
        onnx.save_model(to_proto(graph), str(path))
        return
    beside = path.with_name(f"{path.name}.data")
    with beside.open("wb") as data:
        proto = to_proto(graph, stored=lambda array, name: _external(array, name, data, beside.name))
    onnx.save_model(proto, str(path))


def _external(array: Array, name: str, data: BinaryIO, location: str) -> onnx.TensorProto:
    tensor = to_tensor(array, name)
    if len(tensor.raw_data) > _SMALL_BYTES:
        data.write(bytes(-data.tell() % _ALIGNMENT))
        set_external_data(tensor, location, offset=data.tell(), length=len(tensor.raw_data))
        data.write(tensor.raw_data)
        tensor.ClearField("raw_data")
    return tensor
