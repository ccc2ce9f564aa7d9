"""Constant factors and cuts behind a dense layer go into its weights, through the reshapes and transposes between."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mobilekit.graph import Node, Value
from mobilekit.passes.base import Edit, Rule
from mobilekit.passes.legalise._algebra import made_by
from mobilekit.passes.legalise.batchnorm import batch_norm_affine

__all__ = ["AffineIntoDense", "SplitDense"]

_MOVES = ("Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_MOST_MOVES = 4
_MOST_ELEMENTS = 1 << 22
"""Of a tensor whose elements are looked at one by one."""
_MOST_PARTS = 4
_LEAST_COLUMNS = 8


class _Dense(NamedTuple):
    """``out = x @ weight + bias`` along the last axis."""

    nodes: tuple[Node, ...]
    x: Value
    weight: np.ndarray
    """(K, N)"""
    bias: np.ndarray | None
    """(N,)"""
    out: Value


def _dense(value: Value | None, edit: Edit) -> _Dense | None:
    """The dense layer that makes ``value``, which nobody else reads: Gemm, MatMul, or MatMul and the Add of a bias."""
    node = made_by(value, "Gemm", "MatMul", "Add")
    if node is None or value is None or value.dtype != "float32" or not edit.sole(value):
        return None
    if node.op == "Add":
        for inner, other in (node.inputs[:2], node.inputs[1::-1]):
            bias = None if other is None else other.const
            found = _dense(inner, edit) if made_by(inner, "MatMul") is not None and bias is not None else None
            if found is not None and bias is not None and inner is not None and inner.shape == value.shape:
                row = bias.size == found.weight.shape[1] and bias.shape[-1:] == (bias.size,)
                return found._replace(nodes=(*found.nodes, node), bias=bias.reshape(-1), out=value) if row else None
        return None
    x, weight = node.inputs[:2]
    if x is None or weight is None or weight.const is None or weight.const.ndim != 2 or x.const is not None:
        return None
    data, bias = weight.const, None
    if node.op == "Gemm":
        if node.attrs.get("transA", 0) or any(node.attrs.get(name, 1.0) != 1.0 for name in ("alpha", "beta")):
            return None
        data = data.T if node.attrs.get("transB", 0) else data
        given = node.inputs[2] if len(node.inputs) > 2 else None
        if given is not None:
            if given.const is None or given.const.size != data.shape[1] or given.const.shape[-1:] != (data.shape[1],):
                return None
            bias = given.const.reshape(-1)
    return _Dense((node,), x, data, bias, value)


def _moves(value: Value | None, edit: Edit) -> tuple[list[Node], Value | None]:
    """The reshapes and transposes that make ``value``, the first one first, and the tensor that they start from."""
    found: list[Node] = []
    while (node := made_by(value, *_MOVES)) is not None and edit.sole(value) and len(found) < _MOST_MOVES:
        found.insert(0, node)
        value = node.inputs[0]
    return found, value


def _layer(layer: _Dense, weight: np.ndarray, bias: np.ndarray | None, out: Value, edit: Edit) -> list[Node]:
    """``layer`` with other weights, as the operators it was."""
    name, stem = layer.nodes[0].name, out.name
    inputs: list[Value | None] = [layer.x, edit.constant(f"{stem}_weight", weight, "float32")]
    row = None if bias is None else edit.constant(f"{stem}_bias", bias, "float32")
    if layer.nodes[0].op == "Gemm":
        return [Node(name, "Gemm", [*inputs, *([row] if row is not None else [])], [out])]
    if row is None:
        return [Node(name, "MatMul", inputs, [out])]
    product = edit.value(f"{stem}_product", "float32")
    return [Node(name, "MatMul", inputs, [product]), Node("", "Add", [product, row], [out])]


class _Scaled(NamedTuple):
    root: Node
    place: int
    scale: np.ndarray
    shift: np.ndarray
    """Both of shapes that broadcast to the root's."""


class AffineIntoDense(Rule[_Scaled]):
    """``move(x @ w + b) * k + c`` is ``move(x @ w' + b')``, where every column has a factor and an addend of its own.

    Attention scales its queries and keys so; LeViT normalises what its dense layers make.
    """

    name = "affine-into-dense"
    ops = ("BatchNormalization", "Mul", "Div", "Add", "Sub")

    def pattern(self, node: Node) -> _Scaled | None:
        for place, value in enumerate(node.inputs[:2]):
            if made_by(value, *_MOVES, "Gemm", "MatMul", "Add") is not None:
                found = _affine(node, place)
                return None if found is None else _Scaled(node, place, *found)
            if node.op == "BatchNormalization":
                break
        return None

    def check(self, match: _Scaled, edit: Edit) -> str:
        moves, start = _moves(match.root.inputs[match.place], edit)
        layer = _dense(start, edit)
        if layer is None:
            return "no dense layer makes it"
        if not moves and match.root.op in ("Add", "Sub"):
            return "it is the layer's bias"
        return "" if self._columns(match, moves, layer) is not None else "it is not the same along each column"

    @staticmethod
    def _columns(match: _Scaled, moves: list[Node], layer: _Dense) -> tuple[np.ndarray, np.ndarray] | None:
        """The factor and the addend of each column."""
        count = layer.weight.shape[1]
        if match.scale.size == match.shift.size == 1:
            return np.full(count, match.scale.reshape(-1)[0]), np.full(count, match.shift.reshape(-1)[0])
        shape = layer.out.shape
        if shape is None or math.prod(int(size or 0) for size in shape) > _MOST_ELEMENTS:
            return None
        columns = np.broadcast_to(np.arange(count, dtype=np.int32), [int(size or 0) for size in shape])
        for node in moves:
            value = node.outputs[0]
            assert value is not None
            assert value.shape is not None
            if node.op == "Transpose":
                columns = columns.transpose(node.attrs.get("perm"))
            else:
                columns = columns.reshape([int(size or 0) for size in value.shape])
        found = []
        for array in (match.scale, match.shift):
            vector = np.empty(count)
            whole = np.broadcast_to(array, columns.shape)
            vector[columns] = whole
            if not np.array_equal(vector[columns], whole):
                return None
            found.append(vector)
        return found[0], found[1]

    def rewrite(self, match: _Scaled, edit: Edit) -> list[Node] | None:
        moves, start = _moves(match.root.inputs[match.place], edit)
        layer = _dense(start, edit)
        found = None if layer is None else self._columns(match, moves, layer)
        if layer is None or found is None:
            return None
        scale, shift = found
        out = match.root.outputs[0]
        assert out is not None
        bias = (0.0 if layer.bias is None else layer.bias.astype(np.float64)) * scale + shift
        made = edit.value(f"{out.name}_dense", "float32") if moves else out
        bare = layer.bias is None and not shift.any()
        nodes = _layer(layer, layer.weight * scale, None if bare else bias, made, edit)
        for index, node in enumerate(moves):
            after = out if index == len(moves) - 1 else edit.value(f"{out.name}_moved", "float32")
            nodes.append(Node(node.name, node.op, [made, *node.inputs[1:]], [after], dict(node.attrs)))
            made = after
        return nodes


def _affine(node: Node, place: int) -> tuple[np.ndarray, np.ndarray] | None:
    value, out = node.inputs[place], node.outputs[0]
    if value is None or out is None or value.shape != out.shape or value.shape is None or out.dtype != "float32":
        return None
    if node.op == "BatchNormalization":
        found = batch_norm_affine(node)
        if found is None or len(node.outputs) > 1:
            return None
        shape = (-1, *(1,) * (len(value.shape) - 2))
        return found[0].reshape(shape), found[1].reshape(shape)
    other = node.inputs[1 - place]
    if other is None or other.const is None or (node.op in ("Sub", "Div") and place == 1):
        return None
    number, one, zero = other.const.astype(np.float64), np.ones(1), np.zeros(1)
    if not np.isfinite(number).all():
        return None
    if node.op == "Mul":
        return number, zero
    if node.op == "Div":
        return (1 / number, zero) if number.all() else None
    return one, number if node.op == "Add" else -number


class _Parted(NamedTuple):
    root: Node
    transpose: Node | None
    reshape: Node


class SplitDense(Rule[_Parted]):
    """What a dense layer makes, reshaped (and transposed) and split, is made by a layer for each part.

    Queries, keys and values come out of one product; its parts then need one transposition of four axes each, where
    the whole needs two of five.
    """

    name = "split-dense"
    ops = ("Split",)

    def pattern(self, node: Node) -> _Parted | None:
        transpose = made_by(node.inputs[0], "Transpose")
        reshape = made_by(node.inputs[0] if transpose is None else transpose.inputs[0], "Reshape")
        return None if reshape is None or len(node.outputs) > _MOST_PARTS else _Parted(node, transpose, reshape)

    def check(self, match: _Parted, edit: Edit) -> str:
        whole, shaped = match.root.inputs[0], match.reshape.outputs[0]
        if not edit.sole(whole) or not edit.sole(shaped):
            return "others read the whole"
        if any(part is None for part in match.root.outputs):
            return "a part has no name"
        layer = _dense(match.reshape.inputs[0], edit)
        if layer is None:
            return "no dense layer makes it"
        columns = _columns_of_parts(match, layer)
        if columns is None:
            return "it cuts between rows"
        if min(part.size for part in columns) < _LEAST_COLUMNS:
            return "a part is small"
        return ""

    def rewrite(self, match: _Parted, edit: Edit) -> list[Node] | None:
        layer = _dense(match.reshape.inputs[0], edit)
        columns = None if layer is None else _columns_of_parts(match, layer)
        if layer is None or columns is None or layer.out.shape is None:
            return None
        perm = None if match.transpose is None else _perm(match.transpose)
        nodes: list[Node] = []
        for part, chosen in zip(match.root.outputs, columns, strict=True):
            assert part is not None
            assert part.shape is not None
            bias = None if layer.bias is None else layer.bias[chosen]
            made, shaped = edit.value(f"{part.name}_dense", "float32"), part
            nodes += _layer(layer, layer.weight[:, _as_slice(chosen)], bias, made, edit)
            before = [*part.shape]
            if perm is not None:
                shaped = edit.value(f"{part.name}_shaped", "float32")
                for axis, source in enumerate(perm):
                    before[source] = part.shape[axis]
            nodes.append(Node("", "Reshape", [made, edit.constant(f"{part.name}_shape", before, "int64")], [shaped]))
            if perm is not None:
                nodes.append(Node(match.root.name, "Transpose", [shaped], [part], {"perm": perm}))
        return nodes


def _columns_of_parts(match: _Parted, layer: _Dense) -> list[np.ndarray] | None:
    """Which of the layer's columns each part of the Split has, in order."""
    shaped, whole = match.reshape.outputs[0], match.root.inputs[0]
    assert shaped is not None
    assert shaped.shape is not None
    assert whole is not None
    assert whole.shape is not None
    shape = [int(size or 0) for size in shaped.shape]
    cut = axis = match.root.attrs.get("axis", 0) % len(whole.shape)
    if match.transpose is not None:
        axis = _perm(match.transpose)[cut]
    count = layer.weight.shape[1]
    tail = next((at for at in range(len(shape)) if math.prod(shape[at:]) == count), None)
    if tail is None or axis < tail:
        return None
    columns = np.arange(count).reshape(shape[tail:])
    sizes = [int(part.shape[cut] or 0) for part in match.root.outputs if part is not None and part.shape is not None]
    bounds = np.cumsum(sizes)[:-1]
    return [part.reshape(-1) for part in np.split(columns, bounds, axis - tail)]


def _perm(transpose: Node) -> list[int]:
    rank = len((transpose.inputs[0].shape if transpose.inputs[0] is not None else None) or ())
    return [int(axis) for axis in transpose.attrs.get("perm") or reversed(range(rank))]


def _as_slice(columns: np.ndarray) -> np.ndarray | slice:
    """Neighbouring columns as a slice, which numpy does not copy."""
    start, count = int(columns[0]), len(columns)
    return slice(start, start + count) if np.array_equal(columns, np.arange(start, start + count)) else columns
