"""Large weights of an ONNX file stay in it: what is parsed says where each lies, as if it were external data.

Protobuf would hold them once, and each array made of them once more. The wire format: fields of a number and a kind, in
any order, https://protobuf.dev/programming-guides/encoding/; field numbers are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from mmap import mmap

from onnx import TensorProto

__all__ = ["without_weights"]

_LEAST_BYTES = 1 << 16
_VARINT, _EIGHT_BYTES, _SIZED, _FOUR_BYTES = 0, 1, 2, 5
_GRAPH, _FUNCTIONS = 7, 25  # of a model
_INITIALIZER = 5  # of a graph
_DATA_TYPE, _SEGMENT, _RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 2, 3, 9, 13, 14  # of a tensor
_WHOLE_BYTES = frozenset(
    {
        TensorProto.FLOAT,
        TensorProto.DOUBLE,
        TensorProto.FLOAT16,
        TensorProto.BFLOAT16,
        TensorProto.INT8,
        TensorProto.UINT8,
        TensorProto.INT32,
        TensorProto.INT64,
    }
)

_Buffer = bytes | mmap
_Field = tuple[int, int, int, int, int]
"""Number, kind, and where the field, its value and the next field begin."""


class _UnexpectedError(Exception):
    """No model as exporters write them: protobuf shall judge it as a whole."""


def without_weights(data: _Buffer, name: str) -> tuple[bytes, int] | None:
    """The model ``data`` with the raw data of its graph's large initializers replaced by where they lie in the file
    ``name``, and how many those are. ``None`` where there is none, or the file is not of the usual form (functions,
    several graphs, damage).
    """
    pieces: list[bytes] = []
    count = graphs = 0
    try:
        for number, kind, begin, start, stop in _fields(data, 0, len(data)):
            if number == _FUNCTIONS:
                return None
            if number != _GRAPH:
                pieces.append(data[begin:stop])
                continue
            if kind != _SIZED or graphs:
                return None
            graphs = 1
            body, count = _graph(data, start, stop, name)
            pieces.append(_sized(_GRAPH, body))
    except _UnexpectedError:
        return None
    return (b"".join(pieces), count) if count else None


def _graph(data: _Buffer, start: int, stop: int, name: str) -> tuple[bytes, int]:
    pieces: list[bytes] = []
    copied, count = start, 0
    for number, kind, begin, value, end in _fields(data, start, stop):
        if number == _INITIALIZER and kind == _SIZED and end - value >= _LEAST_BYTES:
            tensor = _tensor(data, value, end, name)
            if tensor is not None:
                pieces += [data[copied:begin], _sized(_INITIALIZER, tensor)]
                copied = end
                count += 1
    return b"".join([*pieces, data[copied:stop]]), count


def _tensor(data: _Buffer, start: int, stop: int, name: str) -> bytes | None:
    """The tensor without its raw data; ``None`` where it is to stay as it is."""
    pieces: list[bytes] = []
    raw: tuple[int, int] | None = None
    elem = 0
    for number, kind, begin, value, end in _fields(data, start, stop):
        if number in (_SEGMENT, _EXTERNAL_DATA, _DATA_LOCATION):
            return None
        if number == _RAW_DATA:
            if raw is not None or kind != _SIZED:
                return None
            raw = (value, end - value)
            continue
        if number == _DATA_TYPE and kind == _VARINT:
            elem = _varint(data, value, end)[0]
        pieces.append(data[begin:end])
    if raw is None or raw[1] < _LEAST_BYTES or elem not in _WHOLE_BYTES:
        return None
    for key, text in (("location", name), ("offset", str(raw[0])), ("length", str(raw[1]))):
        pieces.append(_sized(_EXTERNAL_DATA, _sized(1, key.encode()) + _sized(2, text.encode())))
    pieces.append(_number(_DATA_LOCATION << 3 | _VARINT) + _number(TensorProto.EXTERNAL))
    return b"".join(pieces)


def _fields(data: _Buffer, at: int, end: int) -> Iterator[_Field]:
    while at < end:
        begin = at
        tag, at = _varint(data, at, end, bits=32)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            stop = _varint(data, at, end)[1]
        elif kind == _SIZED:
            size, at = _varint(data, at, end, bits=31)
            stop = at + size
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            stop = at + (8 if kind == _EIGHT_BYTES else 4)
        else:
            raise _UnexpectedError
        if stop > end or not number:
            raise _UnexpectedError
        yield number, kind, begin, at, stop
        at = stop


def _varint(data: _Buffer, at: int, end: int, *, bits: int = 64) -> tuple[int, int]:
    """The number at ``at``, and where what follows begins. Numbers that protobuf would not take are left to it."""
    number = shift = 0
    while at < end and shift < bits:
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            if number >> bits:
                break
            return number, at
        shift += 7
    raise _UnexpectedError


def _number(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    made.append(value)
    return bytes(made)


def _sized(number: int, value: bytes) -> bytes:
    return _number(number << 3 | _SIZED) + _number(len(value)) + value
