"""The ADB wire format: packets of 24 bytes and a payload, as AOSP's ``packages/modules/adb/protocol.txt`` lays down.

Header, little-endian uint32 each: command, arg0, arg1, payload length, payload checksum, ``command ^ 0xffffffff``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

__all__ = [
    "AUTH",
    "AUTH_PUBLIC_KEY",
    "AUTH_SIGNATURE",
    "AUTH_TOKEN",
    "CLSE",
    "CNXN",
    "HEADER_SIZE",
    "MAX_PAYLOAD",
    "OKAY",
    "OPEN",
    "UNAUTHENTICATED_MAX_PAYLOAD",
    "VERSION",
    "VERSION_SKIP_CHECKSUM",
    "WRTE",
    "Header",
    "WireError",
    "pack",
    "parse_header",
]

CNXN = 0x4E584E43
AUTH = 0x48545541
OPEN = 0x4E45504F
OKAY = 0x59414B4F
CLSE = 0x45534C43
WRTE = 0x45545257

VERSION_SKIP_CHECKSUM = 0x01000001
VERSION = VERSION_SKIP_CHECKSUM
MAX_PAYLOAD = 1024 * 1024
# Banners and keys are below 1 kB; a stranger gets no more of our memory than this.
UNAUTHENTICATED_MAX_PAYLOAD = 16 * 1024

AUTH_TOKEN = 1
AUTH_SIGNATURE = 2
AUTH_PUBLIC_KEY = 3

_HEADER = struct.Struct("<6I")
HEADER_SIZE = _HEADER.size
_KNOWN = frozenset((CNXN, AUTH, OPEN, OKAY, CLSE, WRTE))


class WireError(Exception):
    """The peer sent something that is no ADB packet; the connection cannot go on."""


@dataclass(frozen=True, slots=True)
class Header:
    command: int
    arg0: int
    arg1: int
    length: int
    checksum: int


def checksum(payload: bytes | bytearray | memoryview) -> int:
    """Sum of the payload's bytes, modulo 2**32 (called a CRC in the protocol's text)."""
    return sum(payload) & 0xFFFFFFFF


def pack(command: int, arg0: int, arg1: int, payload: bytes | memoryview = b"", *, sum_payload: bool = False) -> bytes:
    """One packet's header. ``sum_payload`` fills the checksum, which peers below version 0x01000001 expect."""
    total = checksum(payload) if sum_payload else 0
    return _HEADER.pack(command, arg0, arg1, len(payload), total, command ^ 0xFFFFFFFF)


def parse_header(data: bytes | bytearray | memoryview, *, max_payload: int) -> Header:
    """Read and check 24 bytes; :class:`WireError` for a wrong magic, an unknown command, a length too large."""
    command, arg0, arg1, length, total, magic = _HEADER.unpack(data)
    if magic != command ^ 0xFFFFFFFF:
        raise WireError(f"bad magic 0x{magic:08x} for command 0x{command:08x}")
    if command not in _KNOWN:
        raise WireError(f"unknown command 0x{command:08x}")
    if length > max_payload:
        raise WireError(f"payload of {length} bytes is above the limit of {max_payload}")
    return Header(command, arg0, arg1, length, total)
