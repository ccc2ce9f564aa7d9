"""One forward walk: lift each node, compute it where its inputs are constant, else infer its dtypes and shapes.

Because inputs have fixed shapes, ``Shape`` is constant, and with it the arithmetic that exporters do on shapes.
Linear in nodes.
"""

from __future__ import annotations

import math
from collections import deque
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import numpy as np
import onnx
import onnx.checker
from onnx import TypeProto, shape_inference

from mobilekit.errors import Finding, ModelError, UnsupportedModelError
from mobilekit.graph import Graph, Node, Value
from mobilekit.importers.convert import to_node, type_of
from mobilekit.importers.tensors import dtype_name, name_of, to_tensor
from mobilekit.passes.contrib import is_lowered, lower
from mobilekit.passes.evaluate import evaluate
from mobilekit.passes.functions import expand, is_expanded
from mobilekit.passes.lift import lift_node
from mobilekit.passes.loops import is_loop, open_loop
from mobilekit.passes.unroll import is_unrolled, unroll

if TYPE_CHECKING:
    from mobilekit.passes.bounds import Bounds
    from mobilekit.tensors import Array

__all__ = ["Folding", "Schemas", "infer", "infer_node", "load_schemas", "require_static"]

_SHAPE_DATA_LIMIT = 4096
"""Elements of a constant input that shape inference is shown (shapes, pads, axes, k; never weights)."""

_GROWTH_LIMIT_BYTES = 64 << 20
"""A constant result larger than this, and than its inputs, is left to be computed at run time."""


_MOST_ELEMENTS = 2**31 - 1

_GROWERS = frozenset({"ConstantOfShape", "Expand", "EyeLike", "OneHot", "Pad", "Resize", "Tile", "Upsample"})


@dataclass(slots=True)
class Folding:
    """What is folded: ``shapes`` notes the shape of every value that became a constant, by name; those in ``leave``
    do not become one, and neither does what follows from them."""

    leave: frozenset[str] = frozenset()
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


def infer(
    graph: Graph,
    *,
    target_opset: int | None = None,
    keep_batches: bool = False,
    folding: Folding | None = None,
    bounds: Bounds | None = None,
) -> None:
    """Fold, infer and (where ``target_opset`` is given) lift in one walk.

    ``keep_batches``: recurrences over several sequences stay what they are. With ``bounds``, lengths that depend on
    data but have an upper bound become that bound.

    Raises ``UnsupportedModelError`` with every node that has no newer form, ``ModelError`` where operators and shapes
    contradict each other. Shapes that depend on data stay open: ask :func:`require_static`.
    """
    source = graph.opset
    target = max(source, target_opset or source)
    order: list[Node] = []
    pending = deque((node, source) for node in graph.nodes)
    schemas = Schemas(target)
    lifting = target_opset is not None
    refused: list[Finding] = []
    while pending:
        node, version = pending.popleft()
        try:
            forms = lift_node(graph, node, version) if lifting else [node]
        except UnsupportedModelError as error:
            refused += error.findings
            order.append(node)
            continue
        for lifted in forms:
            try:
                inner = _opened(graph, lifted, version, target, keep_batches, bounds) if lifting else None
            except UnsupportedModelError as error:
                refused += error.findings
                order.append(lifted)
                continue
            if inner is not None:
                pending.extendleft(reversed(inner))
                continue
            if lifting:
                with nullcontext() if bounds is None else bounds.hidden():
                    for body in lifted.bodies():
                        _lift_body(body, target)
            _settle(graph, lifted, schemas, order, folding, bounds)
    if refused:
        raise UnsupportedModelError("some operators mean what newer opsets cannot say", findings=refused)
    graph.opsets[""] = target
    graph.rebuild(order)
    if bounds is not None:
        bounds.finish()
    graph.prune()


def _opened(
    graph: Graph, node: Node, version: int, target: int, keep_batches: bool, bounds: Bounds | None
) -> list[tuple[Node, int]] | None:
    """What stands in the node's place, each with the opset that it is of, where it is made of others."""
    if is_lowered(node):
        return [(new, target) for new in lower(graph, node)]
    if node.domain:
        return None
    if node.op == "If":
        branch = _inline_if(graph, node)
        if branch is not None:
            return [(inner, version) for inner in branch]
        with nullcontext() if bounds is None else bounds.hidden():
            for name in ("then_branch", "else_branch"):
                _lift_body(node.attrs[name], target)
        needed = None if bounds is None else bounds.branch(node)
        if needed is not None:
            return [(inner, target) for inner in _inlined(graph, node, needed)]
        both = _both_branches(graph, node)
        return None if both is None else [(inner, target) for inner in both]
    if is_loop(node):
        return [(new, version) for new in open_loop(graph, node)]
    if is_expanded(graph, node):
        return expand(graph, node, target)
    return [(new, target) for new in unroll(graph, node)] if is_unrolled(node, keep_batches=keep_batches) else None


def _settle(
    graph: Graph, node: Node, schemas: Schemas, order: list[Node], folding: Folding | None, bounds: Bounds | None
) -> None:
    """Fold the node, or infer what it makes and keep it in ``order``."""
    opened = None if bounds is None else bounds.opened(node)
    for inner in opened or ():
        if inner.domain:
            order.append(inner)
        else:
            _settle(graph, inner, schemas, order, folding, bounds)
    if opened is not None:
        return
    if folding is not None and any(value is not None and value.name in folding.leave for value in node.outputs):
        infer_node(node, schemas)
        if bounds is not None:
            order += bounds.follow(node)
        order.append(node)
        return
    # Small constants need no inference, whose rules are stricter than the operators are.
    counted = bounds is not None and bounds.holds(node)  # a constant some of whose rows are none is none
    kept = _fold(graph, node, schemas.opset) if _is_small(node) and not counted else None
    if kept is None:
        infer_node(node, schemas)
        if bounds is not None:
            order += bounds.follow(node)
        kept = None if counted else _fold(graph, node, schemas.opset)
    order += [node] if kept is None else kept
    if folding is not None and kept is not None:
        for value in node.outputs:
            if value is not None:
                folding.shapes[value.name] = tuple(axis for axis in value.shape or () if isinstance(axis, int))


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
    first, out = (node.inputs or [None])[0], (node.outputs or [None])[0]
    if node.op in _WITHOUT and not node.domain:
        _check_attributes(node, schemas)
        if first is not None and out is not None:
            out.dtype, out.shape = first.dtype, first.shape
        return
    if any(value is not None and value.dtype is None for value in node.inputs):
        _check_attributes(node, schemas)
        return
    if first is not None and out is not None and (shape := _elementwise(node)) is not None:
        _check_attributes(node, schemas)
        out.dtype, out.shape = first.dtype, shape
        return
    key = _key(node)
    made = None if key is None else schemas.made.get(key)
    if made is None:
        _check_attributes(node, schemas)
        made = _made(node, schema, schemas)
        if key is not None:
            schemas.made[key] = made
    for value, found in zip(node.outputs, made, strict=False):
        if value is not None and found is not None:
            _apply(value, *found)


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
    if value.const is None or value.const.size > _SHAPE_DATA_LIMIT or (node.op in _SHAPES_ALONE and not node.domain):
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


def _is_small(node: Node) -> bool:
    """Whether all inputs are small constants and the result cannot be much larger."""
    if node.op in _GROWERS or not node.inputs:
        return False
    return all(v is None or (v.const is not None and v.const.size <= _SHAPE_DATA_LIMIT) for v in node.inputs)


def _fold(graph: Graph, node: Node, opset: int) -> list[Node] | None:
    """Make the node's outputs constants if they are; ``None`` if they are not, else the nodes that still are needed.

    A graph output stays a node's output: an Identity of the constant.
    """
    if node.op in ("EyeLike", "Shape", "Size") and not node.domain:
        arrays = _shape_of(node)
    elif all(value is None or value.const is not None for value in node.inputs):
        if _too_large(node):
            return None
        arrays = evaluate(node, [None if value is None else value.const for value in node.inputs], opset)
    else:
        return None
    made = [value for value in node.outputs if value is not None]
    if arrays is None or len(arrays) < len(made):
        return None
    if node.op == "Identity" and graph.is_output(made[0]):
        return None
    kept: list[Node] = []
    for value, array in zip(made, arrays, strict=False):
        value.dtype, value.shape = name_of(array.dtype), array.shape
        if graph.is_output(value):
            constant = graph.constant(f"{value.name}_constant", array)
            kept.append(Node(node.name, "Identity", [constant], [value]))
        else:
            value.const = array
    return kept


def _shape_of(node: Node) -> list[Array] | None:
    value = node.inputs[0]
    if value is None or value.shape is None or not all(isinstance(axis, int) for axis in value.shape):
        return None
    axes = [axis for axis in value.shape if isinstance(axis, int)]
    if node.op == "EyeLike":
        if node.outputs[0] is None or node.outputs[0].dtype is None or not _storage(node.outputs[0].dtype):
            return None
        return [np.eye(axes[0], axes[1], k=node.attrs.get("k", 0), dtype=node.outputs[0].dtype)]
    if node.op == "Size":
        return [np.array(int(np.prod(axes, dtype=np.int64)), np.int64)]
    return [np.array(axes[node.attrs.get("start", 0) : node.attrs.get("end", None)], np.int64)]


def _too_large(node: Node) -> bool:
    if node.op in ("ConstantOfShape", "Expand"):
        return False  # views of the data they repeat
    read = sum(value.const.nbytes for value in node.inputs if value is not None and value.const is not None)
    for value in node.outputs:
        if value is not None and value.shape is not None and value.dtype not in (None, "object"):
            axes = [axis for axis in value.shape if isinstance(axis, int)]
            size = int(np.prod(axes, dtype=np.int64)) * np.dtype(_storage(value.dtype)).itemsize
            if size > _GROWTH_LIMIT_BYTES and size > 4 * read:
                return True
    return False


def _storage(dtype: str | None) -> str:
    try:
        return np.dtype(dtype).name
    except TypeError:
        return "uint8"


def _inline_if(graph: Graph, node: Node) -> list[Node] | None:
    """The nodes of the branch that a constant condition takes."""
    condition = node.inputs[0] if node.inputs else None
    if condition is None or condition.const is None or condition.const.size != 1:
        return None
    body = node.attrs.get("then_branch" if bool(condition.const.reshape(-1)[0]) else "else_branch")
    if not isinstance(body, Graph) or len(body.outputs) != len(node.outputs):
        return None  # malformed: shape inference says how
    return _inlined(graph, node, body)


def _inlined(graph: Graph, node: Node, body: Graph) -> list[Node]:
    """The nodes of a branch, then an Identity for each of its outputs."""
    results = list(body.outputs)
    nodes = _taken(graph, body)
    copies = [
        Node("", "Identity", [result], [out])
        for result, out in zip(results, node.outputs, strict=True)
        if out is not None
    ]
    return [*nodes, *copies]


def _both_branches(graph: Graph, node: Node) -> list[Node] | None:
    """Both branches and a Where for each output, where data decides and all shapes are known and alike: operators have
    no side effects."""
    bodies: list[Graph] = [node.attrs[name] for name in ("then_branch", "else_branch")]
    pairs = list(zip(bodies[0].outputs, bodies[1].outputs, strict=True))
    if not all(_is_static(a) and (a.dtype, a.shape) == (b.dtype, b.shape) for a, b in pairs):
        return None
    nodes = [inner for body in bodies for inner in _taken(graph, body)]
    condition = Value(graph.fresh(f"{node.label}_condition"))
    nodes.append(Node("", "Reshape", [node.inputs[0], graph.constant("scalar", np.zeros(0, np.int64))], [condition]))
    for pair, out in zip(pairs, node.outputs, strict=True):
        if out is not None:
            nodes.append(Node("", "Where", [condition, *pair], [out]))
    return nodes


def _taken(graph: Graph, body: Graph) -> list[Node]:
    """The body's nodes, their outputs under names that are free in ``graph``."""
    nodes = body.take()
    for inner in nodes:
        for value in inner.outputs:
            if value is not None:
                value.name = graph.fresh(value.name)
    return nodes


def _lift_body(body: Graph, target: int) -> None:
    """Bodies move to the canonical opset with their graph; their own inputs may have no fixed shape."""
    infer(body, target_opset=target)


def require_static(graph: Graph) -> None:
    """:class:`UnsupportedModelError` with every node that has an output of unknown dtype or shape, or a huge one."""
    findings: list[Finding] = []
    bad: set[int] = set()
    for node in graph.nodes:
        unknown = [value for value in node.outputs if value is not None and not _is_static(value)]
        if not unknown:
            continue
        first_cause = not any(id(value) in bad for value in node.inputs)
        bad |= {id(value) for value in unknown}
        if first_cause:
            findings.append(
                Finding(
                    node.label,
                    node.type_name,
                    "the shape of its output depends on data"
                    if not node.domain
                    else "nothing is known about its output: it is not an ONNX operator",
                    "cut the model before it, and do this step in the application",
                )
            )
    if findings:
        raise UnsupportedModelError("some shapes cannot be fixed before the model runs", findings=findings)
    for value in graph.values():
        count = math.prod(axis for axis in value.shape or () if isinstance(axis, int))
        if count > _MOST_ELEMENTS and value.const is None:
            label = value.producer.label if value.producer is not None else value.name
            op = value.producer.type_name if value.producer is not None else "Input"
            reason = f"{value.name!r} has {count} elements, more than a device can hold"
            findings.append(Finding(label, op, reason, "give smaller input shapes; else the model is damaged"))
    if findings:
        raise UnsupportedModelError("some shapes are too large", findings=findings)


def _is_static(value: Value) -> bool:
    return value.dtype is not None and value.shape is not None and all(isinstance(axis, int) for axis in value.shape)
