"""Made-up pictures and sounds with what real ones have: areas of black and of white, quiet stretches and silence.

A logarithm's floor, an epsilon under a root, a range in decibels or an upper limit show there only: evenly loud
noise comes near none of them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    import numpy as np
    import numpy.typing as npt

    from mobilekit.bundle import TensorInfo

    Floats: TypeAlias = "npt.NDArray[np.float64]"

__all__ = ["is_sound", "noise", "pixels", "with_silence"]

_SOUND_NAME = re.compile("audio|wave|sound|speech|pcm|signal", re.IGNORECASE)
_SOUND_LENGTH, _NAMED_LENGTH = 4096, 256
_CHANNELS = 2
_QUIET = 1e-3
"""60 dB below the rest: the noise of a quiet room under speech."""


def is_sound(spec: TensorInfo) -> bool:
    """Samples of a sound: one long axis (4,096, or 256 where the name says so) beside at most two channels."""
    import numpy as np

    longest = max(spec.shape, default=0)
    least = _NAMED_LENGTH if _SOUND_NAME.search(spec.name) else _SOUND_LENGTH
    return longest >= least and int(np.prod(spec.shape)) <= _CHANNELS * longest


def noise(rng: np.random.Generator, shape: Sequence[int]) -> npt.NDArray[np.float32]:
    """Standard normal."""
    import numpy as np

    return rng.standard_normal(tuple(shape), dtype=np.float32)


def with_silence(rng: np.random.Generator, shape: Sequence[int]) -> npt.NDArray[np.float32]:
    """Such noise along the longest axis, but a sixth of it 60 dB quieter and the sixth behind that zero, somewhere."""
    import numpy as np

    sound = noise(rng, shape)
    axis = int(np.argmax(shape))
    part = shape[axis] // 6
    start = int(rng.integers(0, shape[axis] - 2 * part + 1))
    along = np.moveaxis(sound, axis, 0)
    along[start : start + part] *= _QUIET
    along[start + part : start + 2 * part] = 0
    return sound


def pixels(rng: np.random.Generator, shape: tuple[int, ...], *, channels_last: bool) -> Floats:
    """Whole numbers 0 to 255 as float64: noise with amplitude 1/f, channels mostly alike, as in photographs.

    Somewhere in it an area is black and another one white, each a quarter as high and as wide as the picture.
    """
    import numpy as np

    batch, *rest = shape
    height, width, channels = rest if channels_last else (rest[1], rest[2], rest[0])
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = 1.0 / max(height, width)

    def field(count: int) -> Floats:
        noise = np.fft.rfft2(rng.standard_normal((batch, count, height, width)))
        smooth = np.fft.irfft2(noise / frequency, s=(height, width))
        flat = smooth - smooth.mean(axis=(2, 3), keepdims=True)
        deviation = flat.std(axis=(2, 3), keepdims=True)
        scaled: Floats = np.divide(flat, deviation, out=np.zeros_like(flat), where=deviation > 0)
        return scaled

    brightness = rng.uniform(90, 160, (batch, channels, 1, 1))
    values = brightness + 50.0 * field(1) + 20.0 * field(channels)
    for shade in (0.0, 255.0):
        top, left = (int(rng.integers(0, size - size // 4 + 1)) for size in (height, width))
        values[:, :, top : top + height // 4, left : left + width // 4] = shade
    picture: Floats = np.clip(np.rint(values), 0, 255)
    return np.ascontiguousarray(picture.transpose(0, 2, 3, 1)) if channels_last else picture
