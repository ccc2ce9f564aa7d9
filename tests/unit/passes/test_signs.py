"""What operators say of the numbers they make, on graphs in which a tensor is used many times over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mobilekit.graph import Value
from mobilekit.importers.convert import from_proto
from mobilekit.passes.signs import magnitude, never_negative
from tests.models import of_nodes
from tests.unit.passes.checks import Node


def doubled(first: str, op: str, times: int) -> Value:
    nodes = [Node(first, ["x"], ["d0"])]
    nodes += [Node(op, [f"d{k}", f"d{k}"], [f"d{k + 1}"]) for k in range(times)]
    made = from_proto(of_nodes(nodes, {"x": (3,)}, {f"d{times}": (3,)}, {}), Path())
    return made.outputs[0]


@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_a_tensor_used_twice_at_each_step_is_looked_at_once(op: str) -> None:
    # Each use followed anew would be 2^50 steps.
    assert never_negative(doubled("Relu", op, 50))
    assert not never_negative(doubled("Neg", op, 50))
    assert magnitude(doubled("Tanh", op, 50)) == (2.0**50 if op == "Add" else 1.0)
    assert magnitude(doubled("Neg", op, 50)) == np.inf
