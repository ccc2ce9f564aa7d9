"""The harness's wire protocol, version 2: frames and bodies as pure functions (``android-harness/PROTOCOL.md``).

Little-endian throughout. A frame is a 16-byte header (magic ``MKHP``, version ``u16``, type ``u16``, body length
``u64``) and a body. Texts are ``u32`` length + UTF-8; tensors are name, element type, rank, axes, bytes in C order.
Everything malformed raises :class:`~mobilekit.errors.ProtocolError`; sizes are checked before they are believed.
"""

from __future__ import annotations

import enum
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mobilekit.errors import ProtocolError, UsageError
from mobilekit.tuning import Cluster

if TYPE_CHECKING:
    from mobilekit.tensors import Array

__all__ = [
    "DEFAULT_MAX_FRAME",
    "HEADER_BYTES",
    "MAGIC",
    "VERSION",
    "Cluster",
    "ErrorCode",
    "Header",
    "LoadOptions",
    "MessageType",
    "RemoteError",
    "ServerHello",
    "decode_error",
    "decode_header",
    "decode_hello_ok",
    "decode_infer_ok",
    "decode_json",
    "encode_frame",
    "encode_hello",
    "encode_infer",
    "encode_load",
]

MAGIC = b"MKHP"
VERSION = 2
HEADER_BYTES = 16
DEFAULT_MAX_FRAME = 512 << 20
_HEADER = struct.Struct("<4sHHQ")
_MAX_TEXT = 64 << 10
_MAX_JSON = 64 << 20
_MAX_ITEMS = 65536
_MAX_ITERATIONS = 1_000_000
_DTYPES: Mapping[int, str] = {1: "<f4", 2: "<i4"}

_CLUSTERS: Mapping[str, int] = {"all": 0, "little": 1, "big": 2}


class MessageType(enum.IntEnum):
    HELLO = 0x01
    INFO = 0x02
    LOAD = 0x03
    INFER = 0x04
    BYE = 0x05
    GPUS = 0x06
    PIXELS = 0x07
    HELLO_OK = 0x81
    INFO_OK = 0x82
    LOAD_OK = 0x83
    INFER_OK = 0x84
    BYE_OK = 0x85
    GPUS_OK = 0x86
    PIXELS_OK = 0x87
    ERROR = 0xFF


class ErrorCode(enum.IntEnum):
    FRAME = 1
    TOKEN = 2
    VERSION = 3
    REQUEST = 4
    MODEL = 5
    INFERENCE = 6
    MEMORY = 7
    NO_MODEL = 8
    FILE = 9
    GPU = 10


@dataclass(frozen=True, slots=True)
class Header:
    version: int
    type: int
    length: int


@dataclass(frozen=True, slots=True)
class ServerHello:
    """``own_layers``: the types of ``android-harness/layers`` that this harness has."""

    harness_version: str
    ncnn_version: str
    abi: str
    max_frame_bytes: int
    own_layers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RemoteError:
    """``code`` is an :class:`ErrorCode`, or a number that a newer harness knows."""

    code: int
    message: str


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How ncnn runs the model. The default is plain fp32 with ncnn's default kernels.

    ``threads`` 0: as ncnn chooses. ``cluster``: the cores to run on. The ``fp16_*``/``bf16_*`` options have effect
    where the CPU and the build support them (ncnn ignores them otherwise). ``any_input_shape`` turns off the check
    of inputs against the shapes written in the ``.param``. ``vulkan`` needs a build with it.
    """

    threads: int = 0
    cluster: Cluster = "all"
    fp16_packed: bool = False
    fp16_storage: bool = False
    fp16_arithmetic: bool = False
    bf16_storage: bool = False
    bf16_packed: bool = False
    int8_inference: bool = True
    winograd: bool = True
    sgemm: bool = True
    packing: bool = True
    vulkan: bool = False
    any_input_shape: bool = False

    @classmethod
    def for_precision(cls, precision: str, **others: Any) -> LoadOptions:
        """``"fp32"``, ``"fp16"`` (storage and arithmetic, ncnn's own default) or ``"bf16"`` (storage)."""
        if precision not in ("fp32", "fp16", "bf16"):
            raise UsageError(f"unknown precision {precision!r}", hint="fp32, fp16 or bf16")
        half, brain = precision == "fp16", precision == "bf16"
        return cls(
            fp16_packed=half,
            fp16_storage=half,
            fp16_arithmetic=half,
            bf16_storage=brain,
            bf16_packed=brain,
            **others,
        )

    def flags(self) -> int:
        bits = (
            self.fp16_packed,
            self.fp16_storage,
            self.fp16_arithmetic,
            self.bf16_storage,
            self.bf16_packed,
            self.int8_inference,
            self.winograd,
            self.sgemm,
            self.packing,
            self.vulkan,
            self.any_input_shape,
        )
        return sum(1 << position for position, bit in enumerate(bits) if bit)


def encode_frame(kind: MessageType, body: bytes = b"") -> bytes:
    return _HEADER.pack(MAGIC, VERSION, kind, len(body)) + body


def decode_header(data: bytes, *, max_frame: int = DEFAULT_MAX_FRAME) -> Header:
    """Read the 16 bytes before a body."""
    if len(data) != HEADER_BYTES:
        raise ProtocolError(f"a frame header of {len(data)} bytes")
    magic, version, kind, length = _HEADER.unpack(data)
    if magic != MAGIC:
        raise ProtocolError(f"not a mobilekit frame: it starts with {magic!r}")
    if version != VERSION:
        raise ProtocolError(
            f"the harness speaks protocol version {version}, this mobilekit speaks {VERSION}",
            hint="mobilekit harness build",
        )
    if length > max_frame:
        raise ProtocolError(f"a frame of {length} bytes, the limit is {max_frame}")
    return Header(version, kind, length)


def encode_hello(token: str, client: str) -> bytes:
    return _text(token) + _text(client)


def encode_load(param: str, bin_: str, options: LoadOptions) -> bytes:
    if not 0 <= options.threads <= 256:
        raise UsageError(f"{options.threads} threads", hint="0 (as ncnn chooses) to 256")
    cluster = _CLUSTERS.get(options.cluster)
    if cluster is None:
        raise UsageError(f"unknown core cluster {options.cluster!r}", hint="all, little or big")
    return _text(param) + _text(bin_) + struct.pack("<III", options.threads, cluster, options.flags())


def encode_infer(
    inputs: Mapping[str, Array],
    outputs: Sequence[str],
    *,
    warmup: int = 0,
    iterations: int = 1,
    layer_times: bool = False,
) -> bytes:
    """``inputs``: float32 or int32 arrays of 1 to 4 axes in ncnn's order (c, d, h, w), keyed by blob name."""
    if not (0 <= warmup <= _MAX_ITERATIONS and 1 <= iterations <= _MAX_ITERATIONS):
        raise UsageError(f"{warmup} warm-up and {iterations} timed iterations", hint="1 to 1,000,000 iterations")
    parts = [struct.pack("<III", warmup, iterations, int(layer_times)), struct.pack("<I", len(inputs))]
    for name, array in inputs.items():
        parts += _tensor(name, array)
    parts.append(struct.pack("<I", len(outputs)))
    parts += [_text(name) for name in outputs]
    return b"".join(parts)


def decode_hello_ok(body: bytes) -> ServerHello:
    reader = _Reader(body)
    versions = reader.text(), reader.text(), reader.text(), reader.u64()
    own_layers = tuple(reader.text() for _ in range(reader.count()))
    reader.end()
    return ServerHello(*versions, own_layers)


def decode_json(body: bytes) -> dict[str, Any]:
    """The body of INFO_OK, GPUS_OK and LOAD_OK: one JSON object."""
    reader = _Reader(body)
    value = reader.json()
    reader.end()
    return value


def decode_infer_ok(body: bytes) -> tuple[dict[str, Any], dict[str, Array]]:
    """The report, and the output tensors by blob name."""
    reader = _Reader(body)
    report = reader.json()
    outputs = {}
    for _ in range(reader.count()):
        name, array = reader.tensor()
        outputs[name] = array
    reader.end()
    return report, outputs


def decode_error(body: bytes) -> RemoteError:
    reader = _Reader(body)
    error = RemoteError(reader.u32(), reader.text())
    reader.end()
    return error


def _text(value: str) -> bytes:
    data = value.encode()
    if len(data) > _MAX_TEXT or b"\0" in data:
        raise UsageError(f"a name or path that the harness cannot take: {value[:80]!r}")
    return struct.pack("<I", len(data)) + data


def _tensor(name: str, array: Array) -> list[bytes]:
    code = next((c for c, dtype in _DTYPES.items() if array.dtype == np.dtype(dtype)), None)
    if code is None:
        raise UsageError(f"input {name!r} is {array.dtype}", hint="the harness takes float32 and int32")
    if not 1 <= array.ndim <= 4 or array.size == 0:
        raise UsageError(f"input {name!r} has shape {array.shape}", hint="1 to 4 axes, none of them 0")
    data = np.ascontiguousarray(array, _DTYPES[code]).tobytes()
    axes = struct.pack(f"<BB{array.ndim}I", code, array.ndim, *array.shape)
    return [_text(name), axes, struct.pack("<Q", len(data)), data]


class _Reader:
    def __init__(self, body: bytes) -> None:
        self._body = memoryview(body)

    def take(self, size: int) -> memoryview:
        if size > len(self._body):
            raise ProtocolError("a body from the harness ends too early")
        taken, self._body = self._body[:size], self._body[size:]
        return taken

    def u8(self) -> int:
        return self.take(1)[0]

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def count(self) -> int:
        items = self.u32()
        if items > _MAX_ITEMS or items > len(self._body):
            raise ProtocolError(f"an implausible number of items from the harness: {items}")
        return items

    def text(self, limit: int = _MAX_TEXT) -> str:
        size = self.u32()
        if size > limit:
            raise ProtocolError(f"a text of {size} bytes from the harness")
        return bytes(self.take(size)).decode("utf-8", "replace")

    def json(self) -> dict[str, Any]:
        try:
            value = json.loads(self.text(_MAX_JSON))
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"the harness's report is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise ProtocolError("the harness's report is no JSON object")
        return value

    def tensor(self) -> tuple[str, Array]:
        name = self.text()
        dtype, rank = _DTYPES.get(self.u8()), self.u8()
        if dtype is None or not 1 <= rank <= 4:
            raise ProtocolError(f"output {name!r} has an unknown type or rank")
        shape = tuple(self.u32() for _ in range(rank))
        size, elements = self.u64(), 1
        for axis in shape:
            elements *= axis
        if size != elements * 4:
            raise ProtocolError(f"output {name!r}: {size} bytes do not fit the shape {shape}")
        array: Array = np.frombuffer(self.take(size), dtype).reshape(shape).copy()
        return name, array

    def end(self) -> None:
        if self._body:
            raise ProtocolError(f"{len(self._body)} bytes left over in a body from the harness")
