"""Which layer is the first that goes wrong: a search over blobs, with a few runs that may take a few tensors each.

**Accumulated** errors (the model's own inputs are fed, inner blobs compared) narrow it down. A good blob clears all
that it is computed from; a bad one leaves only that. Of what is left a run takes blobs spread evenly, dominators of the
bad one first, since these split it for certain. **Local** errors (a layer is fed the reference's values) confirm: a
right layer gives right values then. Where they do not, the curve was not monotone (a later layer hid the fault, or
made much of a little), and layers are scanned by local error, the nearest first, while runs are left.

What counts as bad on the way: an output at the limit is the sum of small errors, and the fault's own may be smaller
than it; and a right layer whose values are all near zero may cost more than the tolerance. The limit of inner blobs
is therefore the geometric mean of what rounding costs a right layer (:data:`NOISE`) and of the error to explain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from mobilekit.metrics.tensors import TensorError

if TYPE_CHECKING:
    from mobilekit.validate.blobnet import BlobNet, Unit
    from mobilekit.validate.rounding import NumberFormat

__all__ = ["NOISE", "Found", "Mode", "Search", "inner_limit", "local_limit", "noise_of"]

Mode = Literal["auto", "accumulated", "local"]

NOISE = {"fp32": 2e-6, "fp16": 1e-3, "bf16": 8e-3, "int8": 2e-4}
"""Relative L2 that one right layer may cost: sums in another order; a few units of 2^-11 and 2^-8; of int8, held
against its own integers, an inverse of 12 bits (x86's depthwise convolution), and numbers rounded the other way."""

_FACTOR = 10.0
"""So many times the noise is no rounding of one layer."""

_BESIDE = 0.1
"""An error that is smaller, as a part of the largest, is not the one looked for."""

_EXPLAINS = 0.5
"""An error that is at least this part of another one is what that comes from."""

_LOOK_BACK = 8
"""So many layers before one that enlarges errors are asked whether what it enlarges is theirs."""

_NOTHING = TensorError(0.0, 0.0, 0.0, 1.0, math.inf, 0.0, 0, evidence=False)
"""Of a blob that could not be compared."""


def noise_of(form: NumberFormat) -> float:
    """:data:`NOISE` of the coarser of what weights are stored and what results are rounded to."""
    return max(NOISE[form.weights], NOISE[form.computed])


def inner_limit(noise: float, error: float) -> float:
    """Relative L2 above which an inner blob counts as bad, where an output is off by ``error``."""
    return max(_FACTOR * noise, math.sqrt(noise * min(error, 1.0)))


def local_limit(noise: float) -> float:
    """Relative L2 above which a layer that is fed right values is wrong by itself."""
    return _FACTOR * noise


@dataclass(frozen=True, slots=True)
class Found:
    """``first``: the blob whose layer goes wrong. ``confirmed``: its error is there when it is fed right values, too.

    ``why``: ``"layer"`` (it computes something else), ``"amplifies"`` (first beyond the limit, but right on right
    inputs), ``"gradual"`` (no layer stands out). ``exhausted``: runs ran out before the search was at its end.
    ``shown_by``: the later blob in which the error of ``first`` shows, where its own values hide it; ``shown`` is the
    relative L2 there.
    """

    first: str | None
    confirmed: bool
    why: Literal["layer", "amplifies", "gradual"]
    exhausted: bool = False
    shown_by: str | None = None
    shown: float = 0.0


@dataclass
class Search:
    """``measure`` and ``measure_local`` run the device once and give the error of each blob asked for that could be
    compared. ``limit`` is for accumulated errors; ``runs_left`` and ``run_bytes`` bound the work. ``measure_through``
    runs several units in a row, the first of them fed right values, and gives the error of the last, where it can."""

    net: BlobNet
    measure: Callable[[Sequence[Unit]], dict[str, TensorError]]
    measure_local: Callable[[Sequence[Unit]], dict[str, TensorError]]
    limit: float
    local_limit: float
    atol: float
    runs_left: int
    run_bytes: int
    accumulated: dict[str, TensorError] = field(default_factory=dict)
    local: dict[str, TensorError] = field(default_factory=dict)
    bad: frozenset[str] = frozenset()
    measure_through: Callable[[Sequence[Unit]], TensorError | None] | None = None

    def run(self, bad: Collection[str], mode: Mode = "auto") -> Found:
        """The search, from the blobs of outputs that are ``bad`` by the tolerance."""
        self.bad = frozenset(bad)
        suspects = self.net.ancestors(bad)
        if mode == "local":
            return self._scan(suspects, None)
        first = self._narrow(suspects)
        if first is None:
            return self._scan(suspects, None) if mode == "auto" else Found(None, False, "gradual", self.runs_left <= 0)
        while (other := self._elsewhere(first, suspects)) is not None:
            first = other
        exhausted = self.runs_left <= 0
        if mode == "accumulated" or exhausted:
            return Found(first, False, "layer", exhausted)
        self._measure_local([self.net.units[first]])
        # Its inputs are good, so that a layer that is wrong shows about the same error by itself.
        part = _BESIDE * _size(self.accumulated[first])
        if self._wrong_alone(first) and (math.isinf(part) or not _size(self.local[first]) < part):
            return Found(first, True, "layer")
        return self._scan(suspects, first)

    def each(self, blobs: Collection[str]) -> None:
        """Measure the local errors of ``blobs`` alone."""
        pending = [self.net.units[blob] for blob in blobs if self.net.units[blob].parents]
        while pending and self.runs_left > 0:
            batch, pending = self._independent(pending)
            self._measure_local(batch)

    def is_bad(self, blob: str) -> bool | None:
        """``None`` where the blob is not measured or says nothing."""
        if blob in self.bad:
            return True
        error = self.accumulated.get(blob)
        if error is None:
            return None
        return self._beyond(error, self.limit)

    def _wrong_alone(self, blob: str) -> bool:
        error = self.local.get(blob)
        return error is not None and self._beyond(error, self.local_limit) is True

    def _beyond(self, error: TensorError, limit: float) -> bool | None:
        if error.mismatch:
            return True
        if not error.evidence:
            return True if not error.max_abs <= self.atol else None
        return not error.relative_l2 <= limit

    # accumulated

    def _narrow(self, suspects: Collection[str]) -> str | None:
        """The first bad blob of all, once nothing before it is unknown (or runs are out)."""
        units = self.net.units
        while True:
            target = min((b for b in suspects if self.is_bad(b)), key=lambda b: units[b].rank, default=None)
            if target is None:
                return None
            before = self.net.ancestors([target])
            good = [blob for blob in before if self.is_bad(blob) is False]
            region = before - self.net.ancestors(good)
            unknown = [blob for blob in region if blob not in self.accumulated]
            # Model inputs are what we fed.
            unknown = [blob for blob in unknown if units[blob].parents or units[blob].layers[0].type != "Input"]
            if not unknown or self.runs_left <= 0:
                return target
            self._measure(self._choose(target, region, unknown))

    def _elsewhere(self, first: str, suspects: Collection[str]) -> str | None:
        """The first bad blob of branches that ``first`` has no part in, if one there is off by so much more that the
        error of ``first`` is nothing beside it, and beside what the outputs are off by: scores that are all near zero,
        say, beside boxes that are wrong."""
        units = self.net.units

        def much(blobs: Iterable[str]) -> bool:
            sizes = (_size(self.accumulated[blob]) for blob in blobs if blob in self.accumulated and self.is_bad(blob))
            return _size(self.accumulated[first]) < _BESIDE * max(sizes, default=0.0)

        if first not in self.accumulated or not much(self.bad):
            return None
        behind = {first}
        for blob in sorted(suspects, key=lambda blob: units[blob].rank):
            if behind.intersection(units[blob].parents):
                behind.add(blob)
        apart = set(suspects) - behind - self.net.ancestors([first])
        unknown = [blob for blob in apart if blob not in self.accumulated and units[blob].parents]
        if unknown and self.runs_left > 0:
            last = max(unknown, key=lambda blob: units[blob].rank)
            self._measure(self._choose(last, self.net.ancestors([last]) & apart, unknown))
        return self._narrow([b for b in apart if b not in self.accumulated or much([b])]) if much(apart) else None

    def _measure(self, chosen: Sequence[str]) -> None:
        self.runs_left -= 1
        found = self.measure([self.net.units[blob] for blob in chosen])
        # What could not be compared is not asked for again.
        self.accumulated |= {blob: found.get(blob, _NOTHING) for blob in chosen}

    def _choose(self, target: str, region: Collection[str], unknown: Sequence[str]) -> list[str]:
        units = self.net.units
        if sum(units[blob].size_bytes for blob in unknown) <= self.run_bytes:
            return sorted(unknown, key=lambda blob: units[blob].rank)
        cuts = self.net.cuts(target, region)
        ordered = sorted(unknown, key=lambda blob: units[blob].rank)
        chosen: list[str] = []
        left = self.run_bytes
        for group in ([b for b in ordered if b in cuts], [b for b in ordered if b not in cuts]):
            for blob in _evenly(group):
                if units[blob].size_bytes <= left or not chosen:
                    chosen.append(blob)
                    left -= units[blob].size_bytes
        return sorted(chosen, key=lambda blob: units[blob].rank)

    # local

    def _measure_local(self, units: Sequence[Unit]) -> None:
        self.runs_left -= 1
        self.local |= self.measure_local(units)

    def _scan(self, suspects: Collection[str], first: str | None) -> Found:
        """By local error: the nearest before ``first`` (or the outputs) first, then the rest."""
        units = self.net.units
        near = self.net.ancestors([first]) if first is not None else set(suspects)
        order = [
            *sorted(near, key=lambda b: -units[b].rank),
            *sorted(set(suspects) - near, key=lambda b: units[b].rank),
        ]
        pending = [units[b] for b in order if b not in self.local and units[b].parents]
        while pending and self.runs_left > 0:
            batch, pending = self._independent(pending)
            self._measure_local(batch)
            if first is not None and any(self._wrong_alone(unit.blob) for unit in batch):
                break
        most = max((_size(error) for error in self.local.values()), default=0.0)
        # Beside a fault, a layer of right but shaky values (a saturated sigmoid) is none.
        wrong = [b for b in self.local if self._wrong_alone(b) and not _size(self.local[b]) < _BESIDE * most]
        exhausted = bool(pending) and self.runs_left <= 0
        if wrong:
            # What is wrong first makes the rest worse, but each of these is wrong by itself.
            return Found(min(wrong, key=lambda b: units[b].rank), True, "layer", exhausted)
        if first is not None:
            return self._hidden(first) or Found(first, False, "amplifies", exhausted)
        worst = max(self.local, key=lambda b: _size(self.local[b]), default=None)
        return Found(worst, False, "gradual", exhausted)

    def _hidden(self, last: str) -> Found | None:
        """The nearest layer whose error does not show beside its own large values, and is what ``last`` enlarges: a
        logarithm, a division, a normalisation of what is small."""
        units = self.net.units
        before = self.net.ancestors([last])
        near = sorted((b for b in before if b != last and units[b].parents), key=lambda b: -units[b].rank)
        for blob in near[:_LOOK_BACK]:
            if self.measure_through is None or self.runs_left <= 0:
                return None
            reached = {blob}
            for unit in sorted((units[b] for b in before), key=lambda unit: unit.rank):
                if reached.intersection(unit.parents):
                    reached.add(unit.blob)
            self.runs_left -= 1
            error = self.measure_through(sorted((units[b] for b in reached), key=lambda unit: unit.rank))
            if error is not None and _size(error) >= _EXPLAINS * _size(self.accumulated[last]):
                return Found(blob, True, "layer", shown_by=last, shown=_size(error))
        return None

    def _independent(self, pending: Sequence[Unit]) -> tuple[list[Unit], list[Unit]]:
        """Units of which none is fed what another makes, within the bytes of a run; and those that have to wait."""
        fed: set[str] = set()
        made: set[str] = set()
        batch: list[Unit] = []
        rest: list[Unit] = []
        left = self.run_bytes
        for unit in pending:
            new = [parent for parent in unit.parents if parent not in fed]
            cost = unit.size_bytes + sum(self.net.units[parent].size_bytes for parent in new)
            clash = unit.blob in fed or any(parent in made for parent in unit.parents)
            if clash or (batch and cost > left):
                rest.append(unit)
                continue
            fed.update(new)
            made.add(unit.blob)
            batch.append(unit)
            left -= cost
        return batch, rest


def _size(error: TensorError) -> float:
    return error.relative_l2 if error.evidence or error.mismatch else 0.0


def _evenly(items: Sequence[str]) -> Iterable[str]:
    """The middle one, then those at the quarters, and so on: however many are taken, they lie evenly."""
    pending = [(0, len(items))]
    while pending:
        following = []
        for low, high in pending:
            if low < high:
                middle = (low + high) // 2
                yield items[middle]
                following += [(low, middle), (middle + 1, high)]
        pending = following
