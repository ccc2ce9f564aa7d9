"""Tensor descriptions, the ``NAME:1x3x224x224`` notation, and ``.npy`` files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from mobilekit.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    Array: TypeAlias = "np.ndarray[tuple[int, ...], np.dtype[np.generic]]"
    NamedTensors: TypeAlias = Mapping[str, Array]
    FixedValue: TypeAlias = "Array | Path | float | list[object]"
    """What an input may be fixed to: an array, a ``.npy`` file, a number, or a nested list of numbers."""

__all__ = ["TensorSpec", "digest_of", "format_shape", "load_npy", "parse_named_shape", "parse_named_value", "save_npy"]

_SHAPE = re.compile(r"\d+(x\d+)*|scalar")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, element type and shape of a model's input or output.

    ``dtype`` is numpy's name (``"float32"``, ``"int64"``, ``"bool"``); ``shape`` is in ONNX order, an axis being an
    ``int``, a symbolic name, or ``None`` where the model says nothing.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]

    @property
    def is_static(self) -> bool:
        return all(isinstance(axis, int) for axis in self.shape)

    def static_shape(self) -> tuple[int, ...]:
        """The shape as integers; :class:`UsageError` where an axis is not fixed."""
        fixed = tuple(axis for axis in self.shape if isinstance(axis, int))
        if len(fixed) != len(self.shape):
            wanted = "x".join(str(axis) if isinstance(axis, int) else "N" for axis in self.shape)
            raise UsageError(
                f"input {self.name!r} has no fixed shape: {format_shape(self.shape)}",
                hint=f"--input-shape '{self.name}:{wanted}' with numbers for N",
            )
        return fixed


def format_shape(shape: tuple[int | str | None, ...]) -> str:
    """``(1, 3, "H", None)`` -> ``"1x3xHx?"``; a scalar's shape -> ``"scalar"``."""
    return "x".join("?" if axis is None else str(axis) for axis in shape) or "scalar"


def digest_of(tensors: NamedTensors) -> str:
    """Tells named arrays apart: hex sha256 of names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(repr((name, array.dtype.str, array.shape)).encode("utf-8", "surrogatepass"))
        digest.update(array.tobytes())
    return digest.hexdigest()


def parse_named_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """``"serving_default_input:0:1x224x224x3"`` -> ``("serving_default_input:0", (1, 224, 224, 3))``.

    The shape is what follows the last colon, since tensor names may hold colons, slashes and dots. Raises
    :class:`UsageError` where there is no colon, no name, or no shape.
    """
    name, colon, shape = text.rpartition(":")
    if not colon or not name or not _SHAPE.fullmatch(shape):
        raise UsageError(f"cannot read the input shape {text!r}", hint="write NAME:1x3x224x224")
    if shape == "scalar":
        return name, ()
    axes = tuple(int(axis) for axis in shape.split("x"))
    if any(axis < 1 for axis in axes):
        raise UsageError(f"an axis of {text!r} is zero", hint="every axis must be at least 1")
    return name, axes


def parse_named_value(text: str) -> tuple[str, FixedValue]:
    """``"sr=16000"`` -> ``("sr", 16000)``; ``"mask=mask.npy"`` -> ``("mask", Path("mask.npy"))``; lists as in JSON.

    The value is what follows the last ``=``. Raises :class:`UsageError` where there is no name, or no value.
    """
    name, equals, value = text.rpartition("=")
    if equals and name and value.endswith(".npy"):
        return name, Path(value)
    try:
        literal = json.loads(value)
    except ValueError:
        literal = None
    if not equals or not name or not isinstance(literal, bool | int | float | list):
        raise UsageError(f"cannot read the input {text!r}", hint="write NAME=16000, NAME=[1, 2] or NAME=value.npy")
    return name, literal


def load_npy(path: Path) -> Array:
    """Read one array; never unpickles. Raises :class:`UsageError` where the file is no plain ``.npy``."""
    from tokenize import TokenError

    import numpy as np

    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise UsageError(f"{path} is no file", hint="give a .npy file")
        with path.open("rb") as file:
            if file.read(4) == b"PK\3\4":
                raise UsageError(f"{path} holds several arrays (.npz)", hint="give one .npy file for each input")
            file.seek(0)
            array: Array = np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError:
        raise UsageError(f"there is no file {path}", hint="check the path of the .npy file") from None
    except MemoryError:
        raise UsageError(
            f"{path} says that it holds an array larger than memory", hint="the file is damaged: write it again"
        ) from None
    except (ValueError, EOFError, OSError, SyntaxError, TokenError) as error:  # numpy parses the header as Python
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"{path} is not a readable .npy file: {said}", hint="write it with numpy.save") from error
    return array


def save_npy(path: Path, array: Array) -> None:
    """Write one array, whole or not at all."""
    import numpy as np

    from mobilekit.paths import atomic_file

    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)
