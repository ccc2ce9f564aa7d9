"""A graph's inputs and outputs as manifests, seeded inputs and reports describe them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mobilekit.bundle import TensorInfo

if TYPE_CHECKING:
    from mobilekit.graph import Value
    from mobilekit.passes.batch import Batch

__all__ = ["tensor_info"]


def tensor_info(value: Value, batch: Batch | None = None) -> TensorInfo:
    """Name, dtype and shape of an input or output whose shape is static; of an input, how far its integers may point.

    ``batch``: the graph is that of one sample, and the shape meant is that of the whole batch.
    """
    from mobilekit.passes.indices import index_limit
    from mobilekit.targets.ncnn.emit import id_rows

    assert value.shape is not None
    assert value.dtype is not None
    shape = tuple(int(str(axis)) for axis in value.shape)
    if batch is not None and (place := batch.places.get(value.name)) is not None:
        shape = (*shape[: place.axis], shape[place.axis] * batch.size, *shape[place.axis + 1 :])
    limit = id_rows(value) or index_limit(value) if value.producer is None else 0
    return TensorInfo(name=value.name, dtype=value.dtype, shape=shape, limit=limit or None)
