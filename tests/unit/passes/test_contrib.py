"""ONNX Runtime's own operators in plain ones, held against ONNX Runtime on the operators themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mobilekit.errors import UnsupportedModelError
from mobilekit.importers.convert import to_proto
from tests.unit.passes.checks import Node, prepared, run

RNG = np.random.default_rng(3)
MS = "com.microsoft"


def f32(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def u8(*shape: int) -> np.ndarray:
    return RNG.integers(0, 255, shape, dtype=np.uint8)


def i8(*shape: int) -> np.ndarray:
    """Of 7 bits: where there is AVX2 alone, ONNX Runtime adds products in pairs, which saturate at 2^15."""
    return RNG.integers(-63, 63, shape, dtype=np.int8)


def model_of(
    node: onnx.NodeProto | list[onnx.NodeProto],
    feeds: Mapping[str, np.ndarray],
    outputs: Mapping[str, tuple[Any, ...]] | None = None,
    weights: Mapping[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    """A model of nodes of any domain; ``outputs`` are ``name: (dtype, *shape)``."""
    nodes = node if isinstance(node, list) else [node]

    def info(name: str, array: np.ndarray) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)

    made = [helper.make_empty_tensor_value_info(name) for name in outputs or {nodes[-1].output[0]: ()}]
    graph = helper.make_graph(
        nodes,
        "contrib",
        [info(name, array) for name, array in feeds.items()],
        made,
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    for value, found in zip(graph.output, outputs.values() if outputs else [(np.float32,)], strict=True):
        value.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(found[0]))
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(MS, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def assert_plain(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], folder: Path, *, atol: float = 2e-5) -> None:
    """The prepared graph has only ONNX's own operators and gives what ONNX Runtime gives for the model as it is."""
    graph = prepared(model, folder, verify=False)
    assert {node.domain for node in graph.nodes} <= {""}
    wanted = run(model, dict(feeds))
    got = run(to_proto(graph), {value.name: feeds[value.name] for value in graph.inputs})
    assert len(wanted) == len(got)
    for a, b in zip(wanted, got, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert np.ptp(a.astype(np.float64)) > 0
        np.testing.assert_allclose(b.astype(np.float64), a.astype(np.float64), rtol=1e-4, atol=atol)


X = f32(2, 5, 8)
FLOATS: dict[str, tuple[onnx.NodeProto, dict[str, np.ndarray], dict[str, np.ndarray]]] = {
    "Gelu": (Node("Gelu", ["x"], ["y"], domain=MS), {"x": X}, {}),
    "FastGelu": (Node("FastGelu", ["x"], ["y"], domain=MS), {"x": X}, {}),
    "FastGelu, bias": (Node("FastGelu", ["x", "b"], ["y"], domain=MS), {"x": X}, {"b": f32(8)}),
    "BiasGelu": (Node("BiasGelu", ["x", "b"], ["y"], domain=MS), {"x": X}, {"b": f32(8)}),
    "QuickGelu": (Node("QuickGelu", ["x"], ["y"], domain=MS, alpha=1.5), {"x": X}, {}),
    "FusedMatMul": (
        Node("FusedMatMul", ["x", "w"], ["y"], domain=MS, alpha=0.5, transA=1, transB=1),
        {"x": X},
        {"w": f32(2, 6, 5)},
    ),
    "FusedMatMul, batch last": (
        Node("FusedMatMul", ["x", "w"], ["y"], domain=MS, transBatchA=1),
        {"x": f32(5, 2, 8)},
        {"w": f32(2, 8, 3)},
    ),
    "FusedConv": (
        Node("FusedConv", ["x", "w", "b"], ["y"], domain=MS, activation="LeakyRelu", activation_params=[0.3]),
        {"x": f32(1, 3, 6, 6)},
        {"w": f32(4, 3, 3, 3), "b": f32(4)},
    ),
    "FusedConv, clip": (
        Node("FusedConv", ["x", "w"], ["y"], domain=MS, activation="Clip", activation_params=[-1.0, 2.0]),
        {"x": f32(1, 3, 6, 6)},
        {"w": f32(4, 3, 3, 3)},
    ),
    "FusedConv, sum": (
        Node("FusedConv", ["x", "w", "b", "z"], ["y"], domain=MS, activation="Relu", pads=[1, 1, 1, 1]),
        {"x": f32(1, 3, 6, 6), "z": f32(1, 4, 6, 6)},
        {"w": f32(4, 3, 3, 3), "b": f32(4)},
    ),
    "FusedGemm": (
        Node("FusedGemm", ["x", "w", "b"], ["y"], domain=MS, activation="Relu", transB=1, alpha=0.5),
        {"x": f32(2, 6)},
        {"w": f32(4, 6), "b": f32(4)},
    ),
    "SkipLayerNormalization": (
        Node("SkipLayerNormalization", ["x", "s", "g", "b", "c"], ["y"], domain=MS, epsilon=1e-3),
        {"x": X, "s": f32(2, 5, 8)},
        {"g": f32(8), "b": f32(8), "c": f32(8)},
    ),
    "SimplifiedLayerNormalization": (
        Node("SimplifiedLayerNormalization", ["x", "g"], ["y"], axis=-1, epsilon=1e-3),
        {"x": X},
        {"g": f32(8)},
    ),
    "SkipSimplifiedLayerNormalization": (
        Node("SkipSimplifiedLayerNormalization", ["x", "s", "g"], ["y"], domain=MS, epsilon=1e-3),
        {"x": X, "s": f32(2, 5, 8)},
        {"g": f32(8)},
    ),
    "Attention": (
        Node("Attention", ["x", "w", "b", "m"], ["y"], domain=MS, num_heads=2),
        {"x": X, "m": np.int32([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])},
        {"w": f32(8, 24), "b": f32(24)},
    ),
    "Attention, lengths": (
        Node("Attention", ["x", "w", "b", "m"], ["y"], domain=MS, num_heads=4),
        {"x": X, "m": np.int32([3, 5])},
        {"w": f32(8, 24), "b": f32(24)},
    ),
    "Attention, causal": (
        Node("Attention", ["x", "w", "b"], ["y"], domain=MS, num_heads=2, unidirectional=1, scale=0.3),
        {"x": X},
        {"w": f32(8, 24), "b": f32(24)},
    ),
    "MultiHeadAttention": (
        Node("MultiHeadAttention", ["q", "k", "v", "b", "m"], ["y"], domain=MS, num_heads=2),
        {"q": f32(1, 3, 8), "k": f32(1, 5, 8), "v": f32(1, 5, 8), "m": np.int32([[1, 1, 0, 1, 1]])},
        {"b": f32(24)},
    ),
    "MultiHeadAttention, split": (
        Node("MultiHeadAttention", ["q", "k", "v"], ["y"], domain=MS, num_heads=2),
        {"q": f32(1, 3, 8), "k": f32(1, 2, 5, 4), "v": f32(1, 2, 5, 4)},
        {},
    ),
    "MultiHeadAttention, attention bias": (
        Node("MultiHeadAttention", ["q", "k", "v", "", "", "b"], ["y"], domain=MS, num_heads=2),
        {"q": f32(1, 3, 8), "k": f32(1, 5, 8), "v": f32(1, 5, 8), "b": f32(1, 2, 3, 5)},
        {},
    ),
    "RotaryEmbedding": (
        Node("RotaryEmbedding", ["x", "p", "c", "s"], ["y"], domain=MS, interleaved=0),
        {"x": f32(1, 2, 5, 8), "p": np.int64([[0, 1, 2, 3, 4]])},
        {"c": f32(9, 4), "s": f32(9, 4)},
    ),
    "RotaryEmbedding, offset": (
        Node("RotaryEmbedding", ["x", "p", "c", "s"], ["y"], domain=MS, interleaved=1),
        {"x": f32(1, 5, 16), "p": np.int64([2])},
        {"c": f32(9, 4), "s": f32(9, 4)},
    ),
    "MatMulNBits": (
        Node("MatMulNBits", ["x", "w", "s"], ["y"], domain=MS, K=40, N=6, bits=4, block_size=16),
        {"x": f32(2, 40)},
        {"w": u8(6, 3, 8), "s": np.abs(f32(18))},
    ),
    "MatMulNBits, zero points": (
        Node("MatMulNBits", ["x", "w", "s", "z"], ["y"], domain=MS, K=48, N=6, bits=4, block_size=16),
        {"x": f32(2, 48)},
        {"w": u8(6, 3, 8), "s": np.abs(f32(18)), "z": u8(12)},
    ),
    "DynamicQuantizeMatMul": (
        Node("DynamicQuantizeMatMul", ["x", "w", "s", "z", "b"], ["y"], domain=MS),
        {"x": f32(2, 40)},
        {"w": i8(40, 6), "s": np.float32([0.01]), "z": np.int8([3]), "b": f32(6)},
    ),
}
LOOSE = {"DynamicQuantizeMatMul": 0.06}


@pytest.mark.parametrize("name", FLOATS)
def test_a_fused_operator_is_written_out(name: str, tmp_path: Path) -> None:
    node, feeds, weights = FLOATS[name]
    assert_plain(model_of(node, feeds, None, weights), feeds, tmp_path, atol=LOOSE.get(name, 2e-5))


def test_the_sum_of_a_skip_is_an_output(tmp_path: Path) -> None:
    node = Node("SkipLayerNormalization", ["x", "s", "g"], ["y", "", "", "t"], domain=MS)
    feeds = {"x": X, "s": f32(2, 5, 8)}
    model = model_of(node, feeds, {"y": (np.float32,), "t": (np.float32,)}, {"g": f32(8)})
    assert_plain(model, feeds, tmp_path)


def test_embeddings_with_their_mask_count(tmp_path: Path) -> None:
    node = Node("EmbedLayerNormalization", ["i", "t", "w", "p", "s", "g", "b", "m"], ["y", "n"], domain=MS)
    feeds = {"i": np.int32([[1, 2, 3], [4, 5, 0]]), "t": np.int32([[0, 0, 1], [1, 0, 0]]),
             "m": np.int32([[1, 1, 1], [1, 1, 0]])}  # fmt: skip
    tables = {"w": f32(9, 8), "p": f32(4, 8), "s": f32(2, 8), "g": f32(8), "b": f32(8)}
    assert_plain(model_of(node, feeds, {"y": (np.float32,), "n": (np.int32,)}, tables), feeds, tmp_path)


@pytest.mark.parametrize("window", [-1, 3])
@pytest.mark.parametrize(("before", "length"), [(0, 6), (5, 1)])
@pytest.mark.parametrize("rotary", ["", "halves", "neighbours"])
@pytest.mark.parametrize("packed", [False, True])
def test_grouped_queries(window: int, before: int, length: int, rotary: str, packed: bool, tmp_path: Path) -> None:
    heads, groups, depth = 4, 2, 16
    q, kv = heads * depth, groups * depth
    feeds = {"q": f32(1, length, q + 2 * kv if packed else q), **({} if packed else {"k": f32(1, length, kv)})}
    feeds |= {} if packed else {"v": f32(1, length, kv)}
    feeds |= {"pk": f32(1, groups, before, depth), "pv": f32(1, groups, before, depth)} if before else {}
    angles = np.arange(8)[:, None] * 10.0 ** -np.arange(depth // 2)
    consts = {
        "lengths": np.array([before + length - 1], np.int32),
        "total": np.array(before + length, np.int32),
        "cos": np.cos(angles).astype(np.float32),
        "sin": np.sin(angles).astype(np.float32),
    }
    inputs = ["q", *(("", "") if packed else ("k", "v")), *(("pk", "pv") if before else ("", "")), "lengths", "total"]
    attrs = {"do_rotary": int(bool(rotary)), "rotary_interleaved": int(rotary == "neighbours")}
    node = Node(
        "GroupQueryAttention",
        [*inputs, *(["cos", "sin"] if rotary else [])],
        ["y", "nk", "nv"],
        domain=MS,
        num_heads=heads,
        kv_num_heads=groups,
        local_window_size=window,
        **attrs,
    )
    outputs = {"y": (np.float32,), "nk": (np.float32,), "nv": (np.float32,)}
    assert_plain(model_of(node, feeds, outputs, consts), feeds, tmp_path)


def test_a_computed_number_of_tokens_is_refused(tmp_path: Path) -> None:
    feeds = {"q": f32(1, 3, 32), "k": f32(1, 3, 16), "v": f32(1, 3, 16), "lengths": np.array([2], np.int32)}
    node = Node(
        "GroupQueryAttention",
        ["q", "k", "v", "", "", "lengths", "total"],
        ["y"],
        domain=MS,
        num_heads=2,
        kv_num_heads=1,
    )
    model = model_of(node, feeds, weights={"total": np.array(3, np.int32)})
    with pytest.raises(UnsupportedModelError) as caught:
        prepared(model, tmp_path)
    assert "--input MASK=ones.npy" in caught.value.findings[0].remedy


def test_earlier_keys_and_values_are_handed_on(tmp_path: Path) -> None:
    inputs = ["q", "k", "v", "", "", "", "pk", "pv"]
    node = Node("MultiHeadAttention", inputs, ["y", "nk", "nv"], domain=MS, num_heads=2)
    feeds = {"q": f32(1, 1, 8), "k": f32(1, 1, 8), "v": f32(1, 1, 8), "pk": f32(1, 2, 3, 4), "pv": f32(1, 2, 3, 4)}
    outputs = {"y": (np.float32,), "nk": (np.float32,), "nv": (np.float32,)}
    assert_plain(model_of(node, feeds, outputs), feeds, tmp_path)


QUANTISED: dict[str, tuple[onnx.NodeProto, dict[str, np.ndarray]]] = {
    "QLinearConv": (
        Node("QLinearConv", ["q", "s", "z", "w", "ws", "wz", "ys", "yz", "b"], ["p"], pads=[1, 1, 1, 1]),
        {"w": i8(4, 3, 3, 3), "ws": np.float32([0.01, 0.02, 0.03, 0.04]), "wz": np.int8([0, 1, 2, 3]),
         "ys": np.float32(0.1), "yz": np.uint8(120), "b": np.int32([1, 2000, -3000, 400])},
    ),
    "QLinearAdd": (
        Node("QLinearAdd", ["q", "s", "z", "q", "s", "z", "ys", "yz"], ["p"], domain=MS),
        {"ys": np.float32(0.1), "yz": np.uint8(120)},
    ),
    "QLinearMul": (
        Node("QLinearMul", ["q", "s", "z", "q", "s", "z", "ys", "yz"], ["p"], domain=MS),
        {"ys": np.float32(0.1), "yz": np.uint8(120)},
    ),
    "QLinearSigmoid": (
        Node("QLinearSigmoid", ["q", "s", "z", "ys", "yz"], ["p"], domain=MS),
        {"ys": np.float32(1 / 256), "yz": np.uint8(0)},
    ),
    "QLinearLeakyRelu": (
        Node("QLinearLeakyRelu", ["q", "s", "z", "ys", "yz"], ["p"], domain=MS, alpha=0.2),
        {"ys": np.float32(0.05), "yz": np.uint8(50)},
    ),
    "QLinearAveragePool": (
        Node("QLinearAveragePool", ["q", "s", "z", "ys", "yz"], ["p"], domain=MS, kernel_shape=[2, 2], strides=[2, 2]),
        {"ys": np.float32(0.03), "yz": np.uint8(100)},
    ),
    "QLinearGlobalAveragePool": (
        Node("QLinearGlobalAveragePool", ["q", "s", "z", "ys", "yz"], ["p"], domain=MS, channels_last=0),
        {"ys": np.float32(0.01), "yz": np.uint8(100)},
    ),
    "QLinearConcat": (
        Node("QLinearConcat", ["ys", "yz", "q", "s", "z", "q", "s", "z"], ["p"], domain=MS, axis=1),
        {"ys": np.float32(0.06), "yz": np.uint8(100)},
    ),
    "QLinearSoftmax": (
        Node("QLinearSoftmax", ["q", "s", "z", "ys", "yz"], ["p"], domain=MS, axis=-1, opset=13),
        {"ys": np.float32(1 / 256), "yz": np.uint8(0)},
    ),
    "MaxPool": (Node("MaxPool", ["q"], ["p"], kernel_shape=[2, 2], strides=[2, 2]), {}),
    "Transpose": (Node("Transpose", ["q"], ["p"], perm=[0, 2, 3, 1]), {}),
    "Concat": (Node("Concat", ["q", "q"], ["p"], axis=2), {}),
    "Slice": (Node("Slice", ["q", "a", "b"], ["p"]), {"a": np.int64([0, 0, 1, 1]), "b": np.int64([1, 2, 5, 6])}),
}  # fmt: skip


@pytest.mark.parametrize("name", QUANTISED)
def test_between_quantise_and_dequantise_are_floats(name: str, tmp_path: Path) -> None:
    """Within a step of the output's quantisation; ties aside it is the very number."""
    node, weights = QUANTISED[name]
    every = {"s": np.float32(0.05), "z": np.uint8(110)} | weights
    scale, zero = ("ys", "yz") if "ys" in weights else ("s", "z")
    nodes = [
        Node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node,
        Node("DequantizeLinear", ["p", scale, zero], ["y"]),
    ]
    feeds = {"x": 2 * np.random.default_rng(11).standard_normal((1, 3, 6, 6)).astype(np.float32)}
    model = model_of(nodes, feeds, None, every)
    graph = prepared(model, tmp_path, verify=False)
    assert not {"QuantizeLinear", "DequantizeLinear"} & {made.op for made in graph.nodes}
    (wanted,), (got,) = run(model, feeds), run(to_proto(graph), feeds)
    step = float(every[scale])
    off = np.abs(wanted - got)
    assert off.max() <= step * 1.001
    assert (off > step / 2).mean() < 0.05


def test_a_channel_each_has_its_own_scale(tmp_path: Path) -> None:
    scales, zeros = np.float32([0.05, 0.1, 0.02]), np.int8([0, 5, -9])
    nodes = [
        Node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=1),
        Node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=1),
    ]
    feeds = {"x": f32(1, 3, 6, 6) * 5}
    model = model_of(nodes, feeds, None, {"s": scales, "z": zeros})
    graph = prepared(model, tmp_path)
    (wanted,), (got,) = run(model, feeds), run(to_proto(graph), feeds)
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_weights_in_blocks_of_four_bits(tmp_path: Path) -> None:
    packed = helper.make_tensor("w", TensorProto.INT4, [4, 6], RNG.integers(-8, 7, 24))
    nodes = [
        Node("DequantizeLinear", ["w", "s"], ["v"], axis=0, block_size=2),
        Node("MatMul", ["x", "v"], ["y"]),
    ]
    feeds = {"x": f32(3, 4)}
    model = model_of(nodes, feeds, None, {"s": f32(2, 6)})
    model.graph.initializer.append(packed)
    model.opset_import[0].version = 21
    model.ir_version = 10
    assert_plain(model, feeds, tmp_path)


def test_a_quantised_mask_of_the_lowest_number_stays_finite(tmp_path: Path) -> None:
    """Its steps times their number overflow by the last digit, and a row that is all masked would be NaN."""
    lowest = float(np.finfo(np.float32).min)
    nodes = [
        Node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        Node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        Node("Softmax", ["d"], ["y"]),
    ]
    feeds = {"x": np.array([[lowest, lowest, lowest], [0, lowest, 0]], np.float32)}
    weights = {"s": np.float32(-lowest / 65535), "z": np.uint16(65535)}
    model = model_of(nodes, feeds, None, weights)
    model.opset_import[0].version, model.ir_version = 21, 10
    graph = prepared(model, tmp_path, verify=False)
    got = run(to_proto(graph), {value.name: feeds["x"] for value in graph.inputs})[0]
    np.testing.assert_allclose(got, [[1 / 3, 1 / 3, 1 / 3], [0.5, 0, 0.5]], rtol=1e-5)


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize(("bits", "kind"), [(4, "bytes"), (8, "bytes"), (4, "int4"), (4, "uint4")])
def test_rows_of_a_table_in_blocks(bits: int, kind: str, zero: bool, tmp_path: Path) -> None:
    rows, width, block = 10, 64, 16
    node = Node("GatherBlockQuantized", ["d", "i", "s", "z"][: 4 if zero else 3], ["y"], domain=MS)
    node.attribute.extend(helper.make_attribute(name, value) for name, value in [("bits", bits), ("block_size", block)])
    numbers, zeros = (RNG.integers(0, 8, (rows, size)).astype(np.uint8) for size in (width, width // block))
    feeds = {"i": np.array([[0, 3, 9]], np.int64)}
    model = model_of(node, feeds, None, {"s": np.abs(f32(rows, width // block)) + 0.1})
    for name, array in [("d", numbers), ("z", zeros)] if zero else [("d", numbers)]:
        if kind == "bytes":
            stored = numpy_helper.from_array(array[:, ::2] | (array[:, 1::2] << 4) if bits == 4 else array, name)
        else:
            stored = helper.make_tensor(name, getattr(TensorProto, kind.upper()), array.shape, array - (kind == "int4"))
        model.graph.initializer.append(stored)
    model.opset_import[0].version, model.ir_version = 21, 10
    assert_plain(model, feeds, tmp_path)


@pytest.mark.parametrize("kind", [0, 1])
def test_weights_in_codes_of_four_bits(kind: int, tmp_path: Path) -> None:
    k, n, block = 48, 5, 16
    node = Node("MatMulBnb4", ["x", "b", "a"], ["y"], domain=MS, K=k, N=n, block_size=block, quant_type=kind)
    feeds, weights = {"x": f32(2, 3, k)}, {"b": RNG.integers(0, 256, n * k // 2).astype(np.uint8)}
    assert_plain(model_of(node, feeds, None, {**weights, "a": np.abs(f32(n * k // block))}), feeds, tmp_path)


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
def test_distances_between_rows(metric: str, tmp_path: Path) -> None:
    feeds = {"x": f32(4, 7)}
    assert_plain(
        model_of(Node("CDist", ["x", "c"], ["y"], domain=MS, metric=metric), feeds, None, {"c": f32(9, 7)}),
        feeds,
        tmp_path,
    )


@pytest.mark.parametrize("op", ["ConvInteger", "MatMulInteger"])
def test_integer_products_of_inputs_that_are_integers(op: str, tmp_path: Path) -> None:
    feeds = {"x": u8(1, 3, 6, 6) if op == "ConvInteger" else u8(5, 7)}
    weights = {"w": i8(4, 3, 3, 3) if op == "ConvInteger" else i8(7, 4), "a": np.uint8(9), "b": np.int8(-2)}
    model = model_of(Node(op, ["x", "w", "a", "b"], ["y"]), feeds, {"y": (np.int32,)}, weights)
    assert_plain(model, feeds, tmp_path)


def test_a_layout_of_one_processor_is_refused(tmp_path: Path) -> None:
    node = Node("Conv", ["x", "w"], ["y"], domain="com.microsoft.nchwc")
    model = model_of(node, {"x": f32(1, 8, 6, 6)}, None, {"w": f32(8, 8, 3, 3)})
    model.opset_import.append(helper.make_opsetid("com.microsoft.nchwc", 1))
    with pytest.raises(UnsupportedModelError) as caught:
        prepared(model, tmp_path, verify=False)
    assert "memory layout of one processor" in caught.value.findings[0].reason
    assert "extended" in caught.value.findings[0].remedy


def test_what_reads_the_scale_otherwise_keeps_its_integers(tmp_path: Path) -> None:
    """A scale that is an output: the section stays, and says what cannot be taken."""
    nodes = [Node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]), Node("DequantizeLinear", ["q", "s", "z"], ["y"])]
    feeds = {"x": f32(3, 4)}
    model = model_of(nodes, feeds, {"y": (np.float32,), "s": (np.float32,)})
    graph = prepared(model, tmp_path, verify=False)
    assert "DynamicQuantizeLinear" in {node.op for node in graph.nodes}


def attention_with_mask(dtype: type) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    node = Node(
        "MultiHeadAttention", ["x", "x", "x", "", *(["m"] if dtype is np.int32 else ["", "m"])], ["y"], domain=MS
    )
    node.attribute.append(helper.make_attribute("num_heads", 2))
    mask = np.array([[1, 1, 1, 0, 0]], np.int32) if dtype is np.int32 else f32(1, 2, 5, 5)
    feeds = {"x": X[:1], "m": mask}
    return model_of(node, feeds), feeds


def test_a_mask_of_integers_leaves_the_softmax_alone(tmp_path: Path) -> None:
    """ONNX's Attention looks for rows that are -inf throughout; 0 and -10000 never make one."""
    model, feeds = attention_with_mask(np.int32)
    assert_plain(model, feeds, tmp_path)
    assert "IsInf" not in {node.op for node in prepared(model, tmp_path, verify=False).nodes}


def test_a_bias_of_floats_may_mask_whole_rows(tmp_path: Path) -> None:
    model, feeds = attention_with_mask(np.float32)
    assert_plain(model, feeds, tmp_path)
    assert "IsInf" in {node.op for node in prepared(model, tmp_path, verify=False).nodes}
