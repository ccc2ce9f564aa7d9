"""What an emitter sees of an ONNX node; it keeps account of what was read, so that nothing is dropped in silence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from mobilekit.graph import Node, Value
    from mobilekit.tensors import Array

__all__ = ["NodeView", "Refuse", "static_shape"]


# NodeView's methods of these names hide the types in its annotations.
_Int: TypeAlias = int
_Float: TypeAlias = float
_Str: TypeAlias = str


class Refuse(Exception):  # noqa: N818 - not an error: the emission collects these and goes on
    """An emitter cannot take this node: ``reason`` a sentence, ``remedy`` what the user can do."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


def static_shape(value: Value) -> tuple[int, ...]:
    """The shape as integers; :class:`Refuse` where an axis is not fixed."""
    if value.shape is None or not all(isinstance(axis, int) for axis in value.shape):
        raise Refuse(f"the shape of {value.name!r} is not known before running", "fix every input with --input-shape")
    return tuple(axis for axis in value.shape if isinstance(axis, int))


class NodeView:
    """Typed access to a node's inputs, outputs and attributes.

    Each ``input``/``const`` access marks the input as read, each attribute access the attribute; :meth:`unread`
    lists what is left after the emitter has run.
    """

    def __init__(self, node: Node, opset: _Int) -> None:
        self.node = node
        self.opset = opset
        self._attributes: set[_Str] = set()
        self._inputs: set[_Int] = set()

    @property
    def op(self) -> _Str:
        return self.node.op

    def unread(self) -> list[_Str]:
        """What the model says about this node and nobody looked at, as phrases for a message."""
        left = [f"attribute {name!r}" for name in self.node.attrs if name not in self._attributes]
        for index, value in enumerate(self.node.inputs):
            if value is not None and index not in self._inputs:
                left.append(f"input {index} ({value.name!r})")
        return left

    # inputs and outputs

    def __len__(self) -> _Int:
        return len(self.node.inputs)

    def optional(self, index: _Int) -> Value | None:
        self._inputs.add(index)
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def input(self, index: _Int = 0) -> Value:
        value = self.optional(index)
        if value is None:
            raise Refuse(f"its input {index} is missing", "repair the model: the operator needs it")
        return value

    def inputs(self) -> list[Value]:
        """All inputs, none of which may be omitted."""
        return [self.input(index) for index in range(len(self.node.inputs))]

    def shape(self, index: _Int = 0) -> tuple[_Int, ...]:
        return static_shape(self.input(index))

    def rank(self, index: _Int = 0) -> _Int:
        return len(self.shape(index))

    def axis(self, value: _Int, index: _Int = 0) -> _Int:
        """A possibly negative axis of input ``index`` as a non-negative one."""
        rank = self.rank(index)
        if not -rank <= value < max(rank, 1):
            raise Refuse(f"axis {value} lies outside a tensor of rank {rank}", "repair the model")
        return value % max(rank, 1)

    def const(self, index: _Int, what: _Str) -> Array:
        """The data of an input that has to be a constant; ``what`` names it in the refusal."""
        value = self.input(index)
        if value.const is None:
            raise Refuse(
                f"its {what} ({value.name!r}) is computed while running, ncnn needs it fixed",
                "make it a constant in the model, or fix the input shapes it comes from",
            )
        return value.const

    def optional_const(self, index: _Int, what: _Str) -> Array | None:
        return None if self.optional(index) is None else self.const(index, what)

    def const_ints(self, index: _Int, what: _Str) -> list[_Int]:
        return [int(item) for item in np.asarray(self.const(index, what)).reshape(-1)]

    def const_float(self, index: _Int, what: _Str) -> _Float | None:
        """A scalar constant, or ``None`` where the input is omitted."""
        data = self.optional_const(index, what)
        if data is None:
            return None
        if data.size != 1:
            raise Refuse(f"its {what} is no scalar", "repair the model")
        return float(np.asarray(data).reshape(-1)[0])

    def output(self, index: _Int = 0) -> Value:
        value = self.optional_output(index)
        if value is None:
            raise Refuse(f"its output {index} is missing", "repair the model")
        return value

    def optional_output(self, index: _Int) -> Value | None:
        return self.node.outputs[index] if index < len(self.node.outputs) else None

    def out_shape(self, index: _Int = 0) -> tuple[_Int, ...]:
        return static_shape(self.output(index))

    # attributes

    def has(self, name: _Str) -> bool:
        self._attributes.add(name)
        return name in self.node.attrs

    def _get(self, name: _Str, default: Any, kind: type | tuple[type, ...]) -> Any:
        if not self.has(name):
            return default
        value = self.node.attrs[name]
        if not isinstance(value, kind):
            raise Refuse(f"its attribute {name!r} is of an unexpected type", "repair the model")
        return value

    def float(self, name: _Str, default: _Float) -> _Float:
        return float(self._get(name, default, (float, int)))

    def int(self, name: _Str, default: _Int) -> _Int:
        return int(self._get(name, default, int))

    def str(self, name: _Str, default: _Str) -> _Str:
        value = self._get(name, default, (str, bytes))
        return value.decode() if isinstance(value, bytes) else str(value)

    def ints(self, name: _Str, default: Sequence[_Int] | None = None) -> list[_Int] | None:
        value = self._get(name, default, (list, tuple))
        return None if value is None else [int(item) for item in value]

    def floats(self, name: _Str) -> list[_Float] | None:
        value = self._get(name, None, (list, tuple))
        return None if value is None else [float(item) for item in value]

    def strings(self, name: _Str) -> list[_Str] | None:
        value = self._get(name, None, (list, tuple))
        return None if value is None else [i.decode() if isinstance(i, bytes) else str(i) for i in value]

    def ignore(self, *names: _Str) -> None:
        """Mark attributes that cannot change the result (``consumed_inputs``, ``storage_order`` without indices)."""
        self._attributes.update(names)

    def ignore_input(self, *indices: _Int) -> None:
        """Mark inputs that cannot change the result in this node."""
        self._inputs.update(indices)
