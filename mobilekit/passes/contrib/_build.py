"""Collects the plain nodes that stand for one operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from mobilekit.graph import Graph, Node, Value

__all__ = ["MICROSOFT", "Build", "Rule", "UnclearError"]

MICROSOFT = "com.microsoft"

_ORIGINAL = "give the model as it was before ONNX Runtime's optimiser or quantiser"


class UnclearError(Exception):
    """This use of the operator has no plain form here, and why."""

    def __init__(self, reason: str, remedy: str = _ORIGINAL) -> None:
        super().__init__(reason)
        self.reason, self.remedy = reason, remedy


class Build:
    """``build("Add", a, b)`` makes a node and gives its output; :meth:`bind` names a result."""

    def __init__(self, graph: Graph, node: Node) -> None:
        self.graph, self.node = graph, node
        self.nodes: list[Node] = []

    def __call__(self, op: str, *inputs: Value | None, **attrs: Any) -> Value:
        return self.many(op, 1, *inputs, **attrs)[0]

    def many(self, op: str, count: int, *inputs: Value | None, **attrs: Any) -> list[Value]:
        made = [Value(self.graph.fresh(f"{self.node.label}/{op}")) for _ in range(count)]
        given = list(inputs)
        while given and given[-1] is None:
            given.pop()
        self.nodes.append(Node(made[0].name, op, given, list(made), attrs))
        return made

    def const(self, data: Any, dtype: str = "float32") -> Value:
        return self.graph.constant(f"{self.node.label}/constant", np.asarray(data, dtype=dtype))

    def like(self, number: float, value: Value) -> Value:
        """A number of ``value``'s element type."""
        return self.const(number, value.dtype or "float32")

    def bind(self, index: int, made: Value) -> None:
        """``made`` is the node's output ``index``, where anybody wants it."""
        out = self.output(index)
        if out is not None:
            self.nodes.append(Node(self.node.name, "Identity", [made], [out]))

    def output(self, index: int) -> Value | None:
        """The node's output, ``None`` where nobody reads it."""
        out = self.node.outputs[index] if index < len(self.node.outputs) else None
        return out if out is not None and (out.consumers or self.graph.is_output(out)) else None

    # what the node says

    def input(self, index: int) -> Value:
        value = self.optional(index)
        if value is None:
            raise UnclearError(f"its input {index} is missing")
        return value

    def optional(self, index: int) -> Value | None:
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def attr(self, name: str, default: Any) -> Any:
        return self.node.attrs.get(name, default)

    def rest(self, *without: str) -> dict[str, Any]:
        """The attributes but those named."""
        return {name: value for name, value in self.node.attrs.items() if name not in without}

    def shape(self, value: Value) -> tuple[int, ...]:
        if value.shape is None or not all(isinstance(axis, int) for axis in value.shape):
            raise UnclearError("the shape of one of its inputs is not known")
        return tuple(axis for axis in value.shape if isinstance(axis, int))

    def constant(self, index: int, what: str) -> np.ndarray[Any, Any]:
        value = self.input(index)
        if value.const is None:
            raise UnclearError(f"its {what} is computed while running")
        return value.const

    # steps that many share

    def add(self, a: Value, b: Value | None) -> Value:
        return a if b is None else self("Add", a, b)

    def reshape(self, value: Value, *shape: int) -> Value:
        return self("Reshape", value, self.const(shape, "int64"))

    def activate(self, value: Value, name: str, params: list[float]) -> Value:
        """The activations that ONNX Runtime fuses into a Conv or Gemm, by name."""
        if not name:
            return value
        if name == "LeakyRelu":
            return self("LeakyRelu", value, alpha=params[0] if params else 0.01)
        if name == "HardSigmoid":
            alpha, beta = params if len(params) == 2 else (0.2, 0.5)
            return self("HardSigmoid", value, alpha=alpha, beta=beta)
        if name == "Clip" and len(params) == 2:
            return self("Clip", value, self.const(params[0]), self.const(params[1]))
        if name in ("Relu", "Tanh", "Sigmoid", "HardSwish") and not params:
            return self(name, value)
        raise UnclearError(f"its activation {name} is not known")


Rule: TypeAlias = Callable[[Build], None]
