"""float16 and bfloat16 by casts in the graph: every tensor's type can be read off the ONNX, nothing is left to flags.

What stays float32: inputs and outputs, what an operator's schema wants as float32 (``Resize``'s scales), operators
that have no 16-bit form, and nodes that would leave the format's range: those that read a constant which is too large
for it (what they make is held to its range) or whose smallest numbers vanish in it, powers and sums of squares with
what directly follows them, and in float16 the logarithms and quotients of small numbers
(:mod:`mobilekit.precision.small`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx

from mobilekit.errors import Finding, UnsupportedModelError
from mobilekit.graph import Graph, Node, Value
from mobilekit.importers.tensors import elem_type
from mobilekit.precision.rounding import MOVES
from mobilekit.precision.small import small_numbers

if TYPE_CHECKING:
    from mobilekit.tensors import Array

__all__ = ["HalfReport", "emulated", "to_half"]

HalfType = Literal["float16", "bfloat16"]

_FLOAT = "float32"
_SPELLED = {"float16": "tensor(float16)", "bfloat16": "tensor(bfloat16)", "float32": "tensor(float)"}

_WIDE = frozenset(
    {
        "CumProd",
        "CumSum",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "Pow",
        "QuantizeLinear",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceProd",
        "ReduceSumSquare",
    }
)
"""Quantisation has its own types; the others square, multiply up or sum long rows."""

_SUMS = frozenset({"ReduceMean", "ReduceSum"})
_FOLLOWING = _SUMS | {"Add", "Div", "Max", "Mul", "Reciprocal", "Reshape", "Sqrt", "Squeeze", "Sub", "Unsqueeze"}
"""Stay float32 behind a node that did, where all else they read is constant: the way from a square to its root."""


@dataclass(frozen=True, slots=True)
class HalfReport:
    """``kept`` maps nodes that stay in float32 to the reason; ``converted`` counts the others that compute floats."""

    dtype: HalfType
    converted: int
    kept: dict[str, str]


def to_half(
    graph: Graph,
    dtype: HalfType,
    *,
    keep: Mapping[str, str] | None = None,
    keep_nodes: Mapping[str, str] | None = None,
) -> HalfReport:
    """Make the graph compute in ``dtype``, in place. Every value must have its dtype.

    ``keep`` maps operators that the target lacks in this format to the reason: they stay in float32. ``keep_nodes``
    does the same for single nodes, by label.

    Raises :class:`UnsupportedModelError` for models with If, Loop or Scan, whose bodies' types would have to agree.
    """
    bodies = [node for node in graph.nodes if node.bodies()]
    if bodies:
        raise UnsupportedModelError(
            f"a model with {bodies[0].op} cannot be made {dtype}",
            findings=[
                Finding(node.label, node.op, "its body has types of its own", "export it in fp32") for node in bodies
            ],
        )
    return _Converter(graph, dtype, keep or {}, keep_nodes or {}).run()


class _Converter:
    def __init__(self, graph: Graph, dtype: HalfType, keep: Mapping[str, str], keep_nodes: Mapping[str, str]) -> None:
        self._graph = graph
        self._dtype = dtype
        self._keep = keep
        self._keep_nodes = keep_nodes
        self._order: list[Node] = []
        self._casts: dict[tuple[int, str], Value] = {}
        self._kept: dict[str, str] = {}
        self._wide: set[int] = set()
        self._beyond: set[int] = set()
        self._small = small_numbers(graph) if dtype == "float16" else frozenset[int]()
        self._schemas: dict[str, onnx.defs.OpSchema | None] = {}

    def run(self) -> HalfReport:
        graph = self._graph
        converted = 0
        outputs = {id(value) for value in graph.outputs}
        for node in graph.nodes:
            floats = [i for i, value in enumerate(node.inputs) if value is not None and self._is_float(value)]
            made = [value for value in node.outputs if value is not None and value.dtype == _FLOAT]
            if not floats and not made:
                self._order.append(node)
                continue
            reason = self._reason(node)
            if reason:
                self._kept[node.label] = reason
                self._wide |= {id(value) for value in made}
                if _CANNOT_HOLD in reason or any(id(value) in self._beyond for value in node.inputs):
                    self._beyond |= {id(value) for value in made}
            else:
                converted += 1
            for index in floats:
                value = node.inputs[index]
                assert value is not None
                wanted = _FLOAT if reason or not self._takes(node, index) else self._dtype
                if value.dtype != wanted:
                    graph.set_input(node, index, self._cast(value, wanted))
            self._order.append(node)
            if not reason:
                self._retype(node, made, outputs)
        graph.rebuild(self._order)
        return HalfReport(self._dtype, converted, self._kept)

    def _is_float(self, value: Value) -> bool:
        return value.dtype in (_FLOAT, self._dtype)

    def _reason(self, node: Node) -> str:
        """Why the node stays in float32; ``""`` where it need not."""
        if node.label in self._keep_nodes:
            return self._keep_nodes[node.label]
        if node.op in self._keep and not node.domain:
            return self._keep[node.op]
        if _is_summed_square(node):
            return "it squares what is summed up"
        if node.op in _WIDE and not node.domain:
            return "its numbers outgrow 16 bits" if "Linear" not in node.op else "it has types of its own"
        if not all(self._makes(node, index) for index, value in enumerate(node.outputs) if value is not None):
            return f"ONNX has no {self._dtype} {node.op}"
        if not any(self._takes(node, i) for i, v in enumerate(node.inputs) if v is not None and self._is_float(v)):
            made = [value for value in node.outputs if value is not None and value.dtype == _FLOAT]
            if not made or any(value is not None and self._is_float(value) for value in node.inputs):
                return f"ONNX has no {self._dtype} {node.op}"
        for value in node.inputs:
            if value is not None and value.const is not None and value.dtype == _FLOAT:
                found = _out_of_range(value.const, self._dtype)
                if found:
                    return found
        if id(node) in self._small:
            return "its numbers are too small for float16"
        rest = [value for value in node.inputs if value is not None and value.const is None]
        if node.op in _FOLLOWING and rest and all(id(value) in self._wide for value in rest):
            return "it follows a node that stays in float32"
        return ""

    def _schema(self, node: Node) -> onnx.defs.OpSchema | None:
        if node.type_name not in self._schemas:
            try:
                self._schemas[node.type_name] = onnx.defs.get_schema(node.op, self._graph.opset, node.domain)
            except onnx.defs.SchemaError:
                self._schemas[node.type_name] = None
        return self._schemas[node.type_name]

    def _takes(self, node: Node, index: int) -> bool:
        schema = self._schema(node)
        return schema is not None and _allows(schema, schema.inputs, index, self._dtype)

    def _makes(self, node: Node, index: int) -> bool:
        value = node.outputs[index]
        if value is None or value.dtype != _FLOAT:
            return True
        schema = self._schema(node)
        return schema is not None and _allows(schema, schema.outputs, index, self._dtype)

    def _cast(self, value: Value, dtype: str) -> Value:
        key = (id(value), dtype)
        if key not in self._casts:
            if value.const is not None:
                self._casts[key] = self._graph.constant(value.name, _rounded(value.const, dtype))
            else:
                made = Value(self._graph.fresh(f"{value.name}_{dtype}"), dtype, value.shape)
                label = f"{value.name} to {dtype}"
                source = self._within(value, dtype) if id(value) in self._beyond and dtype != _FLOAT else value
                self._order.append(Node(label, "Cast", [source], [made], {"to": elem_type(dtype)}))
                self._casts[key] = made
        return self._casts[key]

    def _within(self, value: Value, dtype: str) -> Value:
        """A mask's -3e38 becomes the lowest number that there is, and not infinity: a row that is masked throughout
        would be NaN behind a Softmax."""
        largest = np.array(_LARGEST[dtype], np.float32)
        inner = Value(self._graph.fresh(f"{value.name}_within"), _FLOAT, value.shape)
        limits = (self._graph.constant("lowest", -largest), self._graph.constant("largest", largest))
        self._order.append(Node(f"{value.name} within {dtype}", "Clip", [value, *limits], [inner]))
        return inner

    def _retype(self, node: Node, made: Iterable[Value], outputs: set[int]) -> None:
        """What the node makes is 16 bits wide from now on; a graph output keeps its type, behind a cast."""
        for name in ("to", "dtype"):
            if node.attrs.get(name) == elem_type(_FLOAT):
                node.attrs[name] = elem_type(self._dtype)
        if isinstance(data := node.attrs.get("value"), np.ndarray) and str(data.dtype) == _FLOAT:
            node.attrs["value"] = _rounded(data, self._dtype)
        if node.op in ("EyeLike", "RandomNormal", "RandomUniform") and "dtype" not in node.attrs:
            node.attrs["dtype"] = elem_type(self._dtype)
        for value in made:
            if id(value) not in outputs:
                value.dtype = self._dtype
                continue
            inner = Value(self._graph.fresh(f"{value.name}_{self._dtype}"), self._dtype, value.shape)
            node.outputs = [inner if out is value else out for out in node.outputs]
            inner.producer, value.producer = node, None
            self._casts[(id(value), self._dtype)] = inner
            self._order.append(Node(f"{value.name} to float32", "Cast", [inner], [value], {"to": elem_type(_FLOAT)}))


def _is_summed_square(node: Node) -> bool:
    """A product with itself that is added up, as in a variance that is written out."""
    first = node.inputs[0] if node.inputs else None
    return (
        node.op == "Mul"
        and first is node.inputs[1]
        and any(reader.op in _SUMS for value in node.outputs if value is not None for reader in value.consumers)
    )


def _allows(schema: onnx.defs.OpSchema, formals: Any, index: int, dtype: str) -> bool:
    """Whether the formal parameter at ``index`` (the last one may be variadic) may be of ``dtype``."""
    if not formals:
        return False
    formal = formals[min(index, len(formals) - 1)]
    for constraint in schema.type_constraints:
        if constraint.type_param_str == formal.type_str:
            return _SPELLED[dtype] in constraint.allowed_type_strs
    return bool(formal.type_str == _SPELLED[dtype])


def _rounded(array: Array, dtype: str) -> Array:
    if dtype == "bfloat16":
        import ml_dtypes

        return array.astype(ml_dtypes.bfloat16)
    return array.astype(dtype)


_CANNOT_HOLD = "cannot hold"
_LARGEST = {"float16": 65504.0, "bfloat16": 3.3895e38}
_SMALLEST = {"float16": 2.0**-24, "bfloat16": 9.2e-41}


def _out_of_range(array: Array, dtype: str) -> str:
    """What of a constant the format cannot hold: a finite number beyond it, or all of its numbers are lost as zeros."""
    if not array.size:
        return ""
    magnitude = np.abs(array)
    finite = magnitude[np.isfinite(magnitude)]
    if finite.size and float(finite.max()) > _LARGEST[dtype]:
        return f"it reads {float(finite.max()):.3g}, which {dtype} {_CANNOT_HOLD}"
    nonzero = finite[finite > 0]
    if nonzero.size and float(nonzero.max()) < _SMALLEST[dtype]:
        return f"it reads {float(nonzero.max()):.3g}, which is zero in {dtype}"
    return ""


def emulated(graph: Graph) -> None:
    """Make a graph of 16-bit floats computable in float32, in place: each node works in float32 and its result is
    rounded to its type and back. Inputs and outputs keep their types.

    For ONNX Runtime on a CPU, which has no bfloat16 kernels and few float16 ones: around nodes that it has none for it
    goes to float32 by itself, but leaves out every Cast between them, and with those the rounding and the range.
    """
    order: list[Node] = []
    for given in graph.inputs:
        if given.dtype in _NARROW and given.consumers:
            wide = Value(graph.fresh(f"{given.name}_wide"), _FLOAT, given.shape)
            _reroute(graph, given, wide)
            order.append(Node("", "Cast", [given], [wide], {"to": elem_type(_FLOAT)}))
    for node in graph.nodes:
        order.append(node)
        for index, value in enumerate(node.inputs):
            if value is not None and value.const is not None and value.dtype in _NARROW:
                graph.set_input(node, index, graph.constant(value.name, value.const.astype(np.float32)))
        narrow = [value for value in node.outputs if value is not None and value.dtype in _NARROW]
        if narrow and node.op != "Cast":
            for name in ("to", "dtype"):
                if node.attrs.get(name) in [elem_type(dtype) for dtype in _NARROW]:
                    node.attrs[name] = elem_type(_FLOAT)
            if isinstance(data := node.attrs.get("value"), np.ndarray):
                node.attrs["value"] = data.astype(np.float32)
        for made in narrow:
            order += _rounding(graph, node, made)
    graph.rebuild(order)


_NARROW = ("float16", "bfloat16")


def _rounding(graph: Graph, node: Node, value: Value) -> Iterator[Node]:
    """What stands behind ``node`` so that whoever reads ``value``, which is narrow, reads it rounded and in float32."""
    dtype = value.dtype
    assert dtype is not None
    rounds = node.op != "Cast"  # which does by itself
    output = graph.is_output(value)
    if not output and rounds and node.op in MOVES and not node.domain:
        value.dtype = _FLOAT
        return
    made = Value(graph.fresh(f"{value.name}_made"), _FLOAT if rounds else dtype, value.shape)
    node.outputs = [made if out is value else out for out in node.outputs]
    made.producer, value.producer = node, None
    if rounds:
        rounded = Value(graph.fresh(f"{value.name}_rounded"), dtype, value.shape)
        yield Node("", "Cast", [made], [rounded], {"to": elem_type(dtype)})
        made = rounded
    if output:
        wide = Value(graph.fresh(f"{value.name}_wide"), _FLOAT, value.shape)
        _reroute(graph, value, wide)
        yield Node("", "Cast", [made], [wide], {"to": elem_type(_FLOAT)})
        yield Node("", "Identity", [made], [value])
        return
    value.dtype = _FLOAT
    yield Node("", "Cast", [made], [value], {"to": elem_type(_FLOAT)})


def _reroute(graph: Graph, old: Value, new: Value) -> None:
    for node in list(old.consumers):
        for index, read in enumerate(node.inputs):
            if read is old:
                graph.set_input(node, index, new)
