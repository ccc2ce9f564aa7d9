"""Pooling over windows and over everything."""

from __future__ import annotations

import math

from mobilekit.targets.ncnn.emit import Emission, ParamValue
from mobilekit.targets.ncnn.node import NodeView, Refuse
from mobilekit.targets.ncnn.ops import reduce
from mobilekit.targets.ncnn.ops.window import dilated_average, dilated_maximum, refuse_wide
from mobilekit.targets.ncnn.registry import emits

_MAX, _AVERAGE = 0, 1
_EXPLICIT_PADS = 1


@emits("MaxPool", since=22, data="any", own="MkMaxPoolIndices", stock=True)
@emits("AveragePool", since=22)
def pool(node: NodeView, out: Emission) -> None:
    batch, channels, *spatial = node.shape()
    rank = len(spatial)
    if rank not in (1, 2, 3):
        raise Refuse(f"ncnn has no {rank}-D pooling", "express it with 1-D to 3-D pooling")
    if node.str("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise Refuse("ONNX and ONNX Runtime disagree about its auto_pad", "give explicit pads")
    kernel = node.ints("kernel_shape") or []
    strides = node.ints("strides") or [1] * rank
    dilations = node.ints("dilations") or [1] * rank
    pads = node.ints("pads") or [0] * (2 * rank)
    average = node.op == "AveragePool"
    if (positions := node.optional_output(1)) is not None:
        from mobilekit.targets.ncnn.ops.window import own_window

        node.ignore("ceil_mode")
        made = out.own(
            "MkMaxPoolIndices",
            [out.native(node.input())],
            [out.natural_dims(node.output()), (math.prod(node.out_shape()),)],
            planes=batch * channels,
            spatial=spatial,
            storage_order=node.int("storage_order", 0),
            **own_window(node, rank),
        )
        out.bind(node.output(), made[0])
        out.bind(positions, made[1])
        return
    include_pads = average and node.int("count_include_pad", 0) != 0
    # The output's shape, from shape inference, says what ceil_mode came to; storage_order only concerns indices.
    node.ignore("ceil_mode", "storage_order")
    if min(pads) < 0:
        raise Refuse("it has negative pads", "crop the input with Slice instead")
    refuse_wide(node)
    if any(d != 1 for d, k in zip(dilations, kernel, strict=True) if k > 1):
        (dilated_average if average else dilated_maximum)(node, out)
        return

    result = node.out_shape()[2:]
    begin, end = pads[:rank], pads[rank:]
    # How far the last window reaches past input and pads: ceil_mode's extra, which counts as outside everything.
    tail = [
        max(0, (o - 1) * s + k - (n + b + e))
        for o, s, k, n, b, e in zip(result, strides, kernel, spatial, begin, end, strict=True)
    ]
    if any((o - 1) * s - b >= n for o, s, b, n in zip(result, strides, begin, spatial, strict=True)):
        raise Refuse("a window of it lies wholly in the padding", "use smaller pads")
    if any(b >= k or e >= k for b, e, k in zip(begin, end, kernel, strict=True)):
        raise Refuse("its pads are not smaller than its kernel", "pad explicitly before it")
    planes = batch * channels
    dims = (planes, 1, *spatial) if rank == 1 else (planes, *spatial)
    x = out.view(node.input(), dims)
    if rank == 1:
        kernel, strides, begin, end, tail = (
            [fill, *items] for fill, items in zip((1, 1, 0, 0, 0), (kernel, strides, begin, end, tail), strict=True)
        )
        result = (1, *result)
    if include_pads and any(tail) and any(pads):
        # The given pads count and ceil_mode's do not: pad with zeros first, then average over what is there.
        if rank == 3:
            raise Refuse("a 3-D average over pads with ceil_mode is not supported", "pad explicitly before it")
        grown = (planes, *(n + b + e for n, b, e in zip(dims[1:], begin, end, strict=True)))
        x = out.layer("Padding", [x], grown, top=begin[0], bottom=end[0], left=begin[1], right=end[1])
        begin, end = [0] * len(begin), [0] * len(end)
    include_pads = include_pads and not any(tail)
    end = [e + t for e, t in zip(end, tail, strict=True)]
    blob = out.layer(
        "Pooling3D" if rank == 3 else "Pooling",
        [x],
        (planes, *result),
        pooling_type=_AVERAGE if average else _MAX,
        pad_mode=_EXPLICIT_PADS,
        avgpool_count_include_pad=int(include_pads),
        **_named("kernel_{}", kernel),
        **_named("stride_{}", strides),
        **dict(zip(("pad_left", "pad_top", "pad_front"), reversed(begin), strict=False)),
        **dict(zip(("pad_right", "pad_bottom", "pad_behind"), reversed(end), strict=False)),
    )
    out.bind(node.output(), blob)


def _named(pattern: str, values: list[int]) -> dict[str, ParamValue]:
    return {pattern.format(axis): value for axis, value in zip("whd", reversed(values), strict=False)}


@emits("GlobalMaxPool", "GlobalAveragePool", since=22)
def global_pool(node: NodeView, out: Emission) -> None:
    batch, channels, *spatial = node.shape()
    planes = batch * channels
    dims = out.dims(node.input())
    if len(dims) != 3 or dims[0] != planes:
        dims = (planes, *spatial) if len(spatial) == 2 else (planes, 1, math.prod(spatial))
    kind = _AVERAGE if node.op == "GlobalAveragePool" else _MAX
    x = out.view(node.input(), dims)
    if kind == _AVERAGE and math.prod(spatial) > reduce.LONG:
        out.bind(node.output(), reduce.reduction_of_many(out, "mean", x, [1, 2], keep=False))
        return
    out.bind(node.output(), out.layer("Pooling", [x], (planes,), pooling_type=kind, global_pooling=1))
