"""Between ONNX tensors and ncnn blobs: the same elements in the same order, other dims and element types."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mobilekit.errors import UsageError, VerificationError
from mobilekit.tensors import format_shape

if TYPE_CHECKING:
    from mobilekit.bundle import NcnnBlob, TensorInfo
    from mobilekit.tensors import Array

__all__ = ["blob_dims", "from_blob", "to_blob"]

_EXACT_INTEGER = 1 << 24


def blob_dims(info: TensorInfo, blob: NcnnBlob) -> tuple[int, ...]:
    """The Mat's dims, outermost first: ``(w,)``, ``(h, w)``, ``(c, h, w)`` or ``(c, d, h, w)``."""
    return tuple(info.shape[axis] for axis in blob.axes) or (1,)


def to_blob(array: Array, info: TensorInfo, blob: NcnnBlob) -> Array:
    """An input in ONNX shape and dtype as what ncnn takes: C-contiguous, :func:`blob_dims`, float32 or int32.

    Raises :class:`UsageError` where shape or dtype differ from the manifest's, or an integer does not fit exactly.
    """
    if tuple(array.shape) != info.shape:
        raise UsageError(
            f"input {info.name!r} has shape {format_shape(tuple(array.shape))}, "
            f"the model was exported for {format_shape(info.shape)}",
            hint="export again with --input-shape, or give an input of that shape",
        )
    if array.dtype != np.dtype(info.dtype):
        raise UsageError(
            f"input {info.name!r} is {array.dtype}, the model takes {info.dtype}", hint="convert it with astype"
        )
    if array.dtype.kind in "iu" and array.size:
        limit = 2**31 - 1 if blob.kind == "int32" else _EXACT_INTEGER
        if int(array.max()) > limit or int(array.min()) < -limit:
            raise UsageError(
                f"input {info.name!r} holds an integer beyond {limit}, which ncnn's {blob.kind} cannot hold",
                hint="use smaller integers",
            )
    return np.ascontiguousarray(array.reshape(blob_dims(info, blob)), dtype=blob.kind)


def from_blob(data: Array, info: TensorInfo, blob: NcnnBlob) -> Array:
    """An output as ncnn gave it, in ONNX shape and dtype.

    Raises :class:`VerificationError` where its number of elements differs, or an integer output is not exact.
    """
    if data.size != int(np.prod(info.shape, dtype=np.int64)):
        raise VerificationError(
            f"output {info.name!r} has {data.size} elements, {format_shape(info.shape)} was expected",
            hint="export the model again; the ncnn model and its manifest do not belong together",
        )
    flat = np.ascontiguousarray(data).reshape(info.shape)
    dtype = np.dtype(info.dtype)
    if blob.kind == "int32":
        return flat.view(np.int32).astype(dtype)
    if dtype.kind == "f":
        return flat.astype(dtype, copy=False)
    if not np.isfinite(flat).all() or (np.abs(flat) > _EXACT_INTEGER).any() or (flat != np.rint(flat)).any():
        raise VerificationError(
            f"output {info.name!r} is {info.dtype}, but ncnn gave values that are no exact integers",
            hint="this model's integers outgrow float32; cut the model before they do",
        )
    return flat.astype(dtype)
