"""Operators that only our own layers (``android-harness/layers``) can do, and how others fall back on them.

Our layers read a tensor as its elements in order, in whatever dims it stands.
"""

from __future__ import annotations

import math

import numpy as np

from mobilekit.graph import Value
from mobilekit.passes.bounds import DOMAIN
from mobilekit.passes.signs import may_be_infinite
from mobilekit.targets.ncnn.emit import Blob, Emission
from mobilekit.targets.ncnn.node import NodeView, Refuse
from mobilekit.targets.ncnn.registry import emits

__all__ = ["broadcast", "fits", "picked"]

MOST_PAIRS = 1 << 24
"""Elements of the largest intermediate tensor that a composition of stock layers may make (64 MB)."""

_CHEAP_PAIRS = 1 << 16
"""Up to so many a composition takes 0.06 to 0.15 ms on a desktop core: not worth adding our layers to an app."""


def fits(out: Emission, pairs: int, data: Value) -> bool:
    """Whether stock layers that make ``pairs`` intermediate elements are to pick from ``data``; :class:`Refuse` where
    they have to and cannot: zero times an infinity that is not picked would be NaN."""
    if may_be_infinite(data):
        if out.stock_only:
            raise Refuse(
                "it picks at computed positions from what may be infinite, which stock layers do by multiplication",
                "export without --stock-only, or use a large number instead of infinity",
            )
        return False
    if pairs <= (0 if out.takes_own else _CHEAP_PAIRS):
        return True
    if out.stock_only and pairs > MOST_PAIRS:
        raise Refuse(
            f"it compares {pairs} pairs of elements in stock layers, too many",
            "export without --stock-only, or cut the model before it and do this in the app",
        )
    return out.stock_only


def broadcast(node: NodeView, out: Emission, kind: str, **params: int) -> Blob:
    """Two tensors of any ranks, element by element."""
    shapes = {name: list(node.shape(index)) or [1] for index, name in enumerate("ab")}
    operands = [out.native(node.input(index)) for index in (0, 1)]
    return out.own(kind, operands, [out.natural_dims(node.output())], **shapes, **params)[0]


def picked(out: Emission, data: Blob, positions: Blob, outer: int, size: int, inner: int) -> Blob:
    """``data`` as ``[outer, size, inner]`` at positions that may count from the end."""
    count = math.prod(positions.dims)
    return out.own("MkGather", [data, positions], [(outer * count * inner,)], outer=outer, axis=size, inner=inner)[0]


@emits("NonMaxSuppression", domain=DOMAIN, data="any", own="MkNonMaxSuppression")
def non_max_suppression(node: NodeView, out: Emission) -> None:
    (batch, boxes, _), (_, classes, _) = node.shape(0), node.shape(1)
    bound = node.int("bound", 0)
    rows, count = out.own(
        "MkNonMaxSuppression",
        [out.native(node.input(0)), out.native(node.input(1))],
        [(bound, 3), (1,)],
        batch=batch,
        classes=classes,
        boxes=boxes,
        max_output_boxes_per_class=node.int("max_output_boxes_per_class", 0),
        iou_threshold=node.float("iou_threshold", 0.0),
        score_threshold=node.float("score_threshold", 0.0),
        has_score_threshold=node.int("has_score_threshold", 0),
        center_point_box=node.int("center_point_box", 0),
        bound=bound,
    )
    out.bind(node.output(0), rows)
    out.bind(node.output(1), count)


@emits("NonZero", domain=DOMAIN, data="any", own="MkNonZero")
def non_zero(node: NodeView, out: Emission) -> None:
    shape, bound = node.shape(), node.int("bound", 0)
    if len(shape) > 8:
        raise Refuse(f"its input has {len(shape)} axes", "reshape it first")
    rows, count = out.own(
        "MkNonZero", [out.native(node.input())], [(len(shape), bound), (1,)], shape=list(shape), bound=bound
    )
    out.bind(node.output(0), rows)
    out.bind(node.output(1), count)


@emits("Unique", domain=DOMAIN, data="any", own="MkUnique")
def unique(node: NodeView, out: Emission) -> None:
    shape, bound = node.shape(), node.int("bound", 0)
    ordered = node.int("sorted", 1)
    if node.has("axis"):
        axis = node.axis(node.int("axis", 0))
        outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    else:
        outer = inner = 1
    size = math.prod(shape)
    dims = [(size,), (bound,), (bound,), (bound,), (1,)]
    made = out.own("MkUnique", [out.native(node.input())], dims, outer=outer, axis=bound, inner=inner, sorted=ordered)
    for index, blob in enumerate(made):
        out.bind(node.output(index), blob)


_WEIGHINGS = {"TF": 0, "IDF": 1, "TFIDF": 2}


@emits("TfIdfVectorizer", since=9, data="any", own="MkTfIdf")
def tf_idf(node: NodeView, out: Emission) -> None:
    shape = node.shape()
    pool, weights = node.ints("pool_int64s"), node.floats("weights")
    counts, indexes = node.ints("ngram_counts"), node.ints("ngram_indexes")
    if pool is None or counts is None or indexes is None or node.has("pool_strings"):
        raise Refuse("its pool is one of strings", "turn words into numbers before the model")
    if max(np.abs([*pool, 0])) >= 1 << 24:
        raise Refuse("its pool holds integers above 2^24, which float32 cannot hold", "use smaller ids")
    rows, columns = (1, *shape)[-2:] if shape else (1, 1)
    size = node.out_shape()[-1]
    blob = out.own(
        "MkTfIdf",
        [out.native(node.input())],
        [(rows * size,)],
        rows=rows,
        columns=columns,
        mode=_WEIGHINGS[node.str("mode", "TF")],
        min_gram_length=node.int("min_gram_length", 1),
        max_gram_length=node.int("max_gram_length", 1),
        max_skip_count=node.int("max_skip_count", 0),
        size=size,
        pool=pool,
        ngram_counts=counts,
        ngram_indexes=indexes,
        **({} if weights is None else {"weights": weights}),
    )[0]
    out.bind(node.output(), blob)
