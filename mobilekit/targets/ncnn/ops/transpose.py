"""Transpose of any number of axes, by Permute layers of at most four dims."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise, permutations

from mobilekit.targets.ncnn.emit import Blob, Emission
from mobilekit.targets.ncnn.layout import MAX_DIMS
from mobilekit.targets.ncnn.node import NodeView, Refuse

_ORDERS = {
    2: ("wh", "hw"),
    3: ("whc", "hwc", "wch", "cwh", "hcw", "chw"),
    4: (
        *("whdc", "hwdc", "wdhc", "dwhc", "hdwc", "dhwc", "whcd", "hwcd"),
        *("wchd", "cwhd", "hcwd", "chwd", "wdch", "dwch", "wcdh", "cwdh"),
        *("dcwh", "cdwh", "hdcw", "dhcw", "hcdw", "chdw", "dchw", "cdhw"),
    ),
}
"""Permute's order types: which source dims become (w, h, d, c) (``src/layer/permute.cpp``)."""
_NAMES = {1: "w", 2: "hw", 3: "chw", 4: "cdhw"}

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
    moves = [(cut, order, _positions(cut, order)) for cut, order in _moves(len(wanted))]
    # From where one Permute leads to the end: the search forward needs a level less.
    last: dict[Order, tuple[list[int], Order]] = {}
    for cut, order, positions in moves:
        before = [0] * len(wanted)
        for index, position in enumerate(positions):
            before[position] = wanted[index]
        last.setdefault(tuple(before), (cut, order))
    start = tuple(range(len(wanted)))
    reached: dict[Order, list[tuple[list[int], Order]]] = {start: []}
    frontier = [start]
    if start == wanted:
        return []
    while True:
        for state in frontier:
            if state in last:
                return [*reached[state], last[state]]
        following: list[Order] = []
        for state in frontier:
            for cut, order, positions in moves:
                made = tuple(state[position] for position in positions)
                if made not in reached:
                    reached[made] = [*reached[state], (cut, order)]
                    following.append(made)
        frontier = following


def _positions(cut: Sequence[int], order: Order) -> Order:
    """Which axis comes to stand at each place where the dims that ``cut`` makes are put in ``order``."""
    bounds = [sum(cut[:index]) for index in range(len(cut) + 1)]
    return tuple(axis for dim in order for axis in range(bounds[dim], bounds[dim + 1]))


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


def permute(out: Emission, blob: Blob, order: tuple[int, ...]) -> Blob:
    """Dims of ``blob`` rearranged: dim i of the result is dim ``order[i]`` of ``blob``."""
    names = _NAMES[len(order)]
    wanted = {name: names[source] for name, source in zip(names, order, strict=True)}
    code = "".join(wanted[name] for name in "whdc" if name in wanted)
    dims = tuple(blob.dims[source] for source in order)
    return out.layer("Permute", [blob], dims, order_type=_ORDERS[len(order)].index(code))


def permute_runs(out: Emission, node: NodeView, runs: list[list[int]]) -> Blob:
    """The node's first input with ``runs`` of its axes in the order given, in as few Permutes as there are."""
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
