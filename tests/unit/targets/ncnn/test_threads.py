"""Layers that one thread does: which are marked, that nothing else changes, and that marked ones compute the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, helper

from mobilekit.bundle import open_bundle
from mobilekit.pipeline.export import ExportOptions, export_model
from tests.unit.targets.ncnn.oracle import build, model

RNG = np.random.default_rng(0)
SINGLE = 1 << 7


def masks(param: Path) -> dict[str, int]:
    """Layer type to feature mask."""
    rows = [line.split() for line in param.read_text().splitlines()[2:]]
    return {row[0]: next((int(word[3:]) for word in row if word.startswith("31=")), 0) for row in rows}


def random(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def conv(channels: int) -> tuple[list[NodeProto], dict[str, np.ndarray]]:
    return [helper.make_node("Conv", ["x", "w"], ["y"])], {"w": random(channels, 8, 1, 1)}


CASES: dict[str, tuple[list[NodeProto], dict[str, np.ndarray], tuple[int, ...], bool]] = {
    "Convolution": (*conv(16), (1, 8, 20, 20), True),  # 51,200 products
    "large Convolution": (*conv(32), (1, 8, 20, 20), False),
    "Sigmoid": ([helper.make_node("Sigmoid", ["x"], ["y"])], {}, (1, 8, 32, 25), True),
    "large Sigmoid": ([helper.make_node("Sigmoid", ["x"], ["y"])], {}, (1, 8, 32, 26), False),
    "InnerProduct": ([helper.make_node("Gemm", ["x", "w"], ["y"])], {"w": random(256, 256)}, (1, 256), True),
    "large InnerProduct": ([helper.make_node("Gemm", ["x", "w"], ["y"])], {"w": random(256, 257)}, (1, 256), False),
    # 40 steps, of 4 * 32 * (64 + 32) products each
    "LSTM": (
        [helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=32)],
        {"w": random(1, 128, 64), "r": random(1, 128, 32)},
        (40, 1, 64),
        True,
    ),
    "large LSTM": (
        [helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=128)],
        {"w": random(1, 512, 64), "r": random(1, 512, 128)},
        (40, 1, 64),
        False,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_few_microseconds_do_is_not_shared_out(case: str, tmp_path: Path) -> None:
    nodes, weights, shape, small = CASES[case]
    proto = model(nodes, {"x": random(*shape)}, ["y"], weights)
    kind = case.split()[-1]
    build(proto, tmp_path / "fixed", fixed_sizes=True)
    build(proto, tmp_path / "free")
    assert masks(tmp_path / "fixed" / "model.param")[kind] == (SINGLE if small else 0)
    assert masks(tmp_path / "free" / "model.param")[kind] == 0
    weights_written = [(tmp_path / name / "model.bin").read_bytes() for name in ("fixed", "free")]
    assert weights_written[0] == weights_written[1]


def test_the_mark_stands_beside_that_of_whole_numbers(tmp_path: Path) -> None:
    x = RNG.integers(3000, 5000, (2, 3, 5)).astype(np.int32)
    proto = model([helper.make_node("Add", ["x", "b"], ["y"])], {"x": x}, ["y"], {"b": np.array([1], np.int32)})
    build(proto, tmp_path, fixed_sizes=True)
    assert masks(tmp_path / "model.param")["BinaryOp"] == SINGLE | 23


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_marked_model_verifies_and_one_of_free_sizes_has_no_marks(tmp_path: Path, dynamic: bool) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["c"], ["s"]),
        helper.make_node("Mul", ["c", "s"], ["y"]),
    ]
    size: list[Any] = ["h", "w"]
    proto = model(nodes, {"x": random(1, 3, 16, 16)}, ["y"], {"w": random(4, 3, 3, 3)})
    for value in [*proto.graph.input, *proto.graph.output]:
        for axis, name in zip((2, 3), size, strict=True):
            value.type.tensor_type.shape.dim[axis].dim_param = name
    del proto.graph.value_info[:]
    source = tmp_path / "m.onnx"
    source.write_bytes(proto.SerializeToString())
    report = export_model(source, tmp_path / "bundle", ExportOptions(shapes={"x": (1, 3, 16, 16)}, dynamic=dynamic))
    assert report.manifest.verified is not None
    bundle = open_bundle(tmp_path / "bundle")
    assert bundle.manifest.ncnn is not None
    found = masks(bundle.root / bundle.manifest.ncnn.param)
    assert found["Convolution"] == (0 if dynamic else SINGLE)
    assert found["Input"] == 0
