"""A batch larger than 1: ncnn's layers take one image, so each goes its own way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from mobilekit.graph import Value
from mobilekit.targets.ncnn.emit import Blob, Emission
from mobilekit.targets.ncnn.node import Refuse, static_shape
from mobilekit.targets.ncnn.ops.slicing import crop

__all__ = ["join_items", "per_item", "split_items"]

_MOST_ITEMS = 64


def split_items(out: Emission, value: Value, inner: tuple[int, ...]) -> list[Blob]:
    """The items along the first axis of ``value``, each of dims ``inner``."""
    batch = static_shape(value)[0]
    if batch == 1:
        return [out.view(value, inner)]
    if batch > _MOST_ITEMS:
        raise Refuse(
            f"its batch is {batch}; ncnn computes one image at a time",
            "export with a batch of 1 (--input-shape NAME:1x...) and run it for each image",
        )
    whole = out.view(value, (batch, math.prod(inner)))
    return [out.reshape(crop(out, whole, {0: (item, item + 1)}), inner) for item in range(batch)]


def join_items(out: Emission, items: Sequence[Blob]) -> Blob:
    """Equal blobs one after another, as (items, elements); one blob stays as it is."""
    if len(items) == 1:
        return items[0]
    size = math.prod(items[0].dims)
    rows = [out.reshape(item, (1, size)) for item in items]
    return out.layer("Concat", rows, (len(rows), size), axis=0)


def per_item(out: Emission, value: Value, inner: tuple[int, ...], make: Callable[[Blob], Blob]) -> Blob:
    """``make`` applied to each item of ``value``, joined."""
    return join_items(out, [make(item) for item in split_items(out, value, inner)])
