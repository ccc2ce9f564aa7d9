"""Our own operators that give all rows there can be, in plain ONNX: ONNX Runtime then checks what follows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from mobilekit.passes.bounds import DOMAIN

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from mobilekit.graph import Graph

__all__ = ["plain", "with_computed_rows"]


def with_computed_rows(graph: Graph) -> frozenset[str]:
    """Values that come after a computed number of rows: the model as read may have fewer elements in them."""
    found: set[int] = set()
    names: set[str] = set()
    for node in graph.nodes:
        if node.domain == DOMAIN or any(id(value) in found for value in node.inputs):
            found |= {id(value) for value in node.outputs if value is not None}
            names |= {value.name for value in node.outputs if value is not None}
    return frozenset(names)


def plain(proto: ModelProto) -> ModelProto:
    """``proto`` with standard operators in the place of ours; itself where it has none of them."""
    from onnx import ModelProto

    if not any(node.domain == DOMAIN for node in proto.graph.node):
        return proto
    made = ModelProto()
    made.CopyFrom(proto)
    del made.graph.node[:], made.opset_import[:]
    made.opset_import.extend(entry for entry in proto.opset_import if entry.domain != DOMAIN)
    for index, node in enumerate(proto.graph.node):
        made.graph.node.extend([node] if node.domain != DOMAIN else _written_out(node, f"_rows{index}"))
    return made


def _written_out(node: NodeProto, stem: str) -> list[NodeProto]:
    from onnx import helper, numpy_helper

    attrs = {attr.name: helper.get_attribute_value(attr) for attr in node.attribute}
    nodes: list[NodeProto] = []

    def const(data: Any, dtype: str) -> str:
        name = f"{stem}_{len(nodes)}"
        tensor = numpy_helper.from_array(np.asarray(data, dtype), name)
        nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        return name

    def step(op: str, *inputs: str, **options: Any) -> str:
        name = f"{stem}_{len(nodes)}"
        nodes.append(helper.make_node(op, list(inputs), [name], **options))
        return name

    rows, inputs, options = _FORMS[node.op_type](attrs, const)
    *outputs, count = node.output
    pairs = list(zip(outputs, rows, strict=False))
    short = [name if axis is None or not name else f"{stem}_short{i}" for i, (name, axis) in enumerate(pairs)]
    nodes.append(helper.make_node(node.op_type, [*node.input, *inputs], short, **options))
    first, along = next((own, axis) for own, axis in zip(short, rows, strict=False) if axis is not None and own)
    there = step("Shape", first, start=along, end=along + 1)
    nodes.append(helper.make_node("Cast", [there], [count], to=1))
    missing = step("Sub", const([attrs["bound"]], "int64"), there)
    for name, own, axis in zip(outputs, short, rows, strict=False):
        if axis is not None and name:
            where = const([axis], "int64")
            pads = step("Concat", const([0], "int64"), missing, axis=0)
            nodes.append(helper.make_node("Pad", [own, pads, "", where], [name]))
    return nodes


_Form = tuple[list["int | None"], list[str], dict[str, Any]]
_Const = Callable[[Any, str], str]


def _suppression(attrs: Mapping[str, Any], const: _Const) -> _Form:
    inputs = [const(attrs["max_output_boxes_per_class"], "int64"), const(attrs["iou_threshold"], "float32")]
    inputs += [const(attrs["score_threshold"], "float32")] if attrs["has_score_threshold"] else []
    return [0], inputs, {"center_point_box": attrs.get("center_point_box", 0)}


def _non_zero(attrs: Mapping[str, Any], const: _Const) -> _Form:  # noqa: ARG001
    return [1], [], {}


def _unique(attrs: Mapping[str, Any], const: _Const) -> _Form:  # noqa: ARG001
    options = {name: attrs[name] for name in ("axis", "sorted") if name in attrs}
    return [attrs.get("axis", 0), 0, None, 0], [], options


_FORMS: Mapping[str, Callable[[Mapping[str, Any], _Const], _Form]] = MappingProxyType(
    {"NonMaxSuppression": _suppression, "NonZero": _non_zero, "Unique": _unique}
)
"""The axes along which its outputs have computed rows, inputs beyond those of ours, attributes."""
