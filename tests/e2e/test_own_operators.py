"""Operators that need our own layers, and detectors made of them, in this machine's harness against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.unit.targets.ncnn.oracle import agrees

pytestmark = pytest.mark.timeout(3600)  # the first to run may have to build the harness

RNG = np.random.default_rng(0)
Nodes = list[onnx.NodeProto]


def node(op: str, inputs: str, outputs: str, **attrs: object) -> onnx.NodeProto:
    return helper.make_node(op, ["" if name == "_" else name for name in inputs.split()], outputs.split(), **attrs)


def rand(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def corners(count: int, batch: int = 1) -> np.ndarray:
    """Boxes (x1, y1, x2, y2) that overlap here and there."""
    first = RNG.uniform(0, 60, (batch, count, 2))
    return np.concatenate([first, first + RNG.uniform(8, 30, (batch, count, 2))], -1).astype(np.float32)


def number(value: float) -> np.ndarray:
    return np.array([value], np.float32)


DETECTOR: Nodes = [
    node("NonMaxSuppression", "boxes scores most overlap least", "picked"),
    node("Gather", "picked two", "where", axis=1),
    node("Gather", "picked one", "label", axis=1),
    node("Squeeze", "boxes zero", "flat"),
    node("Gather", "flat where", "kept", axis=0),
    node("Cast", "label", "class", to=onnx.TensorProto.FLOAT),
    node("Unsqueeze", "class last", "column"),
    node("Concat", "kept column", "found", axis=1),
]
"""Boxes, suppressed, picked, with their class behind them: what torchvision's and many others' heads come to."""

CONSTS = {
    "most": np.array([20], np.int64),
    "overlap": number(0.4),
    "least": number(0.3),
    "one": np.array(1, np.int64),
    "two": np.array(2, np.int64),
    "zero": np.array([0], np.int64),
    "last": np.array([-1], np.int64),
}


@pytest.mark.parametrize("classes", [1, 3])
def test_boxes_that_are_left_over(classes: int) -> None:
    inputs = {"boxes": corners(60), "scores": RNG.uniform(0, 1, (1, classes, 60)).astype(np.float32)}
    agrees(DETECTOR, inputs, CONSTS, outputs=("found", "picked", "label"))


def test_no_box_is_left() -> None:
    inputs = {"boxes": corners(20), "scores": np.zeros((1, 2, 20), np.float32)}
    agrees(DETECTOR, inputs, CONSTS, outputs=("found",))


def test_scores_by_coordinates_and_the_first_of_them() -> None:
    """Scores picked by (batch, class, box); only the best ten are wanted."""
    nodes = [
        *DETECTOR[:1],
        node("GatherND", "scores picked", "score"),
        node("Slice", "score begin ten", "best"),
        node("Shape", "best", "number"),
        node("Mul", "best factor", "scaled"),
        node("Reshape", "scaled column", "y"),
    ]
    consts = CONSTS | {"begin": np.array([0]), "ten": np.array([10]), "factor": number(2), "column": np.array([-1, 1])}
    inputs = {"boxes": corners(60), "scores": RNG.uniform(0, 1, (1, 3, 60)).astype(np.float32)}
    agrees(nodes, inputs, consts, outputs=("y", "number", "best"))


def test_rows_picked_by_batch_and_box() -> None:
    """What torch makes of ``boxes[batch, box]``: positions in the flat tensor, and a shape made of theirs."""
    nodes = [
        *DETECTOR[:2],
        node("Gather", "picked origin", "batch", axis=1),
        node("Mul", "batch many", "start"),
        node("Add", "start where", "position"),
        node("Reshape", "boxes table", "rows"),
        node("Gather", "rows position", "kept"),
        node("Shape", "position", "count"),
        node("Expand", "position count", "same"),
        node("Concat", "count four", "wanted", axis=0),
        node("Reshape", "kept wanted", "found"),
        node("Cast", "same", "number", to=onnx.TensorProto.FLOAT),
    ]
    consts = CONSTS | {
        "origin": np.array(0),
        "many": np.array(40),
        "table": np.array([-1, 4]),
        "four": np.array([4]),
    }
    inputs = {"boxes": corners(40, 2), "scores": RNG.uniform(0, 1, (2, 1, 40)).astype(np.float32)}
    agrees(nodes, inputs, consts, outputs=("found", "number", "count"))


def test_a_head_on_a_backbone() -> None:
    """Convolutions, a sigmoid, boxes out of centres and sizes, suppression, and the rows of the boxes kept."""
    anchors = 8 * 8 * 2
    nodes = [
        node("Conv", "image w b", "features", kernel_shape=[3, 3], strides=[4, 4], pads=[1, 1, 1, 1]),
        node("Relu", "features", "active"),
        node("Conv", "active v c", "raw", kernel_shape=[1, 1]),
        node("Reshape", "raw grid", "cells"),
        node("Transpose", "cells", "rows", perm=[0, 3, 1, 2]),
        node("Reshape", "rows table", "each"),
        node("Split", "each parts", "middle extent logits", axis=2),
        node("Exp", "extent", "size"),
        node("Mul", "size half", "reach"),
        node("Sub", "middle reach", "low"),
        node("Add", "middle reach", "high"),
        node("Concat", "low high", "boxes", axis=2),
        node("Sigmoid", "logits", "odds"),
        node("Transpose", "odds", "scores", perm=[0, 2, 1]),
        *DETECTOR,
    ]
    consts = CONSTS | {
        "w": rand(8, 3, 3, 3) * 0.3,
        "b": rand(8),
        "v": rand(2 * 7, 8, 1, 1) * 0.5,
        "c": rand(14),
        "grid": np.array([1, 2, 7, 64]),
        "table": np.array([1, anchors, 7]),
        "parts": np.array([2, 2, 3]),
        "half": number(0.5),
        "least": number(0.5),
    }
    agrees(nodes, {"image": rand(1, 3, 32, 32)}, consts, outputs=("found", "picked"))


def test_an_end_to_end_head() -> None:
    """YOLO's of 2024: the best of each anchor, the best 50 of all, their boxes and classes."""
    nodes = [
        node("ReduceMax", "scores last", "best", keepdims=0),
        node("TopK", "best fifty", "_ anchors", axis=1),
        node("Unsqueeze", "anchors last", "rows"),
        node("Tile", "rows four", "for_boxes"),
        node("Tile", "rows eighty", "for_scores"),
        node("GatherElements", "boxes for_boxes", "kept", axis=1),
        node("GatherElements", "scores for_scores", "of_kept", axis=1),
        node("Reshape", "of_kept line", "flat"),
        node("TopK", "flat fifty", "top index", axis=1),
        node("Mod", "index classes", "label"),
        node("Div", "index classes", "row"),
        node("Unsqueeze", "row last", "again"),
        node("Tile", "again four", "places"),
        node("GatherElements", "kept places", "final", axis=1),
        node("Unsqueeze", "top last", "score"),
        node("Cast", "label", "label_f", to=onnx.TensorProto.FLOAT),
        node("Unsqueeze", "label_f last", "class"),
        node("Concat", "final score class", "y", axis=2),
    ]
    classes = 80
    consts = {
        "last": np.array([-1], np.int64),
        "fifty": np.array([50], np.int64),
        "four": np.array([1, 1, 4], np.int64),
        "eighty": np.array([1, 1, classes], np.int64),
        "line": np.array([1, -1], np.int64),
        "classes": np.array(classes, np.int64),
    }
    inputs = {"boxes": corners(2100), "scores": RNG.uniform(0, 1, (1, 2100, classes)).astype(np.float32)}
    text = agrees(nodes, inputs, consts)
    assert "MkTopK" in text


def test_what_is_not_zero() -> None:
    nodes = [
        node("Greater", "x half", "mask"),
        node("NonZero", "mask", "index"),
        node("Transpose", "index", "rows", perm=[1, 0]),
        node("GatherND", "x rows", "y"),
    ]
    agrees(nodes, {"x": rand(5, 7)}, {"half": number(0.5)}, outputs=("y", "rows"))


@pytest.mark.parametrize("axis", [0, 1, None])
def test_a_computed_condition(axis: int | None) -> None:
    attrs = {} if axis is None else {"axis": axis}
    length = {0: 5, 1: 7, None: 35}[axis]
    nodes = [node("Greater", "s zero", "keep"), node("Compress", "x keep", "y", **attrs)]
    agrees(nodes, {"x": rand(5, 7), "s": rand(length)}, {"zero": number(0)})


@pytest.mark.parametrize("ordered", [0, 1])
def test_unique(ordered: int) -> None:
    nodes = [node("Unique", "x", "y first inverse count", sorted=ordered)]
    x = RNG.integers(-4, 5, 40).astype(np.float32)
    agrees(nodes, {"x": x}, outputs=("y", "first", "inverse", "count"))


@pytest.mark.parametrize(("shape", "wanted"), [((30, 40, 50), (3, 40, 50)), ((5, 6), (3, 4)), ((70, 900), (70, 30))])
def test_gather_elements(shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    indices = RNG.integers(-shape[0], shape[0], wanted)
    agrees(node("GatherElements", "x i", "y", axis=0), {"x": rand(*shape), "i": indices})


def test_infinities_are_picked_like_any_other() -> None:
    x = rand(400, 300)
    x[::7] = -np.inf
    agrees(node("Gather", "x i", "y"), {"x": x, "i": RNG.integers(-400, 400, 300)})


@pytest.mark.parametrize("reduction", ["none", "add", "max"])
def test_scatter_to_computed_positions(reduction: str) -> None:
    indices = RNG.permutation(20)[:6].reshape(6, 1)
    inputs = {"x": rand(20, 3), "i": indices, "u": rand(6, 3)}
    agrees(node("ScatterND", "x i u", "y", reduction=reduction), inputs, opset=18)
    elements = {"x": rand(20, 3), "i": np.stack([RNG.permutation(20)[:6] for _ in range(3)], 1), "u": rand(6, 3)}
    agrees(node("ScatterElements", "x i u", "y", axis=0, reduction=reduction), elements, opset=18)


def test_powers() -> None:
    x = rand(3, 1, 5)
    agrees(node("Pow", "x y", "z"), {"x": np.abs(x), "y": rand(4, 1)}, outputs=("z",))
    agrees(node("Pow", "x y", "z"), {"x": x, "y": np.array([[0.0, 1, 2, 3, -2]], np.float32)}, outputs=("z",))


def test_positions_of_the_largest_in_windows() -> None:
    attrs = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}
    agrees(node("MaxPool", "x", "y i", **attrs), {"x": rand(2, 3, 9, 8)}, outputs=("y", "i"))
