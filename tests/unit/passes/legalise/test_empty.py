"""Parts without elements are left out, and the numbers stay."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tests.unit.targets.ncnn.oracle import agrees, prepared
from tests.unit.targets.ncnn.oracle import model as of_nodes

RNG = np.random.default_rng(3)


def nodes(width: int) -> list[object]:
    return [
        helper.make_node("Split", ["x", "sizes"], ["a", "b"], axis=-1),
        helper.make_node("Neg", ["a"], ["n"]),
        helper.make_node("Concat", ["n", "b"], ["y"], axis=-1),
    ]


@pytest.mark.parametrize("rest", [0, 2])
def test_concat_of_an_empty_part(rest: int) -> None:
    x, sizes = RNG.standard_normal((2, 6)).astype(np.float32), np.array([6 - rest, rest])
    agrees(nodes(6), {"x": x}, {"sizes": sizes})
    made = prepared(of_nodes(nodes(6), {"x": x}, ["y"], {"sizes": sizes}))
    assert any(node.op == "Concat" for node in made.nodes) == bool(rest)
