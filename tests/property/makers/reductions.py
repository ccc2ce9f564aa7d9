"""Makers of reductions, and what runs along an axis."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.property.graphs import Builder, Unfit

__all__ = ["MAKERS"]


_REDUCE = ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
           "ReduceLogSumExp")  # fmt: skip


def reduction(b: Builder) -> None:
    op, x = b.one(_REDUCE), b.pick("fffi")
    axes = [axis - x.rank if b.maybe() else axis for axis in b.some(x.rank, 0)]
    attrs: dict[str, Any] = {"keepdims": b.int(0, 1)}
    inputs = [x]
    if axes and b.opset >= (13 if op == "ReduceSum" else 18):
        inputs.append(b.ints(*axes))
    elif axes:
        attrs["axes"] = axes
    elif b.opset >= 18 and b.maybe():
        attrs["noop_with_empty_axes"] = 1
    b.add(op, inputs, exact=op in ("ReduceMax", "ReduceMin"), **attrs)


def arg(b: Builder) -> None:
    x = b.pick(ranks=range(1, 6), exact=True)
    attrs = {"select_last_index": 1} if b.opset >= 12 and b.maybe() else {}
    b.add(b.one(("ArgMax", "ArgMin")), [x], axis=b.axis(x), keepdims=b.int(0, 1), **attrs)


def along_axis(b: Builder) -> None:
    x = b.pick(ranks=range(1, 6))
    op = b.one(("Softmax", "LogSoftmax", "Softmax", "Hardmax", "LpNormalization"))
    if op == "Hardmax" and not x.exact:
        raise Unfit
    attrs: dict[str, Any] = {"p": b.int(1, 2)} if op == "LpNormalization" else {}
    b.add(op, [x], axis=b.axis(x), **attrs)


def cumsum(b: Builder) -> None:
    x = b.pick("fffi", ranks=range(1, 6))
    b.add("CumSum", [x, b.const(np.int64(b.axis(x)))], exclusive=b.int(0, 1), reverse=b.int(0, 1))


MAKERS = (reduction, arg, along_axis, cumsum)
