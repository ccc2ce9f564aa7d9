"""ONNX protos to :class:`~mobilekit.graph.Graph` and back.

In a graph, ``Constant`` nodes have become constants, local functions are inlined, nodes are in topological order,
and the body of an ``If``, ``Loop`` or ``Scan`` reads the outer graph's values themselves (they count the body's
nodes among their consumers).
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, helper

from mobilekit.errors import ModelError
from mobilekit.graph import Graph, Node, Value
from mobilekit.importers.onnx import check_names, default_opset, symbol
from mobilekit.importers.tensors import ExternalData, dtype_name, elem_type, from_tensor, name_of, to_tensor

if TYPE_CHECKING:
    from mobilekit.tensors import Array

__all__ = ["from_node_attributes", "from_proto", "to_node", "to_proto", "type_of"]

_RE_EXPORT = "export the model again from its framework"

_MOST_INLINED = 1 << 17
"""Nodes of a model without functions: four times what ncnn runs in one chain."""


def from_proto(model: ModelProto, base_dir: Path) -> Graph:
    """The model as a graph. ``base_dir`` is where external data lies (mapped, not read).

    Raises :class:`ModelError` where a node reads a tensor that nothing makes, two nodes make the same one, nodes
    form a cycle, or a tensor's data is not what its shape says.
    """
    if model.functions:
        model = _inlined(model)
    opsets = {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in model.opset_import}
    opsets[""] = default_opset(model)
    return _Reader(ExternalData(base_dir), opsets).graph(model.graph, {})


def _inlined(model: ModelProto) -> ModelProto:
    from onnx import checker, inliner

    _require_old_functions(model)
    _require_few_calls(model)
    if any(function.attribute_proto for function in model.functions):
        given, model = model, ModelProto()
        model.CopyFrom(given)
        _spell_out_defaults(model)
    try:
        return inliner.inline_local_functions(model, convert_version=True)
    except (checker.ValidationError, RuntimeError, ValueError) as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"the model's own functions cannot be inlined: {said}", hint=_RE_EXPORT) from None


def _require_old_functions(model: ModelProto) -> None:
    """Operators can be brought to a newer opset, and to no older one."""
    opset = default_opset(model)
    for function in model.functions:
        for entry in function.opset_import:
            if entry.domain in ("", "ai.onnx") and entry.version > opset:
                raise ModelError(
                    f"the function {function.domain}.{function.name} is of ONNX opset {entry.version}, newer than the "
                    f"model's {opset}",
                    hint="export the model with one opset for all of it",
                )


def _require_few_calls(model: ModelProto) -> None:
    """Functions that call others twice double with every level: the inliner would fill memory and never end."""
    calls = {(f.domain, f.name, f.overload): _called(f.node) for f in model.functions}
    sizes: dict[tuple[str, str, str], int] = {}
    pending = list(calls)
    opened: set[tuple[str, str, str]] = set()
    while pending:
        key = pending[-1]
        missing = [other for other in calls[key] if other in calls and other not in sizes]
        if missing and key in opened:
            return  # they call each other, of which the inliner tells
        opened.add(key)
        pending += missing
        if not missing:
            sizes[pending.pop()] = sum(count * sizes.get(other, 1) for other, count in calls[key].items())
    count = sum(times * sizes.get(key, 1) for key, times in _called(model.graph.node).items())
    if count > _MOST_INLINED:
        raise ModelError(
            f"the model's own functions call each other too often: without them it has more than {_MOST_INLINED} nodes",
            hint="export the model again with its functions inlined",
        )


def _called(nodes: Iterable[NodeProto]) -> Counter[tuple[str, str, str]]:
    """How often each operator or function is called, in bodies too."""
    found: Counter[tuple[str, str, str]] = Counter()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        found[node.domain, node.op_type, node.overload] += 1
        for attribute in node.attribute:
            for body in [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs:
                pending += body.node
    return found


def _spell_out_defaults(model: ModelProto) -> None:
    """Give each call of a function the defaults of attributes that it leaves out: the inliner forgets them."""
    defaults = {(f.domain, f.name, f.overload): f.attribute_proto for f in model.functions if f.attribute_proto}

    def visit(nodes: Iterable[NodeProto]) -> None:
        for node in nodes:
            given = {attribute.name for attribute in node.attribute}
            for default in defaults.get((node.domain, node.op_type, node.overload), ()):
                if default.name not in given:
                    node.attribute.append(default)
            for attribute in node.attribute:
                for body in [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs:
                    visit(body.node)

    if defaults:
        visit(model.graph.node)
        for function in model.functions:
            visit(function.node)


class _Reader:
    def __init__(self, external: ExternalData, opsets: dict[str, int]) -> None:
        self._external = external
        self._opsets = opsets

    def graph(self, proto: GraphProto, outer: Mapping[str, Value]) -> Graph:
        graph = Graph(proto.name, dict(self._opsets))
        scope: dict[str, Value] = {}
        named = [*proto.initializer, *proto.input, *proto.output]
        check_names(proto.name, *(item.name for item in named))
        for tensor in proto.initializer[:]:
            array = from_tensor(tensor, self._external)
            scope[tensor.name] = Value(tensor.name, name_of(array.dtype), array.shape, const=array)
        for sparse in proto.sparse_initializer:
            scope[sparse.values.name] = _dense(sparse, self._external)
        for info in proto.input:
            if info.name not in scope:
                value = scope[info.name] = Value(info.name)
                _annotate(value, info)
                graph.inputs.append(value)
        nodes = _sorted(proto, known=set(scope))
        for node in nodes:
            made = self._node(node, scope, outer)
            if made is not None:
                graph.append(made)
        for info in (*proto.value_info[:], *proto.output):
            if info.name in scope and scope[info.name].const is None:
                _annotate(scope[info.name], info)
        for info in proto.output:
            found = scope.get(info.name)
            if found is None and info.name in outer:
                found = scope[info.name] = _identity(graph, outer[info.name])
            if found is None:
                raise ModelError(f"nothing in the model makes the output {info.name!r}", hint=_RE_EXPORT)
            graph.outputs.append(found)
        for name in scope:
            graph.register(name)
        return graph

    def _node(self, proto: NodeProto, scope: dict[str, Value], outer: Mapping[str, Value]) -> Node | None:
        reads, makes = proto.input[:], proto.output[:]
        check_names(proto.op_type, proto.name, proto.domain, *reads, *makes)
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        if proto.op_type == "Constant" and not domain:
            array = _constant(proto, self._external)
            name = makes[0]
            scope[name] = Value(name, name_of(array.dtype), array.shape, const=array)
            return None
        inputs: list[Value | None] = []
        for name in reads:
            value = (scope.get(name) or outer.get(name)) if name else None
            if name and value is None:
                raise ModelError(
                    f"{proto.op_type} at {proto.name or makes[0]!r} reads {name!r}, which nothing makes",
                    hint=_RE_EXPORT,
                )
            inputs.append(value)
        attrs = from_node_attributes(
            proto.attribute[:], self._external, lambda body: self.graph(body, {**outer, **scope})
        )
        outputs: list[Value | None] = []
        for name in makes:
            if name:
                scope[name] = Value(name)
            outputs.append(scope[name] if name else None)
        return Node(proto.name, proto.op_type, inputs, outputs, attrs, domain)


def _identity(graph: Graph, value: Value) -> Value:
    out = Value(graph.fresh(f"{value.name}_out"), value.dtype, value.shape)
    graph.append(Node("", "Identity", [value], [out]))
    return out


def _annotate(value: Value, info: ValueInfoProto) -> None:
    if info.type.WhichOneof("value") != "tensor_type":
        return
    tensor = info.type.tensor_type
    if tensor.elem_type:
        value.dtype = dtype_name(tensor.elem_type)
    if tensor.HasField("shape"):
        value.shape = tuple(
            int(dim.dim_value) if dim.HasField("dim_value") and dim.dim_value >= 0 else symbol(dim.dim_param)
            for dim in tensor.shape.dim[:]
        )


def _dense(sparse: Any, external: ExternalData) -> Value:
    values, indices = from_tensor(sparse.values, external), from_tensor(sparse.indices, external)
    dims = tuple(sparse.dims)
    array = np.zeros(dims, values.dtype)
    if indices.ndim == 1:
        array.reshape(-1)[indices.astype(np.int64)] = values
    else:
        array[tuple(indices.astype(np.int64).T)] = values
    return Value(sparse.values.name, name_of(array.dtype), dims, const=array)


def _constant(proto: NodeProto, external: ExternalData) -> Array:
    attrs = from_node_attributes(proto.attribute[:], external)
    if len(attrs) != 1:
        raise ModelError(f"the Constant {proto.output[0]!r} has {len(attrs)} values instead of one", hint=_RE_EXPORT)
    kind, value = next(iter(attrs.items()))
    if kind in ("value", "sparse_value"):
        return np.asarray(value)
    dtypes: dict[str, Any] = {"float": np.float32, "int": np.int64, "string": object}
    dtype = dtypes.get(kind.removeprefix("value_").rstrip("s"))
    if dtype is None:
        raise ModelError(f"the Constant {proto.output[0]!r} has a value of unknown kind {kind!r}", hint=_RE_EXPORT)
    return np.array(value, dtype=dtype)


def from_node_attributes(
    attributes: Iterable[AttributeProto], external: ExternalData | None = None, body: Any = None
) -> dict[str, Any]:
    """Attributes as Python values; ``body`` reads subgraphs."""
    attrs: dict[str, Any] = {}
    for attribute in attributes:
        check_names(attribute.name)
        kind = attribute.type
        value: Any
        if attribute.ref_attr_name:
            raise ModelError(f"attribute {attribute.name!r} refers to a function's attribute outside of a function")
        if kind == AttributeProto.FLOAT:
            value = attribute.f
        elif kind == AttributeProto.INT:
            value = attribute.i
        elif kind == AttributeProto.STRING:
            value = attribute.s.decode("utf-8", "surrogateescape")
        elif kind == AttributeProto.FLOATS:
            value = attribute.floats[:]
        elif kind == AttributeProto.INTS:
            value = attribute.ints[:]
        elif kind == AttributeProto.STRINGS:
            value = [item.decode("utf-8", "surrogateescape") for item in attribute.strings]
        elif kind == AttributeProto.TENSOR:
            value = from_tensor(attribute.t, external)
        elif kind == AttributeProto.TENSORS:
            value = [from_tensor(tensor, external) for tensor in attribute.tensors]
        elif kind == AttributeProto.GRAPH and body is not None:
            value = body(attribute.g)
        elif kind == AttributeProto.GRAPHS and body is not None:
            value = [body(graph) for graph in attribute.graphs]
        elif kind == AttributeProto.SPARSE_TENSOR:
            value = _dense(attribute.sparse_tensor, external or ExternalData(Path())).const
        else:
            name = AttributeProto.AttributeType.Name(kind)
            raise ModelError(f"attribute {attribute.name!r} is of type {name}, which is not supported")
        attrs[attribute.name] = value
    return attrs


def _reads(node: NodeProto) -> Collection[str]:
    """The tensors a node reads, those its bodies capture too."""
    given: list[str] = node.input[:]
    bodies = [
        body
        for attribute in node.attribute[:]
        if attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS)
        for body in ([attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs)
    ]
    if not bodies:
        return given
    names = set(given)
    for body in bodies:
        own = {info.name for info in body.input} | {tensor.name for tensor in body.initializer}
        own |= {name for inner in body.node for name in inner.output}
        used = {info.name for info in body.output}
        for inner in body.node:
            used.update(_reads(inner))
        names |= used - own
    return names


def _sorted(proto: GraphProto, known: set[str]) -> list[NodeProto]:
    """The nodes in topological order: as they are where they are in order, else by Kahn's algorithm."""
    nodes: list[NodeProto] = proto.node[:]  # a slice takes a third of the time of an iteration
    makers: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in node.output[:]:
            if name and (name in makers or name in known):
                raise ModelError(f"the tensor {name!r} is made twice", hint=_RE_EXPORT)
            makers[name] = index
    makers.pop("", None)
    if len(nodes) == 1:
        return nodes  # deep nests are of such graphs: each would look at all bodies within again
    reads = [_reads(node) for node in nodes]
    if all(makers.get(name, -1) < index for index, names in enumerate(reads) for name in names):
        return nodes
    waits = [len({makers[name] for name in names if name in makers}) for names in reads]
    readers: dict[int, list[int]] = {}
    for index, names in enumerate(reads):
        for maker in {makers[name] for name in names if name in makers}:
            readers.setdefault(maker, []).append(index)
    ready = [index for index, count in enumerate(waits) if not count]
    heapq.heapify(ready)
    order: list[NodeProto] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(nodes[index])
        for reader in readers.get(index, ()):
            waits[reader] -= 1
            if not waits[reader]:
                heapq.heappush(ready, reader)
    if len(order) != len(nodes):
        stuck = next(nodes[index] for index, count in enumerate(waits) if count)
        raise ModelError(f"the nodes form a cycle through {stuck.op_type} at {stuck.name or stuck.output[0]!r}")
    return order


def to_proto(
    graph: Graph, *, as_inputs: Collection[Value] = (), stored: Callable[[Array, str], TensorProto] = to_tensor
) -> ModelProto:
    """The graph as a self-contained model (weights inline; protobuf holds at most 2 GB).

    The constants in ``as_inputs`` are written as graph inputs, after the true ones, without their data. ``stored``
    makes the tensors of the others, of a name each; those of bodies are always inline.
    """
    model = ModelProto(
        ir_version=_ir_version(graph.opset),
        producer_name="mobilekit",
        opset_import=[helper.make_opsetid(domain, version) for domain, version in sorted(graph.opsets.items())],
    )
    _write_graph(graph, model.graph, set(), as_inputs, stored)
    return model


def _ir_version(opset: int) -> int:
    """The IR version that came with the opset, not an older one than 8 (initializers apart from inputs, functions)."""
    return max(8, int(helper.find_min_ir_version_for([helper.make_opsetid("", opset)], ignore_unknown=True)))


def _write_graph(
    graph: Graph,
    proto: GraphProto,
    outer: set[int],
    as_inputs: Collection[Value] = (),
    stored: Callable[[Array, str], TensorProto] = to_tensor,
) -> None:
    proto.name = graph.name or "graph"
    defined = set(outer)
    for value in (*graph.inputs, *as_inputs):
        defined.add(id(value))
        proto.input.append(_info(value))
    written: set[int] = set()
    for value in graph.values():
        if value.const is not None and id(value) not in defined:
            written.add(id(value))
            proto.initializer.append(stored(value.const, value.name))
        elif value.producer is not None and value.dtype and value.shape is not None:
            defined.add(id(value))
    defined |= written
    for node in graph.nodes:
        defined |= {id(value) for value in node.outputs if value is not None}
    names: set[str] = set()
    for node in graph.nodes:
        proto.node.append(to_node(node, defined))
        if node.name in names:
            proto.node[-1].name = ""  # ONNX Runtime takes each name once, and none as often as it likes
        names.add(node.name)
    for value in graph.outputs:
        proto.output.append(_info(value))


def _info(value: Value) -> ValueInfoProto:
    if value.dtype is None:
        return ValueInfoProto(name=value.name)
    return ValueInfoProto(name=value.name, type=type_of(value))


def type_of(value: Value) -> TypeProto:
    """The tensor type of ``value`` as far as it is known."""
    made = TypeProto()
    if value.dtype:
        made.tensor_type.elem_type = elem_type(value.dtype)
    else:
        made.tensor_type.SetInParent()
    if value.shape is not None:
        shape = made.tensor_type.shape
        shape.SetInParent()
        for axis in value.shape:
            dim = shape.dim.add()
            if isinstance(axis, int):
                dim.dim_value = axis
            elif axis:
                dim.dim_param = axis
    return made


def to_node(node: Node, outer: set[int] | None = None) -> NodeProto:
    """One node; ``outer`` are the ids of values that bodies may capture (all of their own are written)."""
    proto = NodeProto(
        name=node.name,
        op_type=node.op,
        domain=node.domain,
        input=[value.name if value is not None else "" for value in node.inputs],
        output=[value.name if value is not None else "" for value in node.outputs],
    )
    for name, value in node.attrs.items():
        proto.attribute.append(_attribute(name, value, outer or set()))
    return proto


def _attribute(name: str, value: Any, outer: set[int]) -> AttributeProto:
    attribute = AttributeProto(name=name)
    if isinstance(value, Graph):
        attribute.type = AttributeProto.GRAPH
        _write_graph(value, attribute.g, outer)
    elif isinstance(value, np.ndarray):
        attribute.type = AttributeProto.TENSOR
        attribute.t.CopyFrom(to_tensor(value, name))
    elif isinstance(value, float):
        attribute.type, attribute.f = AttributeProto.FLOAT, value
    elif isinstance(value, int | np.integer):
        attribute.type, attribute.i = AttributeProto.INT, int(value)
    elif isinstance(value, str):
        attribute.type, attribute.s = AttributeProto.STRING, value.encode("utf-8", "surrogateescape")
    elif isinstance(value, list | tuple):
        _list_attribute(attribute, value, outer)
    else:
        raise TypeError(f"attribute {name!r} holds a {type(value).__name__}")
    return attribute


def _list_attribute(attribute: AttributeProto, value: list[Any] | tuple[Any, ...], outer: set[int]) -> None:
    if any(isinstance(item, Graph) for item in value):
        attribute.type = AttributeProto.GRAPHS
        for item in value:
            _write_graph(item, attribute.graphs.add(), outer)
    elif any(isinstance(item, np.ndarray) for item in value):
        attribute.type = AttributeProto.TENSORS
        attribute.tensors.extend(to_tensor(item, "") for item in value)
    elif any(isinstance(item, str) for item in value):
        attribute.type = AttributeProto.STRINGS
        attribute.strings.extend(item.encode("utf-8", "surrogateescape") for item in value)
    elif any(isinstance(item, float) for item in value):
        attribute.type = AttributeProto.FLOATS
        attribute.floats.extend(value)
    else:
        # An empty list is most often one of ints (axes, pads).
        attribute.type = AttributeProto.INTS
        attribute.ints.extend(int(item) for item in value)
