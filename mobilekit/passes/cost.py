"""What a graph with static shapes costs: multiply-accumulates and peak activation memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from mobilekit.importers.tensors import dtype_bits

if TYPE_CHECKING:
    from mobilekit.graph import Graph, Node, Value

__all__ = ["MAC_FORMULAS", "macs", "peak_activation_bytes"]


def _shape(value: Value | None) -> tuple[int, ...]:
    if value is None or value.shape is None:
        return ()
    return tuple(axis for axis in value.shape if isinstance(axis, int))


def _size(value: Value | None) -> int:
    return math.prod(_shape(value))


def _conv(weight: int) -> Callable[[Node], int]:
    def count(node: Node) -> int:
        return _size(node.outputs[0]) * math.prod(_shape(node.inputs[weight])[1:])

    return count


def _conv_transpose(node: Node) -> int:
    return _size(node.inputs[0]) * math.prod(_shape(node.inputs[1])[1:])


def _gemm(node: Node) -> int:
    a = _shape(node.inputs[0])
    return _size(node.outputs[0]) * (a[0] if node.attrs.get("transA", 0) else a[1])


def _matmul(node: Node) -> int:
    return _size(node.outputs[0]) * _shape(node.inputs[0])[-1]


def _einsum(node: Node) -> int:
    if len(node.inputs) < 2:
        return 0
    sizes: dict[str, int] = {}
    terms = node.attrs["equation"].replace(" ", "").split("->")[0].split(",")
    for term, value in zip(terms, node.inputs, strict=True):
        shape = _shape(value)
        if "..." in term:
            head, tail = term.split("...")
            middle = len(shape) - len(head) - len(tail)
            # Ellipsis axes broadcast, counted from the right.
            labels = [*head, *(f".{middle - i}" for i in range(middle)), *tail]
        else:
            labels = list(term)
        for label, size in zip(labels, shape, strict=True):
            sizes[label] = max(sizes.get(label, 1), size)
    return math.prod(sizes.values())


def _recurrent(gates: int) -> Callable[[Node], int]:
    def count(node: Node) -> int:
        x, w, r = (_shape(value) for value in node.inputs[:3])
        steps = x[0] * x[1]  # sequence x batch, in either layout
        directions, hidden = r[0], r[2]
        return directions * steps * gates * hidden * (w[2] + hidden)

    return count


MAC_FORMULAS: Mapping[str, Callable[[Node], int]] = {
    "Conv": _conv(1),
    "ConvInteger": _conv(1),
    "ConvTranspose": _conv_transpose,
    "DeformConv": _conv(1),
    "Einsum": _einsum,
    "GRU": _recurrent(3),
    "Gemm": _gemm,
    "LSTM": _recurrent(4),
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearConv": _conv(3),
    "QLinearMatMul": _matmul,
    "RNN": _recurrent(1),
}
"""Operator -> multiply-accumulates (one multiplication and the addition to a running sum):

- Conv and kin: output elements x C/group x kernel; ConvTranspose: input elements x M/group x kernel;
- Gemm, MatMul: output elements x K; Einsum of two or more: the product of all its label sizes;
- LSTM, GRU, RNN: directions x sequence x batch x gates (4, 3, 1) x hidden x (input + hidden).

Biases, activations, norms, pooling and elementwise operators count nothing, as is the custom."""


def macs(graph: Graph) -> dict[str, int]:
    """Multiply-accumulates by operator, one inference. Bodies of Loop, Scan and If are not counted."""
    found: dict[str, int] = {}
    for node in graph.nodes:
        formula = None if node.domain else MAC_FORMULAS.get(node.op)
        if formula is not None:
            found[node.op] = found.get(node.op, 0) + formula(node)
    return found


def peak_activation_bytes(graph: Graph) -> int:
    """The largest sum of tensors alive at once, in the graph's order.

    A tensor is alive from the node that makes it (an input: from the start) to the last that reads it (an output: to
    the end). Constants are not counted, nothing is assumed to be computed in place, and a node's inputs and outputs
    are alive together. What a runtime adds (packing, workspaces) is not in it.
    """
    last: dict[int, int] = {}
    nodes = graph.nodes
    for index, node in enumerate(nodes):
        for value in [*node.inputs, *_captured(node)]:
            if value is not None:
                last[id(value)] = index
    for value in graph.outputs:
        last[id(value)] = len(nodes)
    dies: dict[int, list[Value]] = {}
    for value in graph.values():
        if value.const is None:
            dies.setdefault(last.get(id(value), -1), []).append(value)
    alive = sum(_bytes(value) for value in graph.inputs)
    peak = alive
    for index, node in enumerate(nodes):
        made = [value for value in node.outputs if value is not None]
        alive += sum(_bytes(value) for value in made)
        peak = max(peak, alive)
        alive -= sum(_bytes(value) for value in dies.get(index, ()))
        alive -= sum(_bytes(value) for value in made if id(value) not in last)
    return peak


def _captured(node: Node) -> list[Value | None]:
    return [value for body in node.bodies() for inner in body.nodes for value in [*inner.inputs, *_captured(inner)]]


def _bytes(value: Value) -> int:
    return (_size(value) * dtype_bits(value.dtype or "float32") + 7) // 8
