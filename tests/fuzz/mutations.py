"""Models gone bad in ways that files go bad, and in ways that someone means them to: :func:`mutant`."""

from __future__ import annotations

import importlib
import pkgutil
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test.case.node as node_tests
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tests.models import conv_classifier, of_nodes
from tests.property.graphs import RandomChoices, build
from tests.property.makers import MAKERS

__all__ = ["KINDS", "Mutant", "mutant"]

_HUGE = (2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1)
_ODD = ("a b", "a\nb", "a\tb", 'quo"te', "it's", "ä ö", "名前", "", "a" * 300, "~", "a~1", "0", "%s%n", "../../up",
        "/abs", "a=b", "-23300=1", "#", "\x00", "\u202e", "\x7f", "x" * 250 + "é")  # fmt: skip


@dataclass
class Mutant:
    """``files`` beside the model, and ``links`` (name to target) to make there."""

    kind: str
    model: bytes
    files: dict[str, bytes] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        for name, data in self.files.items():
            (folder / name).write_bytes(data)
        for name, target in self.links.items():
            (folder / name).symlink_to(target)
        path = folder / "model.onnx"
        path.write_bytes(self.model)
        return path


def mutant(seed: int) -> Mutant:
    """The same for the same seed; the kinds take turns."""
    rng = random.Random(seed)
    kind = list(KINDS)[seed % len(KINDS)]
    made = KINDS[kind](_base(rng), rng)
    if isinstance(made, ModelProto):
        made = made.SerializeToString()
    return Mutant(kind, made) if isinstance(made, bytes) else made


def _base(rng: random.Random) -> ModelProto:
    choice = rng.randrange(10)
    if choice == 0:
        return conv_classifier()
    if choice == 1:
        return _branches()
    if choice == 2:
        return _quantised()
    if choice < 6:
        return _of_node_tests(rng)
    for seed in range(rng.randrange(1000), 2000):
        builder = build(RandomChoices(seed), MAKERS, 1 + seed % 5)
        if builder.nodes:
            return builder.model(
                [t for made in builder.nodes for t in made.outputs if not t.used] or builder.values[-1:]
            )
    raise AssertionError("no random graph has nodes")


def _of_node_tests(rng: random.Random) -> ModelProto:
    """One of ONNX's own node tests, which are of every operator; inputs but the first may be weights."""
    case = rng.choice(_node_tests(rng.choice(_node_test_modules())))
    model = ModelProto()
    model.CopyFrom(case.model)
    if rng.random() < 0.5:
        for info, array in list(zip(model.graph.input, case.data_sets[0][0], strict=False))[1:]:
            if isinstance(array, np.ndarray | np.generic):
                model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), info.name))
                model.graph.input.remove(info)
    return model


@cache
def _node_test_modules() -> list[str]:
    found = pkgutil.iter_modules(node_tests.__path__)
    return sorted(one.name for one in found if not one.ispkg and not one.name.startswith("_"))


@cache
def _node_tests(module: str) -> list[Any]:
    """The cases that one file makes: all of them together take many seconds."""
    name = f"{node_tests.__name__}.{module}"
    # A module makes its cases when it is executed. Another test of this process may have imported it already: so once
    # more, apart from what it made then, whose names must not come twice.
    cases, names = node_tests._NodeTestCases, node_tests._existing_names
    kept, taken = list(cases), dict(names)
    cases.clear()
    names.clear()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            known = sys.modules.get(name)
            importlib.reload(known) if known is not None else importlib.import_module(name)
        made = [case for case in cases if case.model is not None]
    finally:
        # What was there stays, and what was made new for others to collect, too.
        seen = {case.name for case in kept}
        cases[:] = [*kept, *(case for case in cases if case.name not in seen)]
        names.update(taken)
    return made


def _branches() -> ModelProto:
    """If on a computed condition, and a Loop of constant trip count."""
    then = helper.make_graph([helper.make_node("Neg", ["x"], ["t"])], "then", [], [_info("t", (2, 3))])
    other = helper.make_graph([helper.make_node("Abs", ["x"], ["e"])], "else", [], [_info("e", (2, 3))])
    body = helper.make_graph(
        [helper.make_node("Add", ["h", "x"], ["h2"]), helper.make_node("Identity", ["c"], ["c2"])],
        "body",
        [_info("i", (), TensorProto.INT64), _info("c", (), TensorProto.BOOL), _info("h", (2, 3))],
        [_info("c2", (), TensorProto.BOOL), _info("h2", (2, 3))],
    )
    nodes = [
        helper.make_node("If", ["cond"], ["a"], then_branch=then, else_branch=other),
        helper.make_node("Loop", ["trips", "cond", "a"], ["y"], body=body),
    ]
    model = of_nodes(nodes, {"x": (2, 3)}, {"y": (2, 3)})
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "cond"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(3, np.int64), "trips"))
    return model


def _quantised() -> ModelProto:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["dw"]),
        helper.make_node("MatMul", ["d", "dw"], ["y"]),
    ]
    model = of_nodes(nodes, {"x": (1, 8)}, {"y": (1, 4)}, {"s": np.array(0.05, np.float32)})
    model.graph.initializer.append(numpy_helper.from_array(np.array(3, np.uint8), "z"))
    weight = np.arange(32, dtype=np.uint8).reshape(8, 4)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    return model


def _info(name: str, shape: tuple[int, ...], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


Made = ModelProto | bytes | Mutant
KINDS: dict[str, Callable[[ModelProto, random.Random], Made]] = {}


def kind(function: Callable[[ModelProto, random.Random], Made]) -> Callable[[ModelProto, random.Random], Made]:
    KINDS[function.__name__] = function
    return function


@kind
def flipped_bits(model: ModelProto, rng: random.Random) -> Made:
    data = bytearray(model.SerializeToString())
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


@kind
def truncated(model: ModelProto, rng: random.Random) -> Made:
    data = model.SerializeToString()
    return data[: rng.randrange(len(data))]


@kind
def spliced(model: ModelProto, rng: random.Random) -> Made:
    data = model.SerializeToString()
    a, b = sorted(rng.randrange(len(data)) for _ in range(2))
    at = rng.randrange(len(data))
    return data[:at] + (data[a:b] if rng.random() < 0.5 else rng.randbytes(rng.randrange(64))) + data[at:]


def _values(graph: GraphProto) -> list[onnx.ValueInfoProto]:
    return [*graph.input, *graph.output, *graph.value_info]


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def _integers(model: ModelProto) -> list[TensorProto]:
    return [tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT64]


@kind
def wrong_dtypes(model: ModelProto, rng: random.Random) -> Made:
    things = [*model.graph.initializer, *(info.type.tensor_type for info in _values(model.graph))]
    for thing in rng.sample(things, min(len(things), rng.randint(1, 3))):
        code = rng.choice([*range(27), 99, -1])
        if isinstance(thing, TensorProto):
            thing.data_type = code
        else:
            thing.elem_type = code
    return model


@kind
def wrong_dims(model: ModelProto, rng: random.Random) -> Made:
    for _ in range(rng.randint(1, 3)):
        value = rng.choice((*_HUGE, -1, -5, 0, 1, 7, 1 << 12))
        if model.graph.initializer and rng.random() < 0.5:
            tensor = rng.choice(model.graph.initializer)
            if tensor.dims and rng.random() < 0.7:
                tensor.dims[rng.randrange(len(tensor.dims))] = value
            else:
                tensor.dims.append(value)
        else:
            shape = rng.choice(_values(model.graph)).type.tensor_type.shape
            if shape.dim and rng.random() < 0.7:
                shape.dim[rng.randrange(len(shape.dim))].dim_value = value
            else:
                shape.dim.add().dim_value = value
    return model


@kind
def symbolic_dims(model: ModelProto, rng: random.Random) -> Made:
    info = rng.choice(_values(model.graph))
    if rng.random() < 0.3:
        info.type.tensor_type.ClearField("shape")
    for dim in info.type.tensor_type.shape.dim:
        if rng.random() < 0.5:
            dim.dim_param = rng.choice(("N", "batch", "", "?", "a b", "名", "N"))
    return model


@kind
def cycles(model: ModelProto, rng: random.Random) -> Made:
    nodes = list(model.graph.node)
    reader = rng.choice(nodes)
    source = rng.choice(nodes[nodes.index(reader) :])
    if reader.input:
        reader.input[rng.randrange(len(reader.input))] = rng.choice(list(source.output))
    return model


@kind
def weights_that_are_no_numbers(model: ModelProto, rng: random.Random) -> Made:
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor).copy()
            flat = array.reshape(-1)
            for _ in range(rng.randint(1, 3)):
                if flat.size:
                    flat[rng.randrange(flat.size)] = rng.choice((np.nan, np.inf, -np.inf, 3e38, 1e-45, 0.0))
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model


@kind
def senseless_integers(model: ModelProto, rng: random.Random) -> Made:
    tensors = _integers(model)
    if not tensors:
        return flipped_bits(model, rng)
    tensor = rng.choice(tensors)
    array = numpy_helper.to_array(tensor).copy()
    if rng.random() < 0.3 or not array.size:
        array = np.array([rng.choice((0, 1, -1, 1 << 20)) for _ in range(rng.randrange(8))], np.int64)
    else:
        flat = array.reshape(-1)
        flat[rng.randrange(flat.size)] = rng.choice((*_HUGE, -1, 0, -(2**63), -7, 1 << 20, 1000))
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model


@kind
def attributes_of_other_values(model: ModelProto, rng: random.Random) -> Made:
    attributes = [attribute for node in _nodes(model.graph) for attribute in node.attribute]
    if not attributes:
        return cycles(model, rng)
    attribute = rng.choice(attributes)
    number = rng.choice((*_HUGE, 0, -1, -2, 5, 100, 1 << 20, -(2**63)))
    if attribute.type == AttributeProto.INT:
        attribute.i = number
    elif attribute.type == AttributeProto.INTS:
        if attribute.ints and rng.random() < 0.7:
            attribute.ints[rng.randrange(len(attribute.ints))] = number
        else:
            attribute.ints.append(number)
    elif attribute.type == AttributeProto.FLOAT:
        attribute.f = rng.choice((float("nan"), float("inf"), -1.0, 0.0, 3e38))
    elif attribute.type == AttributeProto.STRING:
        attribute.s = rng.choice((b"", b"\xff\xfe", b"nonsense", b"a" * 10000))
    return model


@kind
def attributes_of_other_types(model: ModelProto, rng: random.Random) -> Made:
    node = rng.choice(list(_nodes(model.graph)))
    schema = onnx.defs.get_schema(node.op_type) if onnx.defs.has(node.op_type) else None
    names = [a.name for a in node.attribute] + (list(schema.attributes) if schema else []) + ["unheard_of"]
    name = rng.choice(names)
    kept = [a for a in node.attribute if a.name != name]
    value = rng.choice((1, 2.5, "text", [1, 2], [1.5], ["a"], helper.make_tensor("t", 1, [1], [1.0]), model.graph))
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])
    return model


@kind
def giant_attributes(model: ModelProto, rng: random.Random) -> Made:
    node = rng.choice(list(model.graph.node))
    name = rng.choice(("pads", "axes", "kernel_shape", "perm", "strides", "junk"))
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, [rng.choice((0, 1))] * rng.choice((100, 100_000)))])
    return model


@kind
def duplicate_names(model: ModelProto, rng: random.Random) -> Made:
    graph = model.graph
    way = rng.randrange(5)
    if way == 0:
        a, b = rng.choice(list(graph.node)), rng.choice(list(graph.node))
        a.output[0] = b.output[0]
    elif way == 1 and graph.initializer:
        graph.initializer.append(rng.choice(list(graph.initializer)))
    elif way == 2:
        graph.input.append(rng.choice(list(graph.input)) if graph.input else _info("x", (1,)))
    elif way == 3:
        graph.output.append(rng.choice(list(graph.output)))
    else:
        for node in graph.node:
            node.name = "same"
    return model


@kind
def odd_names(model: ModelProto, rng: random.Random) -> Made:
    names = {name for node in model.graph.node for name in [*node.input, *node.output] if name}
    names |= {info.name for info in _values(model.graph)}
    chosen = rng.sample(sorted(names), min(len(names), rng.randint(1, 6)))
    return _renamed(model, dict(zip(chosen, rng.sample(_ODD, len(chosen)), strict=True)), rng)


def _renamed(model: ModelProto, names: dict[str, str], rng: random.Random) -> ModelProto:
    for node in _nodes(model.graph):
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        node.name = rng.choice((node.name, rng.choice(_ODD)))
    for thing in [*_values(model.graph), *model.graph.initializer]:
        thing.name = names.get(thing.name, thing.name)
    return model


@kind
def external_data(model: ModelProto, rng: random.Random) -> Made:
    made = Mutant("external_data", b"")
    location = rng.choice(
        (
            "data.bin",
            "short.bin",
            "missing.bin",
            "../outside.bin",
            "/etc/hostname",
            "/dev/zero",
            "link.bin",
            "sub/../data.bin",
            "",
            "model.onnx",
            ".",
            "a\x00b",
            "data.bin/",
            "loop.bin",
            "/proc/self/mem",
            "a" * 5000,
        )
    )
    made.files = {"data.bin": bytes(1 << 16), "short.bin": b"1234"}
    made.links = {"link.bin": "/etc/hostname", "loop.bin": "loop.bin"}
    tensors = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT]
    for tensor in tensors[: rng.randint(1, 3)]:
        length = int(np.prod(tensor.dims, dtype=np.int64)) * 4
        tensor.ClearField("raw_data")
        tensor.ClearField("float_data")
        tensor.data_location = TensorProto.EXTERNAL
        offset = rng.choice(("0", "0", "0", "-4", "99999999999999", "x", "2"))
        entries = {"location": location, "offset": offset}
        entries["length"] = rng.choice((str(length), str(length), "-1", "0", str(2**63), "1e9"))
        for key, value in entries.items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
    made.model = model.SerializeToString()
    return made


@kind
def deep_nesting(model: ModelProto, rng: random.Random) -> Made:
    depth = rng.choice((2, 5, 15, 29))  # protobuf itself stops at 100 messages
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["r"])], "inner", [], [_info("r", (2,))])
    constant = rng.random() < 0.5
    for _ in range(depth):
        node = helper.make_node("If", ["cond"], ["r"], then_branch=graph, else_branch=_plain())
        graph = helper.make_graph([node], "level", [], [_info("r", (2,))])
    graph.input.append(_info("x", (2,)))
    if constant:
        graph.initializer.append(numpy_helper.from_array(np.array(True), "cond"))
    else:
        graph.input.append(_info("cond", (), TensorProto.BOOL))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _plain() -> GraphProto:
    return helper.make_graph([helper.make_node("Abs", ["x"], ["r"])], "plain", [], [_info("r", (2,))])


@kind
def deep_protobuf(model: ModelProto, rng: random.Random) -> Made:
    """Messages inside messages, past what a parser should follow."""
    data = b""
    for _ in range(rng.choice((50, 500, 20_000))):
        data = b"\x32" + _varint(len(data)) + data  # AttributeProto.g, of GraphProto.node, of ...
        if len(data) > 1 << 16:
            break
    return model.SerializeToString() + b"\x3a" + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    made = b""
    while value > 127:
        made += bytes([value & 127 | 128])
        value >>= 7
    return made + bytes([value])


@kind
def nothing_there(model: ModelProto, rng: random.Random) -> Made:
    for name in rng.sample(("node", "input", "output", "initializer", "value_info"), rng.randint(1, 3)):
        model.graph.ClearField(name)
    if rng.random() < 0.2:
        model.ClearField("opset_import")
    return model


@kind
def other_operators(model: ModelProto, rng: random.Random) -> Made:
    names = sorted({schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain})
    for node in rng.sample(list(model.graph.node), rng.randint(1, min(3, len(model.graph.node)))):
        node.op_type = rng.choice((*names, *names, "NoSuchOperator", "", "a b\n"))
        if rng.random() < 0.1:
            node.domain = rng.choice(("com.microsoft", "ai.onnx.ml", "my domain\n", "ai.onnx"))
        if rng.random() < 0.5:
            del node.attribute[:]
    return model


@kind
def other_inputs(model: ModelProto, rng: random.Random) -> Made:
    names = sorted({name for node in model.graph.node for name in [*node.input, *node.output]})
    node = rng.choice(list(_nodes(model.graph)))
    way = rng.randrange(4)
    if way == 0 and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(names)
    elif way == 1:
        node.input.extend([rng.choice(names)] * rng.choice((1, 3, 1000)))
    elif way == 2 and node.input:
        del node.input[rng.randrange(len(node.input))]
    else:
        node.output.extend([f"more{i}" for i in range(rng.choice((1, 5, 500)))])
    return model


@kind
def other_opsets(model: ModelProto, rng: random.Random) -> Made:
    for entry in model.opset_import:
        entry.version = rng.choice((-1, 0, 1, 6, 7, 8, 9, 10, 11, 12, 13, 15, 18, 20, 22, 24, 26, 99, 2**40))
    if rng.random() < 0.2:
        model.opset_import.append(helper.make_opsetid(rng.choice(("", "x", "ai.onnx")), rng.choice((1, 13, 2**50))))
    if rng.random() < 0.2:
        model.ir_version = rng.choice((0, 1, 3, 99, 2**40))
    return model


@kind
def wrong_data_lengths(model: ModelProto, rng: random.Random) -> Made:
    if not model.graph.initializer:
        return truncated(model, rng)
    tensor = rng.choice(list(model.graph.initializer))
    data = numpy_helper.to_array(tensor).tobytes()
    for name in ("raw_data", "float_data", "int64_data", "int32_data"):
        tensor.ClearField(name)
    way = rng.randrange(4)
    if way == 0:
        tensor.raw_data = data[: rng.randrange(len(data) + 1)]
    elif way == 1:
        tensor.raw_data = data + rng.randbytes(rng.choice((1, 4, 100)))
    elif way == 2:
        tensor.float_data.extend([1.0] * rng.randrange(5))
    else:
        tensor.string_data.extend([b"text"] * 3)
    return model


@kind
def functions_gone_wrong(model: ModelProto, rng: random.Random) -> Made:
    names = ("F", "G", "H")
    domain = rng.choice(("mine", "", "my domain"))
    for name in names:
        calls = rng.choice((*names, "Neg", "Neg", "NoSuch"))
        node = helper.make_node(calls, ["a"], ["b"], domain=domain if calls in names else "")
        opset = [helper.make_opsetid("", 17), helper.make_opsetid(domain or "mine", 1)]
        model.functions.append(helper.make_function(domain, name, ["a"], ["b"], [node], opset))
    model.opset_import.append(helper.make_opsetid(domain or "mine", 1))
    target = rng.choice(list(model.graph.node))
    target.op_type, target.domain = rng.choice(names), domain
    if rng.random() < 0.7:
        del target.input[1:]
        del target.output[1:]
        del target.attribute[:]
    return model
