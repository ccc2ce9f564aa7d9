"""Warming a model up until its times settle, rather than for a number of runs that suits no device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mobilekit.runners.base import Runner, RunOptions
    from mobilekit.tensors import Array

__all__ = ["Warmth", "warm_up"]

_BLOCK_NS = 50_000_000
_MOST_ITERATIONS = 50
_MOST_S = 10.0


@dataclass(frozen=True, slots=True)
class Warmth:
    """``runs`` were needed; ``stable``: the times had settled by then; ``facts``: the runner's after the last;
    ``first_ns``: the first inference after the model was loaded."""

    runs: int
    stable: bool
    facts: Mapping[str, object]
    first_ns: int = 0


def warm_up(runner: Runner, tensors: Mapping[str, Array], run: RunOptions, *, most_s: float = _MOST_S) -> Warmth:
    """Run blocks of 50 ms until three in a row agree (:func:`mobilekit.validate.latency.is_steady`), at most for
    ``most_s`` seconds and always twice. Raises what the runner raises."""
    from mobilekit.validate.latency import is_steady

    until = time.monotonic() + most_s
    one = replace(run, warmup=0, iterations=1)
    first_ns = runner.run(tensors, one).latencies_ns[0]  # pays for what is made once
    result = runner.run(tensors, one)
    runs, medians = 2, [statistics.median(result.latencies_ns)]
    iterations = max(1, min(_MOST_ITERATIONS, round(_BLOCK_NS / max(medians[0], 1))))
    while not is_steady(medians) and time.monotonic() < until:
        result = runner.run(tensors, replace(one, iterations=iterations))
        runs += iterations
        medians.append(statistics.median(result.latencies_ns))
    return Warmth(runs, is_steady(medians), result.facts, first_ns)
