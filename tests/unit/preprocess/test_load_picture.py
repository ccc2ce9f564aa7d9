"""Pictures to tensors, against the formulas worked out here with numpy alone."""

from __future__ import annotations

import io
import math
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mobilekit.errors import UsageError
from mobilekit.preprocess import Preprocess, load_picture

RNG = np.random.default_rng(3)
IMAGENET = {"scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def picture(folder: Path, pixels: np.ndarray, name: str = "p.png", **options: object) -> Path:
    Image.fromarray(pixels).save(folder / name, **options)
    return folder / name


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def axis_weights(size: int, new: int) -> np.ndarray:
    """Pillow's antialiased bilinear resampling along one axis: ``(new, size)`` row-stochastic weights.

    A triangle of the width of the larger grid's step, at half-pixel centres.
    """
    step = size / new
    support = max(step, 1.0)
    weights = np.zeros((new, size))
    for i in range(new):
        centre = (i + 0.5) * step
        for j in range(max(0, int(centre - support + 0.5)), min(size, int(centre + support + 0.5))):
            weights[i, j] = max(0.0, 1 - abs((j - centre + 0.5) / support))
        weights[i] /= weights[i].sum()
    return weights


def resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """float64, not rounded: Pillow rounds after each axis, so it may differ by 1."""
    rows, columns = axis_weights(pixels.shape[0], height), axis_weights(pixels.shape[1], width)
    return np.einsum("ih,jw,hwc->ijc", rows, columns, pixels.astype(np.float64))


def test_formula_and_nchw_without_resizing(tmp_path: Path) -> None:
    pixels = noise(5, 7)
    tensor = load_picture(picture(tmp_path, pixels), Preprocess(**IMAGENET), (1, 3, 5, 7))
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    for c in range(3):
        expected = (pixels[:, :, c] / 255 - IMAGENET["mean"][c]) / IMAGENET["std"][c]  # type: ignore[index]
        np.testing.assert_allclose(tensor[0, c], expected, atol=1e-5)


def test_bgr_takes_mean_and_std_in_bgr_order(tmp_path: Path) -> None:
    pixels = noise(4, 4)
    spec = Preprocess(color="BGR", mean=(104.0, 117.0, 123.0), std=(1.0, 2.0, 4.0))
    tensor = load_picture(picture(tmp_path, pixels), spec, (1, 3, 4, 4))
    np.testing.assert_array_equal(tensor[0, 0], pixels[:, :, 2] - np.float32(104))
    np.testing.assert_array_equal(tensor[0, 1], (pixels[:, :, 1] - np.float32(117)) / 2)
    np.testing.assert_array_equal(tensor[0, 2], (pixels[:, :, 0] - np.float32(123)) / 4)


def test_nhwc_and_no_batch_axis(tmp_path: Path) -> None:
    path = picture(tmp_path, noise(4, 6))
    nchw = load_picture(path, Preprocess(), (1, 3, 4, 6))
    np.testing.assert_array_equal(
        load_picture(path, Preprocess(layout="NHWC"), (1, 4, 6, 3)), nchw.transpose(0, 2, 3, 1)
    )
    np.testing.assert_array_equal(load_picture(path, Preprocess(), (3, 4, 6)), nchw[0])


def test_gray_is_the_luma_of_itu_601(tmp_path: Path) -> None:
    pixels = noise(4, 6)
    tensor = load_picture(picture(tmp_path, pixels), Preprocess(color="GRAY", mean=(10.0,)), (1, 1, 4, 6))
    luma = pixels @ np.array([0.299, 0.587, 0.114])
    assert np.abs(tensor[0, 0] + 10 - luma).max() <= 1


@pytest.mark.parametrize(("height", "width"), [(9, 12), (40, 25), (13, 60)])
def test_stretch_resamples_as_pillow_documents(tmp_path: Path, height: int, width: int) -> None:
    pixels = noise(23, 31)
    tensor = load_picture(picture(tmp_path, pixels), Preprocess(), (1, 3, height, width))
    assert np.abs(tensor[0].transpose(1, 2, 0) - resized(pixels, height, width)).max() <= 1.01


def test_interpolations_differ(tmp_path: Path) -> None:
    path = picture(tmp_path, noise(9, 9))
    found = [
        load_picture(path, Preprocess(interpolation=kind), (1, 3, 20, 20))
        for kind in ("nearest", "bilinear", "bicubic")
    ]
    assert set(np.unique(found[0])) <= set(np.unique(load_picture(path, Preprocess(), (1, 3, 9, 9))))
    assert not np.array_equal(found[1], found[0])
    assert not np.array_equal(found[2], found[1])


def test_shorter_side_then_centre_crop(tmp_path: Path) -> None:
    pixels = noise(30, 47)
    tensor = load_picture(picture(tmp_path, pixels), Preprocess(resize="shorter", resize_to=20), (1, 3, 16, 16))
    whole = resized(pixels, 20, int(20 * 47 / 30))
    top, left = round((20 - 16) / 2), round((31 - 16) / 2)
    assert np.abs(tensor[0].transpose(1, 2, 0) - whole[top : top + 16, left : left + 16]).max() <= 1.01


def test_letterbox_keeps_the_aspect_ratio(tmp_path: Path) -> None:
    pixels = noise(20, 40)
    path = picture(tmp_path, pixels)
    centred = load_picture(path, Preprocess(resize="letterbox", pad_value=7), (1, 3, 32, 32))[0]
    cornered = load_picture(path, Preprocess(resize="letterbox", pad_value=7, anchor="top-left"), (1, 3, 32, 32))[0]
    expected = resized(pixels, 16, 32)
    assert np.abs(centred[:, 8:24].transpose(1, 2, 0) - expected).max() <= 1.01
    np.testing.assert_array_equal(cornered[:, :16], centred[:, 8:24])
    assert (centred[:, :8] == 7).all()
    assert (centred[:, 24:] == 7).all()
    assert (cornered[:, 16:] == 7).all()


@pytest.mark.parametrize(("width", "filled"), [(20, 40), (40, 64), (300, 64)])
def test_height_pads_a_line_of_text_at_the_right(tmp_path: Path, width: int, filled: int) -> None:
    pixels = noise(12, width)
    spec = Preprocess(resize="height", pad_value=127.5, scale=1 / 255, mean=(0.5,), std=(0.5,))
    tensor = load_picture(picture(tmp_path, pixels), spec, (1, 3, 24, 64))[0]
    expected = (resized(pixels, 24, filled) / 255 - 0.5) / 0.5
    assert np.abs(tensor[:, :, :filled].transpose(1, 2, 0) - expected).max() <= 1.01 / 127.5
    np.testing.assert_allclose(tensor[:, :, filled:], 0, atol=1e-6)


@settings(max_examples=60)
@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    wanted=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    resize=st.sampled_from(["stretch", "shorter", "letterbox", "height"]),
    layout=st.sampled_from(["NCHW", "NHWC"]),
    anchor=st.sampled_from(["center", "top-left"]),
)
def test_any_size_gives_exactly_the_shape_and_only_pixels(
    tmp_path: Path, size: tuple[int, int], wanted: tuple[int, int], resize: str, layout: str, anchor: str
) -> None:
    path = picture(tmp_path, np.full((*size, 3), 200, dtype=np.uint8), "any.png")
    spec = Preprocess(resize=resize, layout=layout, anchor=anchor, pad_value=3)  # type: ignore[arg-type]
    shape = (1, 3, *wanted) if layout == "NCHW" else (1, *wanted, 3)
    tensor = load_picture(path, spec, shape)
    assert tensor.shape == shape
    assert set(np.unique(tensor)) <= {3.0, 200.0}
    assert 200 in tensor
    if resize == "stretch":
        assert (tensor == 200).all()


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("uint8", [0, 128, 255]), ("int8", [-128, 0, 127]), ("int32", [-256, 0, 254]), ("float16", [-256, 0, 254])],
)
def test_integer_inputs_are_rounded_into_range(tmp_path: Path, dtype: str, expected: list[int]) -> None:
    pixels = np.array([[[0] * 3, [128] * 3, [255] * 3]], dtype=np.uint8)
    spec = Preprocess() if dtype == "uint8" else Preprocess(scale=2.0, mean=(256.0,))
    tensor = load_picture(picture(tmp_path, pixels), spec, (1, 3, 1, 3), dtype)
    assert str(tensor.dtype) == dtype
    assert tensor[0, 0, 0].tolist() == expected


# --- what a file may hold -----------------------------------------------------------------------------------------


def load(path: Path, height: int, width: int, **spec: object) -> np.ndarray:
    tensor = load_picture(path, Preprocess(layout="NHWC", **spec), (1, height, width, 3))  # type: ignore[arg-type]
    return np.asarray(tensor[0])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    """EXIF 2.3, tag 0x0112: what has to be done to the stored picture, written with numpy."""
    upright = noise(4, 6)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = picture(tmp_path, np.ascontiguousarray(stored), exif=exif)
    np.testing.assert_array_equal(load(path, 4, 6), upright)


def test_transparency_lies_over_white(tmp_path: Path) -> None:
    pixels = np.zeros((1, 3, 4), dtype=np.uint8)
    pixels[0, :, 3] = (0, 255, 128)
    found = load(picture(tmp_path, pixels), 1, 3)
    assert found[0, :, 0].tolist() == [255, 0, 127]


def test_palette_with_and_without_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "clear.png", transparency=0)
    image.save(tmp_path / "clear.gif", transparency=0)
    assert load(tmp_path / "plain.png", 1, 2).tolist() == [[[255, 0, 0], [0, 0, 255]]]
    for name in ("clear.png", "clear.gif"):
        assert load(tmp_path / name, 1, 2).tolist() == [[[255, 255, 255], [0, 0, 255]]]


def test_16_bit_gray_is_scaled_not_cut(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    for name in ("p.png", "p.tiff"):
        found = load(picture(tmp_path, values, name), 1, 4)
        assert found[0, :, 1].tolist() == [0, 1, 128, 255]


def test_gray_alpha_bilevel_and_cmyk(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 90]], dtype=np.uint8)).save(tmp_path / "l.png")
    assert load(tmp_path / "l.png", 1, 2)[0].tolist() == [[0, 0, 0], [90, 90, 90]]
    Image.new("LA", (1, 1), (0, 0)).save(tmp_path / "la.png")
    assert load(tmp_path / "la.png", 1, 1).tolist() == [[[255, 255, 255]]]
    Image.new("1", (1, 1), 1).save(tmp_path / "one.png")
    assert load(tmp_path / "one.png", 1, 1).tolist() == [[[255, 255, 255]]]
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "c.jpg", quality=95)
    red = load(tmp_path / "c.jpg", 8, 8).mean(axis=(0, 1))
    assert red[0] > 240
    assert red[1] < 15
    assert red[2] < 15


def test_pictures_that_have_no_8_bit_meaning(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.5]], dtype=np.float32)).save(tmp_path / "f.tiff")
    Image.fromarray(np.array([[70000]], dtype=np.int32)).save(tmp_path / "i.tiff")
    with pytest.raises(UsageError, match="floating-point"):
        load(tmp_path / "f.tiff", 1, 1)
    with pytest.raises(UsageError, match="32-bit"):
        load(tmp_path / "i.tiff", 1, 1)


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_001, 30_000])
def test_a_decompression_bomb(tmp_path: Path, side: int) -> None:
    (tmp_path / "bomb.png").write_bytes(png_that_claims(side, side))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UsageError, match="megapixels"):
            load(tmp_path / "bomb.png", 4, 4)


def test_a_sliver_that_would_be_enlarged_without_end(tmp_path: Path) -> None:
    path = picture(tmp_path, noise(1, 60_000))
    with pytest.raises(UsageError, match="would have to be enlarged") as caught:
        load_picture(path, Preprocess(resize="shorter", resize_to=256), (1, 3, 224, 224))
    assert "aspect ratio" in caught.value.hint


@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "bmp", "tiff", "webp"])
def test_cut_off_at_any_point(tmp_path: Path, kind: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise(40, 40)).save(buffer, {"jpg": "JPEG"}.get(kind, kind.upper()))
    data = buffer.getvalue()
    for part in (1, 10, 30, len(data) // 2, len(data) * 3 // 4):
        (tmp_path / f"cut.{kind}").write_bytes(data[:part])
        with pytest.raises(UsageError, match=f"cut.{kind}"):
            load(tmp_path / f"cut.{kind}", 8, 8)


@settings(max_examples=40)
@given(
    data=st.binary(max_size=200),
    head=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"II*\0"]),
)
def test_random_bytes(tmp_path: Path, data: bytes, head: bytes) -> None:
    (tmp_path / "random.png").write_bytes(head + data)
    with pytest.raises(UsageError):
        load(tmp_path / "random.png", 8, 8)


def test_no_program_is_started_for_a_picture(tmp_path: Path) -> None:
    (tmp_path / "page.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with pytest.raises(UsageError, match="not a picture that can be read"):
        load(tmp_path / "page.eps", 8, 8)


def test_a_file_that_is_not_there_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file"):
        load(tmp_path / "gone.png", 8, 8)
    with pytest.raises(UsageError, match="folder"):
        load(tmp_path, 8, 8)


@pytest.mark.parametrize(
    ("spec", "shape", "dtype", "match"),
    [
        (Preprocess(), (2, 3, 8, 8), "float32", "batch of 2"),
        (Preprocess(), (1, 8, 8, 3), "float32", "8 channels"),
        (Preprocess(input="x", color="GRAY"), (1, 3, 8, 8), "float32", "input 'x'"),
        (Preprocess(), (1, 10), "float32", "takes no picture"),
        (Preprocess(), (), "float32", "scalar"),
        (Preprocess(), (1, 3, 8, 8), "bool", "bool"),
    ],
)
def test_an_input_that_takes_no_such_picture(
    tmp_path: Path, spec: Preprocess, shape: tuple[int, ...], dtype: str, match: str
) -> None:
    path = picture(tmp_path, noise(8, 8))
    with pytest.raises(UsageError, match=match) as caught:
        load_picture(path, spec, shape, dtype)
    assert caught.value.hint


def test_letterbox_of_a_line_keeps_one_pixel(tmp_path: Path) -> None:
    tensor = load(picture(tmp_path, np.full((1, 400, 3), 9, dtype=np.uint8)), 8, 8, resize="letterbox", pad_value=0)
    assert (tensor == 9).sum() == 8 * 3
    assert math.prod(tensor.shape) == 8 * 8 * 3
