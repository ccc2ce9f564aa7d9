"""Fourier transforms of a fixed length as matrices of sines and cosines: what targets without a DFT multiply with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["LARGEST_MATRIX", "Matrix", "dft_matrix", "transform_matrix"]

Matrix = npt.NDArray[np.float64]

LARGEST_MATRIX = 1 << 24
"""Numbers: a transform of 4096 has as many."""


def transform_matrix(
    length: int, size: int, parts: int, bins: int, results: int, *, inverse: bool, one_sided: bool
) -> Matrix:
    """(bins, results, size, parts): what ONNX's DFT of ``length`` multiplies a signal of ``size`` with.

    A longer signal is cut, a shorter one goes on with zeros. Of a one-sided inverse the result's size is the length.
    """
    if inverse and one_sided:
        matrix = _one_sided_inverse(bins, size, parts)
    else:
        matrix = dft_matrix(length, bins, parts, results, inverse=inverse)[:, :, :size]
    whole: Matrix = np.zeros((bins, results, size, parts))
    whole[:, :, : matrix.shape[2]] = matrix
    return whole


def dft_matrix(length: int, bins: int, parts: int, results: int, *, inverse: bool) -> Matrix:
    """(bins, results, length, parts): real and imaginary results from real (and imaginary) parts."""
    angle = 2 * np.pi * (np.outer(np.arange(bins), np.arange(length)) % length) / length
    if not inverse:
        angle = -angle
    cos, sin = np.cos(angle), np.sin(angle)
    full = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], 1)
    matrix: Matrix = full[:, :results, :, :parts] / (length if inverse else 1)
    return matrix


def _one_sided_inverse(length: int, size: int, parts: int) -> Matrix:
    """A real signal from the first half of its spectrum: each bin but the first (and the middle) counts twice."""
    matrix = dft_matrix(length, length, 2, 1, inverse=True)[:, :, :size, :parts]
    twice = np.array([1.0 if k == 0 or 2 * k == length else 2.0 for k in range(min(size, length // 2 + 1))])
    weighed: Matrix = matrix[:, :, : len(twice)] * twice[:, None]
    return weighed
