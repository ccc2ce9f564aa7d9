"""From a picture to a model's input tensor: the one implementation (Pillow and numpy), and its description.

The description travels in zoo entries and in a bundle's manifest, so that desktop and device see the same pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from mobilekit.tensors import Array

__all__ = ["Preprocess", "load_picture"]


class Preprocess(BaseModel):
    """How a picture becomes the tensor ``input`` (its ONNX name).

    ``resize``: ``stretch`` to the input's size; ``shorter`` side to ``resize_to`` pixels, then centre crop;
    ``letterbox`` into the input's size with ``pad_value``. Pixels (0 to 255) are multiplied by ``scale``, then
    ``mean`` is subtracted and the result divided by ``std``, all per channel in the order ``color`` gives.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: str = ""
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    color: Literal["RGB", "BGR", "GRAY"] = "RGB"
    resize: Literal["stretch", "shorter", "letterbox"] = "stretch"
    resize_to: int | None = Field(default=None, ge=1)
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    pad_value: int = Field(default=114, ge=0, le=255)
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)


def load_picture(path: Path, spec: Preprocess, shape: tuple[int, ...]) -> Array:
    """The picture at ``path`` as a float32 tensor of ``shape`` (``(1, 3, H, W)``, or ``(1, H, W, 3)`` for NHWC)."""
    raise NotImplementedError
