"""Transpose of any number of axes, by Permute layers of at most four dims."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise, permutations

from mobilekit.targets.ncnn.emit import Blob, Emission
from mobilekit.targets.ncnn.layout import MAX_DIMS
from mobilekit.targets.ncnn.node import NodeView, Refuse

_MOST_AXES = 8
"""The search for the fewest Permutes looks at up to this many axes (8! orders); no model needs more."""

Order = tuple[int, ...]


def runs_of(shape: Sequence[int], perm: Sequence[int]) -> list[list[int]]:
    """The axes larger than 1 in their new order, those that stay neighbours together."""
    alive = [axis for axis, size in enumerate(shape) if size > 1]
    following = dict(pairwise(alive))
    runs: list[list[int]] = []
    for axis in perm:
        if shape[axis] == 1:
            continue
        if runs and following.get(runs[-1][-1]) == axis:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    return runs


def steps(wanted: Order) -> list[tuple[list[int], Order]]:
    """The fewest Permutes from ``0, 1, ...`` to ``wanted``.

    Each is (how many neighbouring axes each of its dims holds, the order of those dims).
    """
    start = tuple(range(len(wanted)))
    reached: dict[Order, tuple[Order, list[int], Order] | None] = {start: None}
    frontier = [start]
    while wanted not in reached:
        following: list[Order] = []
        for order in frontier:
            for sizes, move in _moves(len(wanted)):
                bounds = [sum(sizes[:index]) for index in range(len(sizes) + 1)]
                made = tuple(axis for dim in move for axis in order[bounds[dim] : bounds[dim + 1]])
                if made not in reached:
                    reached[made] = (order, sizes, move)
                    following.append(made)
        frontier = following
    found: list[tuple[list[int], Order]] = []
    current = wanted
    while (link := reached[current]) is not None:
        current, sizes, move = link
        found.append((sizes, move))
    return found[::-1]


def _moves(count: int) -> Iterator[tuple[list[int], Order]]:
    """Every cut of ``count`` axes into two to four dims, with every order that leaves no neighbours together."""
    for dims in range(2, MAX_DIMS + 1):
        for sizes in _cuts(count, dims):
            for order in permutations(range(dims)):
                if all(b != a + 1 for a, b in pairwise(order)):
                    yield sizes, order


def _cuts(count: int, parts: int) -> Iterator[list[int]]:
    if parts == 1:
        yield [count]
        return
    for first in range(1, count - parts + 2):
        for rest in _cuts(count - first, parts - 1):
            yield [first, *rest]


def permute_runs(out: Emission, node: NodeView, runs: list[list[int]]) -> Blob:
    """The node's first input with ``runs`` of its axes in the order given, in as few Permutes as there are."""
    from mobilekit.targets.ncnn.ops.shape import permute

    if len(runs) > _MOST_AXES:
        raise Refuse(f"it permutes {len(runs)} separate axes", "split it into several transposes")
    shape = node.shape()
    source = sorted(runs)
    sizes = [math.prod(shape[axis] for axis in run) for run in source]
    blob: Blob | None = None
    for cut, order in steps(tuple(source.index(run) for run in runs)):
        bounds = [sum(cut[:index]) for index in range(len(cut) + 1)]
        parts = [sizes[a:b] for a, b in pairwise(bounds)]
        dims = tuple(math.prod(part) for part in parts)
        blob = permute(out, out.view(node.input(), dims) if blob is None else out.reshape(blob, dims), order)
        sizes = [size for index in order for size in parts[index]]
    assert blob is not None
    return blob
