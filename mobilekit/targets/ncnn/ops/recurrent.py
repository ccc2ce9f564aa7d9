"""LSTM, GRU and RNN over a whole sequence, one direction or both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mobilekit.targets.ncnn.emit import Blob, Emission, as_float, tagged
from mobilekit.targets.ncnn.layout import Dims
from mobilekit.targets.ncnn.node import NodeView, Refuse
from mobilekit.targets.ncnn.registry import emits

if TYPE_CHECKING:
    from mobilekit.tensors import Array

_DIRECTIONS = {"forward": 0, "reverse": 1, "bidirectional": 2}
_LSTM_GATES = (0, 2, 1, 3)  # ONNX: i o f c; ncnn: i f o g
_GRU_GATES = (1, 0, 2)  # ONNX: z r h; ncnn: r u n
_ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


def _checked(node: NodeView) -> tuple[int, int, int, int]:
    """(steps, inputs, directions, hidden size), after what ncnn lacks is refused."""
    layout = node.int("layout", 0)
    shape = node.shape()
    steps, batch = (shape[1], shape[0]) if layout else (shape[0], shape[1])
    # With a batch of 1 both layouts hold the same elements in the same order.
    if batch != 1:
        raise Refuse(f"its batch is {batch}; ncnn runs one sequence at a time", "export with a batch of 1")
    directions = 2 if node.str("direction", "forward") == "bidirectional" else 1
    wanted = _ACTIVATIONS[node.op] * directions
    if (node.strings("activations") or wanted) != wanted or node.has("activation_alpha") or node.has("activation_beta"):
        raise Refuse("ncnn has only the default activations in it", "use the default activations")
    if node.has("clip"):
        raise Refuse("ncnn does not clip its gates", "export it without clip")
    lengths = node.optional_const(4, "sequence lengths")
    if lengths is not None and bool(np.any(lengths != steps)):
        raise Refuse("its sequence is shorter than its input", "slice the input instead")
    hidden = int(node.const(2, "recurrence weight").shape[-1])
    node.ignore("hidden_size")
    return steps, shape[2], directions, hidden


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


@emits("LSTM", since=22)
def lstm(node: NodeView, out: Emission) -> None:
    sizes = _checked(node)
    _, _, directions, hidden = sizes
    peepholes = node.optional_const(7, "peepholes")
    if peepholes is not None and bool(np.any(peepholes)):
        raise Refuse("ncnn's LSTM has no peepholes", "train it without peepholes")
    if node.int("input_forget", 0):
        raise Refuse("ncnn's LSTM does not couple input and forget gates", "export it with input_forget 0")
    from_input, from_state = _biases(node, directions, _LSTM_GATES, hidden)
    weights = [
        _gates(node.const(1, "weight"), _LSTM_GATES),
        np.add(from_input, from_state),
        _gates(node.const(2, "recurrence weight"), _LSTM_GATES),
    ]
    _finish(node, out, weights, sizes, 2, hidden_size=hidden)


@emits("GRU", since=22)
def gru(node: NodeView, out: Emission) -> None:
    sizes = _checked(node)
    _, _, directions, hidden = sizes
    if not node.int("linear_before_reset", 0):
        raise Refuse(
            "ncnn's GRU applies the reset gate after the matrix product (linear_before_reset=1)",
            "export it with linear_before_reset=1, as PyTorch does",
        )
    from_input, from_state = _biases(node, directions, _GRU_GATES, hidden)
    both = np.add(from_input[:, :2], from_state[:, :2])
    weights = [
        _gates(node.const(1, "weight"), _GRU_GATES),
        np.concatenate([both, from_input[:, 2:], from_state[:, 2:]], axis=1),
        _gates(node.const(2, "recurrence weight"), _GRU_GATES),
    ]
    _finish(node, out, weights, sizes, 1)


@emits("RNN", since=22)
def rnn(node: NodeView, out: Emission) -> None:
    sizes = _checked(node)
    _, _, directions, hidden = sizes
    from_input, from_state = _biases(node, directions, (0,), hidden)
    weights = [node.const(1, "weight"), np.add(from_input, from_state), node.const(2, "recurrence weight")]
    _finish(node, out, weights, sizes, 1)
