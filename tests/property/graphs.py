"""Random valid ONNX graphs over the supported operators, with the values that ONNX Runtime computes in them.

A graph grows node by node: an operator's maker picks among the values that are there, draws attributes, and ONNX
Runtime runs the one node. What it refuses, or what overflows, is dropped, so every graph is valid and every value
known. Operators that jump (Floor, ArgMax, ...) are applied only to values that were moved but not computed, where
both sides have the same bits.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

__all__ = ["Builder", "Choices", "RandomChoices", "Tensor", "build", "single"]

Array = np.ndarray[Any, Any]
_LARGEST = 200.0
_MOST_ELEMENTS = 4000


class Choices(Protocol):
    """Where the draws come from: Hypothesis, or a generator."""

    def integer(self, low: int, high: int) -> int: ...


class RandomChoices:
    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def integer(self, low: int, high: int) -> int:
        return self._rng.randint(low, high)


@dataclass(eq=False)
class Tensor:
    """``exact``: moved, not computed, so that both sides hold the same bits."""

    name: str
    array: Array
    exact: bool = True
    constant: bool = False
    used: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    @property
    def rank(self) -> int:
        return int(self.array.ndim)

    @property
    def kind(self) -> str:
        return str(self.array.dtype.kind)


@dataclass
class Made:
    node: onnx.NodeProto
    inputs: list[Tensor]
    outputs: list[Tensor]


@dataclass
class Builder:
    choices: Choices
    opset: int
    inputs: list[Tensor] = field(default_factory=list)
    constants: list[Tensor] = field(default_factory=list)
    nodes: list[Made] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    count: int = 0

    # draws

    def int(self, low: int, high: int) -> int:
        return self.choices.integer(low, high)

    def maybe(self) -> bool:
        return bool(self.int(0, 1))

    def one(self, items: Sequence[Any]) -> Any:
        return items[self.int(0, len(items) - 1)]

    def float(self, low: float, high: float) -> float:
        return float(np.float32(low + (high - low) * self.int(0, 64) / 64))

    def perm(self, count: int) -> list[int]:
        left = list(range(count))
        return [left.pop(self.int(0, len(left) - 1)) for _ in range(count)]

    def some(self, count: int, least: int = 1) -> list[int]:
        """A subset of ``range(count)`` in random order, of at least ``least``."""
        return self.perm(count)[: self.int(min(least, count), count)]

    def axis(self, tensor: Tensor, low: int = 0) -> int:
        axis = self.int(low, tensor.rank - 1)
        return axis - tensor.rank if self.maybe() else axis

    def shape(self, low: int = 0, high: int = 4) -> tuple[int, ...]:
        first = (1,) if self.maybe() else ()
        return (first + tuple(self.one((1, 2, 3, 4, 5, 6, 8)) for _ in range(self.int(low, high))))[:5]

    def data(self, shape: Sequence[int], kind: str = "f") -> Array:
        rng = np.random.default_rng(self.int(0, 1 << 20))
        if kind == "f":
            made = rng.standard_normal(tuple(shape)).astype(np.float32) * self.one((1.0, 1.0, 3.0))
            return np.round(made * 4) / 4 if self.int(0, 5) == 0 else made.astype(np.float32)
        if kind == "b":
            return rng.integers(0, 2, tuple(shape)).astype(bool)
        return rng.integers(-5, 9, tuple(shape)).astype(np.int64)

    # tensors

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def input(self, shape: Sequence[int], kind: str = "f") -> Tensor:
        tensor = Tensor(self.name("x"), np.asarray(self.data(shape, kind)))
        self.inputs.append(tensor)
        self.values.append(tensor)
        return tensor

    def const(self, array: Any, dtype: Any = None) -> Tensor:
        tensor = Tensor(self.name("c"), np.asarray(array, dtype=dtype), constant=True)
        self.constants.append(tensor)
        return tensor

    def weights(self, *shape: int) -> Tensor:
        return self.const(self.data(shape) * np.float32(0.5))

    def ints(self, *items: int) -> Tensor:
        return self.const(np.array(items, np.int64))

    def pick(self, kinds: str = "f", ranks: Sequence[int] = range(6), *, exact: bool = False) -> Tensor:
        """A value of one of these kinds and ranks, the newest likeliest; a fresh input where there is none."""
        fitting = [v for v in self.values if v.kind in kinds and v.rank in ranks and (v.exact or not exact)]
        if fitting and self.int(0, 7):
            return fitting[-1] if self.maybe() else self.one(fitting)
        if len(self.inputs) > 4:
            raise Unfit
        rank = self.one([rank for rank in ranks if rank < 5] or [4])
        shape = self.shape(rank, rank)[:rank] if rank < 5 else self.shape(4, 4)[:rank]
        return self.input(shape if len(shape) == rank else (2,) * rank, kinds[0])

    def partner(self, tensor: Tensor) -> Tensor:
        """Something that broadcasts with ``tensor``: another value, a constant, or a new input."""
        fitting = [v for v in self.values if v.array.dtype == tensor.array.dtype and _broadcast(v.shape, tensor.shape)]
        if self.maybe() and fitting:
            return self.one(fitting)
        shape = tuple(size if self.int(0, 2) else 1 for size in tensor.shape)[self.int(0, tensor.rank) :]
        if self.int(0, 4) == 0:
            shape = (self.int(1, 3), *([1] * (tensor.rank - len(shape))), *shape)[-5:]
        array = self.data(shape, tensor.kind).astype(tensor.array.dtype)
        if self.maybe() and len(self.inputs) < 5:
            made = self.input(shape, tensor.kind)
            made.array = array
            return made
        return self.const(array)

    def add(
        self, op: str, inputs: Sequence[Tensor | None], outputs: int = 1, *, exact: bool = False, **attrs: Any
    ) -> Any:
        """Append a node; the tensor that it makes (a list where there are several)."""
        names = [self.name("v") for _ in range(outputs)]
        node = helper.make_node(op, [t.name if t else "" for t in inputs], names, **attrs)
        given = [t for t in inputs if t is not None]
        arrays = run_node(node, given, self.opset)
        for array in arrays:
            if array.size == 0 or array.size > _MOST_ELEMENTS or array.ndim > 5:
                raise Unfit
            if array.dtype.kind == "f" and not (np.isfinite(array).all() and np.abs(array).max() <= _LARGEST):
                raise Unfit
            if array.dtype.kind in "iu" and np.abs(array.astype(np.float64)).max() > 1 << 20:
                raise Unfit
        keeps = exact and all(t.exact for t in given)
        made = [
            Tensor(name, array, exact=keeps or array.dtype.kind in "iub")
            for name, array in zip(names, arrays, strict=True)
        ]
        for tensor in given:
            tensor.used = True
        self.nodes.append(Made(node, given, made))
        self.values += made
        return made[0] if outputs == 1 else made

    def model(self, outputs: Sequence[Tensor]) -> onnx.ModelProto:
        nodes = _needed(self.nodes, outputs)
        read = {t.name for made in nodes for t in made.inputs}
        graph = helper.make_graph(
            [made.node for made in nodes],
            "random",
            [_info(t) for t in self.inputs if t.name in read or t in outputs],
            [_info(t) for t in outputs],
            [numpy_helper.from_array(t.array, t.name) for t in self.constants if t.name in read],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)


class Unfit(Exception):
    """This node cannot be made from what there is."""


def _needed(nodes: Sequence[Made], outputs: Sequence[Tensor]) -> list[Made]:
    wanted = {t.name for t in outputs}
    kept: list[Made] = []
    for made in reversed(nodes):
        if any(t.name in wanted for t in made.outputs):
            kept.append(made)
            wanted |= {t.name for t in made.inputs}
    return kept[::-1]


def _info(tensor: Tensor) -> onnx.ValueInfoProto:
    dtype = helper.np_dtype_to_tensor_dtype(tensor.array.dtype)
    return helper.make_tensor_value_info(tensor.name, dtype, tensor.shape)


def _broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    try:
        return math.prod(np.broadcast_shapes(a, b)) <= _MOST_ELEMENTS
    except ValueError:
        return False


def run_node(node: onnx.NodeProto, inputs: Sequence[Tensor], opset: int) -> list[Array]:
    """The node's outputs; :class:`Unfit` where ONNX Runtime refuses it."""
    unique = {t.name: t for t in inputs}
    graph = helper.make_graph(
        [node],
        "one",
        [_info(t) for t in unique.values() if not t.constant],
        [onnx.ValueInfoProto(name=name) for name in node.output if name],
        [numpy_helper.from_array(t.array, t.name) for t in unique.values() if t.constant],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    settings.intra_op_num_threads = 1
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
        return [
            np.asarray(array)
            for array in session.run(None, {t.name: t.array for t in unique.values() if not t.constant})
        ]
    except Exception as error:  # ONNX Runtime's exceptions share no base class of its own
        raise Unfit from error


def build(choices: Choices, makers: Sequence[Callable[[Builder], Any]], nodes: int, newest: int = 23) -> Builder:
    """A graph of up to ``nodes`` nodes; at least one."""
    builder = Builder(choices, choices.integer(11, newest))
    builder.input(builder.shape())
    for _ in range(4 * nodes):
        saved = (len(builder.inputs), len(builder.constants), len(builder.nodes), len(builder.values))
        try:
            builder.one(makers)(builder)
        except Unfit:
            # A maker of several nodes takes them all back.
            del builder.inputs[max(1, saved[0]) :], builder.constants[saved[1] :]
            del builder.nodes[saved[2] :], builder.values[saved[3] :]
        if len(builder.nodes) >= nodes:
            break
    return builder


def single(made: Made, opset: int) -> onnx.ModelProto:
    """The model of one node, what it read as its inputs (constants stay)."""
    builder = Builder(RandomChoices(0), opset)
    unique = list({t.name: t for t in made.inputs}.values())
    builder.inputs = [t for t in unique if not t.constant]
    builder.constants = [t for t in unique if t.constant]
    builder.nodes = [made]
    return builder.model(made.outputs)
