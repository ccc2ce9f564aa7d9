"""The recipes: strict about weights, the same bytes twice; with real weights (network), right answers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from mobilekit import zoo
from mobilekit.errors import ChildError, FetchError
from mobilekit.zoo.prepare import write_model

RECIPES = ("torchvision-mobilenet-v2", "efficientnet-lite0")
PARAMETERS = {"torchvision-mobilenet-v2": 3_504_872, "efficientnet-lite0": 4_652_008}
"""Trainable parameters as the publications' implementations count them."""


def weights(recipe: str, tmp_path: Path) -> dict[str, np.ndarray]:
    """Weights that fit, found by asking: every refusal names the tensor that is missing and its shape."""
    tensors: dict[str, np.ndarray] = {}
    for _ in range(1000):
        try:
            write_model(recipe, tensors, tmp_path / "model.onnx")
        except FetchError as error:
            found = re.search(r": (\S+) should have \(([\d, ]+)\)", str(error))
            if found is None:
                raise
            shape = tuple(int(axis) for axis in found[2].split(",") if axis.strip())
            tensors[found[1]] = np.full(shape, 0.01, dtype=np.float32)
        else:
            return tensors
    raise AssertionError("never content")


@pytest.fixture(scope="module", params=RECIPES)
def fitting(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, np.ndarray]]:
    return request.param, weights(request.param, tmp_path_factory.mktemp("weights"))


def test_the_architecture_has_the_published_size(fitting: tuple[str, dict[str, np.ndarray]]) -> None:
    recipe, tensors = fitting
    assert sum(a.size for name, a in tensors.items() if "running_" not in name) == PARAMETERS[recipe]


def test_the_same_bytes_twice_and_a_valid_model(fitting: tuple[str, dict[str, np.ndarray]], tmp_path: Path) -> None:
    recipe, tensors = fitting
    counters = {"x.num_batches_tracked": np.array(5)}
    write_model(recipe, tensors, tmp_path / "a.onnx")
    write_model(recipe, {**counters, **dict(reversed(tensors.items()))}, tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    model = onnx.load(tmp_path / "a.onnx")
    assert [v.name for v in model.graph.input] == ["input"]
    stem = next(node for node in model.graph.node if node.op_type == "Conv")
    pads = next(list(a.ints) for a in stem.attribute if a.name == "pads")
    assert pads == ([1, 1, 1, 1] if recipe == RECIPES[0] else [0, 0, 1, 1])


def test_weights_of_something_else_are_refused(fitting: tuple[str, dict[str, np.ndarray]], tmp_path: Path) -> None:
    recipe, tensors = fitting
    with pytest.raises(FetchError, match=r"extra\.weight has no place"):
        write_model(recipe, {**tensors, "extra.weight": np.zeros(3)}, tmp_path / "m.onnx")
    name = next(iter(tensors))
    with pytest.raises(FetchError, match=re.escape(name)):
        write_model(recipe, {**tensors, name: np.zeros((1, 2), dtype=np.float32)}, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_a_damaged_weights_file_is_refused_in_the_child(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from mobilekit import child

    (tmp_path / "w.pth").write_bytes(b"no weights")
    arguments = {"recipe": RECIPES[0], "weights": tmp_path / "w.pth", "output": tmp_path / "m.onnx"}
    with pytest.raises((FetchError, ChildError), match="cannot be read"):
        child.call("mobilekit.zoo.prepare:build", arguments, what="preparing")


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize(("id_", "least"), [("mobilenet_v2", 17), ("efficientnet_lite0", 17)])
def test_real_weights_know_real_pictures(id_: str, least: int, tmp_path: Path) -> None:
    """20 labelled photographs of the foolbox wheel: weights, pre-processing and labels belong together."""
    if zoo.cached(zoo.find_entry(id_)) is None:
        pytest.importorskip("torch")
    import zipfile

    from mobilekit import pypi
    from mobilekit.preprocess import load_picture
    from mobilekit.runners.base import RunOptions
    from mobilekit.runners.ort import OrtRunner

    sha256 = "11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb"
    remote = pypi.find_file("foolbox", "3.3.4", "foolbox-3.3.4-py3-none-any.whl", sha256)
    archive = pypi.download(remote, tmp_path / remote.filename, sha256=sha256)
    model = zoo.fetch(id_)
    assert model.entry is not None
    assert model.entry.preprocess is not None
    assert len(model.class_names()) == 1000
    right = total = 0
    with zipfile.ZipFile(archive) as file, OrtRunner(model.path) as runner:
        for name in file.namelist():
            if found := re.search(r"imagenet_\d+_(\d+)\.jpg$", name):
                (tmp_path / "p.jpg").write_bytes(file.read(name))
                tensor = load_picture(tmp_path / "p.jpg", model.entry.preprocess, (1, 3, 224, 224))
                scores = runner.run({"input": tensor}, RunOptions()).outputs["logits"]
                right += int(np.argmax(scores)) == int(found[1])
                total += 1
    assert total == 20
    assert right >= least
