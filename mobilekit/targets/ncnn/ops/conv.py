"""Convolutions and transposed convolutions, 1-D to 3-D, grouped and depthwise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mobilekit.targets.ncnn.emit import Blob, Emission, ParamValue, as_float, tagged
from mobilekit.targets.ncnn.emit import raw as raw_weights
from mobilekit.targets.ncnn.fuse import take_activation
from mobilekit.targets.ncnn.node import NodeView, Refuse
from mobilekit.targets.ncnn.ops.matmul import dense
from mobilekit.targets.ncnn.ops.slicing import crop
from mobilekit.targets.ncnn.ops.transpose import permute
from mobilekit.targets.ncnn.registry import emits

_SUFFIX = {1: "1D", 2: "", 3: "3D"}
_BEGIN_PADS = ("pad_left", "pad_top", "pad_front")
_OUTPUT_PADS = ("output_pad_right", "output_pad_bottom", "output_pad_behind")
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
    if rank not in _SUFFIX:
        raise Refuse(f"ncnn has no {rank}-D convolution", "express it with 1-D to 3-D convolutions")
    if node.input(1).const is None:
        _with_computed_weight(node, out)
        return
    weight = node.const(1, "weight")
    bias = node.optional_const(2, "bias")
    if node.str("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise Refuse("ONNX and ONNX Runtime disagree about its auto_pad", "give explicit pads")
    kernel = node.ints("kernel_shape") or list(weight.shape[2:])
    strides = node.ints("strides") or [1] * rank
    dilations = node.ints("dilations") or [1] * rank
    pads = node.ints("pads") or [0] * (2 * rank)
    group = node.int("group", 1)
    if min(pads) < 0:
        raise Refuse("it has negative pads", "crop the input with Slice instead")
    output = node.output()
    filters = int(weight.shape[0])
    if batch == 1 and group == 1 and set(inner[1:]) == set(kernel) == {1} and not any(pads):
        # One pixel: a matrix times a vector, and what pools to one pixel comes as a vector.
        dense(out, node.input(), as_float(weight, "weight").reshape(filters, -1), bias, output)
        return
    fused, output = take_activation(output, out)
    dims = (filters, *node.out_shape()[2:])
    x = _by_channel(node, out) if batch > 1 else out.view(node.input(0), tuple(inner))
    stack = _Stack((batch, *inner[1:]), dims[1:], kernel, strides, dilations, pads) if batch > 1 and rank > 1 else None
    if stack is not None:
        x, pads, dims = stack.before(out, x), stack.pads, (filters, *stack.result)
    elif batch > 1:
        # The batch is one more spatial axis, over which the kernel has size 1.
        rank += 1
        kernel, strides, dilations = [1, *kernel], [1, *strides], [1, *dilations]
        pads = [0, *pads[: rank - 1], 0, *pads[rank - 1 :]]
        x, dims = out.reshape(x, (inner[0], batch, *inner[1:])), (filters, batch, *dims[1:])
    weights = [tagged(weight), *([raw_weights(bias)] if bias is not None else [])]
    blob = out.layer(
        f"Convolution{'DepthWise' if group > 1 else ''}{_SUFFIX[rank]}",
        [x],
        dims,
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
    if stack is not None:
        blob = stack.after(out, blob)
    out.bind(output, _as_batch(out, blob) if batch > 1 else blob)


class _Stack:
    """Several images (or volumes) one below the other in one, each with its own pads between them, as one convolution.

    ncnn's 3-D convolution would take the batch for depth, but has no fast kernels (MobileNetV2, batch 4: 26 times as
    slow), and there is none of four axes. Rows (or planes) that mix two images are computed too, and cut off.
    """

    def __init__(
        self,
        dims: Sequence[int],
        result: Sequence[int],
        kernel: Sequence[int],
        strides: Sequence[int],
        dilations: Sequence[int],
        pads: Sequence[int],
    ) -> None:
        self._batch, self._height, *self._inner = dims
        self._rows, *self._made_inner = result
        rank = len(kernel)
        extent, stride = dilations[0] * (kernel[0] - 1) + 1, strides[0]
        self._above = pads[0]
        # Whole strides for each image, so that each begins at a window's first row.
        self._pitch = -(-(pads[0] + self._height + pads[rank]) // stride) * stride
        self._made = self._pitch // stride
        self.pads = [0, *pads[1:rank], max(0, extent - stride), *pads[rank + 1 :]]
        self.result = (self._batch * self._made, *self._made_inner)

    def before(self, out: Emission, blob: Blob) -> Blob:
        """(channels, batch, elements) as (channels, rows of all, ...)."""
        channels, row = blob.dims[0], math.prod(self._inner)
        if self._pitch > self._height:
            below = self._pitch - self._height - self._above
            dims = (channels, self._batch, self._pitch * row)
            blob = out.layer("Padding", [blob], dims, left=self._above * row, right=below * row)
        return out.reshape(blob, (channels, self._batch * self._pitch, *self._inner))

    def after(self, out: Emission, blob: Blob) -> Blob:
        """(filters, rows of all, ...) as (filters, batch, elements)."""
        row = math.prod(self._made_inner)
        flat = out.reshape(blob, (blob.dims[0], self._batch, self._made * row))
        return crop(out, flat, {2: (0, self._rows * row)})


def _with_computed_weight(node: NodeView, out: Emission) -> None:
    """A template that is searched for, a modulated filter: ncnn takes the weight as a second blob, (out, in, ...)."""
    inner, weight = one_batch(node), node.shape(1)
    rank = len(inner) - 1
    if rank > 2:
        raise Refuse("ncnn's 3-D convolution needs its weight fixed", "make the weight a constant of the model")
    if node.str("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise Refuse("its auto_pad was not resolved to pads", "give explicit pads")
    pads, group, bias = node.ints("pads") or [0] * (2 * rank), node.int("group", 1), node.optional(2)
    if min(pads) < 0:
        raise Refuse("it has negative pads", "crop the input with Slice instead")
    fused, output = take_activation(node.output(), out)
    blobs = [out.view(node.input(0), inner), out.view(node.input(1), weight)]
    if bias is not None:
        blobs.append(out.view(bias, (weight[0],)))
    blob = out.layer(
        f"Convolution{'DepthWise' if group > 1 else ''}{_SUFFIX[rank]}",
        blobs,
        (weight[0], *node.out_shape()[2:]),
        num_output=weight[0],
        bias_term=int(bias is not None),
        weight_data_size=math.prod(weight),
        dynamic_weight=1,
        **({"group": group} if group > 1 else {}),
        **_spatial("kernel", node.ints("kernel_shape") or list(weight[2:])),
        **_spatial("stride", node.ints("strides") or [1] * rank),
        **_spatial("dilation", node.ints("dilations") or [1] * rank),
        **_pads(pads, rank),
        **fused.as_params(),
    )
    out.bind(output, blob)


def _by_channel(node: NodeView, out: Emission) -> Blob:
    """(batch, channels, ...) as (channels, batch, elements)."""
    batch, channels, *spatial = node.shape()
    return permute(out, out.view(node.input(), (batch, channels, math.prod(spatial))), (1, 0, 2))


def _as_batch(out: Emission, blob: Blob) -> Blob:
    """What :func:`_by_channel` did, undone."""
    channels, batch, *spatial = blob.dims
    return permute(out, out.reshape(blob, (channels, batch, math.prod(spatial))), (1, 0, 2))


@emits("ConvTranspose", since=22)
def conv_transpose(node: NodeView, out: Emission) -> None:
    batch, *inner = node.shape()
    rank = len(inner) - 1
    if rank not in _SUFFIX:
        raise Refuse(f"{rank}-D transposed convolution is not supported", "express it with 1-D to 3-D ones")
    if batch > 1 and rank == 3:
        one_batch(node)
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
    dims = (filters, *node.out_shape()[2:])
    x = _by_channel(node, out) if batch > 1 else out.view(node.input(0), tuple(inner))
    if batch > 1:
        x = out.reshape(x, (inner[0], batch, *inner[1:]))
        rank += 1
        kernel, strides, dilations, extra = [1, *kernel], [1, *strides], [1, *dilations], [0, *extra]
        pads = [0, *pads[: rank - 1], 0, *pads[rank - 1 :]]
        dims = (filters, batch, *dims[1:])
    blob = out.layer(
        f"Deconvolution{'DepthWise' if group > 1 else ''}{_SUFFIX[rank]}",
        [x],
        dims,
        [tagged(np.swapaxes(grouped, 1, 2)), *([raw_weights(bias)] if bias is not None else [])],
        num_output=filters,
        bias_term=int(bias is not None),
        weight_data_size=math.prod(weight.shape),
        **({"group": group} if group > 1 else {}),
        **_spatial("kernel", kernel),
        **_spatial("stride", strides),
        **_spatial("dilation", dilations),
        **_pads(pads, rank),
        **dict(zip(_OUTPUT_PADS, reversed(extra), strict=False)),
        **fused.as_params(),
    )
    out.bind(output, _as_batch(out, blob) if batch > 1 else blob)
