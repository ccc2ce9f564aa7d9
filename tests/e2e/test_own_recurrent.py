"""Our layer MkRecurrent against ONNX Runtime, on this machine and as arm64 under qemu."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from mobilekit.errors import HarnessError
from tests.e2e.own_layer_lab import Lab, onnx

pytestmark = pytest.mark.timeout(3600)  # the first to run may have to build the harness

_KINDS = ("RNN", "GRU", "LSTM")
_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_STEPS, _BATCH, _INPUTS = 7, 3, 5
_FUNCTIONS = (
    "Sigmoid", "Tanh", "Relu", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu", "Softsign",
    "Softplus",
)  # fmt: skip


class _Case:
    """An operator's inputs, and our layer's params for the same."""

    def __init__(self, op: str, direction: str = "forward", hidden: int = 9, batch: int = _BATCH) -> None:
        rng = np.random.default_rng(len(op) * hidden)

        def rand(*shape: int) -> Any:
            return (rng.standard_normal(shape) * 0.4).astype(np.float32)

        self.op, self.batch, self.hidden = op, batch, hidden
        self.ways = 2 if direction == "bidirectional" else 1
        rows = _GATES[op] * hidden
        self.inputs: dict[str, Any] = {
            "x": rand(_STEPS, batch, _INPUTS) * 3,
            "w": rand(self.ways, rows, _INPUTS),
            "r": rand(self.ways, rows, hidden),
            "b": rand(self.ways, 2 * rows),
            "lengths": None,
            "h": None,
            "c": None,
            "p": None,
        }
        self.states = {name: rand(self.ways, batch, hidden) for name in ("h", "c")}
        self.peepholes = rand(self.ways, 3 * hidden)
        self.attributes: dict[str, Any] = {"hidden_size": hidden, "direction": direction}
        ways = ("forward", "reverse", "bidirectional")
        self.params: dict[int, Any] = {
            0: _KINDS.index(op), 1: hidden, 2: ways.index(direction), 3: batch, 4: _INPUTS,
        }  # fmt: skip

    def agrees(self, lab: Lab, limit: float = 2e-5) -> None:
        count = 3 if self.op == "LSTM" else 2
        given = self.inputs if self.op == "LSTM" else {k: v for k, v in self.inputs.items() if k not in ("c", "p")}
        expected = onnx(self.op, given, count, **self.attributes)
        extras = [given.get(name) for name in ("lengths", "h", "c")]
        self.params[13] = sum(1 << i for i, value in enumerate(extras) if value is not None)
        weights = [self.inputs[name] for name in ("w", "b", "r", "p") if self.inputs[name] is not None]
        blobs = [self.inputs["x"], *(value for value in extras if value is not None)]
        found = lab.run("MkRecurrent", blobs, self.params, count, weights=weights)
        for got, want in zip(found, expected, strict=True):
            np.testing.assert_allclose(got.reshape(want.shape), want, atol=limit)


@pytest.mark.parametrize("op", _KINDS)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("state", [False, True])
def test_sequences(lab: Lab, op: str, direction: str, state: bool) -> None:
    case = _Case(op, direction)
    if state:
        case.inputs |= case.states
    case.agrees(lab)


@pytest.mark.parametrize(("hidden", "batch"), [(1, 1), (16, 1), (37, 1), (64, 70), (300, 2)])
@pytest.mark.parametrize("op", _KINDS)
def test_sizes(lab: Lab, op: str, hidden: int, batch: int) -> None:
    case = _Case(op, "bidirectional", hidden, batch)
    case.inputs["r"] /= max(1, hidden / 16) ** 0.5
    case.agrees(lab)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_a_gru_that_resets_after_its_product(lab: Lab, direction: str) -> None:
    case = _Case("GRU", direction)
    case.attributes["linear_before_reset"] = 1
    case.params[6] = 1
    case.agrees(lab)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", _KINDS)
def test_sequences_of_several_lengths(lab: Lab, op: str, direction: str) -> None:
    case = _Case(op, direction)
    case.inputs |= case.states
    case.inputs["lengths"] = np.array([_STEPS, 0, 4], np.int32)
    case.agrees(lab)


@pytest.mark.parametrize("op", _KINDS)
def test_clipped_gates(lab: Lab, op: str) -> None:
    case = _Case(op)
    case.attributes["clip"] = case.params[8] = 0.4
    case.agrees(lab)


def test_peepholes(lab: Lab) -> None:
    for direction in ("forward", "bidirectional"):
        case = _Case("LSTM", direction)
        case.inputs |= {**case.states, "p": case.peepholes}
        case.params[9] = 1
        case.agrees(lab)


def test_coupled_gates(lab: Lab) -> None:
    case = _Case("LSTM")
    case.attributes["input_forget"] = case.params[7] = 1
    case.agrees(lab)


@pytest.mark.parametrize("op", _KINDS)
@pytest.mark.parametrize(("number", "name"), list(enumerate(_FUNCTIONS)))
def test_activations(lab: Lab, op: str, number: int, name: str) -> None:
    """The gates' function stays a sigmoid, what the state takes in is another."""
    case = _Case(op)
    kept = {"RNN": 0, "GRU": 1, "LSTM": 1}[op]
    last = {"RNN": 1, "GRU": 1, "LSTM": 2}[op]
    case.attributes["activations"] = ["Sigmoid"] * kept + [name] * last
    case.params[10] = [0] * kept + [number] * last
    alpha, beta = 0.3, 0.7
    if name in ("Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu"):
        case.attributes["activation_alpha"] = [alpha] * last
    if name in ("Affine", "ScaledTanh", "HardSigmoid"):
        case.attributes["activation_beta"] = [beta] * last
    case.params[11] = [alpha] * (kept + last)
    case.params[12] = [beta] * (kept + last)
    case.agrees(lab)


def test_numbers_at_the_edges_of_the_functions(lab: Lab) -> None:
    """An RNN of weight one and no memory is its activation: huge, tiny and odd numbers."""
    x = np.array([0, -0.0, 1e-30, -1e-7, 0.62, 0.63, -0.625, 5, -9, 40, -88, 1000, -1e30, np.inf, -np.inf, np.nan])
    weights = [np.ones(1), np.zeros(2), np.zeros(1)]
    for code, function in ((0, lambda v: 1 / (1 + np.exp(-v))), (1, np.tanh)):
        found = lab.run("MkRecurrent", [x], {1: 1, 3: 16, 4: 1, 10: [code]}, weights=weights)[0]
        with np.errstate(over="ignore"):
            np.testing.assert_allclose(found, function(x), rtol=3e-7, atol=1e-37)


def test_the_batch_first(lab: Lab) -> None:
    """ONNX Runtime has no layout 1: the same with axes exchanged."""
    case = _Case("LSTM", "bidirectional")
    lengths = np.array([_STEPS, 1, 4], np.int32)
    given = {**case.inputs, **case.states, "lengths": lengths}
    y, h, c = onnx("LSTM", given, 3, **case.attributes)
    blobs = [given["x"].swapaxes(0, 1), lengths, *(given[name].swapaxes(0, 1) for name in "hc")]
    weights = [given[name] for name in "wbr"]
    found = lab.run("MkRecurrent", blobs, {**case.params, 5: 1, 13: 7}, 3, weights=weights)
    expected = y.transpose(2, 0, 1, 3), h.swapaxes(0, 1), c.swapaxes(0, 1)
    for got, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(got.reshape(want.shape), want, atol=2e-5)


_GOOD: dict[int, Any] = {
    0: 2, 1: 2, 2: 1, 3: 2, 4: 3, 10: [0, 1, 1], 11: [0.0, 0.0, 0.0], 12: [0.0, 0.0, 0.0], 13: 7,
}  # fmt: skip
_WEIGHTS = [np.ones(24), np.ones(16), np.ones(16)]
_BLOBS = [np.ones((4, 2, 3)), np.array([4, 2]), np.ones(4), np.ones(4)]


@pytest.mark.parametrize(
    "wrong",
    [
        {0: 3}, {0: 1}, {1: 0}, {1: 46341, 4: 46341}, {2: 3}, {3: 0}, {3: 5}, {4: 0}, {4: 5}, {8: -1.0}, {8: "nan"},
        {10: [0, 1]}, {10: [0, 1, 11]}, {10: [0, -1, 1]}, {11: [0.5, 1.5]}, {11: [0, 0, 0]}, {11: 3}, {13: 3}, {13: 8},
        {13: -1},
    ],
)  # fmt: skip
def test_params_that_do_not_fit_are_errors(lab: Lab, wrong: dict[int, Any]) -> None:
    assert len(lab.run("MkRecurrent", _BLOBS, _GOOD, 3, weights=_WEIGHTS)) == 3
    with pytest.raises(HarnessError) as caught:
        lab.run("MkRecurrent", _BLOBS, _GOOD | wrong, 3, weights=_WEIGHTS)
    assert "MkRecurrent" in caught.value.hint


@pytest.mark.parametrize("lengths", [[4, 5], [-1, 2], [0.5, 1], [np.nan, 1], [np.inf, 1]])
def test_lengths_that_are_none(lab: Lab, lengths: list[float]) -> None:
    with pytest.raises(HarnessError) as caught:
        lab.run("MkRecurrent", [_BLOBS[0], np.array(lengths), *_BLOBS[2:]], _GOOD, 3, weights=_WEIGHTS)
    assert "a sequence of length" in caught.value.hint


@pytest.mark.parametrize("seed", range(4))
def test_damaged_params_never_end_the_harness(lab: Lab, seed: int) -> None:
    rng = random.Random(seed)
    numbers = [-(2**31), -7, -1, 0, 1, 2, 3, 4, 5, 7, 65536, 2**31 - 1]
    for _ in range(60):
        damaged = dict(_GOOD)
        for key in rng.sample([*range(14), 20], 2):
            old = damaged.get(key, 1)
            damaged[key] = [rng.choice([*old, *numbers]) for _ in old] if isinstance(old, list) else rng.choice(numbers)
        blobs = rng.choice([_BLOBS, _BLOBS[::-1], _BLOBS[:2], [*_BLOBS, np.ones(3)]])
        weights = rng.choice([_WEIGHTS, _WEIGHTS[:2], [np.ones(2000)]])
        refused: HarnessError | None = None
        try:
            lab.run("MkRecurrent", blobs, damaged, rng.randint(1, 4), weights=weights)
        except HarnessError as error:
            refused = error
        assert refused is None or (type(refused) is HarnessError and "ended" not in refused.message), damaged
