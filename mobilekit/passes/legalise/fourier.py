"""Fourier transforms of a fixed length, for targets that have none: products with a constant matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mobilekit.graph import Node, Value
from mobilekit.passes.base import Edit, Rule, scalar
from mobilekit.passes.fourier import LARGEST_MATRIX, dft_matrix, transform_matrix

__all__ = ["LowerDft", "LowerStft"]

_TOO_LARGE = "its length makes too large a matrix"


@dataclass(frozen=True, slots=True)
class _Dft:
    node: Node
    x: Value
    axis: int
    size: int
    parts: int
    bins: int
    results: int
    length: int


class LowerDft(Rule[_Dft]):
    """``(..., size, parts)`` -> MatMul with ``(size * parts, bins * results)`` -> ``(..., bins, results)``.

    Axes beside the transformed one may vary.
    """

    name = "lower-dft"
    ops = ("DFT",)

    def pattern(self, node: Node) -> _Dft | None:
        x, length, axis, *_ = [*node.inputs, None, None]
        out = node.outputs[0]
        if x is None or x.shape is None or out is None or out.shape is None or len(out.shape) != len(x.shape):
            return None
        if any(given is not None and scalar(given) is None for given in (length, axis)):
            return None
        rank = len(x.shape)
        at = int(-2 if axis is None else scalar(axis) or 0) % rank
        numbers = [x.shape[at], x.shape[-1], out.shape[at], out.shape[-1]]
        if not all(isinstance(number, int) for number in numbers):
            return None
        size, parts, bins, results = (int(number) for number in numbers if isinstance(number, int))
        return _Dft(node, x, at, size, parts, bins, results, size if length is None else int(scalar(length) or 0))

    def check(self, match: _Dft, edit: Edit) -> str:  # noqa: ARG002
        return _TOO_LARGE if match.bins * match.results * match.size * match.parts > LARGEST_MATRIX else ""

    def rewrite(self, match: _Dft, edit: Edit) -> list[Node]:
        node, x, out = match.node, match.x, match.node.outputs[0]
        assert x.shape is not None
        assert out is not None
        matrix = transform_matrix(
            match.length,
            match.size,
            match.parts,
            match.bins,
            match.results,
            inverse=bool(node.attrs.get("inverse", 0)),
            one_sided=bool(node.attrs.get("onesided", 0)),
        )
        weight = matrix.transpose(2, 3, 0, 1).reshape(match.size * match.parts, -1)
        flat = edit.constant(f"{out.name}_dft", weight.astype(str(x.dtype)))
        rank = len(x.shape)
        turned = [axis for axis in range(rank - 1) if axis != match.axis] + [match.axis, rank - 1]
        moved = turned != list(range(rank))
        nodes: list[Node] = []

        def made(op: str, inputs: list[Value | None], name: str = "", **attrs: object) -> Value:
            value = edit.value(f"{out.name}_{op.lower()}", x.dtype)
            nodes.append(Node(name, op, inputs, [value], dict(attrs)))
            return value

        rows = made("Transpose", [x], perm=turned) if moved else x
        kept = [0] * (rank - 2)
        rows = made("Reshape", [rows, edit.constant("dft_rows", [*kept, match.size * match.parts], "int64")])
        product = made("MatMul", [rows, flat], node.name)
        made("Reshape", [product, edit.constant("dft_bins", [*kept, match.bins, match.results], "int64")])
        if moved:
            made("Transpose", [nodes[-1].outputs[0]], perm=[turned.index(axis) for axis in range(rank)])
        nodes[-1].outputs[0] = out
        return nodes


@dataclass(frozen=True, slots=True)
class _Stft:
    node: Node
    x: Value
    size: int
    parts: int
    step: int
    length: int
    bins: int


class LowerStft(Rule[_Stft]):
    """The frames are the places of a convolution along the signal: ``(N, size, parts)`` -> ``(N, frames, bins, 2)``."""

    name = "lower-stft"
    ops = ("STFT",)

    def pattern(self, node: Node) -> _Stft | None:
        x, step, window, length, *_ = [*node.inputs, None, None]
        out = node.outputs[0]
        if x is None or x.shape is None or out is None or out.shape is None or len(x.shape) not in (2, 3):
            return None
        size = x.shape[1]
        parts = x.shape[2] if len(x.shape) == 3 else 1
        frames, bins = out.shape[1:3]
        if not (isinstance(size, int) and isinstance(parts, int) and isinstance(frames, int) and isinstance(bins, int)):
            return None
        if scalar(step) is None or any(given is not None and given.const is None for given in (window, length)):
            return None
        samples = size if window is None or window.const is None else window.const.size
        samples = int(scalar(length) or samples)
        return _Stft(node, x, size, parts, int(scalar(step) or 1), samples, bins)

    def check(self, match: _Stft, edit: Edit) -> str:  # noqa: ARG002
        return _TOO_LARGE if math.prod((match.bins, 2, match.parts, match.length)) > LARGEST_MATRIX else ""

    def rewrite(self, match: _Stft, edit: Edit) -> list[Node]:
        node, x, out = match.node, match.x, match.node.outputs[0]
        assert out is not None
        matrix = dft_matrix(match.length, match.bins, match.parts, 2, inverse=False)
        window = node.inputs[2] if len(node.inputs) > 2 else None
        if window is not None and window.const is not None:
            matrix = matrix * window.const.astype(np.float64).reshape(1, 1, -1, 1)
        weight = matrix.transpose(0, 1, 3, 2).reshape(match.bins * 2, match.parts, match.length)
        wide, spectrum, turned = (edit.value(f"{out.name}_{what}", x.dtype) for what in ("rows", "spectrum", "frames"))
        if match.parts == 1:
            rows = Node("", "Reshape", [x, edit.constant("stft_rows", [0, 1, match.size], "int64")], [wide])
        else:
            rows = Node("", "Transpose", [x], [wide], {"perm": [0, 2, 1]})
        kernel = edit.constant(f"{out.name}_stft", weight.astype(str(x.dtype)))
        strides = {"kernel_shape": [match.length], "strides": [match.step]}
        return [
            rows,
            Node(node.name, "Conv", [wide, kernel], [spectrum], strides),
            Node("", "Transpose", [spectrum], [turned], {"perm": [0, 2, 1]}),
            Node("", "Reshape", [turned, edit.constant("stft_bins", [0, 0, match.bins, 2], "int64")], [out]),
        ]
