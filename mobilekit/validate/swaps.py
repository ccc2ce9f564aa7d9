"""Outputs under each other's names: every number is wrong, and the mistake is not one of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mobilekit.validate.tolerance import Tolerance, Verdict, judge

if TYPE_CHECKING:
    from mobilekit.tensors import NamedTensors

__all__ = ["swapped"]


def swapped(actual: NamedTensors, expected: NamedTensors, tolerances: Mapping[str, Tolerance]) -> dict[str, str]:
    """For each output that holds what the reference gives for another one: that other one's name.

    An output that is right is none; neither is one whose right answer cannot be told from the other one's.
    """
    from mobilekit.metrics.tensors import compare

    found: dict[str, str] = {}
    for name, tolerance in tolerances.items():
        if name not in actual or judge(compare(actual[name], expected[name]), tolerance).verdict is not Verdict.FAIL:
            continue
        for other, limits in tolerances.items():
            if other == name or judge(compare(expected[name], expected[other]), limits).verdict is Verdict.PASS:
                continue
            if judge(compare(actual[name], expected[other]), limits).verdict is Verdict.PASS:
                found[name] = other
                break
    return found
