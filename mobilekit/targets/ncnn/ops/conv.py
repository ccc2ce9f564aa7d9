"""Convolutions and transposed convolutions, 1-D to 3-D, grouped and depthwise."""

from __future__ import annotations

import math

import numpy as np

from mobilekit.graph import Value
from mobilekit.targets.ncnn.emit import Blob, Emission, ParamValue, tagged
from mobilekit.targets.ncnn.emit import raw as raw_weights
from mobilekit.targets.ncnn.fuse import take_activation
from mobilekit.targets.ncnn.node import NodeView, Refuse
from mobilekit.targets.ncnn.registry import emits

_SUFFIX = {1: "1D", 2: "", 3: "3D"}
_SWAP = {3: 2, 4: 6}  # Permute's orders that exchange the two outermost dims: w c h, and w h c d
_BEGIN_PADS = ("pad_left", "pad_top", "pad_front")
_END_PADS = ("pad_right", "pad_bottom", "pad_behind")


def _spatial(name: str, values: list[int]) -> dict[str, ParamValue]:
    """``[h, w]`` values as ``{name}_h``, ``{name}_w``; ``d`` comes first where there are three."""
    return dict(zip((f"{name}_w", f"{name}_h", f"{name}_d"), reversed(values), strict=False))


def _pads(pads: list[int], rank: int) -> dict[str, ParamValue]:
    """ONNX ``[begin..., end...]`` in ncnn's names."""
    begin, end = pads[:rank][::-1], pads[rank:][::-1]
    return {**dict(zip(_BEGIN_PADS, begin, strict=False)), **dict(zip(_END_PADS, end, strict=False))}


def one_batch(node: NodeView, index: int = 0) -> tuple[int, ...]:
    """The input's shape without its batch axis, which has to be 1."""
    shape = node.shape(index)
    if shape[0] != 1:
        raise Refuse(
            f"its batch is {shape[0]}; ncnn computes one image at a time",
            "export with a batch of 1 (--input-shape NAME:1x...) and run it for each image",
        )
    return shape[1:]


@emits("Conv", since=22)
def conv(node: NodeView, out: Emission) -> None:
    batch, *inner = node.shape()
    rank = len(inner) - 1
    if batch > 1 and rank < 3:
        _conv_of_batch(node, out)
        return
    inner = list(one_batch(node))
    if rank not in _SUFFIX:
        raise Refuse(f"ncnn has no {rank}-D convolution", "express it with 1-D to 3-D convolutions")
    weight = node.const(1, "weight")
    bias = node.optional_const(2, "bias")
    if node.str("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise Refuse("its auto_pad was not resolved to pads", "give explicit pads")
    kernel = node.ints("kernel_shape") or list(weight.shape[2:])
    strides = node.ints("strides") or [1] * rank
    dilations = node.ints("dilations") or [1] * rank
    pads = node.ints("pads") or [0] * (2 * rank)
    group = node.int("group", 1)
    if min(pads) < 0:
        raise Refuse("it has negative pads", "crop the input with Slice instead")
    output = node.output()
    fused, output = take_activation(output, out)
    filters = int(weight.shape[0])
    weights = [tagged(weight), *([raw_weights(bias)] if bias is not None else [])]
    blob = out.layer(
        f"Convolution{'DepthWise' if group > 1 else ''}{_SUFFIX[rank]}",
        [out.view(node.input(0), tuple(inner))],
        (filters, *node.out_shape()[2:]),
        weights,
        num_output=filters,
        bias_term=int(bias is not None),
        weight_data_size=weight.size,
        **({"group": group} if group > 1 else {}),
        **_spatial("kernel", kernel),
        **_spatial("stride", strides),
        **_spatial("dilation", dilations),
        **_pads(pads, rank),
        **fused.as_params(),
    )
    out.bind(output, blob)


def _conv_of_batch(node: NodeView, out: Emission) -> None:
    """Several images: the batch becomes one more spatial axis, along which the kernel has size 1."""
    shape, result = node.shape(), node.out_shape()
    rank = len(shape) - 2
    weight, bias = node.const(1, "weight"), node.optional_const(2, "bias")
    pads = node.ints("pads") or [0] * (2 * rank)
    if node.str("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or min(pads) < 0:
        raise Refuse("its pads are negative or not resolved", "give explicit pads")
    group = node.int("group", 1)
    filters = int(weight.shape[0])
    turned = swap_batch(out, node.input(0), shape)
    rank_suffix = _SUFFIX[rank + 1]
    blob = out.layer(
        f"Convolution{'DepthWise' if group > 1 else ''}{rank_suffix}",
        [turned],
        (filters, shape[0], *result[2:]),
        [tagged(weight), *([raw_weights(bias)] if bias is not None else [])],
        num_output=filters,
        bias_term=int(bias is not None),
        weight_data_size=weight.size,
        **({"group": group} if group > 1 else {}),
        **_spatial("kernel", [1, *(node.ints("kernel_shape") or weight.shape[2:])]),
        **_spatial("stride", [1, *(node.ints("strides") or [1] * rank)]),
        **_spatial("dilation", [1, *(node.ints("dilations") or [1] * rank)]),
        **_pads([0, *pads[:rank], 0, *pads[rank:]], rank + 1),
    )
    order = _SWAP[len(blob.dims)]
    out.bind(node.output(), out.layer("Permute", [blob], (shape[0], filters, *result[2:]), order_type=order))


def swap_batch(out: Emission, value: Value, shape: tuple[int, ...]) -> Blob:
    """(N, C, ...) as (C, N, ...)."""
    blob = out.view(value, shape)
    return out.layer("Permute", [blob], (shape[1], shape[0], *shape[2:]), order_type=_SWAP[len(shape)])


@emits("ConvTranspose", since=22)
def conv_transpose(node: NodeView, out: Emission) -> None:
    inner = one_batch(node)
    rank = len(inner) - 1
    if rank not in (1, 2):
        raise Refuse(f"{rank}-D transposed convolution is not supported", "express it with 1-D or 2-D ones")
    weight = node.const(1, "weight")
    bias = node.optional_const(2, "bias")
    if node.str("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or node.has("output_shape"):
        raise Refuse("its auto_pad or output_shape was not resolved to pads", "give explicit pads")
    kernel = node.ints("kernel_shape") or list(weight.shape[2:])
    strides = node.ints("strides") or [1] * rank
    dilations = node.ints("dilations") or [1] * rank
    pads = node.ints("pads") or [0] * (2 * rank)
    extra = node.ints("output_padding") or [0] * rank
    group = node.int("group", 1)
    if min(pads) < 0:
        raise Refuse("it has negative pads", "pad the output instead")
    inputs, filters = int(weight.shape[0]), int(weight.shape[1]) * group
    # ONNX keeps (in, out / group, ...); ncnn wants the outputs first within each group.
    grouped = weight.reshape(group, inputs // group, filters // group, *weight.shape[2:])
    fused, output = take_activation(node.output(), out)
    blob = out.layer(
        f"Deconvolution{'DepthWise' if group > 1 else ''}{_SUFFIX[rank]}",
        [out.view(node.input(0), inner)],
        (filters, *node.out_shape()[2:]),
        [tagged(np.swapaxes(grouped, 1, 2)), *([raw_weights(bias)] if bias is not None else [])],
        num_output=filters,
        bias_term=int(bias is not None),
        weight_data_size=math.prod(weight.shape),
        **({"group": group} if group > 1 else {}),
        **_spatial("kernel", kernel),
        **_spatial("stride", strides),
        **_spatial("dilation", dilations),
        **_pads(pads, rank),
        **dict(zip(("output_pad_right", "output_pad_bottom"), reversed(extra), strict=False)),
        **fused.as_params(),
    )
    out.bind(output, blob)
