"""The batch axis: where it is proven that samples stay apart, and what mixes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mobilekit.bundle import BatchPlace
from mobilekit.errors import UnsupportedModelError
from mobilekit.importers.convert import to_proto
from mobilekit.importers.onnx import load
from mobilekit.passes import prepare_sample
from mobilekit.passes.batch import Batch, Mixing
from mobilekit.runners.batch import join, split
from tests.models import of_nodes, save
from tests.unit.passes.checks import Node, run

RNG = np.random.default_rng(5)


def tracked(model: onnx.ModelProto, folder: Path) -> Any:
    return prepare_sample(load(save(model, folder / "m.onnx")), {}, simplify=False)


def assert_sample_by_sample(model: onnx.ModelProto, folder: Path, size: int) -> Batch:
    """One sample after another through the graph of one gives what the whole batch gives."""
    found = tracked(model, folder)
    assert isinstance(found, tuple), found
    graph, batch = found
    assert batch.size == size
    feeds = {
        info.name: RNG.standard_normal([dim.dim_value for dim in info.type.tensor_type.shape.dim]).astype(np.float32)
        for info in model.graph.input
    }
    places = {name: BatchPlace(axis=place.axis, outer=place.outer) for name, place in batch.places.items()}
    parts = {name: split(array, places.get(name), size) for name, array in feeds.items()}
    one = to_proto(graph)
    results = [run(one, {name: part[number] for name, part in parts.items()}) for number in range(size)]
    for index, wanted in enumerate(run(model, feeds)):
        got = join([result[index] for result in results], places.get(model.graph.output[index].name))
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    return batch


def weights(**shapes: Sequence[int]) -> dict[str, np.ndarray]:
    return {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def attention(batch: int, reshape: Sequence[int]) -> onnx.ModelProto:
    """Self-attention over (batch, 5, 8) with 2 heads and the given target shape, which names the batch or not."""
    nodes = [
        Node("MatMul", ["x", "w"], ["qkv"]),
        Node("Split", ["qkv", "thirds"], ["q", "k", "v"], axis=-1),
        *(Node("Reshape", [name, "heads"], [f"{name}r"]) for name in "qkv"),
        *(Node("Transpose", [f"{name}r"], [f"{name}t"], perm=[0, 2, 1, 3]) for name in "qv"),
        Node("Transpose", ["kr"], ["kt"], perm=[0, 2, 3, 1]),
        Node("MatMul", ["qt", "kt"], ["scores"]),
        Node("Softmax", ["scores"], ["p"], axis=-1),
        Node("MatMul", ["p", "vt"], ["o"]),
        Node("Transpose", ["o"], ["ot"], perm=[0, 2, 1, 3]),
        Node("Reshape", ["ot", "back"], ["y"]),
    ]
    constants = {
        **weights(w=(8, 24)),
        "thirds": ints(8, 8, 8),
        "heads": ints(*reshape),
        "back": ints(batch, 5, 8),
    }
    return of_nodes(nodes, {"x": (batch, 5, 8)}, {"y": (batch, 5, 8)}, constants)


@pytest.mark.parametrize("reshape", [(3, 5, 2, 4), (0, 0, 2, 4), (-1, 5, 2, 4)])
def test_attention_with_the_batch_written_into_its_shapes(tmp_path: Path, reshape: Sequence[int]) -> None:
    assert_sample_by_sample(attention(3, reshape), tmp_path, 3)


def test_images(tmp_path: Path) -> None:
    nodes = [
        Node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        Node("InstanceNormalization", ["a", "s", "b"], ["n"]),
        Node("MaxPool", ["n"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        Node("Resize", ["p", "", "", "sizes"], ["r"], mode="nearest"),
        Node("Concat", ["r", "a"], ["c"], axis=1),
        Node("GlobalAveragePool", ["c"], ["g"]),
        Node("Flatten", ["g"], ["f"]),
        Node("Gemm", ["f", "fc", "bias"], ["y"]),
    ]
    constants = {**weights(w=(4, 3, 3, 3), s=(4,), b=(4,), fc=(8, 6), bias=(6,)), "sizes": ints(2, 4, 8, 8)}
    batch = assert_sample_by_sample(of_nodes(nodes, {"x": (2, 3, 8, 8)}, {"y": (2, 6)}, constants), tmp_path, 2)
    assert batch.places["y"].axis == 0


def test_a_constant_that_repeats_itself_for_each_sample_is_cut(tmp_path: Path) -> None:
    token = np.broadcast_to(RNG.standard_normal((1, 1, 4)), (3, 1, 4)).astype(np.float32)
    nodes = [Node("Concat", ["token", "x"], ["c"], axis=1), Node("Relu", ["c"], ["y"])]
    assert_sample_by_sample(of_nodes(nodes, {"x": (3, 5, 4)}, {"y": (3, 6, 4)}, {"token": token}), tmp_path, 3)


def test_samples_inside_of_an_axis(tmp_path: Path) -> None:
    """(2, 3, 4) as (6, 4), as (3, 2, 4) and as (6, 4) with the batch inside: outputs put together accordingly."""
    nodes = [
        Node("Reshape", ["x", "rows"], ["r"]),
        Node("MatMul", ["r", "w"], ["y"]),
        Node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        Node("Reshape", ["t", "rows"], ["z"]),
    ]
    model = of_nodes(nodes, {"x": (2, 3, 4)}, {"y": (6, 5), "z": (6, 4)}, {**weights(w=(4, 5)), "rows": ints(6, 4)})
    batch = assert_sample_by_sample(model, tmp_path, 2)
    assert (batch.places["z"].axis, batch.places["z"].outer) == (0, 3)


@pytest.mark.parametrize("time_first", [True, False])
def test_recurrent_layers_with_states(tmp_path: Path, time_first: bool) -> None:
    nodes = [
        Node("LSTM", ["t", "w", "r", "", "", "h", "c"], ["s", "hn", "cn"], hidden_size=4),
        Node("Squeeze", ["s", "one"], ["y"]),
    ]
    if not time_first:
        nodes.insert(0, Node("Transpose", ["x"], ["t"], perm=[1, 0, 2]))
    name, shape = ("t", (5, 3, 6)) if time_first else ("x", (3, 5, 6))
    model = of_nodes(
        nodes,
        {name: shape, "h": (1, 3, 4), "c": (1, 3, 4)},
        {"y": (5, 3, 4), "hn": (1, 3, 4)},
        {**weights(w=(1, 16, 6), r=(1, 16, 4)), "one": ints(1)},
    )
    batch = assert_sample_by_sample(model, tmp_path, 3)
    assert batch.places["y"].axis == 1
    assert batch.places["hn"].axis == 1


def test_an_input_and_an_output_without_a_batch(tmp_path: Path) -> None:
    nodes = [Node("Mul", ["x", "scale"], ["y"]), Node("Exp", ["scale"], ["z"])]
    batch = assert_sample_by_sample(
        of_nodes(nodes, {"x": (4, 3), "scale": (1, 3)}, {"y": (4, 3), "z": (1, 3)}), tmp_path, 4
    )
    assert set(batch.places) == {"x", "y"}


MIXING = {
    "softmax": ([Node("Softmax", ["x"], ["y"], axis=0)], (4, 6), {}, "works along the batch"),
    "gemm": ([Node("Gemm", ["x", "w"], ["y"], transA=1)], (4, 6), weights(w=(4, 3)), "sums over the batch"),
    "reduce": ([Node("ReduceMean", ["x"], ["y"], axes=[0, 1])], (4, 6), {}, "reduces over the batch"),
    "reshape": ([Node("Reshape", ["x", "n"], ["y"])], (4, 6), {"n": ints(3, 8)}, "splits the batch"),
    "similarity": (
        [Node("Transpose", ["x"], ["t"]), Node("MatMul", ["x", "t"], ["y"])],
        (4, 6),
        {},
        "pairs each sample with every other",
    ),
    "slice": ([Node("Slice", ["x", "n", "e"], ["y"])], (4, 6), {"n": ints(1), "e": ints(3)}, "some of the samples"),
    "gather": ([Node("Gather", ["x", "n"], ["y"])], (4, 6), {"n": ints(3, 0)}, "some of the samples"),
    "cumsum": ([Node("CumSum", ["x", "n"], ["y"])], (4, 6), {"n": np.array(0)}, "runs along the batch"),
    "table": ([Node("Add", ["x", "w"], ["y"])], (4, 6), weights(w=(4, 6)), "differs from sample to sample"),
    "top": ([Node("TopK", ["x", "n"], ["y", "i"], axis=0)], (4, 6), {"n": ints(2)}, "chooses among the samples"),
    "join": ([Node("Concat", ["x", "x"], ["y"], axis=0)], (4, 6), {}, "joins"),
    "tokens": (
        [Node("Unsqueeze", ["x", "n"], ["u"]), Node("GlobalAveragePool", ["u"], ["y"])],
        (4, 6, 2),
        {"n": ints(0)},
        "not its first axis",
    ),
}


@pytest.mark.parametrize("name", MIXING)
def test_what_mixes_samples(name: str, tmp_path: Path) -> None:
    nodes, shape, constants, reason = MIXING[name]
    model = of_nodes(nodes, {"x": shape}, {}, constants, opset=17)
    model.graph.output.append(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None))
    found = tracked(model, tmp_path)
    assert isinstance(found, Mixing)
    assert reason in found.reason


def test_statistics_of_the_batch_are_refused(tmp_path: Path) -> None:
    node = Node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y", "mo", "vo"], training_mode=1)
    constants = weights(s=(3,), b=(3,), m=(3,)) | {"v": np.ones(3, np.float32)}
    with pytest.raises(UnsupportedModelError) as caught:
        tracked(of_nodes([node], {"x": (4, 3)}, {"y": (4, 3)}, constants), tmp_path)
    assert "training mode" in caught.value.findings[0].reason


def test_a_batch_of_one_is_none(tmp_path: Path) -> None:
    assert tracked(of_nodes([Node("Relu", ["x"], ["y"])], {"x": (1, 3)}, {"y": (1, 3)}), tmp_path) is None


@pytest.mark.parametrize(("axis", "outer"), [(0, 1), (1, 1), (1, 2), (2, 5)])
def test_split_and_join_are_opposites(axis: int, outer: int) -> None:
    shape = [2, 3, 4]
    shape[axis] = outer * 3 * 2
    array = RNG.standard_normal(shape)
    place = BatchPlace(axis=axis, outer=outer)
    parts = split(array, place, 3)
    assert len(parts) == 3
    np.testing.assert_array_equal(join(parts, place), array)
