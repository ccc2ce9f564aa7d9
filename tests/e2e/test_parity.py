"""`mobilekit parity`: pictures through ncnn's own functions, in a real harness here and on a virtual arm64 device."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilekit.device.harness.client import HarnessSession
from mobilekit.device.harness.locate import find_harness
from mobilekit.device.harness.pixels import PixelRequest
from mobilekit.errors import HarnessError, SetupError, UsageError
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.pipeline.parity import ParityOptions, parity_of_bundle, pixel_request
from mobilekit.preprocess import Preprocess, tensor_of
from mobilekit.preprocess_opencv import opencv_resize
from mobilekit.report.parity import ParityReport
from mobilekit.validate.parity import Explainer, difference, opencv_canvas
from tests.e2e.bench import bench, mobilekit, need
from tests.models import conv_classifier, save
from tests.pictures import photo

__all__ = ["bench"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

SIDE = 40
SPEC = Preprocess(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
TOML = "scale = 0.00392156862745098\nmean = [0.485, 0.456, 0.406]\nstd = [0.229, 0.224, 0.225]\n"
PLAIN = "resized without antialiasing (INTER_LINEAR of OpenCV, from_pixels_resize of ncnn)"


@pytest.fixture(scope="module")
def executable() -> Path:
    abi = {"aarch64": "arm64-v8a"}.get(platform.machine(), platform.machine())
    try:
        return find_harness(abi, static_only=True)
    except SetupError as error:
        pytest.skip(f"no harness for this machine: {error.message}")


@pytest.fixture
def session(executable: Path) -> Iterator[HarnessSession]:
    with HarnessSession.connect_local(executable) as session:
        yield session


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "p.toml").write_text(TOML)
    options = ExportOptions(preprocess=folder / "p.toml")
    export_model(save(conv_classifier(side=SIDE), folder / "m.onnx"), folder / "b", options)
    return folder / "b"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number, size in enumerate(((90, 131), (117, 76))):
        Image.fromarray(photo(*size, number)).save(folder / f"p{number}.png")
    return folder


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        replace(SPEC, color="BGR", resize="letterbox"),
        replace(SPEC, resize="letterbox", anchor="top-left", pad_value=0.0),
        replace(SPEC, resize="shorter", resize_to=50),
        replace(SPEC, color="GRAY", mean=(0.5,), std=(0.25,)),
        replace(SPEC, resize="shorter", resize_to=30, scale=1.0, mean=(0.0,), std=(1.0,)),
    ],
    ids=["stretch", "letterbox", "top left", "shorter", "grey", "padded"],
)
@pytest.mark.parametrize("size", [(90, 131), (25, 18), (SIDE, SIDE)])
def test_ncnn_prepares_a_picture_as_opencv_does(
    session: HarnessSession, spec: Preprocess, size: tuple[int, int]
) -> None:
    pixels = photo(*size)
    shape = (1 if spec.color == "GRAY" else 3, SIDE, SIDE)
    expected = tensor_of(opencv_canvas(pixels, spec, SIDE, SIDE), spec, shape)
    report = session.pixels(pixel_request(pixels, spec, SIDE, SIDE))
    assert report.tensor.shape == shape
    assert report.elapsed_ns > 0
    found = difference(expected, report.tensor, spec, shape)
    # ncnn makes grey after resizing, and cuts off what OpenCV rounds.
    assert found.max_levels <= (2.01 if spec.color == "GRAY" else 1.01)
    assert found.mean_levels <= (0.8 if spec.color == "GRAY" else 0.05)


def test_what_an_app_may_do_wrong_is_named(session: HarnessSession) -> None:
    """Tensors that ncnn itself made with other arguments than the manifest's."""
    pixels = photo(90, 131)
    good = pixel_request(pixels, SPEC, SIDE, SIDE)
    bad = {
        "BGR for RGB": replace(good, order="BGR"),
        "the mean not subtracted": replace(good, mean=()),
        "not scaled: mean and std of another range than the pixels'": replace(
            good, mean=SPEC.mean, norm=tuple(1 / v for v in SPEC.std)
        ),
        "pixels as they are, 0 to 255": replace(good, mean=(), norm=()),
    }
    for word, request in bad.items():
        explainer = Explainer(SPEC, (1, 3, SIDE, SIDE))
        explainer.add(pixels, session.pixels(request).tensor)
        found = explainer.cause()
        assert set(found.deviations) == {word, PLAIN}
        assert found.explained > 0.99


def test_pixels_that_do_not_fit_are_refused_and_the_session_goes_on(session: HarnessSession) -> None:
    pixels = photo(1, 9)
    whole = PixelRequest(pixels=pixels, resized=(9, 1), size=(9, 1))
    for request, match in (
        (replace(whole, resized=(20, 1), size=(20, 1)), "ncnn cannot resize a picture of 9x1"),
        (replace(whole, place=(9, 0)), "lies outside: left 9"),
        (replace(whole, size=(0, 1)), "a tensor of 0x1"),
        (replace(whole, resized=(2**31, 2)), "a resized picture of 2147483648x2"),
        (replace(whole, mean=(1.0, 2.0)), "2 means or norms for 3 channels"),
    ):
        with pytest.raises(HarnessError, match=match):
            session.pixels(request)
    np.testing.assert_array_equal(session.pixels(whole).tensor, pixels.transpose(2, 0, 1).astype(np.float32))
    with pytest.raises(UsageError, match="no RGB picture"):
        session.pixels(replace(whole, pixels=pixels[:, :, 0]))


def test_the_gap_and_its_cause_on_this_machine(executable: Path, bundle: Path, pictures: Path, tmp_path: Path) -> None:
    page, text = tmp_path / "p.html", tmp_path / "p.md"
    asked = ("parity", bundle, "--device", "local", "--inputs", pictures, "--threads", 1)
    done = mobilekit(*asked, "--json", "-", "--report", page, "--markdown", text)
    assert done.returncode == 0, done.stderr
    found = ParityReport.model_validate_json(done.stdout)
    pairs = {(pair.first, pair.second): pair for pair in found.pairs}
    assert list(pairs) == [("pillow", "opencv"), ("pillow", "ncnn"), ("opencv", "ncnn")]
    assert pairs["opencv", "ncnn"].max_levels <= 1
    assert pairs["opencv", "ncnn"].mean_levels < 0.05
    ours = pairs["pillow", "ncnn"]
    assert ours.max_levels > 10
    assert ours.cause is not None
    assert ours.cause.deviations == (PLAIN,)
    assert [one.sample for one in ours.samples] == ["p0.png", "p1.png"]
    assert found.subject == ("pillow", "ncnn")
    assert found.larger == "preprocessing"
    assert max(effect.largest for effect in found.model_effects) < 1e-4
    assert min(effect.median for effect in ours.effects) > 10 * max(effect.median for effect in found.model_effects)
    assert set(found.model_agreement) == {"top1"}
    for written in (page.read_text("utf-8"), text.read_text("utf-8")):
        assert "preprocessing is the larger gap" in written
        assert "p0.png" in written
    assert "<svg" in page.read_text("utf-8")
    assert page.read_text("utf-8").count("data:image/png") == 3
    assert "<script" not in page.read_text("utf-8")
    table = mobilekit(*asked)
    assert table.returncode == 0
    assert "preprocessing is the larger gap" in " ".join(table.stdout.split())


def test_the_pixels_of_an_app_are_held_against_the_manifest(
    executable: Path, bundle: Path, pictures: Path, tmp_path: Path
) -> None:
    for path in sorted(pictures.iterdir()):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        canvas = opencv_resize(pixels, SIDE, SIDE).astype(np.float32)
        made = tensor_of(canvas, replace(SPEC, color="BGR"), (3, SIDE, SIDE))
        np.save(tmp_path / f"{path.stem}.npy", made)
    found = parity_of_bundle(bundle, "local", ParityOptions(inputs=pictures, app=tmp_path, threads=1))
    assert found.subject == ("pillow", "app")
    pair = next(pair for pair in found.pairs if (pair.first, pair.second) == found.subject)
    assert pair.cause is not None
    assert set(pair.cause.deviations) == {"BGR for RGB", PLAIN}
    assert "BGR for RGB" in found.sentence
    np.save(tmp_path / "p1.npy", np.zeros((SIDE, SIDE, 3), np.float32))
    with pytest.raises(UsageError, match=rf"p1\.npy has the shape {SIDE}x{SIDE}x3"):
        parity_of_bundle(bundle, "local", ParityOptions(inputs=pictures, app=tmp_path, threads=1))


@pytest.mark.device
def test_arm64_code_prepares_pictures_alike(bench, bundle: Path, pictures: Path) -> None:
    need("arm64-v8a")
    serial = bench.start().serial
    done = mobilekit("parity", bundle, "--device", serial, "--inputs", pictures, "--json", "-")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["device"]["abi"] == "arm64-v8a"
    pair = next(pair for pair in found["pairs"] if (pair["first"], pair["second"]) == ("opencv", "ncnn"))
    assert pair["max_levels"] <= 1
    assert found["larger"] == "preprocessing"
