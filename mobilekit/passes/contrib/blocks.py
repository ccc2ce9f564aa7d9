"""Weights stored in a few bits with a scale for each block, as floats."""

from __future__ import annotations

from typing import Any

import numpy as np

from mobilekit.passes.contrib._build import MICROSOFT, Build, Rule, UnclearError

__all__ = ["RULES"]


def _nbits(it: Build) -> None:
    """``B`` is ``(N, blocks, bytes)``: rows of ``K`` numbers of ``bits`` bits, low bits first; a scale a block."""
    k, n, bits, block = (int(it.attr(name, 0)) for name in ("K", "N", "bits", "block_size"))
    bits = bits or 4
    if it.optional(4) is not None:
        raise UnclearError("its blocks are permuted")
    blocks = -(-k // block)
    numbers = _unpacked(it.constant(1, "weight").reshape(n, blocks, -1), bits)[..., :block]
    scales = it.constant(2, "scale").astype(np.float32).reshape(n, blocks, 1)
    given = it.optional(3)
    if given is None:
        zeros: Any = np.float32(1 << (bits - 1))
    else:
        data = it.constant(3, "zero point")
        if data.dtype == np.uint8:
            zeros = _unpacked(data.reshape(n, -1), bits)[:, :blocks].reshape(n, blocks, 1)
        else:
            zeros = data.astype(np.float32).reshape(n, blocks, 1)
    real = ((numbers - zeros) * scales).reshape(n, blocks * block)[:, :k]
    made = it("MatMul", it.input(0), it.const(np.ascontiguousarray(real.T), it.input(0).dtype or "float32"))
    it.bind(0, it.add(made, it.optional(5)))


def _unpacked(data: np.ndarray[Any, Any], bits: int) -> np.ndarray[Any, Any]:
    """The last axis as numbers of ``bits`` bits, lowest first."""
    if bits not in (2, 4, 8):
        raise UnclearError(f"it packs numbers of {bits} bits")
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    parts = (data[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return parts.reshape(*data.shape[:-1], -1).astype(np.float32)


def _gather_blocks(it: Build) -> None:
    """Rows of a table whose blocks of ``block_size`` along ``quantize_axis`` share a scale. Bytes hold ``bits`` bits
    each, lowest first, along the last axis; their zero point is the middle unless given, that of 4-bit types is 0."""
    stored, scales = it.constant(0, "table"), it.constant(2, "scale")
    bits, block = int(it.attr("bits", 4)), int(it.attr("block_size", 128))
    table = _numbers(stored, bits)
    axis = int(it.attr("quantize_axis", 1)) % table.ndim

    def spread(blocks: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.repeat(blocks.astype(np.float32), block, axis)[(slice(None),) * axis + (slice(table.shape[axis]),)]

    if it.optional(3) is not None:
        zeros: Any = spread(_numbers(it.constant(3, "zero point"), bits)[tuple(map(slice, scales.shape))])
    else:
        zeros = np.float32(1 << (bits - 1) if stored.dtype == np.uint8 else 0)
    real = it.const((table - zeros) * spread(scales), scales.dtype.name)
    it.bind(0, it("Gather", real, it.input(1), axis=int(it.attr("gather_axis", 0))))


def _numbers(stored: np.ndarray[Any, Any], bits: int) -> np.ndarray[Any, Any]:
    return _unpacked(stored, bits) if stored.dtype == np.uint8 else stored.astype(np.float32)


_FP4 = (0.0, 1 / 192, 2 / 3, 1.0, 1 / 3, 1 / 2, 1 / 6, 1 / 4)
_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""What the 16 codes of bitsandbytes' types stand for; FP4's second half is its first, negated."""


def _bnb4(it: Build) -> None:
    """``B`` holds ``N`` rows of ``K`` codes, two a byte, the first in the high bits; a largest value for each block."""
    k, n, block = (int(it.attr(name, 0)) for name in ("K", "N", "block_size"))
    table = np.array(_NF4 if it.attr("quant_type", 1) == 1 else [*_FP4, *(-x for x in _FP4)], np.float32)
    stored = it.constant(1, "weight").reshape(-1)
    codes = np.stack([stored >> 4, stored & 15], -1).reshape(-1)
    largest = np.repeat(it.constant(2, "scale").astype(np.float32).reshape(-1), block)
    real = (table[codes[: n * k]] * largest[: n * k]).reshape(n, k)
    it.bind(0, it("MatMul", it.input(0), it.const(np.ascontiguousarray(real.T), it.input(0).dtype or "float32")))


RULES: dict[tuple[str, str], Rule] = {
    (MICROSOFT, "GatherBlockQuantized"): _gather_blocks,
    (MICROSOFT, "MatMulBnb4"): _bnb4,
    (MICROSOFT, "MatMulNBits"): _nbits,
}
