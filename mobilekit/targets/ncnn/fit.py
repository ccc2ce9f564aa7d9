"""From a number seen at several input sizes to the expression by which ncnn computes it (``src/expression.cpp``).

Sizes are counted in steps: the size of a free axis is ``step * t``. Where ``step`` is a multiple of all strides that
the axis meets, each size in the model is a polynomial in the ``t`` of the free axes, of degree one in each, whose
coefficients are whole numbers: so few sizes determine it, and one more size than those tells whether it is one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from mobilekit.targets.ncnn.layout import Dims

__all__ = ["Expression", "Symbol", "fit", "fit_local"]

_LETTERS = {1: "w", 2: "hw", 3: "chw", 4: "cdhw"}


@dataclass(frozen=True, slots=True)
class Symbol:
    """A free axis: its name, the multiple that its sizes are of, and where ncnn finds its size.

    ``source`` is the index of a graph input, ``dim`` the dim of its Mat (outermost is 0).
    """

    name: str
    step: int
    source: int
    dim: int


@dataclass(frozen=True, slots=True)
class Expression:
    """``text`` in ncnn's prefix notation; blob 0 is the layer's own, blob 1 + i the ``sources[i]``-th graph input."""

    text: str
    sources: tuple[int, ...] = ()


def letter(dims: Dims, index: int) -> str:
    """ncnn's name for dim ``index`` (outermost is 0) of a Mat of ``dims``."""
    return _LETTERS[len(dims)][index]


def fit_local(values: Sequence[int], dims: Sequence[Dims]) -> str | None:
    """``values`` (one for each size) from the layer's own input, whose dims are ``dims`` at the same sizes."""
    columns = {
        f"0{letter(dims[0], index)}": [each[index] for each in dims]
        for index in range(len(dims[0]))
        if len({each[index] for each in dims}) > 1
    }
    for name, column in columns.items():
        if found := _scaled(values, column, name):
            return found
    for name, column in columns.items():
        offsets = {value - size for value, size in zip(values, column, strict=True)}
        if len(offsets) == 1:
            offset = offsets.pop()
            return f"+({name},{offset})" if offset > 0 else f"-({name},{-offset})"
    for (a, left), (b, right) in itertools.combinations(columns.items(), 2):
        product = [x * y for x, y in zip(left, right, strict=True)]
        if found := _scaled(values, product, f"*({a},{b})"):
            return found
    return None


def _scaled(values: Sequence[int], column: Sequence[int], name: str) -> str | None:
    ratios = {Fraction(value, size) for value, size in zip(values, column, strict=True)}
    if len(ratios) != 1:
        return None
    ratio = ratios.pop()
    if ratio <= 0:
        return None
    text = name if ratio.numerator == 1 else f"*({name},{ratio.numerator})"
    return text if ratio.denominator == 1 else f"//({text},{ratio.denominator})"


def fit(
    values: Sequence[int], points: Sequence[Sequence[int]], symbols: Sequence[Symbol], inputs: Sequence[Dims]
) -> Expression | None:
    """``values`` from the sizes of the graph's inputs, whose Mat dims are ``inputs``; ``points`` holds the ``t``.

    ``None`` where no polynomial goes through all points, or too few points would prove one.
    """
    monomials = [
        combination
        for degree in range(len(symbols) + 1)
        for combination in itertools.combinations(range(len(symbols)), degree)
    ]
    if len(points) <= len(monomials):
        return None
    matrix = np.array([[math.prod(point[i] for i in term) for term in monomials] for point in points], np.float64)
    solution, _, rank, _ = np.linalg.lstsq(matrix, np.array(values, np.float64), rcond=None)
    if rank < len(monomials):
        return None
    factors = [round(float(factor)) for factor in solution]
    for value, point in zip(values, points, strict=True):
        if sum(c * math.prod(point[i] for i in term) for c, term in zip(factors, monomials, strict=True)) != value:
            return None
    used = sorted({symbols[i].source for c, term in zip(factors, monomials, strict=True) if c for i in term})
    text = ""
    for factor, term in zip(factors, monomials, strict=True):
        if not factor:
            continue
        product = str(factor) if not term or factor != 1 else ""
        for index in term:
            symbol = symbols[index]
            size = f"{1 + used.index(symbol.source)}{letter(inputs[symbol.source], symbol.dim)}"
            size = size if symbol.step == 1 else f"//({size},{symbol.step})"
            product = f"*({product},{size})" if product else size
        text = f"+({text},{product})" if text else product
    return Expression(text or "0", tuple(used))
