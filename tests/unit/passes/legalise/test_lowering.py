"""Einsum, AffineGrid and ScatterND in simpler operators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.models import of_nodes
from tests.unit.passes.checks import Node, assert_same, ops, prepared

RNG = np.random.default_rng(3)
SIZES = {"b": 2, "h": 3, "i": 4, "j": 5, "d": 6, "n": 1, "c": 3, "v": 4, "k": 2, "w": 5}
EQUATIONS = [
    "bhid,bhjd->bhij",
    "bhij,bhjd->bihd",
    "bhid,jd->bhij",
    "bhid->bdhi",
    "bhid->bh",
    "bhid,bhid->bhi",
    "i,j->ij",
    "i,i->",
    "nchi,vc->nvhi",
    "nkciv,kvw->nciw",
    "bi,ij,jd->bd",
    "bij,bjd",
    "bhd,hdw->bw",
    "bi,bi->bi",
    "bij,i->bij",
    "hd,bhwd->bhw",
]


def _shape(term: str) -> tuple[int, ...]:
    return tuple(SIZES[label] for label in term)


@pytest.mark.parametrize("equation", EQUATIONS)
@pytest.mark.parametrize("const", [False, True])
def test_einsum(equation: str, const: bool, tmp_path: Path) -> None:
    terms = equation.split("->")[0].split(",")
    names = [f"x{index}" for index in range(len(terms))]
    shapes = dict(zip(names, map(_shape, terms), strict=True))
    result = np.einsum(equation, *(np.ones(shape) for shape in shapes.values())).shape
    weights = {}
    if const and len(names) > 1:
        weights = {name: RNG.standard_normal(shapes.pop(name)).astype(np.float32) for name in names[1:]}
    model = of_nodes([Node("Einsum", names, ["y"], equation=equation)], shapes, {"y": result}, weights)
    graph = prepared(model, tmp_path)
    assert_same(model, graph)
    assert "Einsum" not in ops(graph)


@pytest.mark.parametrize(("equation", "shapes"), [("...ij,...jk->...ik", [(2, 3, 4, 5), (2, 3, 5, 2)]),
                                                  ("b...d,dc->b...c", [(2, 3, 4, 5), (5, 6)])])  # fmt: skip
def test_einsum_with_an_ellipsis(equation: str, shapes: list[tuple[int, ...]], tmp_path: Path) -> None:
    inputs = {f"x{index}": shape for index, shape in enumerate(shapes)}
    result = np.einsum(equation, *(np.ones(shape) for shape in shapes)).shape
    model = of_nodes([Node("Einsum", list(inputs), ["y"], equation=equation)], inputs, {"y": result})
    graph = prepared(model, tmp_path)
    assert_same(model, graph)
    assert "Einsum" not in ops(graph)


def test_a_diagonal_stays(tmp_path: Path) -> None:
    model = of_nodes([Node("Einsum", ["x"], ["y"], equation="ii->i")], {"x": (4, 4)}, {"y": (4,)})
    assert ops(prepared(model, tmp_path)) == {"Einsum": 1}


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("size", [(2, 3, 4, 5), (1, 1, 3, 2, 4)])
def test_affine_grid(corners: int, size: tuple[int, ...], tmp_path: Path) -> None:
    rank = len(size) - 2
    node = Node("AffineGrid", ["x", "size"], ["y"], align_corners=corners)
    inputs = {"x": (size[0], rank, rank + 1)}
    model = of_nodes([node], inputs, {"y": (size[0], *size[2:], rank)}, {"size": np.array(size)}, opset=20)
    graph = prepared(model, tmp_path)
    assert_same(model, graph)
    assert "AffineGrid" not in ops(graph)


def test_the_corners_of_a_single_cell_stay(tmp_path: Path) -> None:
    node = Node("AffineGrid", ["x", "size"], ["y"], align_corners=1)
    sizes = {"size": np.array([1, 3, 1, 6])}
    model = of_nodes([node], {"x": (1, 2, 3)}, {"y": (1, 1, 6, 2)}, sizes, opset=20)
    assert ops(prepared(model, tmp_path)) == {"AffineGrid": 1}


@pytest.mark.parametrize(("axis", "start", "end"), [(2, 0, 2), (2, 1, 3), (1, 3, 4), (0, 0, 2), (1, 0, 4)])
def test_scatter_into_a_slice(axis: int, start: int, end: int, tmp_path: Path) -> None:
    shape = (2, 4, 5)
    ranges = [np.arange(start, end) if index == axis else np.arange(size) for index, size in enumerate(shape)]
    indices = np.stack(np.meshgrid(*ranges, indexing="ij"), -1)
    inputs = {"x": shape, "u": indices.shape[:-1]}
    model = of_nodes([Node("ScatterND", ["x", "i", "u"], ["y"])], inputs, {"y": shape}, {"i": indices})
    graph = prepared(model, tmp_path)
    assert_same(model, graph)
    assert "ScatterND" not in ops(graph)


@pytest.mark.parametrize(
    "box",
    [
        {1: (1, 3), 2: (2, 5)},
        {0: (1, 2), 1: (0, 2), 2: (0, 3)},
        {0: (0, 1), 2: (4, 5)},
    ],
)
def test_scatter_into_a_box(box: dict[int, tuple[int, int]], tmp_path: Path) -> None:
    shape = (2, 4, 5)
    ranges = [np.arange(*box.get(axis, (0, size))) for axis, size in enumerate(shape)]
    indices = np.stack(np.meshgrid(*ranges, indexing="ij"), -1)
    inputs = {"x": shape, "u": indices.shape[:-1]}
    model = of_nodes([Node("ScatterND", ["x", "i", "u"], ["y"])], inputs, {"y": shape}, {"i": indices})
    graph = prepared(model, tmp_path)
    assert_same(model, graph)
    assert set(ops(graph)) <= {"Slice", "Split", "Reshape", "Concat"}


def test_a_scatter_in_another_order_stays(tmp_path: Path) -> None:
    indices = {"i": np.array([[2], [1]])}
    model = of_nodes([Node("ScatterND", ["x", "i", "u"], ["y"])], {"x": (4, 3), "u": (2, 3)}, {"y": (4, 3)}, indices)
    assert ops(prepared(model, tmp_path)) == {"ScatterND": 1}
