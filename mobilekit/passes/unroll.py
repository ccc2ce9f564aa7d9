"""Recurrences of a known, small number of steps, written out step by step in plain operators.

For what the fused layers of runtimes do not express: a batch, GRU cells that reset before the product, peepholes, and
LinearAttention. Longer sequences are left to the target, which may have a layer of our own for them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mobilekit.graph import Graph, Node, Value

__all__ = ["is_unrolled", "unroll"]

_FEW_STEPS = 16
"""Up to so many a composition is as good as a layer of our own, which the app would have to add."""
_MOST_STEPS = 128
_MOST_WEIGHTS = 1 << 24
"""Elements of recurrence weights, once a step: the file grows by as much."""

_CELLS = {"GRU": 3, "LSTM": 4, "RNN": 1}
_ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
_KNOWN = frozenset({"Sigmoid", "Tanh", "Relu"})


def is_unrolled(node: Node, *, keep_batches: bool = False, stock_only: bool = False) -> bool:
    """Whether ``node`` is a recurrence that is written out; all shapes are known.

    ``keep_batches``: not because it has several sequences, which will be taken apart otherwise. ``stock_only``: longer
    ones too, as nothing else can do them.
    """
    if node.domain or (node.op not in _CELLS and node.op != "LinearAttention"):
        return False
    if any(value is not None and _dynamic(value) for value in node.inputs):
        return False
    if any(value is None or value.shape is None or len(value.shape) != 3 for value in [*node.inputs, None][:3]):
        return False  # malformed: shape inference, or the target, says how
    if node.op == "LinearAttention":
        heads = [node.attrs.get(name, 0) for name in ("q_num_heads", "kv_num_heads")]
        return min(heads) > 0 and 0 < _shape(node.inputs[0])[1] <= _MOST_STEPS
    if not _understood(node):
        return False
    steps, batch, directions, hidden = _sizes(node)
    most = _MOST_STEPS if stock_only else _FEW_STEPS
    if steps * directions > most or steps * directions * _CELLS[node.op] * hidden**2 > _MOST_WEIGHTS:
        return False
    return (
        (batch > 1 and not keep_batches)
        or (node.op == "GRU" and not node.attrs.get("linear_before_reset", 0))
        or _input(node, 7) is not None
        or node.attrs.get("activations", _ACTIVATIONS[node.op] * directions) != _ACTIVATIONS[node.op] * directions
    )


def _understood(node: Node) -> bool:
    steps, _, directions, _ = _sizes(node)
    lengths = _input(node, 4)
    weights = [_input(node, index) for index in (1, 2, 3, 7)]
    return (
        all(value is None or value.const is not None for value in weights)
        and (lengths is None or (lengths.const is not None and bool(np.all(lengths.const == steps))))
        and set(node.attrs.get("activations", [])) <= _KNOWN
        and not node.attrs.get("input_forget", 0)
        and not {"activation_alpha", "activation_beta", "clip"} & node.attrs.keys()
        and len(node.attrs.get("activations", [])) in (0, len(_ACTIVATIONS[node.op]) * directions)
    )


def _dynamic(value: Value) -> bool:
    return value.shape is None or not all(isinstance(axis, int) for axis in value.shape)


def _shape(value: Value | None) -> tuple[int, ...]:
    assert value is not None
    assert value.shape is not None
    return tuple(axis for axis in value.shape if isinstance(axis, int))


def _input(node: Node, index: int) -> Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _sizes(node: Node) -> tuple[int, int, int, int]:
    """(steps, batch, directions, hidden size)."""
    first, second, _ = _shape(node.inputs[0])
    directions, _, hidden = _shape(node.inputs[2])
    return (second, first, directions, hidden) if node.attrs.get("layout", 0) else (first, second, directions, hidden)


class _Builder:
    """Collects the nodes that stand for one."""

    def __init__(self, graph: Graph, node: Node) -> None:
        self.graph, self.node = graph, node
        self.nodes: list[Node] = []

    def const(self, data: Any, dtype: str = "float32") -> Value:
        return self.graph.constant(f"{self.node.label}_constant", np.asarray(data, dtype=dtype))

    def many(self, op: str, count: int, *inputs: Value, **attrs: Any) -> list[Value]:
        made = [Value(self.graph.fresh(f"{self.node.label}_{op}")) for _ in range(count)]
        self.nodes.append(Node(f"{self.node.label}/{op}", op, list(inputs), list(made), attrs))
        return made

    def __call__(self, op: str, *inputs: Value, **attrs: Any) -> Value:
        return self.many(op, 1, *inputs, **attrs)[0]

    def reshape(self, value: Value, *shape: int) -> Value:
        return self("Reshape", value, self.const(shape, "int64"))

    def split(self, value: Value, axis: int, count: int, size: int) -> list[Value]:
        if count == 1:
            return [value]
        return self.many("Split", count, value, self.const([size] * count, "int64"), axis=axis)

    def concat(self, values: list[Value], axis: int) -> Value:
        return values[0] if len(values) == 1 else self("Concat", *values, axis=axis)

    def bind(self, value: Value | None, made: Value) -> None:
        if value is not None:
            self.nodes.append(Node(self.node.name, "Identity", [made], [value]))


def unroll(graph: Graph, node: Node) -> list[Node]:
    """The nodes that stand for ``node``, for which :func:`is_unrolled` holds."""
    build = _Builder(graph, node)
    if node.op == "LinearAttention":
        _linear_attention(build)
    else:
        _recurrent(build)
    return build.nodes


def _recurrent(build: _Builder) -> None:
    node = build.node
    steps, batch, directions, hidden = _sizes(node)
    batch_first = bool(node.attrs.get("layout", 0))
    x = node.inputs[0]
    assert x is not None
    if batch_first:
        x = build("Transpose", x, perm=[1, 0, 2])
    direction = node.attrs.get("direction", "forward")
    every: list[list[Value]] = []
    last: list[list[Value]] = [[], []]
    for index in range(directions):
        backwards = direction == "reverse" or index == 1
        outputs, h, c = _one_direction(build, x, index, backwards=backwards)
        every.append(outputs)
        last[0].append(build.reshape(h, 1, batch, hidden))
        if c is not None:
            last[1].append(build.reshape(c, 1, batch, hidden))
    wanted = [*node.outputs, None, None][:3]
    if wanted[0] is not None:
        rows = [
            build.concat([build.reshape(outputs[step], 1, 1, batch, hidden) for outputs in every], 1)
            for step in range(steps)
        ]
        whole = build.concat(rows, 0)
        build.bind(wanted[0], build("Transpose", whole, perm=[2, 0, 1, 3]) if batch_first else whole)
    for value, parts in zip(wanted[1:], last, strict=True):
        if value is not None:
            whole = build.concat(parts, 0)
            build.bind(value, build("Transpose", whole, perm=[1, 0, 2]) if batch_first else whole)


def _state(build: _Builder, index: int, direction: int) -> Value:
    """The initial state of one direction, (batch, hidden)."""
    node = build.node
    _, batch, directions, hidden = _sizes(node)
    given = _input(node, index)
    if given is None:
        return build.const(np.zeros((batch, hidden)))
    if node.attrs.get("layout", 0):
        given = build("Transpose", given, perm=[1, 0, 2])
    return build.reshape(build.split(given, 0, directions, 1)[direction], batch, hidden)


def _array(node: Node, index: int, direction: int) -> np.ndarray[Any, Any] | None:
    value = _input(node, index)
    return None if value is None or value.const is None else np.asarray(value.const[direction], np.float32)


def _one_direction(
    build: _Builder, x: Value, index: int, *, backwards: bool
) -> tuple[list[Value], Value, Value | None]:
    """Outputs by time step, and the states after the last."""
    node = build.node
    steps, batch, _, hidden = _sizes(node)
    gates = _CELLS[node.op]
    weight, recurrence = _array(node, 1, index), _array(node, 2, index)
    assert weight is not None
    assert recurrence is not None
    bias = _array(node, 3, index)
    both = np.zeros((2, gates * hidden), np.float32) if bias is None else bias.reshape(2, gates * hidden)
    inner = both[1].copy()
    outer = both[0] + both[1]
    if node.op == "GRU" and node.attrs.get("linear_before_reset", 0):
        outer[2 * hidden :] = both[0, 2 * hidden :]  # the recurrence bias of h stays inside the reset
    size = gates * hidden
    rows = build.reshape(x, steps * batch, weight.shape[1])
    driven = build("Add", build("MatMul", rows, build.const(weight.T)), build.const(outer))
    inputs = [build.reshape(part, batch, size) for part in build.split(driven, 0, steps, batch)]
    default = _ACTIVATIONS[node.op]
    names = (node.attrs.get("activations") or default * 2)[index * len(default) :][: len(default)]

    def activate(which: int, value: Value) -> Value:
        return build(names[which], value)

    h = _state(build, 5, index)
    c = _state(build, 6, index) if node.op == "LSTM" else None
    outputs: list[Value] = [h] * steps
    for step in reversed(range(steps)) if backwards else range(steps):
        if node.op == "RNN":
            h = activate(0, build("Add", inputs[step], build("MatMul", h, build.const(recurrence.T))))
        elif node.op == "GRU":
            h = _gru(build, activate, inputs[step], h, recurrence, inner, hidden)
        else:
            assert c is not None
            h, c = _lstm(build, activate, inputs[step], h, c, recurrence, _array(node, 7, index), hidden)
        outputs[step] = h
    return outputs, h, c


def _gru(
    build: _Builder,
    activate: Any,
    driven: Value,
    h: Value,
    recurrence: np.ndarray[Any, Any],
    inner: np.ndarray[Any, Any],
    hidden: int,
) -> Value:
    xz, xr, xh = build.split(driven, 1, 3, hidden)
    zr = build("MatMul", h, build.const(recurrence[: 2 * hidden].T))
    hz, hr = build.split(zr, 1, 2, hidden)
    z = activate(0, build("Add", xz, hz))
    r = activate(0, build("Add", xr, hr))
    product = build.const(recurrence[2 * hidden :].T)
    if build.node.attrs.get("linear_before_reset", 0):
        inside = build("Add", build("MatMul", h, product), build.const(inner[2 * hidden :]))
        fresh = activate(1, build("Add", xh, build("Mul", r, inside)))
    else:
        fresh = activate(1, build("Add", xh, build("MatMul", build("Mul", r, h), product)))
    # (1 - z) * fresh + z * h
    return build("Add", fresh, build("Mul", z, build("Sub", h, fresh)))


def _lstm(
    build: _Builder,
    activate: Any,
    driven: Value,
    h: Value,
    c: Value,
    recurrence: np.ndarray[Any, Any],
    peepholes: np.ndarray[Any, Any] | None,
    hidden: int,
) -> tuple[Value, Value]:
    total = build("Add", driven, build("MatMul", h, build.const(recurrence.T)))
    i, o, f, g = build.split(total, 1, 4, hidden)

    def peep(gate: Value, cell: Value, which: int) -> Value:
        if peepholes is None:
            return gate
        return build("Add", gate, build("Mul", cell, build.const(peepholes[which * hidden : (which + 1) * hidden])))

    i, f = activate(0, peep(i, c, 0)), activate(0, peep(f, c, 2))
    c = build("Add", build("Mul", f, c), build("Mul", i, activate(1, g)))
    o = activate(0, peep(o, c, 1))
    return build("Mul", o, activate(2, c)), c


def _linear_attention(build: _Builder) -> None:
    """``state = exp(decay) * state + k (x) v`` with ``v`` corrected by what the state has for ``k``; ``q`` reads it."""
    node = build.node
    q, k, v, past, decay, beta = [*node.inputs, None, None, None][:6]
    assert q is not None
    assert k is not None
    assert v is not None
    heads, kv_heads = node.attrs["q_num_heads"], node.attrs["kv_num_heads"]
    batch, steps, width = _shape(q)
    depth, columns = width // heads, _shape(v)[2] // kv_heads
    scale = node.attrs.get("scale", 0.0) or 1.0 / math.sqrt(depth)

    def by_step(value: Value, *shape: int) -> list[Value]:
        return [build.reshape(part, batch, *shape) for part in build.split(value, 1, steps, 1)]

    queries = by_step(q, kv_heads, heads // kv_heads, depth)
    keys = by_step(k, kv_heads, 1, depth)
    values = by_step(v, kv_heads, 1, columns)
    decays = None if decay is None else by_step(build("Exp", decay), kv_heads, _shape(decay)[2] // kv_heads, 1)
    betas = None if beta is None else by_step(beta, _shape(beta)[2], 1, 1)
    state = past if past is not None else build.const(np.zeros((batch, kv_heads, depth, columns)))
    outputs: list[Value] = []
    for step in range(steps):
        if decays is not None:
            state = build("Mul", state, decays[step])
        value = values[step]
        if betas is not None:
            value = build("Mul", betas[step], build("Sub", value, build("MatMul", keys[step], state)))
        column = build.reshape(keys[step], batch, kv_heads, depth, 1)
        state = build("Add", state, build("Mul", column, value))
        read = build("Mul", build("MatMul", queries[step], state), build.const(scale))
        outputs.append(build.reshape(read, batch, 1, heads * columns))
    build.bind(node.outputs[0], build.concat(outputs, 1))
    build.bind(node.outputs[1] if len(node.outputs) > 1 else None, state)
