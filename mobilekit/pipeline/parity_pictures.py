"""The picture whose pixels differ most, as it was prepared in two ways, for the page of ``mobilekit parity``."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mobilekit.report.parity import PathName, PreparedPicture
    from mobilekit.tensors import Array

__all__ = ["WorstPicture"]

_LARGEST = 640


class WorstPicture:
    """Called with every picture's name, its pixels as each way prepared them (``(H, W, C)``, 0 to 255, RGB or grey),
    and the two ways that are compared; keeps the picture whose largest difference is the largest so far."""

    def __init__(self) -> None:
        self._apart = 0.0
        self.drawn: tuple[PreparedPicture, ...] = ()

    def __call__(self, sample: str, levels: Mapping[PathName, Array], ways: tuple[PathName, PathName]) -> None:
        from mobilekit.report.parity import TITLES, PreparedPicture

        first, second = (np.asarray(levels[way], np.float64) for way in ways)
        difference = np.abs(first - second)
        apart = float(difference.max())
        if apart <= self._apart:
            return
        self._apart = apart
        shown = ((TITLES[ways[0]], first), (TITLES[ways[1]], second), (f"difference, white is {apart:.0f}", difference))
        self.drawn = tuple(
            PreparedPicture(f"{sample}: {title}", _png(values * (255 / apart) if values is difference else values))
            for title, values in shown
        )


def _png(values: Array) -> bytes:
    from PIL import Image

    pixels = np.clip(np.rint(values.astype(np.float64)), 0, 255).astype(np.uint8)
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((_LARGEST, _LARGEST), Image.Resampling.NEAREST)
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()
