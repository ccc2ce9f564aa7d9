"""ONNX tensors to numpy arrays and back, external data memory-mapped and never trusted.

Element types are onnx's own (``onnx.helper.tensor_dtype_to_np_dtype``): types that numpy lacks come from
``ml_dtypes`` (``bfloat16``, ``int4``, ``float8_e4m3fn``), strings are ``object``.
"""

from __future__ import annotations

import math
import mmap
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mobilekit.errors import ModelError

if TYPE_CHECKING:
    from mobilekit.tensors import Array

__all__ = [
    "ExternalData",
    "dtype_bits",
    "dtype_name",
    "elem_type",
    "from_tensor",
    "name_of",
    "tensor_location",
    "to_tensor",
]

_PACKED = {
    TensorProto.INT4,
    TensorProto.UINT4,
    TensorProto.FLOAT4E2M1,
    *(
        getattr(TensorProto, name)
        for name in ("INT2", "UINT2", "FLOAT6E2M3", "FLOAT6E3M2")
        if hasattr(TensorProto, name)
    ),
}
_PLAIN = {
    TensorProto.FLOAT,
    TensorProto.DOUBLE,
    TensorProto.FLOAT16,
    TensorProto.BOOL,
    TensorProto.INT8,
    TensorProto.INT16,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.UINT8,
    TensorProto.UINT16,
    TensorProto.UINT32,
    TensorProto.UINT64,
}


@cache
def dtype_name(elem: int) -> str:
    """``TensorProto.FLOAT`` -> ``"float32"``; :class:`ModelError` for a number that ONNX does not define."""
    try:
        return str(helper.tensor_dtype_to_np_dtype(elem))
    except (KeyError, ValueError):
        raise ModelError(f"element type {elem} is not one that ONNX {onnx.__version__} defines") from None


@cache
def _dtype(elem: int) -> np.dtype[Any]:
    dtype_name(elem)  # raises for a number that is none
    return np.dtype(helper.tensor_dtype_to_np_dtype(elem))


@cache
def name_of(dtype: np.dtype[Any]) -> str:
    """numpy's name of a dtype, which numpy puts together anew (10 microseconds) whenever it is asked."""
    return str(dtype)


@cache
def elem_type(dtype: str) -> int:
    """``"float32"`` -> ``TensorProto.FLOAT``."""
    if dtype == "object":
        return int(TensorProto.STRING)
    try:
        return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    except TypeError:
        import ml_dtypes

        return int(helper.np_dtype_to_tensor_dtype(np.dtype(getattr(ml_dtypes, dtype))))


def tensor_location(tensor: TensorProto) -> str:
    """The file that holds an external tensor's data, as the model writes it; ``""`` for an inline one."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return ""
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    if not location:
        raise ModelError(f"tensor {tensor.name!r} is said to be external but names no file")
    return str(location)


@dataclass
class ExternalData:
    """The files beside a model, each mapped once. A location may not leave the model's folder."""

    folder: Path
    _maps: dict[str, memoryview] = field(default_factory=dict)

    def path(self, location: str, tensor: str) -> Path:
        """Where ``location`` is. Raises :class:`ModelError` where it is absent or leads out of the folder."""
        hint = "keep the data files beside the model, in its folder"
        pure = PurePosixPath(location)
        unsafe = pure.is_absolute() or PureWindowsPath(location).is_absolute() or ".." in pure.parts
        if unsafe or "\0" in location or "\\" in location:
            raise ModelError(
                f"tensor {tensor!r}: the data file {location!r} leads out of the model's folder", hint=hint
            )
        path = self.folder / pure
        root = self.folder.resolve()
        try:
            inside, there = path.resolve().is_relative_to(root), path.is_file()
        except (OSError, RuntimeError):  # a name too long, links in a circle
            shown = location if len(location) <= 100 else f"{location[:100]}..."
            raise ModelError(f"tensor {tensor!r}: no data file can be at {shown!r}", hint=hint) from None
        if not inside:
            raise ModelError(
                f"tensor {tensor!r}: the data file {location!r} is a link that leads out of the model's folder",
                hint=f"{hint}, as real files",
            )
        if not there:
            raise ModelError(
                f"tensor {tensor!r}: the data file {path} is missing",
                hint=f"copy {location!r} from where the model came from to beside the model",
            )
        return path

    def bytes(self, tensor: TensorProto) -> memoryview:
        """The tensor's bytes, mapped. Raises :class:`ModelError` for a range that the file does not have."""
        location = tensor_location(tensor)
        entries = {entry.key: entry.value for entry in tensor.external_data}
        view = self._maps.get(location)
        if view is None:
            view = self._maps[location] = _map(self.path(location, tensor.name))
        try:
            offset = int(entries.get("offset", 0))
            length = int(entries["length"]) if "length" in entries else len(view) - offset
        except ValueError:
            raise ModelError(f"tensor {tensor.name!r}: offset or length in {location!r} is not a number") from None
        if offset < 0 or length < 0 or offset + length > len(view):
            raise ModelError(
                f"tensor {tensor.name!r} wants bytes {offset} to {offset + length} of {location!r}, "
                f"which has {len(view)}",
                hint="the data file is truncated or belongs to another model: copy it again",
            )
        return view[offset : offset + length]


def _map(path: Path) -> memoryview:
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def from_tensor(tensor: TensorProto, external: ExternalData | None = None) -> Array:
    """The tensor as a read-only array; raw and external data are not copied again."""
    dims = tuple(tensor.dims[:])
    if dims and min(dims) < 0:
        raise ModelError(f"tensor {tensor.name!r} has a negative size: {dims}")
    elem = tensor.data_type
    dtype = _dtype(elem)
    is_external = tensor.data_location == TensorProto.EXTERNAL
    if is_external and external is None:
        raise ModelError(f"tensor {tensor.name!r} has its data in another file, and the model's folder is not known")
    if elem not in _PACKED and (is_external or tensor.HasField("raw_data")) and elem != TensorProto.STRING:
        raw: memoryview | bytes = external.bytes(tensor) if is_external and external else tensor.raw_data
        count = math.prod(dims)
        if len(raw) != count * dtype.itemsize:
            raise ModelError(
                f"tensor {tensor.name!r} of {dtype} {list(dims)} needs {count * dtype.itemsize} bytes, not {len(raw)}",
                hint="the file is damaged: copy or export it again",
            )
        array: Array = np.frombuffer(raw, dtype=dtype).reshape(dims)
        return array if sys.byteorder == "little" else array.byteswap()
    if is_external and external:
        inline = TensorProto()
        inline.CopyFrom(tensor)
        inline.raw_data = bytes(external.bytes(tensor))
        inline.data_location = TensorProto.DEFAULT
        del inline.external_data[:]
        tensor = inline
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError) as error:
        raise ModelError(
            f"tensor {tensor.name!r} of {dtype} {list(dims)} holds the wrong amount of data: {error}"
        ) from None


def to_tensor(array: Array, name: str) -> TensorProto:
    """A self-contained tensor: raw little-endian data, or strings."""
    if array.dtype == object or name_of(array.dtype) not in _PLAIN_NAMES:
        return numpy_helper.from_array(np.asarray(array), name)
    tensor = TensorProto(name=name, data_type=elem_type(name_of(array.dtype)), dims=array.shape)
    little = array if sys.byteorder == "little" else array.byteswap()
    tensor.raw_data = np.ascontiguousarray(little).tobytes()
    return tensor


_PLAIN_NAMES = frozenset(dtype_name(elem) for elem in _PLAIN)


def dtype_bits(dtype: str) -> int:
    """Bits of one element as stored in a file: 4 for ``int4``, 16 for ``bfloat16``; a string counts as a pointer."""
    if dtype in ("int4", "uint4", "float4_e2m1fn"):
        return 4
    if dtype in ("int2", "uint2"):
        return 2
    return 8 * helper.tensor_dtype_to_np_dtype(elem_type(dtype)).itemsize
