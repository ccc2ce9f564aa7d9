"""Between ONNX tensors and ncnn blobs: the same elements in the same order, other dims and element types."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mobilekit.errors import BundleError, UsageError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mobilekit.bundle import Manifest, NcnnBlob, TensorInfo
    from mobilekit.tensors import Array, NamedTensors

__all__ = [
    "blob_dims",
    "check_sizes",
    "extracted",
    "from_blob",
    "from_blobs",
    "input_blobs",
    "output_tensors",
    "to_blob",
]

_EXACT_INTEGER = 1 << 24


def blob_dims(shape: Sequence[int], blob: NcnnBlob) -> tuple[int, ...]:
    """The Mat's dims, outermost first: ``(w,)``, ``(h, w)``, ``(c, h, w)`` or ``(c, d, h, w)``."""
    return blob.dims or tuple(shape[axis] for axis in blob.axes) or (1,)


def check_sizes(infos: Iterable[TensorInfo], shapes: Mapping[str, Sequence[int]]) -> None:
    """:class:`UsageError` where free axes of one symbol are given different sizes (``shapes`` by input name)."""
    sizes: dict[str, tuple[int, str]] = {}
    for info in infos:
        for axis in info.free:
            size = shapes[info.name][axis.axis]
            known, where = sizes.setdefault(axis.symbol, (size, info.name))
            if known != size:
                raise UsageError(
                    f"the axis {axis.symbol!r} is {known} in the input {where!r} and {size} in {info.name!r}",
                    hint="give both the same size",
                )


def to_blob(array: Array, info: TensorInfo, blob: NcnnBlob) -> Array:
    """An input in ONNX shape and dtype as what ncnn takes: C-contiguous, :func:`blob_dims`, float32 or int32.

    Raises :class:`UsageError` where shape or dtype differ from the manifest's, an integer does not fit exactly, or an
    id is no row of its table.
    """
    problem = info.misfit(tuple(array.shape))
    if problem is not None:
        raise UsageError(
            f"input {info.name!r} does not fit: {problem}",
            hint="give an input of that shape, or export again with --input-shape (--dynamic for many sizes)",
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
        if blob.kind == "int32" and info.limit is not None:
            _check_ids(array, info, info.limit)
    return np.ascontiguousarray(array.reshape(blob_dims(array.shape, blob)), dtype=blob.kind)


def _check_ids(array: Array, info: TensorInfo, rows: int) -> None:
    """ncnn's Embed takes the first or the last row for an id outside its table, and knows no counting from the end."""
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= rows:
        wrong = low if low < 0 else high
        means = f"; ONNX takes it for {wrong + rows}, give that" if -rows <= wrong < 0 else ""
        raise UsageError(
            f"input {info.name!r} holds the id {wrong}, its table in the ncnn model has rows 0 to {rows - 1}{means}",
            hint="give ids that are rows of the table, counted from 0; an app has to do so too",
        )


def _shape_of(data: Array, info: TensorInfo, blob: NcnnBlob) -> tuple[int, ...] | None:
    """The ONNX shape of an output, ``None`` where its Mat cannot be it."""
    if not info.free:
        return info.shape
    if data.ndim != max(1, len(blob.axes)):
        return None
    shape = list(info.shape)
    for axis, size in zip(blob.axes, data.shape, strict=False):
        shape[axis] = size
    return None if info.misfit(tuple(shape)) else tuple(shape)


def extracted(outputs: Sequence[NcnnBlob]) -> list[str]:
    """The blobs that a runner asks ncnn for: each output's, then the counts that trim them."""
    return list(dict.fromkeys([*(o.blob for o in outputs), *(o.rows.count for o in outputs if o.rows is not None)]))


def from_blobs(
    found: Mapping[str, Array], infos: Iterable[TensorInfo], outputs: Sequence[NcnnBlob]
) -> dict[str, Array]:
    """All outputs by ONNX name, in ONNX shape and dtype, from what ncnn gave for :func:`extracted`.

    One with a data-dependent length has just that many elements along its axis. Raises what :func:`from_blob` raises.
    """
    known = {info.name: info for info in infos}
    made: dict[str, Array] = {}
    for blob in outputs:
        array = from_blob(found[blob.blob], known[blob.tensor], blob)
        if blob.rows is not None:
            most = array.shape[blob.rows.axis]
            count = float(np.asarray(found[blob.rows.count]).reshape(-1)[0])
            if not (0 <= count <= most and count == int(count)):
                raise VerificationError(
                    f"output {blob.tensor!r} has {count} elements along axis {blob.rows.axis}, of {most} at most",
                    hint="export the model again; the ncnn model and its manifest do not belong together",
                )
            array = array[(slice(None),) * blob.rows.axis + (slice(int(count)),)]
        made[blob.tensor] = array
    return made


def from_blob(data: Array, info: TensorInfo, blob: NcnnBlob) -> Array:
    """An output as ncnn gave it, in ONNX shape and dtype.

    The sizes of free axes are those of the Mat. Raises :class:`VerificationError` where the others, or the number
    of elements, differ from the manifest's, or an integer output is not exact.
    """
    shape = _shape_of(data, info, blob)
    if shape is None or data.size != int(np.prod(shape, dtype=np.int64)):
        raise VerificationError(
            f"output {info.name!r} has {data.size} elements, {info.describe()} was expected",
            hint="export the model again; the ncnn model and its manifest do not belong together",
        )
    flat = np.ascontiguousarray(data).reshape(shape)
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


def input_blobs(inputs: Mapping[str, Array], manifest: Manifest) -> dict[str, Array]:
    """The model's inputs, by ONNX name, as what ncnn takes, by blob name.

    Raises :class:`UsageError` for a missing, unknown or misshapen input.
    """
    assert manifest.ncnn is not None
    infos = {info.name: info for info in manifest.inputs}
    if inputs.keys() != infos.keys():
        raise UsageError(
            f"the model's inputs are {', '.join(infos)}; given: {', '.join(inputs) or 'none'}",
            hint="give each input once, by its ONNX name",
        )
    check_sizes(infos.values(), {name: array.shape for name, array in inputs.items()})
    return {blob.blob: to_blob(inputs[blob.tensor], infos[blob.tensor], blob) for blob in manifest.ncnn.inputs}


def output_tensors(found: Mapping[str, Array], manifest: Manifest) -> NamedTensors:
    """The model's outputs, by ONNX name, from what ncnn gave for :func:`extracted`.

    Raises :class:`BundleError` where the manifest maps no blob to an output, and what :func:`from_blob` raises.
    """
    assert manifest.ncnn is not None
    missing = {info.name for info in manifest.outputs} - {blob.tensor for blob in manifest.ncnn.outputs}
    if missing:
        raise BundleError(f"the bundle maps no blob to {sorted(missing)[0]!r}", hint="export the model again")
    return from_blobs(found, manifest.outputs, manifest.ncnn.outputs)
