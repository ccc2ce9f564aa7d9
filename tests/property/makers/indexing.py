"""Makers of operators that take or put elements by index."""

from __future__ import annotations

import math

import numpy as np

from tests.property.graphs import Builder, Unfit

__all__ = ["MAKERS"]


def gather(b: Builder) -> None:
    x = b.pick("fffi", ranks=range(1, 6))
    axis = b.axis(x)
    size = x.shape[axis]
    shape = [b.int(1, 3) for _ in range(b.int(0, 2))]
    count = math.prod(shape)
    indices = np.array([b.int(-size, size - 1) for _ in range(count)], np.int64).reshape(shape)
    if b.int(0, 3) == 0 and len(b.inputs) < 5:
        ids = b.input(shape, "i")
        ids.array = np.abs(indices) % size
        b.add("Gather", [x, ids], axis=axis, exact=True)
    else:
        b.add("Gather", [x, b.const(indices)], axis=axis, exact=True)


def gather_elements(b: Builder) -> None:
    x = b.pick(ranks=range(1, 5))
    axis = b.axis(x)
    rng = np.random.default_rng(b.int(0, 9999))
    shape = [b.int(1, size) for size in x.shape]
    b.add("GatherElements", [x, b.const(rng.integers(0, x.shape[axis], shape))], axis=axis, exact=True)


def gather_nd(b: Builder) -> None:
    x = b.pick(ranks=range(1, 5))
    rng = np.random.default_rng(b.int(0, 9999))
    depth = b.int(1, x.rank)
    rows = [rng.integers(0, x.shape[i], b.int(1, 3) if i == 0 else 0) for i in range(1)]
    count = len(rows[0])
    indices = np.stack([rng.integers(0, x.shape[i], count) for i in range(depth)], axis=-1)
    b.add("GatherND", [x, b.const(indices)], exact=True)


def trilu(b: Builder) -> None:
    if b.opset < 14:
        raise Unfit
    x = b.pick("fffi", ranks=range(2, 5))
    k = [b.const(np.int64(b.int(-3, 3)))] if b.maybe() else []
    b.add("Trilu", [x, *k], upper=b.int(0, 1), exact=True)


def one_hot(b: Builder) -> None:
    x = b.input([b.int(1, 4) for _ in range(b.int(1, 2))], "i")
    b.add(
        "OneHot", [x, b.const(np.int64(6)), b.const(np.array([0, 1], np.float32))], axis=b.int(-1, x.rank), exact=True
    )


def top_k(b: Builder) -> None:
    x = b.pick(ranks=range(1, 5), exact=True)
    axis = b.axis(x)
    if len(np.unique(x.array)) < x.array.size:
        raise Unfit
    b.add("TopK", [x, b.ints(b.int(1, x.shape[axis]))], 2, axis=axis, largest=b.int(0, 1), exact=True)


MAKERS = (gather, gather_elements, gather_nd, trilu, one_hot, top_k)
