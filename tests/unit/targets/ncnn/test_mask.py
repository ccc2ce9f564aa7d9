"""The feature mask: each bit that this machine has a kernel for changes what is computed, and nothing else does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from mobilekit.pipeline.bisect import open_traced
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.runners.base import RunOptions
from mobilekit.runners.ncnn_host import NcnnHostRunner
from mobilekit.targets.ncnn.mask import Feature, masked
from mobilekit.targets.ncnn.reader import write_layers
from tests.models import of_nodes, save

RNG = np.random.default_rng(8)
IN = np.asarray(RNG.standard_normal((1, 32, 20, 20)), np.float32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mask")
    weights = {name: np.asarray(RNG.standard_normal((32, 32, 3, 3)) * 0.1, np.float32) for name in ("v", "w")}
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["a"], name="one", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "w"], ["b"], name="two", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["b", "a"], ["y"], name="add"),
    ]
    model = save(of_nodes(nodes, {"x": IN.shape}, {"y": (1, 32, 20, 20)}, weights), folder / "m.onnx")
    export_model(model, folder / "b", ExportOptions(verify=False))
    return folder / "b"


def run(bundle: Path, copy: Path, masks: dict[str, Feature], options: RunOptions) -> dict[str, np.ndarray]:
    """``a`` and ``y`` of the bundle with ``masks``."""
    opened, artifact, trace, layers = open_traced(bundle)
    made, traced = masked(layers, trace, masks)
    for name in (artifact.param, artifact.bin):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((opened.root / name).read_bytes())
    write_layers(made, copy / artifact.param)
    assert set(traced.blobs) >= set(trace.blobs)
    manifest = replace(opened.manifest, ncnn=replace(artifact, layers=len(made)))
    with NcnnHostRunner(copy, manifest) as runner:
        return runner.blobs({"x": IN[0]}, ["a", "y"], options)


@pytest.mark.parametrize("feature", [Feature.WINOGRAD, Feature.WINOGRAD | Feature.SGEMM])
def test_a_convolution_takes_another_kernel(bundle: Path, tmp_path: Path, feature: Feature) -> None:
    plain = run(bundle, tmp_path / "plain", {}, RunOptions())
    other = run(bundle, tmp_path / "other", {"one": feature}, RunOptions())
    # The same sums in another order.
    assert not np.array_equal(plain["a"], other["a"])
    np.testing.assert_allclose(plain["a"], other["a"], rtol=1e-3, atol=1e-4)


def test_without_sgemm_another_kernel_is_taken_than_without_winograd(bundle: Path, tmp_path: Path) -> None:
    one = run(bundle, tmp_path / "one", {"one": Feature.WINOGRAD}, RunOptions())
    both = run(bundle, tmp_path / "both", {"one": Feature.WINOGRAD | Feature.SGEMM}, RunOptions())
    assert not np.array_equal(one["a"], both["a"])


def test_bf16_storage_goes_where_it_is_masked_and_the_next_layer_reads_right(bundle: Path, tmp_path: Path) -> None:
    exact = run(bundle, tmp_path / "exact", {}, RunOptions())
    coarse = run(bundle, tmp_path / "coarse", {}, RunOptions(bf16=True))
    kept = dict.fromkeys(("one", "two", "add"), Feature.BF16_STORAGE)
    fine = run(bundle, tmp_path / "fine", kept, RunOptions(bf16=True))
    first = run(bundle, tmp_path / "first", {"one": Feature.BF16_STORAGE}, RunOptions(bf16=True))
    last = run(bundle, tmp_path / "last", {"add": Feature.BF16_STORAGE}, RunOptions(bf16=True))

    def error(found: dict[str, np.ndarray], name: str) -> float:
        return float(np.linalg.norm(found[name] - exact[name]) / np.linalg.norm(exact[name]))

    assert error(coarse, "y") > 1e-3
    assert error(fine, "y") < 1e-5
    assert error(first, "a") < 1e-5 < error(first, "y")
    # A layer without 16-bit storage between others with it: garbage would be off by far more.
    assert error(last, "y") < error(coarse, "y") * 1.1


def test_a_mask_is_added_to_what_is_there_and_names_stay_unique(bundle: Path) -> None:
    _, _, trace, layers = open_traced(bundle)
    once, traced = masked(layers, trace, {"add": Feature.BF16_STORAGE})
    twice, _ = masked(once, traced, {"add": Feature.FP16_STORAGE})
    masks = {layer.name: layer.param(31) for layer in twice}
    assert masks["add"] == "22", "and not on a GPU"
    blobs = [blob for layer in twice for blob in layer.outputs]
    assert len(blobs) == len(set(blobs))
    assert [layer.type for layer in once].count("Squeeze") == 2
    copies = {layer.outputs[0]: layer.inputs[0] for layer in once if layer.type == "Squeeze"}
    assert all(traced.blobs[copy].tensor == trace.blobs[source].tensor for copy, source in copies.items())
