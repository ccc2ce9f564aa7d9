"""Old opsets: one canonical form, the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from mobilekit.errors import UnsupportedModelError
from mobilekit.graph import Graph
from mobilekit.passes import CANONICAL_OPSET
from tests.models import of_nodes
from tests.unit.passes.checks import Node, assert_same, ops, prepared

ANY = ("a", "b", "c", "d")


def lifted(
    folder: Path,
    nodes: list[Any],
    opset: int,
    *,
    x: tuple[int, ...] = (2, 3, 4, 6),
    y: tuple[Any, ...] = ANY,
    weights: dict[str, Any] | None = None,
) -> Graph:
    arrays = {name: np.asarray(value) for name, value in (weights or {}).items()}
    model = of_nodes(nodes, {"x": x}, {"y": y}, arrays, opset=opset)
    graph = prepared(model, folder)
    assert graph.opset >= CANONICAL_OPSET
    assert_same(model, graph)
    return graph


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceL2", "ReduceLogSumExp", "ReduceProd"])
@pytest.mark.parametrize("opset", [7, 11, 13, 17])
def test_reduce_axes_become_an_input(tmp_path: Path, op: str, opset: int) -> None:
    if op == "ReduceSum" and opset >= 13:
        pytest.skip("an input already")
    graph = lifted(
        tmp_path, [Node(op, ["x"], ["y"], axes=[1, -1] if opset > 10 else [1, 3], keepdims=0)], opset, y=ANY[:2]
    )
    node = graph.nodes[-1]
    assert "axes" not in node.attrs
    assert node.inputs[1] is not None


def test_reduce_of_everything(tmp_path: Path) -> None:
    graph = lifted(tmp_path, [Node("ReduceMean", ["x"], ["y"], keepdims=0)], 11, y=())
    assert graph.outputs[0].shape == ()


@pytest.mark.parametrize("attrs", [{"min": -1.0, "max": 2.0}, {"min": 0.5}, {"max": 0.5}])
def test_clip_bounds(tmp_path: Path, attrs: dict[str, float]) -> None:
    node = lifted(tmp_path, [Node("Clip", ["x"], ["y"], **attrs)], 7).nodes[0]
    assert (node.op, node.attrs) == ("Clip", {})


def test_squeeze_and_unsqueeze_axes(tmp_path: Path) -> None:
    nodes = [
        Node("Unsqueeze", ["x"], ["a"], axes=[0, 3]),
        Node("Relu", ["a"], ["r"]),
        Node("Squeeze", ["r"], ["y"], axes=[0]),
    ]
    graph = lifted(tmp_path, nodes, 11, y=(2, 3, 1, 4, 6))
    assert all(not node.attrs for node in graph.nodes)


@pytest.mark.parametrize(
    "attrs", [{"starts": [1, -4], "ends": [3, 999], "axes": [1, 3]}, {"starts": [0, 1], "ends": [1, 3]}]
)
def test_slice(tmp_path: Path, attrs: dict[str, Any]) -> None:
    node = lifted(tmp_path, [Node("Slice", ["x"], ["y"], **attrs)], 9).nodes[0]
    assert len(node.inputs) >= 3


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_pad(tmp_path: Path, mode: str) -> None:
    node = Node("Pad", ["x"], ["y"], pads=[0, 0, 1, 2, 0, 0, 2, 1], mode=mode, value=1.5)
    made = lifted(tmp_path, [node], 9).nodes[0]
    assert "pads" not in made.attrs
    assert made.inputs[1] is not None


@pytest.mark.parametrize("attrs", [{"split": [1, 2, 3]}, {}])
@pytest.mark.parametrize("opset", [11, 13, 18])
def test_split_sizes_are_given(tmp_path: Path, attrs: dict[str, Any], opset: int) -> None:
    if opset >= 13 and attrs:
        pytest.skip("an input already")
    extra = {"num_outputs": 3} if opset >= 18 else attrs
    nodes = [Node("Split", ["x"], ["p", "q", "r"], axis=3, **extra), Node("Concat", ["r", "p", "q"], ["y"], axis=3)]
    split = lifted(tmp_path, nodes, opset).nodes[0]
    assert split.inputs[1] is not None
    assert split.inputs[1].const is not None
    assert split.inputs[1].const.sum() == 6
    assert "num_outputs" not in split.attrs


def test_split_into_unequal_parts(tmp_path: Path) -> None:
    nodes = [Node("Split", ["x"], ["p", "q"], axis=1, num_outputs=2), Node("Concat", ["q", "p"], ["y"], axis=1)]
    split = lifted(tmp_path, nodes, 18).nodes[0]
    assert split.inputs[1] is not None
    assert split.inputs[1].const is not None
    assert split.inputs[1].const.tolist() == [2, 1]


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, None])
def test_softmax_flattens_before_opset_13(tmp_path: Path, op: str, axis: int | None) -> None:
    attrs = {} if axis is None else {"axis": axis}
    opset = 11 if axis == -1 else 9
    graph = lifted(tmp_path, [Node(op, ["x"], ["y"], **attrs)], opset)
    assert ("Reshape" in ops(graph)) == (axis not in (3, -1))


def test_softmax_over_trailing_ones_needs_no_reshape(tmp_path: Path) -> None:
    assert ops(lifted(tmp_path, [Node("Softmax", ["x"], ["y"])], 9, x=(2, 5, 1, 1))) == {"Softmax": 1}


@pytest.mark.parametrize("opset", [7, 9])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsample_is_resize(tmp_path: Path, opset: int, mode: str) -> None:
    scales = [1.0, 1.0, 2.0, 3.0]
    if opset == 7:
        node, weights = Node("Upsample", ["x"], ["y"], scales=scales, mode=mode), {}
    else:
        node, weights = Node("Upsample", ["x", "s"], ["y"], mode=mode), {"s": np.array(scales, np.float32)}
    assert ops(lifted(tmp_path, [node], opset, weights=weights)) == {"Resize": 1}


@pytest.mark.parametrize("opset", [10, 11, 13, 18])
def test_resize(tmp_path: Path, opset: int) -> None:
    scales = np.array([1, 1, 2, 1.5], np.float32)
    inputs = ["x", "s"] if opset == 10 else ["x", "", "s"]
    if opset == 11:
        inputs = ["x", "roi", "s"]
    weights = {"s": scales} | ({"roi": np.zeros(0, np.float32)} if opset == 11 else {})
    assert ops(lifted(tmp_path, [Node("Resize", inputs, ["y"], mode="linear")], opset, weights=weights)) == {
        "Resize": 1
    }


def test_resize_to_sizes_of_opset_11(tmp_path: Path) -> None:
    weights = {"roi": np.zeros(0, np.float32), "none": np.zeros(0, np.float32), "sizes": np.array([2, 3, 8, 9])}
    node = Node("Resize", ["x", "roi", "none", "sizes"], ["y"], mode="nearest")
    assert lifted(tmp_path, [node], 11, weights=weights).outputs[0].shape == (2, 3, 8, 9)


def test_topk(tmp_path: Path) -> None:
    node = Node("TopK", ["x"], ["y", ""], k=2, axis=3)
    model = of_nodes([node], {"x": (2, 3, 4, 6)}, {"y": ANY}, opset=9)
    model.graph.node[0].output[1] = "indices"
    graph = prepared(model, tmp_path)
    assert_same(model, graph)
    assert "k" not in graph.nodes[0].attrs


def test_batch_norm_keeps_its_first_output(tmp_path: Path) -> None:
    weights = {name: np.full(3, 1.5, np.float32) for name in "sbmv"}
    node = Node("BatchNormalization", ["x", *"sbmv"], ["y"], momentum=0.9)
    made = lifted(tmp_path, [node], 9, weights=weights).nodes[0]
    assert (len(made.outputs), "momentum" in made.attrs) == (1, False)


def test_a_constant_that_is_normalised_by_itself(tmp_path: Path) -> None:
    """What weight standardisation exports to."""
    rng = np.random.default_rng(4)
    weights = {"w": rng.standard_normal((1, 4, 9)), "s": rng.standard_normal(4), "b": rng.standard_normal(4)}
    weights |= {"m": np.zeros(4), "v": np.ones(4)}
    arrays = {name: array.astype(np.float32) for name, array in weights.items()}
    nodes = [
        Node("BatchNormalization", ["w", *"sbmv"], ["n", "m2", "v2"], training_mode=1),
        Node("Mul", ["x", "n"], ["y"]),
    ]
    model = of_nodes(nodes, {"x": (1, 4, 9)}, {"y": (1, 4, 9)}, arrays)
    graph = prepared(model, tmp_path)
    assert_same(model, graph)
    assert ops(graph) == {"Mul": 1}


@pytest.mark.parametrize(("opset", "attrs"), [(7, {"spatial": 0}), (15, {"training_mode": 1})])
def test_batch_norms_that_are_refused(tmp_path: Path, opset: int, attrs: dict[str, int]) -> None:
    weights = {name: np.full(3, 1.5, np.float32) for name in "sbmv"}
    node = Node("BatchNormalization", ["x", *"sbmv"], ["y"], **attrs)
    model = of_nodes([node], {"x": (2, 3, 4, 6)}, {"y": ANY}, weights, opset=opset)
    with pytest.raises(UnsupportedModelError) as caught:
        prepared(model, tmp_path)
    assert caught.value.findings[0].op == "BatchNormalization"


def test_group_norm_scale_is_per_channel(tmp_path: Path) -> None:
    weights = {"s": np.array([1, 2], np.float32), "b": np.array([0.5, -1], np.float32)}
    node = Node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2)
    graph = lifted(tmp_path, [node], 18, x=(2, 6, 4, 4), weights=weights)
    assert graph.nodes[0].inputs[1] is not None
    assert graph.nodes[0].inputs[1].shape == (6,)


def test_dropout_goes(tmp_path: Path) -> None:
    nodes = [Node("Dropout", ["x"], ["a"], ratio=0.4), Node("Relu", ["a"], ["y"])]
    assert ops(lifted(tmp_path, nodes, 7)) == {"Relu": 1}


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest"])
def test_grid_sample_modes(tmp_path: Path, mode: str) -> None:
    grid = np.random.default_rng(0).random((2, 3, 3, 2)).astype(np.float32) * 2 - 1
    node = lifted(tmp_path, [Node("GridSample", ["x", "g"], ["y"], mode=mode)], 16, weights={"g": grid}).nodes[0]
    assert node.attrs["mode"] in ("linear", "cubic", "nearest")


def test_bodies_are_lifted_too(tmp_path: Path) -> None:
    def branch(name: str, axes: list[int]) -> Any:
        return helper.make_graph(
            [helper.make_node("ReduceMean", ["x"], [name], axes=axes)],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
        )

    nodes = [
        Node("ReduceSum", ["x"], ["s"], keepdims=0),
        Node("Cast", ["s"], ["c"], to=TensorProto.BOOL),
        Node("If", ["c"], ["y"], then_branch=branch("t", [1]), else_branch=branch("e", [2])),
    ]
    graph = lifted(tmp_path, nodes, 11, y=(2, 1, 4, 6))
    (body, _) = graph.nodes[-1].bodies()
    assert body.nodes[0].attrs == {}
    assert len(body.nodes[0].inputs) == 2


def test_all_refusals_are_listed(tmp_path: Path) -> None:
    weights = {name: np.full(3, 1.5, np.float32) for name in "sbmv"}
    nodes = [
        Node("BatchNormalization", ["x", *"sbmv"], ["a"], spatial=0, name="first"),
        Node("BatchNormalization", ["a", *"sbmv"], ["y"], spatial=0, name="second"),
    ]
    with pytest.raises(UnsupportedModelError) as caught:
        prepared(of_nodes(nodes, {"x": (2, 3, 4, 6)}, {"y": ANY}, weights, opset=7), tmp_path)
    assert [finding.node for finding in caught.value.findings] == ["first", "second"]
