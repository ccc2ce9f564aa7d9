"""From a picture to a model's input tensor: the one implementation (Pillow and numpy), and its description.

The description travels in zoo entries and in a bundle's manifest, so that desktop and device see the same pixels.

A picture is decoded to 8 bits a channel: EXIF orientation applied, transparency laid over white, 16-bit values ``v``
rounded to ``v / 257``, an animation's first frame taken. With ``p`` the resized (and padded) pixels, 0 to 255, as
float32 in the channel order of ``color``, the tensor is, for each channel ``c``::

    t[c] = (p[c] * scale - mean[c]) / std[c]
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from mobilekit.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

    from mobilekit.tensors import Array

__all__ = [
    "Placement",
    "Preprocess",
    "canvas_of",
    "load_picture",
    "on_canvas",
    "open_picture",
    "picture_size",
    "placement",
    "read_pixels",
    "tensor_of",
]

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Plain raster formats only: others (EPS, say) start programs of their own."""

_MAX_PIXELS = 100_000_000


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How a picture becomes the tensor ``input`` (its ONNX name; empty: the model's only input).

    ``resize``, for an input of ``H`` x ``W``:

    - ``stretch``: to ``W`` x ``H``, the aspect ratio given up
    - ``shorter``: the shorter side to ``resize_to`` pixels (default: the longer of ``H`` and ``W``), the longer one
      to ``int(resize_to * longer / shorter)``; then the centre ``W`` x ``H`` is cut out, starting at
      ``round((size - wanted) / 2)``; what the picture lacks is ``pad_value``
    - ``letterbox``: by ``min(H / h, W / w)``, sides rounded; set at ``anchor``, the rest is ``pad_value``
    - ``height``: to height ``H`` and width ``min(W, ceil(H * w / h))``, at the left; the rest is ``pad_value``
      (lines of text)

    Pixels (0 to 255) are multiplied by ``scale``, then ``mean`` is subtracted and the result divided by ``std``, per
    channel in the order ``color`` gives; one number stands for all channels. ``pad_value`` is a pixel value too.
    """

    __pydantic_config__: ClassVar[Mapping[str, str]] = {"extra": "forbid"}

    input: str = ""
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    color: Literal["RGB", "BGR", "GRAY"] = "RGB"
    resize: Literal["stretch", "shorter", "letterbox", "height"] = "stretch"
    resize_to: int | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    anchor: Literal["center", "top-left"] = "center"
    pad_value: float = 114.0
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, 3) or not all(math.isfinite(value) for value in values):
                raise ValueError(f"{name} must be one finite number, or three")
        if 0 in self.std:
            raise ValueError("std must not be zero")
        if not math.isfinite(self.scale):
            raise ValueError("scale must be a finite number")
        if not 0 <= self.pad_value <= 255:
            raise ValueError("pad_value must lie between 0 and 255")
        if self.resize_to is not None and not 1 <= self.resize_to <= 65536:
            raise ValueError("resize_to must lie between 1 and 65536")
        if self.resize_to is not None and self.resize != "shorter":
            raise ValueError("resize_to belongs to resize = 'shorter' only")


def load_picture(path: Path, spec: Preprocess, shape: tuple[int, ...], dtype: str = "float32") -> Array:
    """The picture at ``path`` as a tensor of exactly ``shape`` and ``dtype`` (numpy's name).

    ``shape`` is ``(1, C, H, W)`` (``(1, H, W, C)`` where ``spec.layout`` is NHWC), or the same without the leading 1;
    ``C`` is 3, or 1 where ``spec.color`` is ``GRAY``. For an integer ``dtype`` values are rounded to the nearest one
    that it holds. Raises :class:`UsageError` where the file is no whole picture, is too large (100 megapixels), or
    where the input cannot take one.
    """
    import numpy as np

    _, height, width = picture_size(spec, shape)
    kind = np.dtype(dtype)
    if kind.kind not in "fiu":
        raise UsageError(
            f"{_which(spec)} holds {dtype} values, which a picture cannot fill", hint="give a .npy file for it"
        )
    return tensor_of(_fit(open_picture(path, _mode(spec)), spec, height, width, str(path)), spec, shape, dtype)


def read_pixels(path: Path) -> Array:
    """The decoded picture: ``(H, W, 3) uint8``, RGB, upright. Raises as :func:`load_picture` does."""
    import numpy as np

    pixels: Array = np.asarray(open_picture(path, "RGB"))
    return pixels


def canvas_of(pixels: Array, spec: Preprocess, height: int, width: int, what: str = "the picture") -> Array:
    """Pillow's part of :func:`load_picture`: ``pixels`` ``(h, w, 3) uint8`` RGB, resized and placed on the input:
    ``(height, width, C) float32``, 0 to 255, RGB or grey. ``what`` names the picture in an error."""
    from PIL import Image

    return _fit(Image.fromarray(pixels).convert(_mode(spec)), spec, height, width, what)


def tensor_of(canvas: Array, spec: Preprocess, shape: tuple[int, ...], dtype: str = "float32") -> Array:
    """``canvas`` as :func:`canvas_of` gives it, in the order, with the scale, mean and std, and of the layout, shape
    and dtype that the model takes."""
    import numpy as np

    kind = np.dtype(dtype)
    pixels = np.asarray(canvas[:, :, ::-1] if spec.color == "BGR" else canvas, dtype=np.float32)
    mean, std = (np.array(v[: canvas.shape[2]], dtype=np.float32) for v in (spec.mean, spec.std))
    tensor = (pixels * np.float32(spec.scale) - mean) / std
    if spec.layout == "NCHW":
        tensor = tensor.transpose(2, 0, 1)
    if kind.kind != "f":
        limits = np.iinfo(kind)
        tensor = np.clip(np.rint(tensor.astype(np.float64)), limits.min, limits.max)
    result: Array = np.ascontiguousarray(tensor.reshape(shape), dtype=kind)
    return result


def _mode(spec: Preprocess) -> Literal["RGB", "L"]:
    return "L" if spec.color == "GRAY" else "RGB"


def _which(spec: Preprocess) -> str:
    return f"input {spec.input!r}" if spec.input else "the input"


def picture_size(spec: Preprocess, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """``(C, H, W)`` of the input, or :class:`UsageError` where a picture cannot fill it."""
    wanted = 1 if spec.color == "GRAY" else 3
    shown = "x".join(map(str, shape)) or "scalar"
    if len(shape) == 4 and shape[0] != 1:
        raise UsageError(
            f"{_which(spec)} takes a batch of {shape[0]} ({shown}), and a picture is one",
            hint="export with a batch size of 1, or give a .npy file",
        )
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise UsageError(f"{_which(spec)} of shape {shown} takes no picture", hint="give a .npy file for it")
    first, second, third = shape[-3:]
    channels, height, width = (first, second, third) if spec.layout == "NCHW" else (third, first, second)
    if channels != wanted:
        raise UsageError(
            f"{_which(spec)} of shape {shown} ({spec.layout}) has {channels} channels, but a {spec.color} picture "
            f"has {wanted}",
            hint="correct layout or color in the preprocessing, or give a .npy file",
        )
    return channels, height, width


def open_picture(path: Path, mode: str, *, at_least: int = 0) -> Image.Image:
    """The picture at ``path``, upright, in 8-bit ``mode`` (``RGB`` or ``L``). Raises :class:`UsageError`.

    ``at_least``: that many pixels a side are enough, so a JPEG may be decoded at a half, a quarter or an eighth.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    too_large = UsageError(
        f"{path} is larger than {_MAX_PIXELS / 1e6:g} megapixels", hint="scale it down before giving it to the model"
    )
    try:
        with warnings.catch_warnings():
            # Our own limit stands below; remarks on odd metadata are not the user's business.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=_FORMATS) as file:
                if file.width * file.height > _MAX_PIXELS:
                    raise too_large
                if at_least:
                    file.draft(mode, (at_least, at_least))
                file.load()
                return _flatten(ImageOps.exif_transpose(file), path).convert(mode)
    except UsageError:
        raise
    except FileNotFoundError:
        raise UsageError(f"there is no file {path}", hint="check the path of the picture") from None
    except IsADirectoryError:
        raise UsageError(f"{path} is a folder, not a picture") from None
    except UnidentifiedImageError:
        formats = ", ".join(_FORMATS)
        raise UsageError(f"{path} is not a picture that can be read", hint=f"formats: {formats}") from None
    except Image.DecompressionBombError:
        raise too_large from None
    except Exception as error:
        # The decoders of damaged files raise nearly anything: OSError, SyntaxError, struct.error, zlib.error, ...
        raise UsageError(
            f"{path} is damaged or cut off: {error}", hint="check the file in a viewer, or get it again"
        ) from error


def _flatten(image: Image.Image, path: Path) -> Image.Image:
    """Without transparency, and with 8 bits a channel."""
    import numpy as np
    from PIL import Image

    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise UsageError(f"{path} has 32-bit pixels", hint="save it with 8 or 16 bits a channel")
        return Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if image.mode == "F":
        raise UsageError(f"{path} has floating-point pixels", hint="save it with 8 or 16 bits a channel")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, (255, 255, 255, 255)), layer)
    return image


def _fit(image: Image.Image, spec: Preprocess, height: int, width: int, what: str) -> Array:
    """The picture resized, cut and padded: ``(H, W, C)`` float32, 0 to 255."""
    import numpy as np
    from PIL import Image

    place = placement(spec, image.size, height, width)
    if place.width * place.height > _MAX_PIXELS:
        raise UsageError(
            f"{what} of {image.width}x{image.height} would have to be enlarged to {place.width}x{place.height}",
            hint="give a picture with a more usual aspect ratio",
        )
    if (place.width, place.height) != image.size:
        image = image.resize((place.width, place.height), Image.Resampling[spec.interpolation.upper()])
    pixels: Array = np.asarray(image, dtype=np.float32)
    return on_canvas(pixels, spec, place, height, width)


def on_canvas(pixels: Array, spec: Preprocess, place: Placement, height: int, width: int) -> Array:
    """Resized ``pixels`` ``(h, w)`` or ``(h, w, C)`` where ``place`` says, on an input of ``height`` x ``width`` that
    is ``spec.pad_value`` elsewhere: ``(height, width, C) float32``."""
    import numpy as np

    pixels = pixels.reshape(*pixels.shape[:2], -1)
    canvas = np.full((height, width, pixels.shape[2]), spec.pad_value, dtype=np.float32)
    into, of_picture = [], []
    for offset, length, room in ((place.top, pixels.shape[0], height), (place.left, pixels.shape[1], width)):
        start, stop = max(offset, 0), min(offset + length, room)
        into.append(slice(start, stop))
        of_picture.append(slice(start - offset, stop - offset))
    canvas[tuple(into)] = pixels[tuple(of_picture)]
    return canvas


class Placement(NamedTuple):
    """A picture's resized size in pixels, and where its left upper corner lies in the input; negative where it is
    cut."""

    width: int
    height: int
    left: int = 0
    top: int = 0


def placement(spec: Preprocess, size: tuple[int, int], height: int, width: int) -> Placement:
    """Where a picture of ``size`` (width, height) goes in an input of ``height`` x ``width``."""
    w, h = size
    if spec.resize == "stretch":
        return Placement(width, height)
    if spec.resize == "height":
        return Placement(min(width, math.ceil(height * w / h)), height)
    if spec.resize == "letterbox":
        ratio = min(height / h, width / w)
        new = (min(width, max(1, round(w * ratio))), min(height, max(1, round(h * ratio))))
        if spec.anchor == "top-left":
            return Placement(*new)
        return Placement(*new, (width - new[0]) // 2, (height - new[1]) // 2)
    short = spec.resize_to or max(height, width)
    new = (short, int(short * h / w)) if w <= h else (int(short * w / h), short)
    return Placement(*new, -round((new[0] - width) / 2), -round((new[1] - height) / 2))
