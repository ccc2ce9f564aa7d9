"""The bytes: ncnn's ``.param`` text and ``.bin`` weights.

``.param``: the magic 7767517, the counts of layers and blobs, then a line a layer: type, name, number of inputs and
outputs, their blob names, and ``id=value`` parameters (``src/net.cpp``, ``src/paramdict.cpp``). Each blob may be read
once, so a ``Split`` stands where there are several readers. ``.bin``: the layers' arrays in order; those that ncnn
loads with type 0 begin with a tag (0: float32, 0x01306B47: fp16, 0x000D4B38: int8), and all are padded to 4 bytes
(``src/modelbin.cpp``).
Same layers, same bytes.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Literal

import numpy as np

from mobilekit.targets.ncnn.depth import depth_of
from mobilekit.targets.ncnn.emit import Blob, Layer, Model, ParamValue, Weights
from mobilekit.targets.ncnn.layers import FEATURE_MASK, LAYERS, OWN_LAYERS, Param
from mobilekit.targets.ncnn.threads import SINGLE_THREAD, is_small

if TYPE_CHECKING:
    from mobilekit.tensors import Array

__all__ = ["Named", "arrange", "write_bin", "write_param"]

MAGIC = 7767517
FP16_TAG = 0x01306B47
INT8_TAG = 0x000D4B38
FLOAT32_TAG = 0
NAME_LIMIT_BYTES = 255
_FP16_MAX = 65504.0
_NO_HALF = 1 | 2 | 4 | 16
"""Feature mask: neither fp16 nor bf16, in arithmetic or storage; nor Vulkan, where it would read halves as floats."""
_NEVER_HALF = frozenset({"Input", "MemoryData", "Squeeze"})
"""What these give is float32 whatever the options."""
_CHUNK_ELEMENTS = 1 << 20


@dataclass(frozen=True, slots=True)
class Named:
    """A model with its ``Split`` layers in place and every blob named.

    ``names`` maps a blob name that had to be escaped to the ONNX tensor's name; ``depth`` is the longest chain.
    """

    layers: tuple[Layer, ...]
    blob_names: dict[int, str]
    layer_names: dict[int, str]
    names: dict[str, str]
    inputs: tuple[Blob, ...]
    outputs: tuple[Blob, ...]
    depth: int

    def name(self, blob: Blob) -> str:
        return self.blob_names[id(blob)]


class _Namer:
    """Names that ncnn can read: not empty, at most 255 bytes, no white space or control characters, unique."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._next: dict[str, int] = {}

    def claim(self, wanted: str) -> str:
        stem = "".join(char if char.isprintable() and not char.isspace() else "_" for char in wanted) or "unnamed"
        stem = stem.encode("utf-8", "replace").decode()
        if len(stem.encode()) > NAME_LIMIT_BYTES - 16:
            digest = hashlib.sha256(wanted.encode("utf-8", "surrogatepass")).hexdigest()[:16]
            stem = stem.encode()[: NAME_LIMIT_BYTES - 40].decode("utf-8", "ignore") + "~" + digest
        name = stem
        while name in self._taken:
            self._next[stem] = self._next.get(stem, 0) + 1
            name = f"{stem}~{self._next[stem]}"
        self._taken.add(name)
        return name


def arrange(model: Model) -> Named:
    """Put in ``Split`` layers, name blobs and layers, and measure the depth. Linear in the model's size."""
    readers: dict[int, int] = {}
    exact: set[int] = set()
    widened = list(_widened(model.layers))
    for layer in widened:
        exact.update(id(blob) for blob in [*layer.inputs, *layer.outputs] if layer.exact)
    for blob in [blob for layer in widened for blob in layer.inputs] + [blob for _, blob in model.outputs]:
        readers[id(blob)] = readers.get(id(blob), 0) + 1

    layers: list[Layer] = []
    branches: dict[int, Iterator[Blob]] = {}
    for layer in widened:
        read = [next(branches[id(blob)]) if id(blob) in branches else blob for blob in layer.inputs]
        layers.append(replace(layer, inputs=read))
        for blob in layer.outputs:
            count = readers.get(id(blob), 0)
            if count > 1:
                copies = [Blob(blob.dims, holds=blob.holds) for _ in range(count)]
                layers.append(Layer("Split", f"{layer.name}/Split", [blob], copies, {}, exact=id(blob) in exact))
                branches[id(blob)] = iter(copies)
    outputs = tuple(next(branches[id(blob)]) if id(blob) in branches else blob for _, blob in model.outputs)
    inputs = tuple(blob for _, blob in model.inputs)

    namer = _Namer()
    blob_names: dict[int, str] = {}
    names: dict[str, str] = {}

    def give(blob: Blob, wanted: str, tensor: str | None) -> None:
        blob_names[id(blob)] = name = namer.claim(wanted)
        if tensor is not None and name != tensor:
            names[name] = tensor

    # Inputs and outputs first: whoever asks for a tensor of the model by its ONNX name finds it.
    for (info, _), blob in zip(model.outputs, outputs, strict=True):
        if id(blob) not in blob_names:
            give(blob, info.tensor, info.tensor)
    for (info, _), blob in zip(model.inputs, inputs, strict=True):
        if id(blob) not in blob_names:
            give(blob, info.tensor, info.tensor)
    layer_namer = _Namer()
    layer_names: dict[int, str] = {}
    for layer in layers:
        layer_names[id(layer)] = layer_namer.claim(layer.name)
        for index, blob in enumerate(layer.outputs):
            if id(blob) not in blob_names:
                suffix = f"/{index}" if len(layer.outputs) > 1 else ""
                give(blob, blob.tensor or f"{layer.name}{suffix}", blob.tensor)

    return Named(tuple(layers), blob_names, layer_names, names, inputs, outputs, depth_of(layers))


def _widened(layers: Iterable[Layer]) -> Iterator[Layer]:
    """A layer that carries integers takes no half precision, and ncnn does not convert what it reads: a Squeeze of
    nothing, which knows float32 only, stands before it where that may be half."""
    wide: set[int] = set()
    copies: dict[int, Blob] = {}
    for layer in layers:
        read = layer.inputs
        if layer.exact and layer.type not in OWN_LAYERS:
            read = []
            for blob in layer.inputs:
                if id(blob) not in wide and id(blob) not in copies:
                    copies[id(blob)] = copy = Blob(blob.dims, holds=blob.holds)
                    yield Layer("Squeeze", f"{layer.name}/float32", [blob], [copy], {})
                read.append(copies.get(id(blob), blob))
        if layer.exact or layer.type in _NEVER_HALF:
            wide.update(map(id, layer.outputs))
        yield replace(layer, inputs=read)


def write_param(model: Named, file: IO[str], *, fixed_sizes: bool = False) -> None:
    """Write the ``.param`` text. ``fixed_sizes``: blobs always have the dims that they have here, so that layers
    too small for several threads can be told."""
    blobs = sum(len(layer.outputs) for layer in model.layers)
    file.write(f"{MAGIC}\n{len(model.layers)} {blobs}\n")
    for layer in model.layers:
        words = [layer.type, model.layer_names[id(layer)], str(len(layer.inputs)), str(len(layer.outputs))]
        words += [model.name(blob) for blob in [*layer.inputs, *layer.outputs]]
        words += list(_params(layer, small=fixed_sizes and is_small(layer)))
        file.write(" ".join(words) + "\n")


def write_bin(model: Named, file: IO[bytes], precision: Literal["fp32", "fp16", "int8"]) -> dict[str, tuple[int, ...]]:
    """Write the weights, streaming: no array is held a second time. By layer name, the bytes of each of its arrays."""
    sizes: dict[str, tuple[int, ...]] = {}
    for layer in model.layers:
        written = []
        for weights in layer.weights:
            half = precision == "fp16" and weights.tagged and not weights.exact
            start = file.tell()
            _array(file, weights, half=half and _fits_half(weights.parts))
            written.append(file.tell() - start)
        if written:
            sizes[model.layer_names[id(layer)]] = tuple(written)
    return sizes


def _params(layer: Layer, *, small: bool) -> Iterator[str]:
    table = LAYERS[layer.type]
    for name, param in sorted(table.items(), key=lambda item: item[1].id):
        if name in layer.params:
            value = layer.params[name]
            if param.default is None or value != param.default:
                yield _param(param, value, f"{layer.type}.{name}")
    mask = _NO_HALF if layer.exact and layer.type not in OWN_LAYERS else 0
    if mask := mask | layer.mask | (SINGLE_THREAD if small else 0):
        yield f"{FEATURE_MASK}={mask}"


def _param(param: Param, value: ParamValue, what: str) -> str:
    if param.kind in ("ints", "floats"):
        assert isinstance(value, Sequence), what
        assert not isinstance(value, str), what
        items = [_number(item, param.kind == "floats", what) for item in value]
        return f"{-23300 - param.id}={','.join([str(len(items)), *items])}"
    if param.kind == "text":
        assert isinstance(value, str), what
        return f'{param.id}="{value}"'
    assert not isinstance(value, Sequence), what
    return f"{param.id}={_number(value, param.kind == 'float', what)}"


def _number(value: float, as_float: bool, what: str) -> str:
    """ncnn tells floats from integers by a ``.`` or an ``e``; it reads neither ``inf`` nor ``nan``."""
    if not as_float:
        if value != int(value) or not -(2**31) <= value < 2**31:
            raise AssertionError(f"{what}: {value} is no 32-bit integer")
        return str(int(value))
    with np.errstate(over="ignore"):
        single = np.float32(value)
    if not math.isfinite(single):
        raise AssertionError(f"{what}: {value} is not finite in float32")
    text = np.format_float_scientific(single, unique=True, trim="0", exp_digits=1)
    plain = repr(float(text))
    return plain if len(plain) <= len(text) and ("." in plain or "e" in plain) else text


def _fits_half(parts: Iterable[Array]) -> bool:
    return all(_largest(part) <= _FP16_MAX for part in parts)


def _largest(part: Array) -> float:
    return max((float(np.abs(chunk).max()) for chunk in _chunks(part)), default=0.0)


def _array(file: IO[bytes], weights: Weights, half: bool) -> None:
    narrow = weights.tagged and all(part.dtype == np.int8 for part in weights.parts)
    if weights.tagged:
        file.write(struct.pack("<I", INT8_TAG if narrow else FP16_TAG if half else FLOAT32_TAG))
    kind = "i1" if narrow else "<f2" if half else "<f4"
    written = 0
    for part in weights.parts:
        for chunk in _chunks(part):
            data = np.ascontiguousarray(chunk, dtype=kind)
            file.write(data.data)
            written += data.nbytes
    file.write(b"\0" * (-written % 4))


def _chunks(array: Array) -> Iterator[Array]:
    """Pieces of ``array`` in row-major order, each of a bounded size where the first axis allows it."""
    if array.size <= _CHUNK_ELEMENTS or array.ndim == 0 or array.shape[0] <= 1:
        if array.size:
            yield array
        return
    rows = max(1, _CHUNK_ELEMENTS // max(1, array.size // array.shape[0]))
    for start in range(0, array.shape[0], rows):
        yield array[start : start + rows]
