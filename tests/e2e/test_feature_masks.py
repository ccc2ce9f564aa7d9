"""The feature mask's bits for half precision, on arm64: each changes what its layer computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from mobilekit.device.harness.client import HarnessSession
from mobilekit.device.harness.protocol import LoadOptions
from mobilekit.pipeline.bisect import open_traced
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.targets.ncnn.mask import Feature, masked
from mobilekit.targets.ncnn.reader import write_layers
from tests.e2e.own_layer_lab import harness_for
from tests.models import of_nodes, save

pytestmark = pytest.mark.timeout(3600)  # the first to run may have to build the harness

RNG = np.random.default_rng(4)
IN = np.asarray(RNG.standard_normal((16, 20, 20)), np.float32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masks")
    weights = {name: np.asarray(RNG.standard_normal((16, 16, 3, 3)) * 0.2, np.float32) for name in ("v", "w")}
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["a"], name="one", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "w"], ["b"], name="two", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["b", "a"], ["y"], name="add"),
    ]
    model = save(of_nodes(nodes, {"x": (1, *IN.shape)}, {"y": (1, *IN.shape)}, weights), folder / "m.onnx")
    export_model(model, folder / "b", ExportOptions(verify=False))
    return folder / "b"


@pytest.fixture(scope="module")
def session() -> HarnessSession:
    program, emulator = harness_for("arm64-v8a")
    with HarnessSession.connect_local(program, emulator=emulator) as opened:
        yield opened  # type: ignore[misc]


def errors(
    session: HarnessSession, bundle: Path, folder: Path, masks: dict[str, Feature], precision: str = "fp16"
) -> dict[str, float]:
    """Relative L2 of ``a`` and ``y`` against float32."""
    _, artifact, trace, layers = open_traced(bundle)
    found = {}
    for name, (chosen, kind) in {"exact": ({}, "fp32"), "masked": (masks, precision)}.items():
        path = folder / f"{name}.param"
        write_layers(masked(layers, trace, chosen)[0], path)
        session.load(str(path), str(bundle / artifact.bin), LoadOptions.for_precision(kind, threads=1))
        found[name] = session.infer({"x": IN}, ["a", "y"]).outputs
    return {
        name: float(np.linalg.norm(found["masked"][name] - exact) / np.linalg.norm(exact))
        for name, exact in found["exact"].items()
    }


def test_arithmetic_alone_and_storage_too(session: HarnessSession, bundle: Path, tmp_path: Path) -> None:
    plain = errors(session, bundle, tmp_path, {})
    arithmetic = errors(session, bundle, tmp_path, {"one": Feature.FP16_ARITHMETIC})
    storage = errors(session, bundle, tmp_path, {"one": Feature.FP16_ARITHMETIC | Feature.FP16_STORAGE})
    # Sums in float32 of numbers in halves; then numbers in float32, too.
    assert 1e-5 < arithmetic["a"] < plain["a"] / 1.2
    assert storage["a"] < 1e-5
    assert storage["y"] > 1e-5


def test_everything_masked_is_float32(session: HarnessSession, bundle: Path, tmp_path: Path) -> None:
    mask = Feature.FP16_ARITHMETIC | Feature.FP16_STORAGE | Feature.BF16_STORAGE
    every = dict.fromkeys(("one", "two", "add"), mask)
    for precision in ("fp16", "bf16"):
        assert errors(session, bundle, tmp_path, {}, precision)["y"] > 1e-4
        assert errors(session, bundle, tmp_path, every, precision)["y"] < 1e-5


def test_a_layer_in_float32_between_layers_in_halves_reads_what_they_made(
    session: HarnessSession, bundle: Path, tmp_path: Path
) -> None:
    plain = errors(session, bundle, tmp_path, {})
    for layer in ("two", "add"):
        kept = errors(session, bundle, tmp_path, {layer: Feature.FP16_ARITHMETIC | Feature.FP16_STORAGE})
        assert 0 < kept["y"] < 1.1 * plain["y"]
