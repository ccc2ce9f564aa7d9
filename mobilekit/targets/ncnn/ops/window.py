"""What ncnn's pooling lacks: windows with holes, and norms of windows."""

from __future__ import annotations

import math

import numpy as np

from mobilekit.targets.ncnn.emit import Blob, Emission, ParamValue, raw, tagged
from mobilekit.targets.ncnn.layers import FLT_MAX
from mobilekit.targets.ncnn.node import NodeView, Refuse
from mobilekit.targets.ncnn.ops.activation import apply
from mobilekit.targets.ncnn.ops.elementwise import MAX, MUL
from mobilekit.targets.ncnn.registry import emits

__all__ = ["dilated_average", "dilated_maximum", "refuse_wide", "window_sums"]

_MOST_STEPS = 64


def _spread(node: NodeView, rank: int) -> tuple[list[int], list[int], list[int], list[int]]:
    """(kernel, strides, dilations, pads)."""
    kernel = node.ints("kernel_shape") or []
    return (
        kernel,
        node.ints("strides") or [1] * rank,
        node.ints("dilations") or [1] * rank,
        node.ints("pads") or [0] * (2 * rank),
    )


def refuse_wide(node: NodeView) -> None:
    """Refuse a window that its input, padded, does not hold: runtimes round its number of places as they like."""
    spatial = node.shape()[2:]
    rank = len(spatial)
    kernel, _, dilations, pads = _spread(node, rank)
    for size, k, d, before, after in zip(spatial, kernel, dilations, pads[:rank], pads[rank:], strict=True):
        if d * (k - 1) + 1 > size + before + after:
            raise Refuse("its window is larger than its padded input", "use a smaller kernel_shape")


def window_sums(node: NodeView, out: Emission, source: Blob) -> Blob:
    """The sum over each window of ``source``, (planes, spatial...): a depthwise convolution with ones."""
    spatial = node.shape()[2:]
    rank = len(spatial)
    kernel, strides, dilations, pads = _spread(node, rank)
    result = node.out_shape()[2:]
    # ceil_mode's last window reaches past the pads: into more zeros.
    tail = [
        max(0, (o - 1) * s + (k - 1) * d + 1 - (n + b + e))
        for o, s, k, d, n, b, e in zip(
            result, strides, kernel, dilations, spatial, pads[:rank], pads[rank:], strict=True
        )
    ]
    planes = source.dims[0]
    size = planes * math.prod(kernel)
    names = {1: ("w",), 2: ("h", "w"), 3: ("d", "h", "w")}[rank]
    sides = {"w": ("pad_left", "pad_right"), "h": ("pad_top", "pad_bottom"), "d": ("pad_front", "pad_behind")}
    params: dict[str, ParamValue] = {}
    for i, name in enumerate(names):
        params |= {f"kernel_{name}": kernel[i], f"stride_{name}": strides[i], f"dilation_{name}": dilations[i]}
        params |= {sides[name][0]: pads[i], sides[name][1]: pads[i + rank] + tail[i]}
    return out.layer(
        f"ConvolutionDepthWise{'1D' if rank == 1 else '3D' if rank == 3 else ''}",
        [source],
        (planes, *result),
        [tagged(np.ones(size, np.float32))],
        num_output=planes,
        group=planes,
        weight_data_size=size,
        **params,
    )


def _planes(node: NodeView) -> tuple[int, ...]:
    batch, channels, *spatial = node.shape()
    if len(spatial) not in (1, 2, 3):
        raise Refuse(f"ncnn has no {len(spatial)}-D pooling", "express it with 1-D to 3-D pooling")
    return (batch * channels, *spatial)


def dilated_average(node: NodeView, out: Emission) -> None:
    """The sum of a window over how many of its elements count, which does not depend on the data."""
    dims = _planes(node)
    sums = window_sums(node, out, out.view(node.input(), dims))
    shares = (1 / _counted(node, node.int("count_include_pad", 0) != 0)).astype(np.float32)
    share = out.memory(shares, (1, *shares.shape))
    out.bind(node.output(), out.layer("BinaryOp", [sums, share], sums.dims, op_type=MUL))


def _counted(node: NodeView, include_pads: bool) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """For each window, how many of its elements the average is over."""
    spatial, result = node.shape()[2:], node.out_shape()[2:]
    rank = len(spatial)
    kernel, strides, dilations, pads = _spread(node, rank)
    total = np.ones((), np.float64)
    for i in range(rank):
        low, high = (-pads[i], spatial[i] + pads[i + rank]) if include_pads else (0, spatial[i])
        where = np.arange(result[i])[:, None] * strides[i] - pads[i] + np.arange(kernel[i]) * dilations[i]
        inside = ((where >= low) & (where < high)).sum(axis=1)
        total = np.multiply.outer(total, inside.astype(np.float64))
    if not total.all():
        raise Refuse("a window of it lies wholly in the padding", "use smaller pads")
    return np.asarray(total)


def dilated_maximum(node: NodeView, out: Emission) -> None:
    """Axis by axis: the maximum of ``kernel`` copies, each moved by one dilation and read at each stride."""
    dims = _planes(node)
    result = node.out_shape()[2:]
    rank = len(result)
    kernel, strides, dilations, pads = _spread(node, rank)
    if sum(kernel) > _MOST_STEPS:
        raise Refuse("its kernel has too many holes to go round them", "use a smaller kernel")
    blob = out.view(node.input(), dims)
    current = list(dims)
    for i in range(rank):
        axis = i + 1
        before, size, after = math.prod(current[:axis]), current[axis], math.prod(current[axis + 1 :])
        flat = out.reshape(blob, (before, size, after))
        reach = (result[i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1
        behind = max(0, reach - size - pads[i])
        if pads[i] or behind:
            grown = (before, size + pads[i] + behind, after)
            flat = out.layer("Padding", [flat], grown, top=pads[i], bottom=behind, value=-FLT_MAX)
        best: Blob | None = None
        for step in range(kernel[i]):
            rows = range(step * dilations[i], step * dilations[i] + (result[i] - 1) * strides[i] + 1, strides[i])
            part = _rows(out, flat, rows)
            best = part if best is None else out.layer("BinaryOp", [best, part], part.dims, op_type=MAX)
        assert best is not None
        current[axis] = result[i]
        blob = best
    out.bind(node.output(), blob)


def _rows(out: Emission, blob: Blob, rows: range) -> Blob:
    """Some of the rows of (before, rows, after)."""
    from mobilekit.targets.ncnn.ops.slicing import _stride, crop

    if rows.step == 1 or len(rows) == 1:
        return crop(out, blob, {1: (rows[0], rows[-1] + 1)})
    return _stride(out, blob, rows)


def own_window(node: NodeView, rank: int) -> dict[str, list[int]]:
    """The window in the words of our own pools."""
    return {
        "kernel": node.ints("kernel_shape") or [],
        "strides": node.ints("strides") or [1] * rank,
        "pads": (node.ints("pads") or [0] * (2 * rank))[:rank],
        "dilations": node.ints("dilations") or [1] * rank,
        "result": list(node.out_shape()[-rank:]),
    }


@emits("LpPool", since=22, own="MkLpPool", stock=True)
def lp_pool(node: NodeView, out: Emission) -> None:
    power = node.int("p", 2)
    node.ignore("ceil_mode")
    if node.str("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise Refuse("ONNX and ONNX Runtime disagree about its auto_pad", "give explicit pads")
    refuse_wide(node)
    if power not in (1, 2):
        planes, *spatial = _planes(node)
        blob = out.own(
            "MkLpPool",
            [out.native(node.input())],
            [out.natural_dims(node.output())],
            planes=planes,
            spatial=spatial,
            p=power,
            **own_window(node, len(spatial)),
        )[0]
        out.bind(node.output(), blob)
        return
    x = out.view(node.input(), _planes(node))
    sums = window_sums(node, out, apply(out, "Square" if power == 2 else "Abs", x))
    out.bind(node.output(), apply(out, "Sqrt", sums) if power == 2 else sums)


@emits("GlobalLpPool", since=22)
def global_lp_pool(node: NodeView, out: Emission) -> None:
    from mobilekit.targets.ncnn.ops.reduce import reduction

    power = node.int("p", 2)
    if power not in (1, 2):
        raise Refuse(f"its p is {power}", "use the 1-norm or the 2-norm")
    planes, *spatial = _planes(node)
    x = out.view(node.input(), (planes, math.prod(spatial)))
    out.bind(node.output(), reduction(out, f"l{power}", x, [1]))


@emits("DeformConv", since=22)
def deform_conv(node: NodeView, out: Emission) -> None:
    batch, channels, height, width = node.shape()
    if batch != 1:
        raise Refuse(f"its batch is {batch}; ncnn computes one image at a time", "export with a batch of 1")
    if node.int("group", 1) != 1:
        raise Refuse("ncnn's deformable convolution has no groups", "use group 1")
    weight = np.asarray(node.const(1, "weight"), np.float32)
    bias = node.optional_const(3, "bias")
    mask = node.optional(4)
    groups = node.int("offset_group", 1)
    kernel, strides, dilations, pads = _spread(node, 2)
    kernel = kernel or list(weight.shape[2:])
    filters, *result = node.out_shape()[1:]
    taps, part = math.prod(kernel), channels // groups
    x = out.view(node.input(), (channels, height, width))
    offsets = out.view(node.input(2), (groups * taps * 2, *result))
    masks = None if mask is None else out.view(mask, (groups * taps, *result))

    def cut(blob: Blob, index: int, size: int) -> Blob:
        from mobilekit.targets.ncnn.ops.slicing import crop

        return crop(out, blob, {0: (index * size, (index + 1) * size)})

    total: Blob | None = None
    for index in range(groups):
        inputs = [cut(x, index, part), cut(offsets, index, taps * 2)]
        inputs += [] if masks is None else [cut(masks, index, taps)]
        piece = weight[:, index * part : (index + 1) * part]
        with_bias = bias is not None and index == 0
        made = out.layer(
            "DeformableConv2D",
            inputs,
            (filters, *result),
            [tagged(piece), *([raw(bias)] if with_bias and bias is not None else [])],
            num_output=filters,
            bias_term=int(with_bias),
            weight_data_size=piece.size,
            kernel_h=kernel[0],
            kernel_w=kernel[1],
            stride_h=strides[0],
            stride_w=strides[1],
            dilation_h=dilations[0],
            dilation_w=dilations[1],
            pad_top=pads[0],
            pad_left=pads[1],
            pad_bottom=pads[2],
            pad_right=pads[3],
        )
        total = made if total is None else out.layer("BinaryOp", [total, made], made.dims, op_type=0)
    assert total is not None
    out.bind(node.output(), total)
