"""The target as a whole: what it refuses and how completely, what it writes and how exactly."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from mobilekit.errors import UnsupportedModelError
from mobilekit.graph import Graph, Node, Value
from mobilekit.targets.ncnn import NcnnOptions, NcnnTarget
from mobilekit.targets.ncnn.emit import emit
from mobilekit.targets.ncnn.layers import LAYERS
from mobilekit.targets.ncnn.layout import dims_of, kept_axes, match, merged, natural
from mobilekit.targets.ncnn.registry import Registry
from mobilekit.targets.ncnn.writer import arrange
from tests.unit.targets.ncnn.oracle import agrees, build, findings, model, prepared, run_ncnn, run_ort

RNG = np.random.default_rng(13)


def rand(*shape: int) -> np.ndarray:
    return np.asarray(RNG.standard_normal(shape), np.float32)


def test_every_refusal_is_listed_at_once_and_nothing_is_written(tmp_path: Path) -> None:
    graph = Graph("g", {"": 24, "com.example": 1})
    x, a, b, c, y = (Value(name, "float32", (1, 4)) for name in "xabcy")
    graph.inputs, graph.outputs = [x], [y]
    graph.append(Node("/first", "Mystery", [x], [a], domain="com.example"))
    graph.append(Node("/fine", "Relu", [a], [b]))
    graph.append(Node("/second", "Mystery", [b], [c], domain="com.example"))
    graph.append(Node("/third", "Relu", [c], [y], {"leak": 0.5}))
    found = NcnnTarget().check(graph, NcnnOptions())
    assert [(f.node, f.op) for f in found] == [
        ("/first", "com.example::Mystery"),
        ("/second", "com.example::Mystery"),
        ("/third", "Relu"),
    ]
    assert all(f.reason and f.remedy for f in found)
    folder = tmp_path / "ncnn"
    with pytest.raises(UnsupportedModelError) as caught:
        NcnnTarget().build(graph, folder, NcnnOptions())
    assert caught.value.findings == found
    assert not folder.exists()


def _relu_graph(**attrs: object) -> Graph:
    graph = Graph("g", {"": 24})
    x, y = Value("x", "float32", (1, 4)), Value("y", "float32", (1, 4))
    graph.inputs, graph.outputs = [x], [y]
    graph.append(Node("/relu", "Relu", [x], [y], dict(attrs)))
    return graph


def test_an_attribute_nobody_reads_is_refused() -> None:
    assert emit(_relu_graph()).findings == ()
    (finding,) = emit(_relu_graph(leak=0.5)).findings
    assert finding.node == "/relu"
    assert "'leak'" in finding.reason


def test_an_input_nobody_reads_is_refused() -> None:
    graph = _relu_graph()
    (node,) = graph.nodes
    node.inputs.append(graph.constant("extra", np.ones(1, np.float32)))
    (finding,) = emit(graph).findings
    assert "'extra'" in finding.reason


def test_an_output_nobody_makes_is_refused() -> None:
    graph = _relu_graph()
    (node,) = graph.nodes
    node.outputs.append(second := Value("second", "float32", (1, 4), producer=node))
    graph.outputs.append(second)
    (finding,) = emit(graph).findings
    assert "'second'" in finding.reason


def test_registering_twice_is_an_error() -> None:
    registry = Registry()
    registry.emits("Relu", since=6)(lambda node, out: None)
    registry.emits("Relu", since=14)(lambda node, out: None)
    with pytest.raises(ValueError, match="two emitters"):
        registry.emits("Relu", since=6)(lambda node, out: None)


def test_the_newest_emitter_that_is_old_enough_is_taken() -> None:
    registry = Registry()
    for since in (1, 6, 14):
        registry.emits("Relu", since=since)(lambda node, out: None)
    found = [registry.find("", "Relu", opset) for opset in (5, 6, 13, 14, 24)]
    assert [entry.since if entry else None for entry in found] == [1, 6, 6, 14, 14]
    assert registry.find("com.example", "Relu", 14) is None


def test_parameter_ids_are_unique_within_a_layer() -> None:
    for layer, params in LAYERS.items():
        ids = [param.id for param in params.values()]
        assert len(ids) == len(set(ids)), layer


def test_same_model_same_bytes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["t"]),
        helper.make_node("Sigmoid", ["t"], ["s"]),
        helper.make_node("Mul", ["t", "s"], ["y"]),
    ]
    proto = model(nodes, {"x": rand(1, 3, 6, 6)}, ["y"], {"w": rand(4, 3, 3, 3)})
    first, second = (build(proto, tmp_path / name) for name in "ab")
    assert first == second
    for name in ("model.param", "model.bin"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_weights_are_written_as_ncnn_reads_them(tmp_path: Path) -> None:
    weight = rand(2, 3, 1, 1)
    proto = model([helper.make_node("Conv", ["x", "w", "b"], ["y"])], {"x": rand(1, 3, 4, 4)}, ["y"],
                  {"w": weight, "b": np.array([1, 2], np.float32)})  # fmt: skip
    build(proto, tmp_path)
    data = (tmp_path / "model.bin").read_bytes()
    assert data == struct.pack("<I", 0) + weight.tobytes() + np.array([1, 2], np.float32).tobytes()
    build(proto, tmp_path, precision="fp16")
    data = (tmp_path / "model.bin").read_bytes()
    assert data == struct.pack("<I", 0x01306B47) + weight.astype(np.float16).tobytes() + struct.pack("<2f", 1, 2)


def test_fp16_weights_run_and_are_close_but_not_equal() -> None:
    x = rand(1, 3, 6, 6)
    proto = model([helper.make_node("Conv", ["x", "w"], ["y"])], {"x": x}, ["y"], {"w": rand(5, 3, 3, 3)})
    want = run_ort(proto, {"x": x})["y"]
    got = run_ncnn(proto, {"x": x}, precision="fp16")[0]["y"]
    error = np.linalg.norm(got - want) / np.linalg.norm(want)
    assert 1e-6 < error < 1e-3


def test_weights_beyond_fp16_stay_float32() -> None:
    x = rand(1, 2, 4, 4)
    weight = np.full((2, 2, 1, 1), 1e6, np.float32)
    proto = model([helper.make_node("Conv", ["x", "w"], ["y"])], {"x": x}, ["y"], {"w": weight})
    np.testing.assert_allclose(
        run_ncnn(proto, {"x": x}, precision="fp16")[0]["y"], run_ort(proto, {"x": x})["y"], rtol=1e-5
    )


AWKWARD = ["a b", "tab\there", "x" * 400, "x" * 399 + "y", "ünï", "a:0", "/m/Add_output_0", "1", "a_b"]


def test_awkward_names_are_escaped_and_mapped(tmp_path: Path) -> None:
    nodes, outputs = [], []
    for index, name in enumerate(AWKWARD):
        nodes.append(helper.make_node("Relu", ["in put" if index == 0 else AWKWARD[index - 1]], [name], name=name))
        outputs.append(name)
    x = rand(1, 3, 4)
    proto = model(nodes, {"in put": x}, outputs)
    artifact = build(proto, tmp_path)
    lines = (tmp_path / "model.param").read_text(encoding="utf-8").splitlines()[2:]
    words = [line.split(" ") for line in lines]
    assert all(len(word.encode()) <= 255 for line in words for word in line)
    blobs = [line[4 + int(line[2]) + i] for line in words for i in range(int(line[3]))]
    assert len(blobs) == len(set(blobs))
    assert {blob.tensor for blob in artifact.outputs} == set(AWKWARD)
    for blob in [*artifact.inputs, *artifact.outputs]:
        assert blob.blob in blobs
        assert artifact.names.get(blob.blob, blob.blob) == blob.tensor
    got, _ = run_ncnn(proto, {"in put": x})
    for name in AWKWARD:
        np.testing.assert_array_equal(got[name], np.maximum(x, 0))


def test_counts_and_depth_and_the_map_from_nodes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="/a"),
        helper.make_node("Exp", ["a"], ["b"], name="/b"),
        helper.make_node("Neg", ["a"], ["c"], name="/c"),
        helper.make_node("Add", ["b", "c"], ["y"], name="/y"),
    ]
    artifact = build(model(nodes, {"x": rand(1, 3, 4)}, ["y"]), tmp_path)
    lines = (tmp_path / "model.param").read_text().splitlines()
    assert lines[0] == "7767517"
    assert int(lines[1].split()[0]) == len(lines) - 2 == artifact.layers == 6
    assert artifact.depth == 5
    assert artifact.nodes == {"/a": ("/a",), "/b": ("/b",), "/c": ("/c",), "/y": ("/y",)}
    assert set().union(*artifact.nodes.values()) <= {line.split()[1] for line in lines[2:]}


def test_a_long_chain_is_measured_in_linear_time() -> None:
    graph = Graph("g", {"": 24})
    value = Value("x", "float32", (1, 4))
    graph.inputs = [value]
    for index in range(20_000):
        following = Value(f"v{index}", "float32", (1, 4))
        graph.append(Node("", "Relu", [value], [following]))
        value = following
    graph.outputs = [value]
    assert arrange(emit(graph)).depth == 20_001


def test_inputs_and_outputs_of_five_long_axes_lie_flat() -> None:
    agrees(helper.make_node("Relu", ["x"], ["y"]), {"x": rand(2, 2, 2, 2, 2)})


def test_float64_is_computed_in_float32() -> None:
    agrees(helper.make_node("Relu", ["x"], ["y"]), {"x": RNG.standard_normal((1, 3))})


def test_complex_numbers_are_refused_by_name() -> None:
    node = helper.make_node("Reshape", ["x", "s"], ["y"])
    found = findings(model([node], {"x": np.ones((1, 3), np.complex64)}, ["y"], {"s": np.array([3])}))
    assert any("complex64" in f.reason for f in found)


def test_random_numbers_are_refused_for_what_they_are() -> None:
    nodes = [helper.make_node("RandomNormalLike", ["x"], ["n"]), helper.make_node("Add", ["x", "n"], ["y"])]
    (found,) = findings(model(nodes, {"x": np.ones((1, 3), np.float32)}, ["y"]))
    assert found.op == "RandomNormalLike"
    assert "random numbers" in found.reason
    assert "noise" in found.remedy


def test_integers_beyond_float32_are_refused() -> None:
    nodes = [helper.make_node("Concat", ["x", "c"], ["y"], axis=0)]
    found = findings(model(nodes, {"x": np.ones(2, np.int64)}, ["y"], {"c": np.array([2**24 + 1])}))
    assert "2^24" in found[0].reason


def test_scalars_in_and_out() -> None:
    agrees(helper.make_node("Add", ["x", "x"], ["y"]), {"x": np.float32(3)})


def test_a_constant_output() -> None:
    graph = prepared(model([helper.make_node("Relu", ["x"], ["y"])], {"x": rand(1, 3)}, ["y"]))
    graph.outputs.append(graph.constant("fixed", np.arange(6, dtype=np.float32).reshape(1, 2, 3)))
    result = emit(graph)
    assert result.findings == ()
    assert [info.tensor for info, _ in result.outputs] == ["y", "fixed"]


def test_check_agrees_with_build(tmp_path: Path) -> None:
    graph = prepared(model([helper.make_node("Relu", ["x"], ["y"])], {"x": rand(1, 3)}, ["y"]))
    assert NcnnTarget().check(graph, NcnnOptions()) == ()
    NcnnTarget().build(graph, tmp_path, NcnnOptions())


@pytest.mark.parametrize(
    ("shape", "groups"),
    [
        ((), ((),)),
        ((1,), ((0,),)),
        ((1, 1000), ((0, 1),)),
        ((2, 1000), ((0,), (1,))),
        ((1, 3, 8, 8), ((0, 1), (2,), (3,))),
        ((1, 2, 3, 4, 5), ((0, 1), (2,), (3,), (4,))),
        ((2, 1, 3, 4, 5), ((0,), (1, 2), (3,), (4,))),
        ((2, 2, 3, 4, 5), None),
    ],
)
def test_natural_layout(shape: tuple[int, ...], groups: object) -> None:
    assert natural(shape) == groups


def test_layouts_keep_what_they_isolate() -> None:
    assert natural((1, 3, 4), isolate=[0]) == ((0,), (1,), (2,))
    assert merged((2, 3, 4, 5, 6), isolate=[2]) == ((0, 1), (2,), (3, 4))
    assert match((1, 3, 4, 5), (3, 20)) == ((0, 1), (2, 3))
    assert match((1, 3, 4, 5), (3, 20), isolate=[3]) is None
    assert match((1, 3, 4, 5), (4, 15)) is None
    assert dims_of((2, 3, 4), ((0, 1), (2,), ())) == (6, 4, 1)
    assert kept_axes((1, 3, 1, 5), (3, 5)) == (1, 3)
    assert kept_axes((1, 3, 4), (12,)) is None
    assert kept_axes((1, 1), (1,)) == ()
