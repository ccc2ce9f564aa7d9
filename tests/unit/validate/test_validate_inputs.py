"""Inputs: the same everywhere for a seed, like the model's real ones, and the user's files read or refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from mobilekit.bundle import TensorInfo
from mobilekit.errors import UsageError
from mobilekit.preprocess import Preprocess
from mobilekit.validate.inputs import file_samples, seeded_inputs, seeded_samples

IMAGE = TensorInfo(name="x", dtype="float32", shape=(1, 3, 64, 48))
IDS = TensorInfo(name="ids", dtype="int64", shape=(1, 16))
MASK = TensorInfo(name="mask", dtype="bool", shape=(1, 16))
IMAGENET = Preprocess(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def test_the_same_seed_and_name_give_the_same_tensor_in_any_company():
    alone = seeded_inputs([IMAGE], seed=3)["x"]
    together = seeded_inputs([MASK, IDS, IMAGE], seed=3)["x"]
    np.testing.assert_array_equal(alone, together)
    assert not np.array_equal(alone, seeded_inputs([IMAGE], seed=4)["x"])
    other = TensorInfo(name="y", dtype="float32", shape=IMAGE.shape)
    assert not np.array_equal(alone, seeded_inputs([other], seed=3)["y"])
    assert not np.array_equal(seeded_inputs([IMAGE], seed=-3)["x"], alone)


def test_dtypes_shapes_and_ranges():
    tensors = seeded_inputs([IMAGE, IDS, MASK], seed=0)
    for spec in (IMAGE, IDS, MASK):
        assert tensors[spec.name].dtype == np.dtype(spec.dtype)
        assert tensors[spec.name].shape == spec.shape
    assert abs(tensors["x"].mean()) < 0.1
    assert 0.9 < tensors["x"].std() < 1.1
    assert tensors["ids"].min() >= 0
    assert tensors["ids"].max() < 8
    assert set(np.unique(tensors["mask"])) == {False, True}


@pytest.mark.parametrize(
    ("name", "shape"),
    [("x", (1, 16000)), ("x", (1, 43844, 1)), ("x", (2, 8000)), ("audio_in", (1, 512)), ("pcm", (480,))],
)
def test_a_sound_has_a_quiet_stretch_and_silence(name: str, shape: tuple[int, ...]):
    for seed in range(4):
        x = seeded_inputs([TensorInfo(name=name, dtype="float32", shape=shape)], seed=seed)[name]
        axis = int(np.argmax(shape))
        loudest = np.abs(np.moveaxis(x, axis, 0).reshape(shape[axis], -1)).max(axis=1)
        part = shape[axis] // 6
        assert np.count_nonzero(loudest == 0) == part
        quiet = np.count_nonzero((loudest > 0) & (loudest < 6e-3))
        assert part <= quiet <= part * 1.1
        assert np.ptp(np.flatnonzero(loudest == 0)) == part - 1
        assert x.std() > 0.7


def test_what_is_no_sound_has_no_silence():
    for name, shape in (("x", (1, 512)), ("embedding", (1, 1024)), ("x", (1, 80, 16000)), ("audio", (4, 3, 300))):
        x = seeded_inputs([TensorInfo(name=name, dtype="float32", shape=shape)], seed=0)[name]
        assert np.abs(x).min() > 0
        assert 0.9 < x.std() < 1.1


def test_a_mask_of_floats_says_yes_or_no():
    spec = TensorInfo(name="attention_mask", dtype="float32", shape=(1, 64))
    mask = seeded_inputs([spec], seed=0)["attention_mask"]
    assert mask.dtype == np.float32
    assert set(np.unique(mask)) == {0.0, 1.0}


def test_a_picture_has_an_area_of_black_and_one_of_white():
    spec = TensorInfo(name="x", dtype="uint8", shape=(1, 64, 48, 3))
    for seed in range(4):
        picture = seeded_inputs([spec], seed=seed)["x"][0]
        # the white one is drawn last, and may hide a part of the black one
        for shade, least in ((0, 0), (255, 16 * 12)):
            assert np.count_nonzero((picture == shade).all(axis=2)) >= least
    rows = seeded_inputs([spec], seed=0)["x"][0]
    assert np.count_nonzero((rows == 0).all(axis=2)) >= 16 * 12 // 2


def test_a_picture_input_has_pixels_behind_it():
    x = seeded_inputs([IMAGE], seed=0, preprocess=IMAGENET)["x"]
    mean = np.array(IMAGENET.mean).reshape(1, 3, 1, 1)
    std = np.array(IMAGENET.std).reshape(1, 3, 1, 1)
    pixels = (x * std + mean) * 255
    np.testing.assert_allclose(pixels, np.rint(pixels), atol=1e-3)
    assert pixels.min() >= -1e-3
    assert pixels.max() <= 255 + 1e-3
    assert pixels.std() > 20
    # Neighbours in a picture are alike; in white noise they would differ by 1.13 deviations on average.
    assert np.abs(np.diff(pixels, axis=3)).mean() < 0.7 * pixels.std()


def test_pixels_in_nhwc_and_as_uint8():
    nhwc = TensorInfo(name="x", dtype="float32", shape=(1, 32, 40, 3))
    x = seeded_inputs([nhwc], seed=0, preprocess=Preprocess(layout="NHWC"))["x"]
    assert x.shape == (1, 32, 40, 3)
    assert 0 <= x.min() < x.max() <= 255
    raw = TensorInfo(name="x", dtype="uint8", shape=(1, 32, 40, 3))
    raw_x = seeded_inputs([raw], seed=0)["x"]
    assert raw_x.dtype == np.uint8
    assert raw_x.std() > 20


def test_gray_and_single_pixel_inputs():
    gray = TensorInfo(name="x", dtype="float32", shape=(1, 1, 32, 100))
    spec = Preprocess(color="GRAY", mean=(127.5,), std=(127.5,))
    assert seeded_inputs([gray], seed=0, preprocess=spec)["x"].shape == (1, 1, 32, 100)
    dot = TensorInfo(name="x", dtype="float32", shape=(1, 3, 1, 1))
    assert np.isfinite(seeded_inputs([dot], seed=0, preprocess=IMAGENET)["x"]).all()


def test_picture_inputs_without_a_batch_axis_or_of_integers():
    flat = TensorInfo(name="x", dtype="float32", shape=(3, 16, 24))
    assert seeded_inputs([flat], seed=0, preprocess=IMAGENET)["x"].shape == (3, 16, 24)
    whole = TensorInfo(name="x", dtype="int8", shape=(1, 3, 16, 24))
    values = seeded_inputs([whole], seed=0, preprocess=Preprocess(mean=(128.0,)))["x"]
    assert values.dtype == np.int8
    assert values.std() > 10


def test_a_folder_of_pictures_is_read_as_the_preprocessing_says(tmp_path):
    from PIL import Image

    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "red.png")
    (sample,) = file_samples(tmp_path, [IMAGE], preprocess=Preprocess(scale=1 / 255))
    np.testing.assert_allclose(sample.tensors["x"][0, :, 0, 0], [1, 0, 0], atol=1e-6)
    (tmp_path / "broken.png").write_bytes((tmp_path / "red.png").read_bytes()[:40])
    with pytest.raises(UsageError, match=r"broken\.png"):
        list(file_samples(tmp_path, [IMAGE], preprocess=Preprocess()))


def test_preprocess_applies_only_to_the_input_it_names():
    other = TensorInfo(name="other", dtype="float32", shape=(1, 3, 8, 8))
    tensors = seeded_inputs([other, IMAGE], seed=0, preprocess=Preprocess(input="x"))
    assert tensors["x"].max() > 10
    assert tensors["other"].max() < 10


def test_a_dtype_without_a_rule_is_refused():
    with pytest.raises(UsageError, match="element type"):
        seeded_inputs([TensorInfo(name="s", dtype="complex64", shape=(1,))], seed=0)


def test_samples_count_on_from_the_seed():
    samples = list(seeded_samples([IMAGE], seed=5, count=2))
    assert [s.name for s in samples] == ["seed 5", "seed 6"]
    np.testing.assert_array_equal(samples[1].tensors["x"], seeded_inputs([IMAGE], seed=6)["x"])


def test_npy_files_in_name_order(tmp_path):
    for name, value in (("b", 2.0), ("a", 1.0)):
        np.save(tmp_path / f"{name}.npy", np.full((1, 3, 64, 48), value))
    samples = list(file_samples(tmp_path, [IMAGE]))
    assert [s.name for s in samples] == ["a.npy", "b.npy"]
    assert samples[0].tensors["x"].dtype == np.float32
    assert samples[1].tensors["x"][0, 0, 0, 0] == 2.0


def test_several_inputs_take_a_folder_of_named_arrays(tmp_path):
    specs = [TensorInfo(name="a:0", dtype="float32", shape=(2,)), TensorInfo(name="m/b", dtype="int64", shape=(1,))]
    for sample in ("one", "two"):
        (tmp_path / sample).mkdir()
        np.save(tmp_path / sample / "a_0.npy", np.zeros(2, np.float32))
        np.save(tmp_path / sample / "m_b.npy", np.ones(1, np.int64))
    samples = list(file_samples(tmp_path, specs))
    assert [s.name for s in samples] == ["one", "two"]
    assert set(samples[0].tensors) == {"a:0", "m/b"}
    (only,) = file_samples(tmp_path / "one", specs)
    assert only.tensors["m/b"].tolist() == [1]


def _bad_folder(tmp_path, kind):
    if kind == "missing":
        return tmp_path / "none"
    if kind == "below":
        (tmp_path / "cats").mkdir()
    if kind == "strange":
        (tmp_path / "notes.txt").write_text("x")
    if kind == "truncated":
        (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00")
    if kind == "pickle":
        np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    if kind == "shape":
        np.save(tmp_path / "a.npy", np.zeros((1, 3, 8, 8), np.float32))
    if kind == "dtype":
        np.save(tmp_path / "a.npy", np.zeros(IMAGE.shape, np.int32))
    if kind == "nan":
        np.save(tmp_path / "a.npy", np.full(IMAGE.shape, np.nan, np.float32))
    if kind == "picture":
        (tmp_path / "a.png").write_bytes(b"\x89PNG")
    return tmp_path


@pytest.mark.parametrize(
    ("shape", "helps"),
    [
        ((3, 64, 48), r"array\[None\]"),
        ((1, 64, 48, 3), r"transpose\(0, 3, 1, 2\)"),
        ((5, 3, 64, 48), "one sample"),
        ((1, 3, 8, 8), "--input-shape"),
        ((), "--input-shape"),
    ],
)
def test_an_array_of_another_shape_is_told_how_to_fit(tmp_path: Path, shape: tuple[int, ...], helps: str) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape, np.float32))
    with pytest.raises(UsageError, match="takes 1x3x64x48") as caught:
        list(file_samples(tmp_path, [IMAGE]))
    assert re.search(helps, caught.value.hint)


def test_a_link_that_leads_nowhere_is_told(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(IMAGE.shape, np.float32))
    (tmp_path / "b.npy").symlink_to(tmp_path / "none.npy")
    with pytest.raises(UsageError, match=r"no file: b\.npy"):
        file_samples(tmp_path, [IMAGE])


def test_the_truth_may_lie_beside_the_inputs(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(IMAGE.shape, np.float32))
    (tmp_path / "labels.csv").write_text("a.npy,1\n")
    (sample,) = file_samples(tmp_path, [IMAGE], apart=tmp_path / "labels.csv")
    assert sample.name == "a.npy"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "is not a folder"),
        ("empty", "holds no pictures and no .npy.*put at least one there"),
        ("below", "holds no pictures and no .npy.*subfolders are not looked into"),
        ("strange", "neither pictures nor .npy: notes.txt"),
        ("truncated", "not a readable .npy"),
        ("pickle", "not a readable .npy"),
        ("shape", "has the shape 1x3x8x8, the input 'x' takes 1x3x64x48"),
        ("dtype", "holds int32"),
        ("nan", "NaN or infinite"),
        ("picture", "does not say how a picture becomes"),
    ],
)
def test_unusable_inputs_are_refused_by_name(tmp_path, kind, message):
    with pytest.raises(UsageError, match=message.split(".*")[0]) as caught:
        list(file_samples(_bad_folder(tmp_path, kind), [IMAGE]))
    assert re.search(message, f"{caught.value.message} {caught.value.hint}")


def test_what_file_managers_leave_behind_is_no_input(tmp_path: Path) -> None:
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "ehthumbs.db"):
        (tmp_path / name).write_bytes(b"x")
    for name in ("__MACOSX", "@eaDir"):
        (tmp_path / name).mkdir()
    np.save(tmp_path / "a.npy", np.zeros(IMAGE.shape, np.float32))
    assert [sample.name for sample in file_samples(tmp_path, [IMAGE])] == ["a.npy"]
    (tmp_path / "set").mkdir()
    specs = [TensorInfo(name=name, dtype="float32", shape=(2,)) for name in "ab"]
    for name in "ab":
        np.save(tmp_path / "set" / f"{name}.npy", np.zeros(2, np.float32))
    assert [sample.name for sample in file_samples(tmp_path, specs)] == ["set"]


def test_a_sample_that_lacks_an_input_is_refused(tmp_path):
    np.save(tmp_path / "ids.npy", np.zeros((1, 16), np.int64))
    with pytest.raises(UsageError, match=r"lacks mask\.npy"):
        list(file_samples(tmp_path, [IDS, MASK]))


def test_ids_exist_in_their_tables_and_masks_are_0_or_1() -> None:
    kinds = TensorInfo(name="token_type_ids", dtype="int64", shape=(1, 64), limit=2)
    mask = TensorInfo(name="attention_mask", dtype="int64", shape=(1, 64))
    tensors = seeded_inputs([kinds, mask, IDS], seed=3)
    assert set(tensors["token_type_ids"].ravel().tolist()) == {0, 1}
    assert set(tensors["attention_mask"].ravel().tolist()) == {0, 1}
    assert tensors["ids"].max() > 1


def test_a_file_whose_name_is_no_text_has_a_name_that_can_be_written(tmp_path: Path) -> None:
    """Names in Latin-1, from an old disk: reports are UTF-8."""
    import os

    np.save(tmp_path / "x.npy", np.zeros((1, 4), np.float32))
    (tmp_path / "x.npy").rename(tmp_path / os.fsdecode(b"caf\xe9.npy"))
    (sample,) = file_samples(tmp_path, (TensorInfo(name="x", shape=(1, 4), dtype="float32"),))
    assert sample.name == "caf\\xe9.npy"
    assert sample.name.encode()
    assert sample.tensors["x"].shape == (1, 4)
