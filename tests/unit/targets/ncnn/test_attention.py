"""Attention as ncnn's SDPA, against ONNX Runtime on what exporters write."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tests.unit.targets.ncnn.oracle import agrees

Node = helper.make_node


def rand(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("mask", ["", "rows", "heads", "hides all"])
@pytest.mark.parametrize("size", [8, 15])
def test_heads(mask: str, size: int) -> None:
    """Token-first operands of 3 heads, as transformers have them."""
    nodes = [
        *(Node("Transpose", [name], [f"{name}h"], perm=[0, 2, 1, 3]) for name in "qv"),
        Node("Transpose", ["k"], ["kh"], perm=[0, 2, 3, 1]),
        Node("MatMul", ["qh", "kh"], ["s"]),
        Node("Mul", ["s", "c"], ["sc"]),
        *([Node("Add", ["sc", "m"], ["sm"])] if mask else []),
        Node("Softmax", ["sm" if mask else "sc"], ["p"], axis=-1),
        Node("MatMul", ["p", "vh"], ["o"]),
        Node("Transpose", ["o"], ["y"], perm=[0, 2, 1, 3]),
    ]
    consts = {"c": np.array(0.25, np.float32)}
    if mask:
        lowest = np.float32(np.finfo(np.float32).min)
        consts["m"] = np.where(rand(1, 3 if mask == "heads" else 1, 6, 9) > 0.3, lowest, 0).astype(np.float32)
    if mask == "hides all":
        consts["m"][..., 2, :] = lowest
    inputs = {"q": rand(1, 6, 3, size), "k": rand(1, 9, 3, size), "v": rand(1, 9, 3, 11)}
    text = agrees(nodes, inputs, consts)
    found = [line.split()[0] for line in text.splitlines()[2:]]
    assert "SDPA" in found
    assert "MatMul" not in found
    assert found.count("Permute") == 4


def test_one_head_without_an_axis_for_it() -> None:
    nodes = [
        Node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        Node("MatMul", ["x", "t"], ["s"]),
        Node("Softmax", ["s"], ["p"], axis=-1),
        Node("MatMul", ["p", "x"], ["y"]),
    ]
    text = agrees(nodes, {"x": rand(1, 10, 12)})
    assert "SDPA" in text
