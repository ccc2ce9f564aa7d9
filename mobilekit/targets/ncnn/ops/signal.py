"""Fourier transforms of a fixed length: a matrix product with the sines and cosines."""

from __future__ import annotations

import math

import numpy as np

from mobilekit.passes.fourier import LARGEST_MATRIX, dft_matrix, transform_matrix
from mobilekit.targets.ncnn.emit import Emission, tagged
from mobilekit.targets.ncnn.node import NodeView, Refuse
from mobilekit.targets.ncnn.ops.transpose import permute
from mobilekit.targets.ncnn.registry import emits


def _bounded(*sizes: int) -> None:
    if math.prod(sizes) > LARGEST_MATRIX:
        raise Refuse("its length makes too large a matrix", "do this step in the application")


@emits("DFT", since=20)
def dft(node: NodeView, out: Emission) -> None:
    shape, result = node.shape(), node.out_shape()
    axis = _axis(node, len(shape))
    size, parts, bins, results = shape[axis], shape[-1], result[axis], result[-1]
    inverse, one_sided = node.int("inverse", 0) != 0, node.int("onesided", 0) != 0
    given = node.optional_const(1, "length")
    length = size if given is None else int(given.reshape(-1)[0])
    before, after = math.prod(shape[:axis]), math.prod(shape[axis + 1 : -1])
    _bounded(bins, results, size, parts)
    weight = transform_matrix(length, size, parts, bins, results, inverse=inverse, one_sided=one_sided)
    x = out.view(node.input(), (before, size, after, parts))
    if after > 1:
        x = permute(out, x, (0, 2, 1, 3))
    rows = before * after
    x = out.reshape(x, (rows, size * parts))
    flat = weight.reshape(bins * results, size * parts).astype(np.float32)
    y = out.layer(
        "InnerProduct", [x], (rows, len(flat)), [tagged(flat)], num_output=len(flat), weight_data_size=flat.size
    )
    if after > 1:
        y = permute(out, out.reshape(y, (before, after, bins, results)), (0, 2, 1, 3))
    out.bind(node.output(), y)


def _axis(node: NodeView, rank: int) -> int:
    given = node.optional_const(2, "axis")
    axis = -2 if given is None else int(given.reshape(-1)[0])
    return axis % rank


@emits("STFT", since=17)
def stft(node: NodeView, out: Emission) -> None:
    batch, size, *tail = node.shape()
    if tail not in ([], [1]):
        raise Refuse("its signal is complex", "transform the real and the imaginary part apart")
    step = node.const_ints(1, "frame step")[0]
    window = node.optional_const(2, "window")
    given = node.optional_const(3, "frame length")
    length = int(given.reshape(-1)[0]) if given is not None else (size if window is None else window.size)
    _, frames, bins, _ = node.out_shape()
    node.ignore("onesided")  # the number of bins says it
    _bounded(bins, 2, length)
    matrix = dft_matrix(length, bins, 1, 2, inverse=False)[..., 0]
    if window is not None:
        matrix = matrix * np.asarray(window, np.float64).reshape(1, 1, -1)
    weight = matrix.astype(np.float32).reshape(bins * 2, 1, 1, length)
    # A row a signal: the frames are the places of a convolution along the row.
    y = out.layer(
        "Convolution",
        [out.view(node.input(), (1, batch, size))],
        (bins * 2, batch, frames),
        [tagged(weight)],
        num_output=bins * 2,
        kernel_w=length,
        kernel_h=1,
        stride_w=step,
        stride_h=1,
        weight_data_size=weight.size,
    )
    out.bind(node.output(), permute(out, y, (1, 2, 0)))
