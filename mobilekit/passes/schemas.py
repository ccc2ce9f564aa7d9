"""What one node makes: dtypes and shapes of its outputs, by the rules of ONNX's operator schemas."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import onnx
import onnx.checker
from onnx import TypeProto, shape_inference

from mobilekit.errors import ModelError
from mobilekit.graph import Graph, Node, Value
from mobilekit.importers.convert import to_node, type_of
from mobilekit.importers.tensors import dtype_name, to_tensor
from mobilekit.tensors import format_shape

if TYPE_CHECKING:
    from mobilekit.tensors import Array

__all__ = ["SHAPE_DATA_LIMIT", "Schemas", "infer_node", "load_schemas"]

SHAPE_DATA_LIMIT = 4096
"""Elements of a constant input that shape inference is shown (shapes, pads, axes, k; never weights)."""

_WITHOUT = frozenset({"GroupNormalization", "MeanVarianceNormalization"})
"""The operators of ONNX that come without shape inference."""

_SAME_AS_FIRST = frozenset(
    {"Abs", "Clip", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Mish"}
    | {"Neg", "PRelu", "Relu", "Sigmoid", "Softplus", "Sqrt", "Swish", "Tanh"}
)
"""What they make of floats has the type of their first input, which need not be asked of ONNX."""

_BROADCASTING = frozenset({"Add", "Div", "Mul", "Sub"})


_SHAPES_ALONE = frozenset(
    {"BatchNormalization", "Concat", "Conv", "ConvTranspose", "Gather", "Gemm", "LayerNormalization", "MatMul", "Max"}
    | {"Min", "Pow", "RMSNormalization", "Transpose", "Where"}
)
"""Operators whose shape inference asks for no input's data: weights need not be shown to it."""

_KEY_LIMIT = 64
"""Elements of shown data up to which what was inferred is remembered."""

_PLAIN_ATTRIBUTES = frozenset({bool, float, int, str})

_Type = tuple[str | None, tuple[int | str | None, ...] | None]


class Schemas:
    """Operator schemas at one opset, looked up once each, and what nodes of the same form were found to make: the
    layers of a network repeat each other, and a rewrite mostly makes what was there before."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.imports = [onnx.helper.make_opsetid("", opset)]
        self.made: dict[tuple[object, ...], list[_Type | None]] = {}
        self._known: dict[str, onnx.defs.OpSchema | None] = {}
        self._attributes: dict[str, dict[str, onnx.defs.OpSchema.AttrType]] = {}

    def get(self, node: Node) -> onnx.defs.OpSchema | None:
        key = node.type_name
        if key not in self._known:
            try:
                self._known[key] = onnx.defs.get_schema(node.op, self.opset, node.domain)
            except onnx.defs.SchemaError:
                self._known[key] = None
        return self._known[key]

    def attribute_types(self, node: Node) -> dict[str, onnx.defs.OpSchema.AttrType]:
        """The types of the attributes that the node's operator has; onnx makes a new table whenever it is asked."""
        found = self._attributes.get(node.type_name)
        if found is None:
            schema = self.get(node)
            found = {} if schema is None else {name: known.type for name, known in schema.attributes.items()}
            self._attributes[node.type_name] = found
        return found


def load_schemas() -> None:
    """Have onnx build its table of operators (some 12 ms), which it does when it is first asked for one."""
    onnx.defs.get_schema("Identity")


def infer_node(node: Node, schemas: Schemas) -> None:
    """Set dtype and shape of the node's outputs from its inputs; what cannot be said stays as the model says it."""
    schema = schemas.get(node)
    if schema is None:
        if not node.domain:
            raise ModelError(f"{node.op} at {node.label!r} is no operator of ONNX opset {schemas.opset}")
        return
    for kind, count, least, most in (
        ("inputs", len(node.inputs), schema.min_input, schema.max_input),
        ("outputs", len(node.outputs), schema.min_output, schema.max_output),
    ):
        if not least <= count <= most:
            raise ModelError(
                f"{node.op} at {node.label!r} has {count} {kind}; it takes {least} to {most}",
                hint="export the model again from its framework",
            )
    _check_attributes(node, schemas)
    first, out = (node.inputs or [None])[0], (node.outputs or [None])[0]
    if node.op in _WITHOUT and not node.domain:
        if first is not None and out is not None:
            out.dtype, out.shape = first.dtype, first.shape
        return
    if any(value is not None and value.dtype is None for value in node.inputs):
        return
    if first is not None and out is not None and (shape := _elementwise(node)) is not None:
        out.dtype, out.shape = first.dtype, shape
        return
    key = _key(node)
    made = None if key is None else schemas.made.get(key)
    if made is None:
        made = _made(node, schema, schemas)
        if key is not None:
            schemas.made[key] = made
    for value, found in zip(node.outputs, made, strict=False):
        if value is not None and found is not None:
            _apply(value, *found)
            _check_sizes(node, value)


def _check_sizes(node: Node, value: Value) -> None:
    shape = value.shape or ()
    if any(isinstance(axis, int) and axis < 0 for axis in shape):
        raise ModelError(
            f"the input is too small for the model, or a window too large: {node.op} at {node.label!r} would make "
            f"{value.name!r} of shape {format_shape(shape)}",
            hint="give a larger --input-shape",
        )


def _elementwise(node: Node) -> tuple[int, ...] | None:
    """The shape that element-wise operators make of floats of fixed shapes; ``None`` for all else, errors too."""
    if node.domain or not (node.op in _SAME_AS_FIRST or node.op in _BROADCASTING):
        return None
    if any(value is not None and value.dtype != "float32" for value in node.inputs):
        return None
    shapes = []
    for value in node.inputs[: 2 if node.op in _BROADCASTING else 1]:
        if value is None or value.shape is None or not all(type(axis) is int for axis in value.shape):
            return None
        shapes.append(cast("tuple[int, ...]", value.shape))
    if len(shapes) == 1 or shapes[0] == shapes[1]:
        return shapes[0]
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        return None


def _shown(node: Node, value: Value) -> Array | None:
    """The data of ``value`` where shape inference is given it."""
    if value.const is None or value.const.size > SHAPE_DATA_LIMIT or (node.op in _SHAPES_ALONE and not node.domain):
        return None
    return value.const


def _key(node: Node) -> tuple[object, ...] | None:
    """What shape inference sees of the node, but for names; ``None`` where that is large, or not easily compared."""
    parts: list[object] = [node.op, node.domain]
    for name, attribute in node.attrs.items():
        kind: type | None = type(attribute)
        if kind is list:
            kinds = {type(item) for item in attribute}
            kind = kinds.pop() if len(kinds) == 1 else int if not kinds else None
            parts += [name, kind, tuple(attribute)]
        else:
            parts += [name, kind, attribute]
        if kind not in _PLAIN_ATTRIBUTES:
            return None
    for value in node.inputs:
        if value is None:
            parts.append(None)
            continue
        data = _shown(node, value)
        if data is not None and (data.size > _KEY_LIMIT or data.dtype == object):
            return None
        parts += [value.dtype, value.shape, None if data is None else data.tobytes()]
    parts += [value is None for value in node.outputs]
    return tuple(parts)


def _made(node: Node, schema: onnx.defs.OpSchema, schemas: Schemas) -> list[_Type | None]:
    """The types of the node's outputs, in order, from ONNX's own rules."""
    types: dict[str, TypeProto] = {}
    data: dict[str, onnx.TensorProto] = {}
    for value in node.inputs:
        if value is None or value.name in types:
            continue
        types[value.name] = type_of(value)
        if (shown := _shown(node, value)) is not None:
            data[value.name] = to_tensor(shown, value.name)
    for body in node.bodies():
        for inner in body.nodes:
            types |= {v.name: type_of(v) for v in inner.inputs if v is not None and v.name not in types and v.dtype}
    try:
        made = shape_inference.infer_node_outputs(schema, to_node(node), types, data, opset_imports=schemas.imports)
    except (shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError) as error:
        if node.bodies():
            return []  # the bodies' own nodes were looked at; what the whole makes stays unknown
        said = str(error).strip().splitlines()[-1] if str(error).strip() else "shape inference failed"
        raise ModelError(
            f"{node.op} at {node.label!r}: {said}", hint="the model, or the input shape, is wrong"
        ) from None
    return [None if value is None or value.name not in made else _plain(made[value.name]) for value in node.outputs]


_AttrType = onnx.defs.OpSchema.AttrType
_PYTHON_TYPES: dict[onnx.defs.OpSchema.AttrType, tuple[type, ...]] = {
    _AttrType.INT: (int,),
    _AttrType.FLOAT: (float,),
    _AttrType.STRING: (str,),
    _AttrType.INTS: (list,),
    _AttrType.FLOATS: (list,),
    _AttrType.STRINGS: (list,),
    _AttrType.TENSOR: (np.ndarray,),
    _AttrType.GRAPH: (Graph,),
}
_LOOSE_AXIS = frozenset({"ConcatFromSequence", "DequantizeLinear", "Flatten", "OneHot", "QuantizeLinear"})
"""Operators whose ``axis`` may lie outside of their first input, or does not matter."""


def _check_attributes(node: Node, schemas: Schemas) -> None:
    """Shape inference looks at neither in operators whose output's shape does not depend on them."""
    for name, value in node.attrs.items():
        known = schemas.attribute_types(node).get(name)
        types = None if known is None else _PYTHON_TYPES.get(known)
        if known is not None and types is not None and not isinstance(value, types):
            kind = str(known).rpartition(".")[2]
            raise ModelError(
                f"{node.op} at {node.label!r}: its attribute {name!r} is not of type {kind}",
                hint="export the model again from its framework",
            )
    axis, first = node.attrs.get("axis"), node.inputs[0] if node.inputs else None
    if node.domain or node.op in _LOOSE_AXIS or not isinstance(axis, int) or first is None or not first.shape:
        return
    rank = len(first.shape)
    if not -rank <= axis < rank:
        raise ModelError(
            f"{node.op} at {node.label!r}: its axis {axis} is not one of the {rank} of {first.name!r}",
            hint="the model, or the input shape, is wrong",
        )


def _plain(made: TypeProto) -> _Type | None:
    if made.WhichOneof("value") != "tensor_type":
        return None
    tensor = made.tensor_type
    dtype = dtype_name(tensor.elem_type) if tensor.elem_type else None
    if not tensor.HasField("shape"):
        return dtype, None
    return dtype, tuple(
        int(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim
    )


def _apply(value: Value, dtype: str | None, shape: tuple[int | str | None, ...] | None) -> None:
    if dtype is not None:
        value.dtype = dtype
    if shape is None:
        return
    old = value.shape
    if old is not None and len(old) == len(shape):
        # What the model says fills in what inference cannot tell.
        shape = tuple(
            o if not isinstance(n, int) and isinstance(o, int) else n for n, o in zip(shape, old, strict=True)
        )
    value.shape = shape
