"""The rules that save work: each fires, refuses, and keeps the numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.unit.passes.checks import Node, rewritten


def rand(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


TWICE = np.array([1, 1, 2, 2], np.float32)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("by", ["scales", "sizes"])
def test_a_1x1_convolution_goes_before_the_upsampling(tmp_path: Path, mode: str, by: str) -> None:
    given = {"s": TWICE} if by == "scales" else {"s": np.array([1, 4, 10, 12])}
    nodes = [
        Node("Resize", ["x", "", "s"] if by == "scales" else ["x", "", "", "s"], ["a"], mode=mode),
        Node("Conv", ["a", "w", "b"], ["c"]),
        Node("Relu", ["c"], ["y"]),
    ]
    weights = {"w": rand(7, 4, 1, 1), "b": rand(7), **given}
    found = rewritten(nodes, tmp_path, weights, x=(1, 4, 5, 6), y=(1, 7, 10, 12))
    assert found == {"Conv": 1, "Resize": 1, "Relu": 1}


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_1x1_convolution_of_a_pyramid_is_two(tmp_path: Path, place: int) -> None:
    inputs = ["z", "k"]
    inputs.insert(place, "a")
    nodes = [
        Node("Resize", ["x", "", "s"], ["a"], mode="nearest", coordinate_transformation_mode="asymmetric"),
        Node("Concat", inputs, ["j"], axis=1),
        Node("Conv", ["j", "w"], ["c"]),
        Node("BatchNormalization", ["c", "g", "g", "m", "g"], ["n"]),
        Node("Relu", ["n"], ["y"]),
    ]
    weights = {"w": rand(5, 27, 1, 1), "s": TWICE, "g": abs(rand(5)) + 1, "m": rand(5)}
    found = rewritten(
        nodes, tmp_path, weights, x=(1, 20, 3, 4), y=(1, 5, 6, 8), others={"z": (1, 4, 6, 8), "k": (1, 3, 6, 8)}
    )
    assert found == {"Resize": 1, "Conv": 2, "Concat": 1, "Add": 1, "Relu": 1}


@pytest.mark.parametrize("why", ["3x3", "stride", "shrinks", "read twice", "few channels"])
def test_other_convolutions_stay_behind_it(tmp_path: Path, why: str) -> None:
    channels = 4 if why == "few channels" else 16
    scale = TWICE / 4 if why == "shrinks" else TWICE
    scale = np.maximum(scale, [1, 1, 0, 0]).astype(np.float32)
    size = [4, 4] if why == "shrinks" else [16, 16]
    nodes = [Node("Resize", ["x", "", "s"], ["a"]), Node("Concat", ["a", "z"], ["j"], axis=1)]
    attrs = {"3x3": {"pads": [1, 1, 1, 1]}, "stride": {"strides": [2, 2]}}.get(why, {})
    nodes.append(Node("Conv", ["j", "w"], ["c"], **attrs))
    result = [n // 2 for n in size] if why == "stride" else size
    if why == "read twice":
        nodes += [Node("ReduceMax", ["j", "one"], ["m"]), Node("Add", ["c", "m"], ["y"])]
    else:
        nodes.append(Node("Abs", ["c"], ["y"]))
    kernel = (3, 3) if why == "3x3" else (1, 1)
    weights = {"s": scale, "w": rand(5, channels + 2, *kernel), "one": np.array([1])}
    found = rewritten(
        nodes, tmp_path, weights, x=(1, channels, 8, 8), y=(1, 5, *result), others={"z": (1, 2, *size)}, opset=18
    )
    assert found["Conv"] == 1
    assert found["Concat"] == 1


def test_the_halves_of_a_tensor_beside_each_other_are_it(tmp_path: Path) -> None:
    nodes = [
        Node("Split", ["x", "n"], ["a", "b"], axis=1),
        Node("Sin", ["b"], ["c"]),
        Node("Concat", ["a", "b", "c"], ["y"], axis=1),
    ]
    found = rewritten(nodes, tmp_path, {"n": np.array([2, 4])}, x=(1, 6, 3, 3), y=(1, 10, 3, 3))
    assert found == {"Split": 1, "Sin": 1, "Concat": 1}


def test_a_tensor_split_and_put_together_is_it(tmp_path: Path) -> None:
    nodes = [
        Node("Split", ["x", "n"], ["a", "b"], axis=-1),
        Node("Concat", ["a", "b"], ["c"], axis=3),
        Node("Sin", ["c"], ["y"]),
    ]
    assert rewritten(nodes, tmp_path, {"n": np.array([2, 6])}, x=(1, 6, 3, 8), y=(1, 6, 3, 8)) == {"Sin": 1}


@pytest.mark.parametrize("why", ["order", "axis", "a part"])
def test_other_concatenations_stay(tmp_path: Path, why: str) -> None:
    split = Node("Split", ["x", "n"], ["a", "b", "c"], axis=1)
    inputs = {"order": ["b", "a", "c"], "axis": ["a", "b", "c"], "a part": ["a", "b"]}[why]
    axis = 2 if why == "axis" else 1
    nodes = [split, Node("Concat", inputs, ["j"], axis=axis), Node("Sin", ["j"], ["s"])]
    nodes.append(Node("Sum", ["s", "s"], ["y"]))
    shape = {"order": (1, 6, 4, 4), "axis": (1, 2, 12, 4), "a part": (1, 4, 4, 4)}[why]
    found = rewritten(nodes, tmp_path, {"n": np.array([2, 2, 2])}, x=(1, 6, 4, 4), y=shape)
    assert found["Concat"] == 1


@pytest.mark.parametrize("dense", ["MatMul", "Gemm", "turned"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_transposition_goes_into_the_dense_layer(tmp_path: Path, dense: str, batch: int) -> None:
    attrs = {"transB": 1} if dense == "turned" else {}
    nodes = [
        Node("Transpose", ["x"], ["t"], perm=[0, 2, 3, 1]),
        Node("Flatten", ["t"], ["f"]),
        Node("MatMul" if dense == "MatMul" else "Gemm", ["f", "w"], ["y"], **attrs),
    ]
    weights = {"w": rand(*((5, 60) if dense == "turned" else (60, 5)))}
    found = rewritten(nodes, tmp_path, weights, x=(batch, 3, 4, 5), y=(batch, 5))
    assert sorted(found) == sorted({"Reshape": 1, nodes[-1].op_type: 1})


@pytest.mark.parametrize("why", ["batch moves", "one axis", "read twice"])
def test_other_transpositions_stay(tmp_path: Path, why: str) -> None:
    perm = [1, 0, 2] if why == "batch moves" else [0, 2, 1]
    turned = [(4, 3, 5)[axis] for axis in perm]
    nodes = [Node("Transpose", ["x"], ["t"], perm=perm)]
    rows = [turned[0] * turned[1], turned[2]] if why == "one axis" else [turned[0], turned[1] * turned[2]]
    nodes += [Node("Reshape", ["t", "s"], ["f"]), Node("MatMul", ["f", "w"], ["m"])]
    nodes.append(Node("ReduceSum", ["f"], ["k"]) if why == "read twice" else Node("ReduceSum", ["m"], ["k"]))
    nodes.append(Node("Add", ["m", "k"], ["y"]))
    weights = {"s": np.array(rows), "w": rand(rows[1], 6)}
    assert rewritten(nodes, tmp_path, weights, x=(4, 3, 5), y=(rows[0], 6))["Transpose"] == 1


def attention(scale: str, mask: str, rank: int) -> list:
    """Exporters' forms: scaled scores, scaled query, both scaled; torch's keys are turned in one Transpose."""
    turn = [0, 1, 3, 2] if rank == 4 else [0, 2, 1]
    nodes = [Node("Transpose", ["k"], ["kt"], perm=turn)]
    query = "q"
    if scale == "query":
        nodes.append(Node("Mul", ["q", "c"], ["qs"]))
        query = "qs"
    nodes.append(Node("MatMul", [query, "kt"], ["s"]))
    last = "s"
    if scale == "scores":
        nodes.append(Node("Div", ["s", "d"], ["sd"]))
        last = "sd"
    if mask:
        nodes.append(Node("Add", [last, "m"], ["sm"]))
        last = "sm"
    nodes += [Node("Softmax", [last], ["p"], axis=-1), Node("MatMul", ["p", "v"], ["o"]), Node("Sin", ["o"], ["y"])]
    return nodes


@pytest.mark.parametrize("scale", ["query", "scores", ""])
@pytest.mark.parametrize("mask", ["", "whole", "keys", "computed"])
@pytest.mark.parametrize("rank", [3, 4])
def test_attention(tmp_path: Path, scale: str, mask: str, rank: int) -> None:
    lead = (1, 2) if rank == 4 else (2,)
    weights = {"c": np.float32(0.3), "d": np.float32(4)}
    shapes = {"q": (*lead, 5, 8), "k": (*lead, 7, 8), "v": (*lead, 7, 6)}
    if mask == "computed":
        shapes["m"] = (1, 7)
    elif mask:
        weights["m"] = np.where(rand(5 if mask == "whole" else 1, 7) > 0.5, -np.inf, 0).astype(np.float32)
        weights["m"][:, 2] = 0
    nodes = attention(scale, mask, rank)
    first = [Node("Sin", ["x"], ["q"])]
    x = shapes.pop("q")
    found = rewritten([*first, *nodes], tmp_path, weights, x=x, y=(*lead, 5, 6), others=shapes)
    assert found["Attention"] == 1
    assert "Softmax" not in found
    assert "MatMul" not in found
    assert found.get("Transpose", 0) == 0


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [4, 36])
def test_windows_have_a_mask_each(tmp_path: Path, shifted: bool, size: int) -> None:
    """Swin's: a bias of each head, and a mask of each window that is added with one more axis."""
    shape = (6, 2, size, 4)
    nodes = [Node("Sin", ["x"], ["q"]), *attention("query", "whole", 4)]
    weights = {"c": np.float32(0.3), "m": rand(1, 2, size, size)}
    if shifted:
        place = next(i for i, node in enumerate(nodes) if node.op_type == "Softmax")
        extra = [
            Node("Reshape", ["sm", "s5"], ["r"]),
            Node("Add", ["r", "m5"], ["a"]),
            Node("Reshape", ["a", "s4"], ["z"]),
        ]
        nodes[place:place] = extra
        nodes[place + 3].input[0] = "z"
        weights |= {"s5": np.array([2, 3, 2, size, size]), "s4": np.array([6, 2, size, size])}
        weights["m5"] = np.where(rand(1, 3, 1, size, size) > 1, np.float32(-100), np.float32(0))
    found = rewritten(nodes, tmp_path, weights, x=shape, y=shape, others={"k": shape, "v": shape})
    assert found.get("Attention", 0) == (size == 36)


@pytest.mark.parametrize("why", ["axis", "probabilities read", "keys as they are", "negative scale"])
def test_what_is_no_attention_stays(tmp_path: Path, why: str) -> None:
    nodes = attention("query", "", 4)
    weights = {"c": np.float32(-0.3 if why == "negative scale" else 0.3)}
    if why == "axis":
        nodes[-3].attribute[0].i = 2
    if why == "keys as they are":
        nodes[0].CopyFrom(Node("Sin", ["k"], ["kt"]))
    if why == "probabilities read":
        nodes = [*nodes[:-1], Node("ReduceMax", ["p"], ["z"], keepdims=0), Node("Add", ["o", "z"], ["y"])]
    nodes = [Node("Sin", ["x"], ["q"]), *nodes]
    found = rewritten(
        nodes, tmp_path, weights, x=(1, 2, 6, 6), y=(1, 2, 6, 6), others={"k": (1, 2, 6, 6), "v": (1, 2, 6, 6)}
    )
    assert "Attention" not in found


def cut(start: int, end: int, name: str, axis: int = 1) -> tuple[onnx.NodeProto, dict[str, np.ndarray]]:
    """A Slice of ``s`` along ``axis``."""
    given = {f"{name}_s": np.array([start]), f"{name}_e": np.array([end]), f"{name}_a": np.array([axis])}
    return Node("Slice", ["s", *given], [name]), given


def test_slices_that_are_the_whole_are_one_split(tmp_path: Path) -> None:
    (a, first), (b, second) = cut(0, 2, "a"), cut(2, 1 << 40, "b", -3)
    nodes = [Node("Sin", ["x"], ["s"]), b, a, Node("Cos", ["b"], ["c"]), Node("Concat", ["c", "a"], ["y"], axis=1)]
    found = rewritten(nodes, tmp_path, first | second, x=(1, 6, 3, 3), y=(1, 6, 3, 3))
    assert found == {"Sin": 1, "Split": 1, "Cos": 1, "Concat": 1}


def test_unbound_indices_are_one_split(tmp_path: Path) -> None:
    nodes = [Node("Sin", ["x"], ["s"])]
    nodes += [Node("Gather", ["s", f"i{i}"], [f"g{i}"], axis=2) for i in range(3)]
    nodes += [Node("Mul", ["g0", "g1"], ["m"]), Node("Sub", ["m", "g2"], ["y"])]
    indices = {"i0": np.array(0), "i1": np.array(1), "i2": np.array(-1)}
    found = rewritten(nodes, tmp_path, indices, x=(2, 4, 3, 5), y=(2, 4, 5))
    assert found == {"Sin": 1, "Split": 1, "Reshape": 3, "Mul": 1, "Sub": 1}


@pytest.mark.parametrize("why", ["a gap", "an overlap", "other axis", "a step"])
def test_other_slices_stay(tmp_path: Path, why: str) -> None:
    second_of = {"a gap": (4, 6, 1), "an overlap": (2, 6, 1), "other axis": (3, 6, 2), "a step": (3, 6, 1)}[why]
    (a, first), (b, second) = cut(0, 3, "a"), cut(*second_of[:2], "b", second_of[2])
    if why == "a step":
        second["b_t"] = np.array([2])
        b.input.append("b_t")
    nodes = [Node("Sin", ["x"], ["s"]), a, b]
    nodes += [Node("ReduceMax", ["b"], ["m"], keepdims=0), Node("Add", ["a", "m"], ["y"])]
    found = rewritten(nodes, tmp_path, first | second, x=(1, 6, 6), y=(1, 3, 6))
    assert found["Slice"] == 2
    assert "Split" not in found
