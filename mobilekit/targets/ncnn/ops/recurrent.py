"""LSTM, GRU and RNN over a whole sequence, one direction or both: in ncnn's layers, or in ours where those lack it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mobilekit.targets.ncnn.emit import Blob, Emission, as_float, tagged
from mobilekit.targets.ncnn.layout import Dims, dims_of, natural
from mobilekit.targets.ncnn.node import NodeView, Refuse
from mobilekit.targets.ncnn.registry import emits

if TYPE_CHECKING:
    from mobilekit.graph import Value
    from mobilekit.tensors import Array

_DIRECTIONS = {"forward": 0, "reverse": 1, "bidirectional": 2}
_LSTM_GATES = (0, 2, 1, 3)  # ONNX: i o f c; ncnn: i f o g
_GRU_GATES = (1, 0, 2)  # ONNX: z r h; ncnn: r u n
_ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
_OWN = "MkRecurrent"


def _is_stock(node: NodeView) -> bool:
    """Whether ncnn's own layer does it: one sequence of full length, and nothing that ONNX has beside."""
    layout = node.int("layout", 0)
    shape = node.shape()
    steps, batch = (shape[1], shape[0]) if layout else (shape[0], shape[1])
    wanted = _ACTIVATIONS[node.op] * _directions(node)
    peepholes = node.optional(7)
    return (
        # With a batch of 1 both layouts hold the same elements in the same order.
        batch == 1
        and (node.strings("activations") or wanted) == wanted
        and not any(node.has(name) for name in ("activation_alpha", "activation_beta", "clip"))
        and _lengths(node, steps) is None
        and (peepholes is None or (peepholes.const is not None and not bool(np.any(peepholes.const))))
        and not node.int("input_forget", 0)
        and (node.op != "GRU" or bool(node.int("linear_before_reset", 0)))
    )


def _lengths(node: NodeView, steps: int) -> Value | None:
    """Where not every sequence is as long as the input."""
    value = node.optional(4)
    full = value is not None and value.const is not None and bool(np.all(value.const == steps))
    return None if full else value


def _directions(node: NodeView) -> int:
    return 2 if node.str("direction", "forward") == "bidirectional" else 1


def _sizes(node: NodeView) -> tuple[int, int, int, int]:
    """(steps, inputs, directions, hidden size) of the one sequence that ncnn's own layer takes."""
    first, second, inputs = node.shape()
    hidden = int(node.const(2, "recurrence weight").shape[-1])
    node.ignore("hidden_size")
    return first * second, inputs, _directions(node), hidden


def _gates(array: Array, gates: tuple[int, ...]) -> Array:
    """(directions, gates * hidden, ...) with the gates in ncnn's order."""
    directions, rows = array.shape[:2]
    split = array.reshape(directions, len(gates), rows // len(gates), *array.shape[2:])
    return split[:, list(gates)]


def _biases(node: NodeView, directions: int, gates: tuple[int, ...], hidden: int) -> tuple[Array, Array]:
    """Input and recurrence biases, each (directions, gates, hidden) in ncnn's order; zeros where omitted."""
    count = len(gates)
    data = node.optional_const(3, "bias")
    full = np.zeros((directions, 2 * count * hidden), np.float32) if data is None else as_float(data, "bias")
    both = full.reshape(directions, 2, count, hidden)[:, :, list(gates)]
    return both[:, 0], both[:, 1]


def _finish(
    node: NodeView, out: Emission, weights: list[Array], sizes: tuple[int, int, int, int], states: int, **params: int
) -> None:
    steps, inputs, directions, hidden = sizes
    state_dims: Dims = (directions, hidden)
    given = [node.optional(5 + index) for index in range(states)]
    blobs: list[Blob] = [out.view(node.input(0), (steps, inputs))]
    if any(value is not None for value in given):
        for value in given:
            zeros = np.zeros(state_dims, np.float32)
            blobs.append(out.memory(zeros, state_dims) if value is None else out.view(value, state_dims))
    wanted = [node.optional_output(index) for index in range(1 + states)]
    outputs = [(steps, directions * hidden), *([state_dims] * states)]
    if not any(value is not None for value in wanted[1:]) and len(blobs) == 1:
        outputs = outputs[:1]
    made = out.layers(
        node.op,
        blobs,
        outputs,
        [tagged(array) for array in weights],
        num_output=hidden,
        weight_data_size=weights[0].size,
        direction=_DIRECTIONS[node.str("direction", "forward")],
        **params,
    )
    for value, blob in zip(wanted, made, strict=False):
        if value is not None:
            out.bind(value, blob)


@emits("LSTM", since=22, data="any", own=_OWN, stock=True)
def lstm(node: NodeView, out: Emission) -> None:
    if not _is_stock(node):
        _own(node, out)
        return
    sizes = _sizes(node)
    _, _, directions, hidden = sizes
    from_input, from_state = _biases(node, directions, _LSTM_GATES, hidden)
    weights = [
        _gates(node.const(1, "weight"), _LSTM_GATES),
        np.add(from_input, from_state),
        _gates(node.const(2, "recurrence weight"), _LSTM_GATES),
    ]
    _finish(node, out, weights, sizes, 2, hidden_size=hidden)


@emits("GRU", since=22, data="any", own=_OWN, stock=True)
def gru(node: NodeView, out: Emission) -> None:
    if not _is_stock(node):
        _own(node, out)
        return
    sizes = _sizes(node)
    _, _, directions, hidden = sizes
    from_input, from_state = _biases(node, directions, _GRU_GATES, hidden)
    both = np.add(from_input[:, :2], from_state[:, :2])
    weights = [
        _gates(node.const(1, "weight"), _GRU_GATES),
        np.concatenate([both, from_input[:, 2:], from_state[:, 2:]], axis=1),
        _gates(node.const(2, "recurrence weight"), _GRU_GATES),
    ]
    _finish(node, out, weights, sizes, 1)


@emits("RNN", since=22, data="any", own=_OWN, stock=True)
def rnn(node: NodeView, out: Emission) -> None:
    if not _is_stock(node):
        _own(node, out)
        return
    sizes = _sizes(node)
    _, _, directions, hidden = sizes
    from_input, from_state = _biases(node, directions, (0,), hidden)
    weights = [node.const(1, "weight"), np.add(from_input, from_state), node.const(2, "recurrence weight")]
    _finish(node, out, weights, sizes, 1)


_KINDS = {"RNN": 0, "GRU": 1, "LSTM": 2}
_FUNCTIONS: dict[str, tuple[int, float | None, float | None]] = {
    "sigmoid": (0, None, None),
    "tanh": (1, None, None),
    "relu": (2, None, None),
    "affine": (3, math.nan, 0.0),
    "leakyrelu": (4, 0.01, None),
    "thresholdedrelu": (5, 1.0, None),
    "scaledtanh": (6, math.nan, math.nan),
    "hardsigmoid": (7, 0.2, 0.5),
    "elu": (8, 1.0, None),
    "softsign": (9, None, None),
    "softplus": (10, None, None),
}
"""By name: the number that our layer knows it by, and alpha and beta where it has them (no number: no default)."""


def _activations(node: NodeView) -> dict[str, list[int] | list[float]]:
    """Given alphas and betas go to the functions that have them, in their order."""
    names = node.strings("activations") or _ACTIVATIONS[node.op] * _directions(node)
    unknown = [name for name in names if name.lower() not in _FUNCTIONS]
    if unknown or len(names) != len(_ACTIVATIONS[node.op]) * _directions(node):
        raise Refuse(f"its activations {', '.join(names)} are not known", "use activations that ONNX names")
    functions = [_FUNCTIONS[name.lower()] for name in names]
    given = iter(node.floats("activation_alpha") or ()), iter(node.floats("activation_beta") or ())
    alphas, betas = (
        [
            0.0 if function[1 + which] is None else next(given[which], function[1 + which] or 0.0)
            for function in functions
        ]
        for which in (0, 1)
    )
    if any(math.isnan(number) for number in (*alphas, *betas)):
        raise Refuse("an activation has no alpha or beta, which Affine and ScaledTanh have no default of", "give them")
    return {"activations": [function[0] for function in functions], "alphas": alphas, "betas": betas}


def _own(node: NodeView, out: Emission) -> None:
    """All that ONNX allows, weights in its own order."""
    layout, directions = node.int("layout", 0), _directions(node)
    first, second, inputs = node.shape()
    steps, batch = (second, first) if layout else (first, second)
    weight, recurrence = node.const(1, "weight"), node.const(2, "recurrence weight")
    rows, hidden = recurrence.shape[-2:]
    bias, peepholes = node.optional_const(3, "bias"), node.optional_const(7, "peepholes")
    weights = [weight, np.zeros((directions, 2 * rows), np.float32) if bias is None else bias, recurrence]
    if peepholes is not None:
        weights.append(peepholes)
    node.ignore("hidden_size")
    states = 2 if node.op == "LSTM" else 1
    extras = [_lengths(node, steps), *(node.optional(5 + index) for index in range(states))]
    sequence = (batch, steps, directions, hidden) if layout else (steps, directions, batch, hidden)
    state = (batch, directions, hidden) if layout else (directions, batch, hidden)
    wanted = [node.optional_output(index) for index in range(1 + states)]
    while len(wanted) > 1 and wanted[-1] is None:
        wanted.pop()
    made = out.own(
        _OWN,
        [out.native(value) for value in [node.input(0), *extras] if value is not None],
        [dims_of(shape, natural(shape) or ()) for shape in [sequence, *[state] * (len(wanted) - 1)]],
        [tagged(array) for array in weights],
        kind=_KINDS[node.op],
        hidden=int(hidden),
        direction=_DIRECTIONS[node.str("direction", "forward")],
        batch=batch,
        inputs=inputs,
        batch_first=layout,
        reset_after=node.int("linear_before_reset", 0),
        input_forget=node.int("input_forget", 0),
        clip=node.float("clip", 0.0),
        peepholes=int(peepholes is not None),
        extra=sum(1 << index for index, value in enumerate(extras) if value is not None),
        **_activations(node),
    )
    for value, blob in zip(wanted, made, strict=True):
        if value is not None:
            out.bind(value, blob)
