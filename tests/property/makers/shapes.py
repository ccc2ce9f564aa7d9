"""Makers of operators that move or shape elements."""

from __future__ import annotations

import math

import numpy as np

from tests.property.graphs import Builder, Unfit

__all__ = ["MAKERS"]


def reshape(b: Builder) -> None:
    x = b.pick("fffib")
    left, shape = math.prod(x.shape), []
    for _ in range(b.int(0, 4)):
        size = b.one([d for d in range(1, left + 1) if left % d == 0])
        shape.append(size)
        left //= size
    shape.insert(b.int(0, len(shape)), left)
    if b.maybe():
        shape[b.int(0, len(shape) - 1)] = -1
    b.add("Reshape", [x, b.ints(*shape)], exact=True)


def transpose(b: Builder) -> None:
    x = b.pick("fffib", ranks=range(1, 6))
    b.add("Transpose", [x], exact=True, **({"perm": b.perm(x.rank)} if b.int(0, 4) else {}))


def squeeze(b: Builder) -> None:
    x = b.pick("fffib")
    axes = [axis for axis, size in enumerate(x.shape) if size == 1 and b.maybe()]
    if not axes:
        raise Unfit
    axes = [axis - x.rank if b.maybe() else axis for axis in axes]
    if b.opset >= 13:
        b.add("Squeeze", [x, b.ints(*axes)], exact=True)
    else:
        b.add("Squeeze", [x], axes=axes, exact=True)


def unsqueeze(b: Builder) -> None:
    x = b.pick("fffib", ranks=range(4))
    axes = b.some(x.rank + 2)[:2]
    if b.opset >= 13:
        b.add("Unsqueeze", [x, b.ints(*axes)], exact=True)
    else:
        b.add("Unsqueeze", [x], axes=axes, exact=True)


def flatten(b: Builder) -> None:
    x = b.pick("fffib", ranks=range(1, 6))
    b.add("Flatten", [x], axis=b.int(0, x.rank), exact=True)


def expand(b: Builder) -> None:
    x = b.pick("fffib")
    shape = [b.int(2, 4) if size == 1 and b.maybe() else b.one((size, 1)) for size in x.shape]
    shape = shape[b.int(0, x.rank) :] if b.int(0, 3) == 0 else [b.int(1, 3)] * (b.int(0, 3) == 0) + shape
    if not shape:
        raise Unfit
    b.add("Expand", [x, b.ints(*shape)], exact=True)


def tile(b: Builder) -> None:
    x = b.pick("fffib", ranks=range(1, 6))
    b.add("Tile", [x, b.ints(*[b.one((1, 1, 2, 3)) for _ in x.shape])], exact=True)


def slices(b: Builder) -> None:
    x = b.pick("fffib", ranks=range(1, 6))
    axes = b.some(x.rank)
    starts, ends, steps = [], [], []
    for axis in axes:
        size = x.shape[axis]
        step = b.one((1, 1, 1, 2, 3, -1, -2))
        low, high = sorted((b.int(0, size), b.int(0, size)))
        low, high = (low, high + 1) if step > 0 else (high, low - size - 1)
        starts.append(low - size if b.maybe() and 0 < low < size else low)
        ends.append(b.one((high, (1 << 31) - 1 if step > 0 else -(1 << 31))))
        steps.append(step)
    shown = [axis - x.rank if b.maybe() else axis for axis in axes]
    b.add("Slice", [x, b.ints(*starts), b.ints(*ends), b.ints(*shown), b.ints(*steps)], exact=True)


def split(b: Builder) -> None:
    x = b.pick("fffib", ranks=range(1, 6))
    axis = b.axis(x)
    size = x.shape[axis]
    if size < 2:
        raise Unfit
    first = b.int(1, size - 1)
    sizes = [first, size - first]
    if b.opset >= 13:
        b.add("Split", [x, b.ints(*sizes)], 2, axis=axis, exact=True)
    else:
        b.add("Split", [x], 2, axis=axis, split=sizes, exact=True)


def concat(b: Builder) -> None:
    x = b.pick("fffi", ranks=range(1, 6))
    axis = b.axis(x)
    shape = list(x.shape)
    shape[axis] = b.int(1, 4)
    others = [
        v
        for v in b.values
        if v.array.dtype == x.array.dtype
        and v.rank == x.rank
        and all(v.shape[i] == x.shape[i] for i in range(x.rank) if i != axis % x.rank)
    ]
    parts = [x, b.one(others) if b.maybe() else b.const(b.data(shape, x.kind).astype(x.array.dtype))]
    if b.int(0, 2) == 0:
        parts.append(b.one(others))
    b.add("Concat", parts if b.maybe() else parts[::-1], axis=axis, exact=True)


def pad(b: Builder) -> None:
    x = b.pick("fffi", ranks=range(1, 6))
    mode = b.one(("constant", "constant", "reflect", "edge"))
    low = -1 if b.int(0, 5) == 0 and mode == "constant" else 0
    pads = [b.int(low, 2) if b.maybe() else 0 for _ in range(2 * x.rank)]
    if mode == "reflect" and any(pads[i] >= x.shape[i % x.rank] for i in range(2 * x.rank)):
        raise Unfit
    value = [b.const(np.asarray(b.int(-3, 3), x.array.dtype))] if mode == "constant" and b.maybe() else []
    b.add("Pad", [x, b.ints(*pads), *value], mode=mode, exact=True)


def rearrange(b: Builder) -> None:
    op = b.one(("DepthToSpace", "SpaceToDepth"))
    block = 2
    shape = (b.int(1, 2), 8, 2, 3) if op == "DepthToSpace" else (b.int(1, 2), 3, 4, 6)
    fitting = [
        v for v in b.values if v.rank == 4 and v.kind == "f" and v.shape[1 if op == "DepthToSpace" else 2] % 4 == 0
    ]
    x = b.one(fitting) if fitting and b.maybe() else b.input(shape)
    attrs = {"mode": b.one(("DCR", "CRD"))} if op == "DepthToSpace" else {}
    b.add(op, [x], blocksize=block, exact=True, **attrs)


MAKERS = (reshape, transpose, squeeze, unsqueeze, flatten, expand, tile, slices, split, concat, pad, rearrange)
