"""Packets: what is packed is read again, and what is no packet is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilekit.device.virtual import wire

COMMANDS = [wire.CNXN, wire.AUTH, wire.OPEN, wire.OKAY, wire.CLSE, wire.WRTE]
U32 = st.integers(0, 2**32 - 1)


@given(st.sampled_from(COMMANDS), U32, U32, st.binary(max_size=300), st.booleans())
def test_a_header_reads_back(command: int, arg0: int, arg1: int, payload: bytes, summed: bool) -> None:
    data = wire.pack(command, arg0, arg1, payload, sum_payload=summed)
    assert len(data) == wire.HEADER_SIZE
    header = wire.parse_header(data, max_payload=300)
    assert (header.command, header.arg0, header.arg1, header.length) == (command, arg0, arg1, len(payload))
    assert header.checksum == (sum(payload) if summed else 0)


def test_the_bytes_are_those_of_the_protocol_text() -> None:
    expected = b"WRTE" + bytes.fromhex("01000000 02000000 03000000 26010000 a8adabba")
    assert wire.pack(wire.WRTE, 1, 2, b"abc", sum_payload=True) == expected


@given(st.binary(min_size=24, max_size=24))
def test_random_bytes_are_no_packet(data: bytes) -> None:
    magic = int.from_bytes(data[20:], "little") ^ 0xFFFFFFFF
    if int.from_bytes(data[:4], "little") != magic:
        with pytest.raises(wire.WireError):
            wire.parse_header(data, max_payload=wire.MAX_PAYLOAD)


def test_an_unknown_command_is_refused() -> None:
    with pytest.raises(wire.WireError, match="unknown command"):
        wire.parse_header(wire.pack(0x12345678, 0, 0), max_payload=10)


def test_a_payload_above_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(wire.WireError, match="above the limit"):
        wire.parse_header(wire.pack(wire.WRTE, 1, 1, bytes(11)), max_payload=10)
