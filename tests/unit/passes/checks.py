"""What the tests of passes share: prepare a model and hold it against ONNX Runtime on the original."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from mobilekit.graph import Graph, Value
from mobilekit.importers.convert import to_proto
from mobilekit.importers.onnx import load
from mobilekit.passes import prepare
from mobilekit.passes.verify import PassVerifier
from tests.models import of_nodes, save

__all__ = ["Node", "assert_same", "feeds_of", "ops", "prepared", "random_feeds", "run"]

Node = helper.make_node


def run(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return list(ort.InferenceSession(model.SerializeToString(), options).run(None, feeds))


def prepared(
    model: onnx.ModelProto,
    folder: Path,
    shapes: dict[str, tuple[int, ...]] | None = None,
    *,
    simplify: bool = False,
    verify: bool = True,
) -> Graph:
    """The model prepared, every rewrite on the way held against ONNX Runtime unless ``verify`` is False."""
    if not verify:
        return prepare(load(save(model, folder / "m.onnx")), shapes or {}, simplify=simplify)
    with PassVerifier(feeds_of, isolated=False) as verifier:
        source = load(save(model, folder / "m.onnx"))
        return prepare(source, shapes or {}, simplify=simplify, verifier=verifier)


def random_feeds(graph: Graph, seed: int = 0) -> dict[str, Any]:
    return feeds_of(graph.inputs, seed)


def feeds_of(values: Sequence[Value], seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in values:
        data = rng.standard_normal(value.shape) * 3
        feeds[value.name] = data.astype(value.dtype)
    return feeds


def assert_same(model: onnx.ModelProto, graph: Graph, *, rtol: float = 1e-5, atol: float = 5e-6) -> None:
    """Names, order, shapes, dtypes and numbers of all outputs are those of the original."""
    feeds = random_feeds(graph)
    wanted, got = run(model, feeds), run(to_proto(graph), feeds)
    assert [value.name for value in graph.outputs] == [info.name for info in model.graph.output]
    for a, b, value in zip(wanted, got, graph.outputs, strict=True):
        assert a.shape == b.shape == value.shape
        assert a.dtype == b.dtype == value.dtype
        largest = float(np.abs(a[np.isfinite(a)]).max(initial=0)) if a.dtype.kind == "f" else 0.0
        np.testing.assert_allclose(b, a, rtol=rtol, atol=atol * max(1.0, largest))


def ops(graph: Graph) -> dict[str, int]:
    return dict(Counter(node.op for node in graph.nodes))


def rewritten(
    nodes: list[onnx.NodeProto],
    folder: Path,
    weights: dict[str, Any] | None = None,
    *,
    x: tuple[int, ...] = (2, 3, 8, 8),
    y: tuple[int | str, ...] = (),
    opset: int = 17,
    others: dict[str, tuple[int, ...]] | None = None,
) -> dict[str, int]:
    """Prepare the model ``x -> y`` of these nodes, hold it against the original, and say which operators it has."""
    outputs = {"y": y or x}
    arrays = {name: np.asarray(array) for name, array in (weights or {}).items()}
    model = of_nodes(nodes, {"x": x, **(others or {})}, outputs, arrays, opset=opset)
    graph = prepared(model, folder)
    assert_same(model, graph)
    return ops(graph)
