"""Pictures that tests make: coloured, with fine detail and edges, so that every way to resize them differs."""

from __future__ import annotations

import numpy as np

__all__ = ["photo"]


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """``(height, width, 3) uint8``: smooth colours, stripes, a bright box and noise, from integer arithmetic alone."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[0:height, 0:width]
    pixels = np.stack([180 - 90 * row // height, 60 + 110 * column // width, 30 + 50 * (row + column) // 64], axis=-1)
    pixels += 40 * ((column // 2 + row // 3) % 2)[:, :, None]
    pixels[height // 4 : height // 2, width // 3 : width * 2 // 3] = (250, 120, 20)
    pixels += rng.integers(-15, 16, pixels.shape)
    made: np.ndarray = np.clip(pixels, 0, 255).astype(np.uint8)
    return made
