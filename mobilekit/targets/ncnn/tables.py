"""Constants that follow the input size, computed in ncnn: numbers in equal steps, one number throughout, repeats.

``Interp`` spreads a single number over as many elements as an expression says; ``CumulativeSum`` counts them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mobilekit.targets.ncnn.emit import Blob, Layer, ParamValue, raw
from mobilekit.targets.ncnn.fit import letter
from mobilekit.targets.ncnn.layout import Dims
from mobilekit.targets.ncnn.node import Refuse

if TYPE_CHECKING:
    from mobilekit.targets.ncnn.unify import Case
    from mobilekit.tensors import Array

__all__ = ["memory", "tile"]

_NEAREST = 1
_ADD, _MUL = 0, 2


class _Maker:
    """Layers that take the place of the case's, the last of which makes its output."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.layers: list[Layer] = []

    def add(
        self, kind: str, inputs: Sequence[Blob], dims: Dims, number: float | None = None, **params: ParamValue
    ) -> Blob:
        name = f"{self.case.first.name}/{len(self.layers)}" if self.layers else self.case.first.name
        weights = () if number is None else (raw(np.full(dims, number, np.float32)),)
        self.layers.append(Layer(kind, name, list(inputs), [Blob(dims)], params, weights))
        return self.layers[-1].outputs[0]

    def done(self) -> list[Layer]:
        self.layers[-1].outputs = self.case.first.outputs
        return self.layers

    def fill(self, counts: Sequence[int], number: float) -> Blob:
        """``number``, as often as ``counts`` (one for each size) says, in one row: dims (1, n)."""
        seed = self.add("MemoryData", [], (1, 1), number, h=1, w=1)
        (text,), sources = self.case.numbers([counts], "the length of a table", local=False)
        return self.add("Interp", [seed, *sources], (1, counts[0]), resize_type=_NEAREST, size_expr=text)

    def count(self, counts: Sequence[int], start: float, step: float) -> Blob:
        """``start``, ``start + step``, ... in one row."""
        blob = self.add("CumulativeSum", [self.fill(counts, 1.0)], (1, counts[0]), axis=1)
        for op, number, without in ((_MUL, step, 1.0), (_ADD, _before(start, step), 0.0)):
            if number != without:
                blob = self.add("BinaryOp", [blob], blob.dims, op_type=op, with_scalar=1, b=number)
        return blob

    def shape(self, blob: Blob, dims: Sequence[Dims]) -> Blob:
        """``blob`` under ``dims`` (one for each size)."""
        if len(dims[0]) == 2 and all(each[0] == 1 for each in dims):
            return blob
        names = [letter(dims[0], index) for index in range(len(dims[0]))]
        columns = list(zip(*dims, strict=True))
        varying = [index for index, column in enumerate(columns) if len(set(column)) > 1]
        wanted = [(-1,) * len(column) if index == varying[-1] else column for index, column in enumerate(columns)]
        texts, sources = self.case.numbers(wanted, "the shape of a table", local=False)
        if len(varying) == 1:
            sizes = {name: int(text) for name, text in zip(names, texts, strict=True)}
            return self.add("Reshape", [blob], dims[0], None, **sizes)
        by_name = dict(zip(names, texts, strict=True))
        expression = ",".join(by_name[name] for name in "whdc" if name in by_name)
        return self.add("Reshape", [blob, *sources], dims[0], shape_expr=expression)


def _before(start: float, step: float) -> float:
    return float(np.float32(start) - np.float32(step))


def memory(case: Case) -> list[Layer]:
    """A constant whose size follows the input's: the same number throughout, or equal steps along one dim."""
    dims = [layer.outputs[0].dims for layer in case.layers]
    if len(set(dims)) == 1:
        raise Refuse("it needs a fixed input size: the values of a constant depend on it", case.remedy)
    arrays = [np.asarray(layer.weights[0].parts[0], np.float32).reshape(layer.outputs[0].dims) for layer in case.layers]
    maker = _Maker(case)
    number = float(arrays[0].reshape(-1)[0])
    totals = [array.size for array in arrays]
    if np.isfinite(number) and all((array == number).all() for array in arrays):
        maker.shape(maker.fill(totals, number), dims)
        return maker.done()
    for axis in range(len(dims[0])):
        lines = [np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis]) for array in arrays]
        steps = _steps([line[0] for line in lines])
        if steps is None or not all((line == line[:1]).all() for line in lines):
            continue
        row = maker.count([each[axis] for each in dims], *steps)
        alone = [tuple(size if index == axis else 1 for index, size in enumerate(each)) for each in dims]
        row = maker.shape(row, alone)
        if alone != dims:
            zeros = maker.shape(maker.fill(totals, 0.0), dims)
            maker.add("BinaryOp", [row, zeros], dims[0], op_type=_ADD)
        return maker.done()
    shown = ["x".join(map(str, each)) for each in dims]
    raise case.refuse("the size of a constant that was computed from it", shown)


def _steps(lines: Sequence[Array]) -> tuple[float, float] | None:
    """First value and step where ncnn's float32 arithmetic makes exactly ``lines`` of them."""
    longest = max(lines, key=len)
    if len(longest) < 2 or not np.isfinite(longest).all():
        return None
    start, step = np.float32(longest[0]), np.float32(longest[1]) - np.float32(longest[0])
    if not np.isfinite(step):
        return None
    made = np.arange(1, len(longest) + 1, dtype=np.float32) * step + np.float32(_before(float(start), float(step)))
    if any(not np.array_equal(line, made[: len(line)]) for line in lines):
        return None
    return float(start), float(step)


def tile(case: Case) -> list[Layer]:
    """One element repeated as often as the size says: added to as many zeros."""
    first = case.first
    changed = case.changed()
    if not changed:
        return [first]
    axis = first.params["axis"]
    assert isinstance(axis, int)
    if changed != ["tiles"] or any(dims[axis] != 1 for dims in case.sources):
        raise case.refuse("how often it repeats its input", case.values(changed[0]))
    counts = [int(str(value)) for value in case.values("tiles")]
    maker = _Maker(case)
    rank = len(case.sources[0])
    zeros = maker.shape(
        maker.fill(counts, 0.0), [tuple(count if i == axis else 1 for i in range(rank)) for count in counts]
    )
    maker.add("BinaryOp", [first.inputs[0], zeros], first.outputs[0].dims, op_type=_ADD)
    return maker.done()
