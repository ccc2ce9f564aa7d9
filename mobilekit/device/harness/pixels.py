"""The request PIXELS: a decoded picture through ncnn's own pixel functions, where the harness runs (PROTOCOL.md)."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from mobilekit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mobilekit.tensors import Array

__all__ = ["PIXELS_VERSION", "PixelOrder", "PixelRequest", "encode_pixels"]

PIXELS_VERSION = 1
PixelOrder = Literal["RGB", "BGR", "GRAY"]
_ORDERS: Mapping[str, int] = {"RGB": 1, "BGR": 2, "GRAY": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelRequest:
    """``pixels``: ``(H, W, 3) uint8`` in the order ``source``, or ``(H, W)`` of a grey picture.

    ncnn resizes them to ``resized`` (width, height), and the result is set with its upper left corner at ``place``
    (left, top) of an input of ``size`` (width, height): cut where it lies outside, filled up with ``pad`` elsewhere.
    Then ``(value - mean) * norm`` for each channel in the order ``order``; an empty ``mean`` or ``norm`` leaves that
    out. These are ``from_pixels_resize``, ``copy_cut_border``, ``copy_make_border``, ``substract_mean_normalize``.
    """

    pixels: Array = field(repr=False)
    resized: tuple[int, int]
    size: tuple[int, int]
    place: tuple[int, int] = (0, 0)
    source: PixelOrder = "RGB"
    order: PixelOrder = "RGB"
    pad: float = 0.0
    mean: tuple[float, ...] = ()
    norm: tuple[float, ...] = ()


def encode_pixels(request: PixelRequest) -> bytes:
    """Raises :class:`UsageError` for what no harness could take; sizes are judged by the harness."""
    channels = 1 if request.source == "GRAY" else 3
    pixels = request.pixels
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.shape[2:] or (1,)) != (channels,):
        raise UsageError(
            f"pixels of shape {pixels.shape} and {pixels.dtype} are no {request.source} picture",
            hint="give (H, W, 3) uint8, or (H, W) for a grey one",
        )
    if not all(math.isfinite(value) for value in (request.pad, *request.mean, *request.norm)):
        raise UsageError("a padding, mean or norm that is not finite")
    try:
        sizes = struct.pack(
            "<6I2i2If",
            _ORDERS[request.source],
            _ORDERS[request.order],
            pixels.shape[1],
            pixels.shape[0],
            *request.resized,
            *request.place,
            *request.size,
            request.pad,
        )
    except struct.error as error:
        raise UsageError(f"sizes that no picture has: {request}") from error
    parts = [sizes]
    for values in (request.mean, request.norm):
        parts.append(struct.pack(f"<I{len(values)}f", len(values), *values))
    data = np.ascontiguousarray(pixels).tobytes()
    return b"".join([*parts, struct.pack("<Q", len(data)), data])
