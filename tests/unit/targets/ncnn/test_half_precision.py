"""Whole numbers stay whole where a device computes with halves; bf16 on this machine has 8 bits for them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.unit.targets.ncnn.oracle import model, run_ncnn, run_ort

RNG = np.random.default_rng(0)


def lines(text: str, kind: str) -> list[str]:
    return [line for line in text.splitlines() if line.split()[:1] == [kind]]


def exact(nodes: list[onnx.NodeProto], inputs: dict[str, np.ndarray], **consts: np.ndarray) -> str:
    proto = model(nodes, inputs, ["y"], consts)
    got, text = run_ncnn(proto, inputs, bf16=True)
    np.testing.assert_array_equal(got["y"], run_ort(proto, inputs)["y"])
    return text


def test_the_position_of_the_largest() -> None:
    # Whole tens: half precision leaves their order alone, so that only the positions could go wrong.
    scores = 10.0 * RNG.permutation(12).astype(np.float32)
    x = np.zeros((1, 5003), np.float32)
    x[0, 4000:4012] = scores
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("ArgMax", ["r"], ["y"], axis=1, keepdims=0),
    ]
    text = exact(nodes, {"x": x})
    assert all(line.endswith(" 31=23") for line in lines(text, "BinaryOp") + lines(text, "Reduction"))
    assert " 31=" not in lines(text, "ReLU")[0]
    assert len(lines(text, "Squeeze")) == 1


def test_ids_that_are_compared_and_looked_up() -> None:
    ids = np.array([[3, 2049, 2051, 4093, 0, 4095]], np.int64)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("Equal", ["ids", "wanted"], ["hit"]),
        helper.make_node("Cast", ["hit"], ["mask"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["rows", "column"], ["y"]),
    ]
    table = RNG.integers(-8, 8, (4096, 3)).astype(np.float32)
    exact(nodes, {"ids": ids}, table=table, wanted=np.array(2051, np.int64), last=np.array([-1], np.int64))


@pytest.mark.parametrize("op", ["Add", "Sub"])
def test_whole_numbers_that_are_added(op: str) -> None:
    x = RNG.integers(3000, 5000, (2, 3, 5)).astype(np.int32)
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        helper.make_node(op, ["t", "b"], ["y"]),
    ]
    text = exact(nodes, {"x": x}, b=np.array([1, 2, 3], np.int32))
    layers = [line for line in text.splitlines()[2:] if line.split()[0] not in ("Input", "MemoryData")]
    assert all(line.endswith(" 31=23") for line in layers)
