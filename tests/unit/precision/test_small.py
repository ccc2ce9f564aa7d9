"""Which nodes need float32 because halves cannot hold their small numbers; and that they get it in both targets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from mobilekit.importers.convert import to_proto
from mobilekit.importers.onnx import load
from mobilekit.precision.half import to_half
from mobilekit.precision.small import small_numbers
from mobilekit.targets.tensorrt.prepare import prepare
from tests.models import of_nodes, save
from tests.unit.targets.ncnn.oracle import model, run_ncnn, run_ort

Step = tuple[str, Sequence[str], str]


def chain(*steps: Step, **numbers: float) -> onnx.ModelProto:
    """Nodes ``(op, inputs, output)`` named by their outputs, from ``x`` to ``y``, both (4, 8)."""
    nodes = [helper.make_node(op, list(inputs), [output], name=output) for op, inputs, output in steps]
    weights = {name: np.asarray(number, np.float32) for name, number in numbers.items()}
    weights["bands"] = np.random.default_rng(0).random((8, 8), dtype=np.float32)
    used = {name for node in nodes for name in node.input}
    return of_nodes(nodes, {"x": (4, 8)}, {"y": (4, 8)}, {k: v for k, v in weights.items() if k in used}, opset=17)


CLIP_LOG: tuple[Step, ...] = (("Clip", ("r", "eps"), "c"), ("Log", "c", "y"))
ROOT: tuple[Step, ...] = (("Abs", "x", "a"), ("Add", ("a", "eps"), "b"), ("Sqrt", "b", "s"))
MEL: tuple[Step, ...] = (("Neg", "x", "n"), ("Pow", ("n", "two"), "p"), ("MatMul", ("p", "bands"), "r"), *CLIP_LOG)


@pytest.mark.parametrize(
    ("proto", "kept"),
    [
        (chain(("Relu", "x", "r"), *CLIP_LOG, eps=1e-10), "c y"),
        (chain(("Relu", "x", "r"), *CLIP_LOG, eps=1e-3), ""),
        (chain(("Relu", "x", "r"), ("Add", ("eps", "r"), "a"), ("Log", "a", "y"), eps=1e-7), "a y"),
        (chain(("Max", ("eps", "x"), "m"), ("Transpose", "m", "t"), ("Transpose", "t", "u"), ("Sqrt", "u", "y"),
               eps=1e-9), "m t u y"),
        (chain(("Abs", "x", "a"), ("Add", ("a", "eps"), "m"), ("Div", ("x", "m"), "y"), eps=1e-12), "m y"),
        (chain(("Abs", "x", "a"), ("Add", ("a", "eps"), "m"), ("Div", ("m", "x"), "y"), eps=1e-12), ""),
        (chain(("Add", ("x", "eps"), "a"), ("Relu", "a", "y"), eps=1e-6), ""),
        (chain(*ROOT, ("Div", ("x", "s"), "y"), eps=1e-5), "b s"),
        (chain(*ROOT, ("Div", ("x", "s"), "y"), eps=1e-12), "b s"),
        # Its reciprocal is beyond 65504, and has to meet what makes it small again.
        (chain(*ROOT, ("Reciprocal", "s", "i"), ("Mul", ("x", "i"), "y"), eps=1e-12), "b s i y"),
        (chain(("Abs", "x", "a"), ("Add", ("a", "eps"), "b"), ("Reciprocal", "b", "i"), ("Mul", ("i", "two"), "j"),
               ("Mul", ("x", "j"), "k"), ("Relu", "k", "y"), eps=1e-10, two=2), "b i j k"),
        (chain(("Abs", "x", "a"), ("Add", ("a", "eps"), "b"), ("Pow", ("b", "p"), "i"), ("Mul", ("x", "i"), "k"),
               ("Relu", "k", "y"), eps=1e-12, p=-0.5), "b i k"),
        (chain(*MEL, eps=1e-10, two=2), "p r c y"),
        (chain(("Neg", "x", "n"), ("Mul", "nn", "p"), ("Add", "pp", "r"), *CLIP_LOG, eps=1e-10), "p r c y"),
        (chain(("Neg", "x", "n"), ("Mul", "nx", "p"), ("Add", "pp", "r"), *CLIP_LOG, eps=1e-10), "c y"),
    ],
)  # fmt: skip
def test_ways_from_a_floor(proto: onnx.ModelProto, kept: str, tmp_path: Path) -> None:
    graph = prepare(load(save(proto, tmp_path / "m.onnx")), {}, {})
    found = small_numbers(graph)
    assert [node.name for node in graph.nodes if id(node) in found] == kept.split()


def spectrum() -> np.ndarray:
    """Amplitudes from 1e-5 to 100, a row of silence."""
    x = np.geomspace(1e-5, 100, 32).astype(np.float32).reshape(4, 8)
    x[2] = 0
    return x


def test_a_logarithm_of_a_spectrum_in_float16(tmp_path: Path) -> None:
    proto = chain(*MEL, eps=1e-10, two=2)
    graph = prepare(load(save(proto, tmp_path / "m.onnx")), {}, {})
    kept = to_half(graph, "float16").kept
    assert set(kept) == {"p", "r", "c", "y"}
    assert kept["y"] == "its numbers are too small for float16"
    x = {"x": spectrum()}
    np.testing.assert_allclose(run_ort(to_proto(graph), x)["y"], run_ort(proto, x)["y"], rtol=0, atol=5e-3)


def test_bfloat16_has_the_range_but_for_the_digits(tmp_path: Path) -> None:
    graph = prepare(load(save(chain(("Relu", "x", "r"), *CLIP_LOG, eps=1e-10), tmp_path / "m.onnx")), {}, {})
    assert not to_half(graph, "bfloat16").kept


def test_ncnn_layers_are_masked_and_no_clip_is_fused_into_halves() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Clip", ["m", "eps"], ["c"]),
        helper.make_node("Log", ["c"], ["y"]),
    ]
    x = np.zeros((4, 8), np.float32)
    proto = model(nodes, {"x": x}, ["y"], {"w": np.eye(8, dtype=np.float32), "eps": np.float32(1e-10)})
    made, text = run_ncnn(proto, {"x": x}, bf16=True)
    np.testing.assert_allclose(made["y"], np.full((4, 8), np.log(1e-10)), rtol=1e-6)
    masks = {line.split()[0]: " 31=" in line and int(line.rsplit(" 31=", 1)[1]) & 7 for line in text.splitlines()[2:]}
    assert masks["Clip"] == masks["UnaryOp"] == 7
    assert not any(mask for kind, mask in masks.items() if kind not in ("Clip", "UnaryOp"))
