"""Inputs that are given a value before anything else: they become weights, and the model loses them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto

from mobilekit.errors import UsageError
from mobilekit.importers.tensors import to_tensor
from mobilekit.tensors import TensorSpec, format_shape, load_npy

if TYPE_CHECKING:
    from mobilekit.tensors import Array, FixedValue

__all__ = ["fix_values"]

_PLAIN = "biuf"


def fix_values(proto: ModelProto, inputs: tuple[TensorSpec, ...], values: Mapping[str, FixedValue]) -> dict[str, Array]:
    """Make constants of the inputs that ``values`` names, in place; their values as arrays of the inputs' types.

    A symbolic axis that a value gives a size has it in all inputs. Raises :class:`UsageError` for a name that is no
    input, and a value whose shape or element type does not fit.
    """
    specs = {spec.name: spec for spec in inputs}
    arrays: dict[str, Array] = {}
    symbols: dict[str, int] = {}
    for name, value in values.items():
        if name not in specs:
            listed = ", ".join(specs)
            raise UsageError(
                f"the model has no input {name!r}", hint=f"its inputs: {listed}" if listed else "it has no inputs"
            )
        arrays[name] = _array(specs[name], value)
        for axis, size in zip(specs[name].shape, arrays[name].shape, strict=True):
            if isinstance(axis, str) and symbols.setdefault(axis, size) != size:
                raise UsageError(f"the axis {axis!r} cannot be both {symbols[axis]} and {size}")
    kept = [info for info in proto.graph.input if info.name not in arrays]
    del proto.graph.input[:]
    proto.graph.input.extend(kept)
    for info in proto.graph.input:
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_param in symbols:
                dim.dim_value = symbols[dim.dim_param]
    proto.graph.initializer.extend(to_tensor(array, name) for name, array in arrays.items())
    return arrays


def _array(spec: TensorSpec, value: FixedValue) -> Array:
    """``value`` as the input takes it: the shape exactly (a number does for one element), no digit lost."""
    if isinstance(value, Path):
        array: Array = load_npy(value)
        what = str(value)
    else:
        what = f"the value of {spec.name!r}"
        try:
            array = np.asarray(value)
        except ValueError:
            raise UsageError(f"{what} is a list of uneven lists") from None
        if not isinstance(value, np.ndarray) and array.size == 1 and len(spec.shape) != array.ndim:
            array = array.reshape([1] * len(spec.shape))
    shape = array.shape
    if len(shape) != len(spec.shape) or any(
        isinstance(axis, int) and axis != size for axis, size in zip(spec.shape, shape, strict=True)
    ):
        raise UsageError(f"{what} has shape {format_shape(shape)}, the input takes {format_shape(spec.shape)}")
    return _converted(array, spec, what)


def _converted(array: Array, spec: TensorSpec, what: str) -> Array:
    try:
        wanted = np.dtype(spec.dtype)
    except TypeError:
        raise UsageError(f"input {spec.name!r} is {spec.dtype}, to which no value can be given") from None
    if wanted.kind not in _PLAIN or array.dtype.kind not in _PLAIN:
        raise UsageError(f"{what} is {array.dtype}, the input takes {spec.dtype}")
    if array.dtype == wanted:
        return np.ascontiguousarray(array).reshape(array.shape)
    converted: Any = None
    # A float may lose digits and nothing else; numbers are never taken for booleans.
    if (wanted.kind == "b") == (array.dtype.kind == "b") and not (wanted.kind in "iu" and array.dtype.kind == "f"):
        with np.errstate(over="ignore"):
            converted = array.astype(wanted)
        if wanted.kind == "f":
            fits = np.array_equal(np.isinf(converted), np.isinf(array.astype(np.float64)))
        else:
            fits = np.array_equal(converted.astype(object), array.astype(object))
        converted = converted if fits else None
    if converted is None:
        raise UsageError(
            f"{what} holds {array.dtype} values that are no {spec.dtype}, which the input takes",
            hint=f"write it with numpy.save(path, array.astype({wanted.name!r}))",
        )
    return converted  # type: ignore[no-any-return]
