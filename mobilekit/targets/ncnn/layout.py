"""How a tensor's ONNX axes fall into the (at most four) dims of an ncnn Mat.

ncnn has no batch axis and at most four dims, but a Mat's elements stand in row-major order whatever its dims, so a
tensor may be seen under any dims with the same product. A *grouping* partitions the ONNX axes, in order, into
consecutive groups, one for each Mat dim (outermost first); a group may be empty (a dim of size 1).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

__all__ = ["MAX_DIMS", "Dims", "Groups", "dim_of_axis", "dims_of", "kept_axes", "match", "merged", "natural"]

MAX_DIMS = 4

Dims = tuple[int, ...]
"""Sizes of a Mat, outermost first: ``(w,)``, ``(h, w)``, ``(c, h, w)`` or ``(c, d, h, w)``."""

Groups = tuple[tuple[int, ...], ...]


def dims_of(shape: Sequence[int], groups: Groups) -> Dims:
    """Mat dims of a tensor of ``shape`` (ONNX order) under ``groups``; a scalar is a Mat of one element."""
    return tuple(math.prod(shape[axis] for axis in group) for group in groups) or (1,)


def dim_of_axis(groups: Groups, axis: int) -> int:
    """Which Mat dim holds ``axis``."""
    return next(index for index, group in enumerate(groups) if axis in group)


def natural(shape: Sequence[int], isolate: Collection[int] = ()) -> Groups | None:
    """One dim an axis, less a leading batch axis of 1, less other axes of 1 while there are more than four.

    Axes in ``isolate`` get a dim of their own. ``None`` where four dims do not suffice.
    """
    groups = [[axis] for axis in range(len(shape))]
    if not groups:
        return ((),)

    def join(index: int) -> None:
        group = groups.pop(index)
        if index < len(groups):
            groups[index] = group + groups[index]
        else:
            groups[-1] += group

    if len(groups) > 1 and shape[0] == 1 and 0 not in isolate:
        join(0)
    while len(groups) > MAX_DIMS:
        for index, group in enumerate(groups):
            if math.prod(shape[a] for a in group) == 1 and not set(group) & set(isolate):
                join(index)
                break
        else:
            return None
    return tuple(map(tuple, groups))


def merged(shape: Sequence[int], isolate: Collection[int] = ()) -> Groups | None:
    """As few dims as possible with every axis of ``isolate`` in a dim of its own; ``None`` if more than four."""
    groups: list[list[int]] = []
    pending: list[int] = []
    open_run = False
    for axis, size in enumerate(shape):
        if axis in isolate:
            groups.append([*pending, axis])
            pending, open_run = [], False
        elif size == 1:
            (groups[-1] if groups else pending).append(axis)
        elif open_run:
            groups[-1].append(axis)
        else:
            groups.append([*pending, axis])
            pending, open_run = [], True
    if pending:
        groups.append(pending)
    return tuple(map(tuple, groups)) if len(groups) <= MAX_DIMS else None


def match(shape: Sequence[int], dims: Dims, isolate: Collection[int] = ()) -> Groups | None:
    """A grouping under which ``shape`` has exactly ``dims`` and each axis of ``isolate`` its own dim, if any."""

    def fits(start: int, end: int, size: int) -> bool:
        axes = range(start, end)
        if math.prod(shape[axis] for axis in axes) != size:
            return False
        own = [axis for axis in axes if axis in isolate]
        return not own or (len(own) == 1 and shape[own[0]] == size)

    def go(axis: int, dim: int) -> list[tuple[int, ...]] | None:
        if dim == len(dims):
            return [] if axis == len(shape) else None
        for end in [*range(axis + 1, len(shape) + 1), axis]:
            if fits(axis, end, dims[dim]):
                rest = go(end, dim + 1)
                if rest is not None:
                    return [tuple(range(axis, end)), *rest]
        return None

    found = go(0, 0)
    return None if found is None else tuple(found)


def kept_axes(shape: Sequence[int], dims: Dims) -> tuple[int, ...] | None:
    """The axes whose sizes are ``dims``, all others being 1: what :class:`~mobilekit.bundle.NcnnBlob` records."""
    if dims == (1,) and all(size == 1 for size in shape):
        return ()
    groups = match(shape, dims)
    if groups is None:
        return None
    kept: list[int] = []
    for group, size in zip(groups, dims, strict=True):
        axis = next((a for a in group if shape[a] == size), None)
        if axis is None:
            return None
        kept.append(axis)
    return tuple(kept)


def unique(candidates: Iterable[Groups | None]) -> list[Groups]:
    """The candidates that exist, each once, in order."""
    return list(dict.fromkeys(c for c in candidates if c is not None))
