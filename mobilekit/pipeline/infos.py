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
    assert value.shape is not None
    assert value.dtype is not None
    shape = tuple(int(str(axis)) for axis in value.shape)
    if batch is not None and (place := batch.places.get(value.name)) is not None:
        shape = (*shape[: place.axis], shape[place.axis] * batch.size, *shape[place.axis + 1 :])
    return TensorInfo(name=value.name, dtype=value.dtype, shape=shape, limit=_limit(value) or None)


def _limit(value: Value) -> int:
    from mobilekit.passes.indices import index_limit, is_mask

    if value.producer is not None:
        return 0
    if not str(value.dtype).startswith(("int", "uint")):
        return index_limit(value)
    from mobilekit.targets.ncnn.emit import id_rows  # takes long to import, and few models need it

    return id_rows(value) or (2 if is_mask(value) else index_limit(value))
