"""Operators that ONNX itself defines by others: the bodies of its functions, in place of the node.

Only for operators that no target takes as they are (:func:`is_expanded`); the shapes of all inputs are known, so what
the bodies compute from shapes is folded at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from onnx import FunctionProto, ModelProto, NodeProto, TypeProto, ValueInfoProto, helper

from mobilekit.graph import Node
from mobilekit.importers.convert import from_proto, to_node, type_of

if TYPE_CHECKING:
    from mobilekit.graph import Graph

__all__ = ["expand", "is_expanded"]

EXPANDED = frozenset(
    {
        "Attention",
        "CausalConvWithState",
        "CenterCropPad",
        "MeanVarianceNormalization",
        "NegativeLogLikelihoodLoss",
        "RotaryEmbedding",
        "Shrink",
        "SoftmaxCrossEntropyLoss",
        "SwiGLU",
        "ThresholdedRelu",
    }
)

_SEVERAL_OUTPUTS = frozenset({"LayerNormalization"})
"""Expanded only where somebody wants more than the first output."""

_DOMAIN = "mobilekit.function"


def is_expanded(graph: Graph, node: Node) -> bool:
    """Whether ``node`` is one of those that no target takes as they are."""
    if node.domain:
        return False
    if node.op in _SEVERAL_OUTPUTS:
        return any(value is not None and (value.consumers or graph.is_output(value)) for value in node.outputs[1:])
    return node.op in EXPANDED


def expand(graph: Graph, node: Node, opset: int) -> list[tuple[Node, int]] | None:
    """The nodes that compute what ``node`` does at ``opset``, each with the opset that it is of.

    ``None`` where ONNX has no body for it, or a type or rank that the body depends on is not known.
    """
    if any(value is not None and (value.dtype is None or value.shape is None) for value in node.inputs):
        return None
    try:
        function = _body(node, opset)
    except (onnx.defs.SchemaError, RuntimeError, ValueError):
        return None  # malformed: shape inference says how
    if function is None:
        return None
    inner = from_proto(_model(function, node, opset), Path())
    given = {name: value for name, value in zip(_inputs(node), node.inputs, strict=True) if value is not None}
    ends = {id(value): given[value.name] for value in inner.inputs}
    results = list(inner.outputs)
    nodes = inner.take()
    for made in nodes:
        made.name = f"{node.label}/{made.op}"
        made.inputs = [value and ends.get(id(value), value) for value in made.inputs]
        for value in [*made.inputs, *made.outputs]:
            if value is not None and value.producer is None and id(value) not in ends and value not in node.inputs:
                value.name = graph.fresh(value.name)
    wanted = [value for value in node.outputs if value is not None]
    copies = [
        Node(node.name, "Identity", [ends.get(id(result), result)], [value])
        for result, value in zip(results, wanted, strict=True)
    ]
    return [(new, inner.opset) for new in [*nodes, *copies]]


def _inputs(node: Node) -> list[str]:
    return ["" if value is None else f"in{index}" for index, value in enumerate(node.inputs)]


def _body(node: Node, opset: int) -> FunctionProto | None:
    schema: Any = onnx.defs.get_schema(node.op, opset, node.domain)  # its type stubs lack the function methods
    if schema.has_context_dependent_function:
        version = max(v for v in schema.context_dependent_function_opset_versions if v <= opset)
        types = [(TypeProto() if value is None else type_of(value)).SerializeToString() for value in node.inputs]
        call = _call(node, opset, node.op, node.domain).SerializeToString()
        data = schema.get_context_dependent_function_with_opset_version(version, call, types)
    elif schema.has_function:
        version = max(v for v in schema.function_opset_versions if v <= opset)
        data = schema.get_function_with_opset_version(version)
    else:
        return None
    return FunctionProto.FromString(data) if data else None


def _call(node: Node, opset: int, op: str, domain: str) -> NodeProto:
    """The node with names of its own and every attribute that has a default."""
    outputs = ["" if value is None else f"out{index}" for index, value in enumerate(node.outputs)]
    plain = to_node(node)
    call = helper.make_node(op, _inputs(node), outputs, domain=domain)
    call.attribute.extend(plain.attribute)
    for name, attribute in onnx.defs.get_schema(node.op, opset, node.domain).attributes.items():
        if name not in node.attrs and attribute.default_value.name:
            call.attribute.append(attribute.default_value)
    return call


def _model(function: FunctionProto, node: Node, opset: int) -> ModelProto:
    """A model that calls ``function`` once."""
    local = FunctionProto()
    local.CopyFrom(function)
    local.domain, local.name = _DOMAIN, node.op
    call = _call(node, opset, node.op, _DOMAIN)
    inputs = [
        ValueInfoProto(name=name, type=type_of(value))
        for name, value in zip(_inputs(node), node.inputs, strict=True)
        if value is not None
    ]
    outputs = [ValueInfoProto(name=name) for name in call.output if name]
    imports = [*function.opset_import, helper.make_opsetid(_DOMAIN, 1)]
    return helper.make_model(
        helper.make_graph([call], node.op, inputs, outputs), functions=[local], opset_imports=imports
    )
