"""Constant factors and cuts go into the weights of the dense layer before them: fires, refuses, numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.unit.passes.checks import Node, rewritten


def rand(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def heads(stem: str, source: str) -> list:
    """(1, 6, 24) as (1, 3 heads, 6, 8)."""
    return [
        Node("Reshape", [source, "heads"], [f"{stem}_r"]),
        Node("Transpose", [f"{stem}_r"], [stem], perm=[0, 2, 1, 3]),
    ]


HEADS = {"heads": np.array([1, 6, 3, 8]), "w": rand(10, 24) / 8}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("how", ["one factor", "a divisor", "a factor of each column", "an addend", "both"])
def test_a_factor_goes_through_the_heads_into_the_weights(tmp_path: Path, bias: bool, how: str) -> None:
    nodes = [Node("MatMul", ["x", "w"], ["m"])]
    nodes += [Node("Add", ["b", "m"], ["d"])] if bias else []
    nodes += heads("h", "d" if bias else "m")
    last = "h"
    if how != "an addend":
        nodes.append(Node("Div" if how == "a divisor" else "Mul", ["h", "k"], ["s"]))
        last = "s"
    if how in ("an addend", "both"):
        nodes.append(Node("Add", ["c", last], ["a"]))
        last = "a"
    nodes.append(Node("Sin", [last], ["y"]))
    factor = rand(3, 1, 8) if how in ("a factor of each column", "both") else np.float32(0.37)
    weights = HEADS | {"b": rand(24), "k": factor, "c": rand(1, 3, 1, 8)}
    found = rewritten(nodes, tmp_path, weights, x=(1, 6, 10), y=(1, 3, 6, 8))
    shifted = bias or how in ("an addend", "both")
    assert found == {"MatMul": 1, "Reshape": 1, "Transpose": 1, "Sin": 1, **({"Add": 1} if shifted else {})}


def test_a_normalisation_behind_a_product_of_rank_3_goes_into_it(tmp_path: Path) -> None:
    nodes = [
        Node("MatMul", ["x", "w"], ["m"]),
        Node("Reshape", ["m", "flat"], ["f"]),
        Node("BatchNormalization", ["f", "g", "c", "c", "v"], ["n"]),
        Node("Reshape", ["n", "back"], ["r"]),
        Node("Sin", ["r"], ["y"]),
    ]
    weights = {"w": rand(10, 24) / 8, "flat": np.array([6, 24]), "back": np.array([1, 6, 24]), "g": rand(24)}
    weights |= {"c": rand(24), "v": np.abs(rand(24)) + 1}
    found = rewritten(nodes, tmp_path, weights, x=(1, 6, 10), y=(1, 6, 24))
    assert found == {"MatMul": 1, "Add": 1, "Sin": 1}


@pytest.mark.parametrize("why", ["rows differ", "read twice", "divided by it"])
def test_other_factors_stay(tmp_path: Path, why: str) -> None:
    nodes = [Node("MatMul", ["x", "w"], ["m"]), *heads("h", "m")]
    nodes.append(Node("Div" if why == "divided by it" else "Mul", ["k", "h"], ["s"]))
    if why == "read twice":
        nodes += [Node("ReduceMax", ["m"], ["z"], keepdims=0), Node("Add", ["s", "z"], ["y"])]
    else:
        nodes.append(Node("Sin", ["s"], ["y"]))
    weights = HEADS | {"k": rand(6, 1) if why == "rows differ" else np.float32(0.37)}
    found = rewritten(nodes, tmp_path, weights, x=(1, 6, 10), y=(1, 3, 6, 8))
    assert found.get("Mul", 0) + found.get("Div", 0) == 1


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("order", ["parts first", "heads first"])
def test_queries_keys_and_values_have_a_layer_each(tmp_path: Path, bias: bool, order: str) -> None:
    first = order == "parts first"
    nodes = [Node("MatMul", ["x", "w"], ["m"])]
    nodes += [Node("Add", ["m", "b"], ["d"])] if bias else []
    nodes.append(Node("Reshape", ["d" if bias else "m", "s"], ["r"]))
    nodes.append(Node("Transpose", ["r"], ["t"], perm=[2, 0, 3, 1, 4] if first else [3, 0, 2, 1, 4]))
    nodes += [Node("Gather", ["t", f"i{i}"], [f"g{i}"], axis=0) for i in range(3)]
    nodes += [Node("Mul", ["g0", "g1"], ["p"]), Node("Sub", ["p", "g2"], ["y"])]
    weights = {f"i{i}": np.array(i) for i in range(3)} | {"w": rand(10, 72), "b": rand(72)}
    weights["s"] = np.array([2, 6, 3, 4, 6] if first else [2, 6, 4, 3, 6])
    found = rewritten(nodes, tmp_path, weights, x=(2, 6, 10), y=(2, 4, 6, 6))
    assert found["MatMul"] == 3
    assert not {"Gather", "Split"} & set(found)
    assert found["Transpose"] == 1  # of what the element-wise operators make


def test_unequal_parts_of_each_head_have_a_layer_each(tmp_path: Path) -> None:
    nodes = [
        Node("Gemm", ["x", "w", "b"], ["d"], transB=1),
        Node("Reshape", ["d", "s"], ["r"]),
        Node("Split", ["r", "n"], ["q", "v"], axis=2),
        Node("Sin", ["q"], ["qs"]),
        Node("Concat", ["v", "qs"], ["y"], axis=2),
    ]
    weights = {"w": rand(48, 10), "b": rand(48), "s": np.array([6, 4, 12]), "n": np.array([4, 8])}
    found = rewritten(nodes, tmp_path, weights, x=(6, 10), y=(6, 4, 12))
    assert found == {"Gemm": 2, "Reshape": 2, "Sin": 1, "Concat": 1}


@pytest.mark.parametrize("why", ["rows", "small", "read whole"])
def test_other_splits_stay(tmp_path: Path, why: str) -> None:
    axis = 0 if why == "rows" else 2
    width = 2 if why == "small" else 12
    nodes = [
        Node("MatMul", ["x", "w"], ["d"]),
        Node("Reshape", ["d", "s"], ["r"]),
        Node("Split", ["r", "n"], ["q", "v"], axis=axis),
        Node("Mul", ["q", "v"], ["p"]),
    ]
    if why == "read whole":
        nodes += [Node("ReduceMax", ["r"], ["z"], keepdims=0), Node("Add", ["p", "z"], ["y"])]
    else:
        nodes.append(Node("Sin", ["p"], ["y"]))
    shape, parts = [6, 2, width], [3, 3] if why == "rows" else [width // 2] * 2
    weights = {"w": rand(10, 2 * width), "s": np.array(shape), "n": np.array(parts)}
    y = (3, 2, width) if why == "rows" else (6, 2, width // 2)
    found = rewritten(nodes, tmp_path, weights, x=(6, 10), y=y)
    assert found["Split"] == 1
    assert found["MatMul"] == 1
