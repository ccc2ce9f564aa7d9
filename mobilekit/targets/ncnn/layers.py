"""The one table of ncnn's layers: parameter names, their numeric ids and defaults, from ``src/layer/*.cpp``.

A parameter whose value equals the default is left out of the ``.param`` file. ``default=None`` marks one whose
default depends on another parameter (``kernel_h`` follows ``kernel_w``); it is always written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

__all__ = ["FEATURE_MASK", "LAYERS", "OWN_LAYERS", "Param"]

FEATURE_MASK = 31
"""The parameter that every layer has: bits that switch features off (``get_masked_option`` in ``src/net.cpp``)."""

FLT_MAX = 3.4028234663852886e38


@dataclass(frozen=True, slots=True)
class Param:
    """One numbered parameter; ``kind`` says how ncnn reads it."""

    id: int
    kind: Literal["int", "float", "ints", "floats", "text"]
    default: int | float | None = None


def _i(number: int, default: int | None = None) -> Param:
    return Param(number, "int", default)


def _f(number: int, default: float | None = None) -> Param:
    return Param(number, "float", default)


def _ints(number: int) -> Param:
    return Param(number, "ints")


def _floats(number: int) -> Param:
    return Param(number, "floats")


def _text(number: int) -> Param:
    return Param(number, "text")


_ACTIVATION = {"activation_type": _i(9, 0), "activation_params": _floats(10)}
_INT8 = {"int8_scale_term": _i(8, 0)}
_CONV_COMMON = {
    "num_output": _i(0, 0),
    "kernel_w": _i(1, 0),
    "dilation_w": _i(2, 1),
    "stride_w": _i(3, 1),
    "pad_left": _i(4, 0),
    "pad_right": _i(15),
    "bias_term": _i(5, 0),
    "weight_data_size": _i(6, 0),
    **_ACTIVATION,
}
_CONV_2D = {
    **_CONV_COMMON,
    "kernel_h": _i(11),
    "dilation_h": _i(12),
    "stride_h": _i(13),
    "pad_top": _i(14),
    "pad_bottom": _i(16),
}
_CONV_3D = {
    **_CONV_2D,
    "kernel_d": _i(21),
    "dilation_d": _i(22),
    "stride_d": _i(23),
    "pad_front": _i(24),
    "pad_behind": _i(17),
}
_GROUP = {"group": _i(7, 1)}
_OUTPUT_PAD_3D = {"output_pad_right": _i(18, 0), "output_pad_bottom": _i(19), "output_pad_behind": _i(20)}
_POOL_COMMON = {
    "pooling_type": _i(0, 0),
    "kernel_w": _i(1, 0),
    "stride_w": _i(2, 1),
    "pad_left": _i(3, 0),
    "pad_right": _i(14),
    "global_pooling": _i(4, 0),
    "pad_mode": _i(5, 0),
    "avgpool_count_include_pad": _i(6, 0),
}
_POOL_2D = {
    **_POOL_COMMON,
    "kernel_h": _i(11),
    "stride_h": _i(12),
    "pad_top": _i(13),
    "pad_bottom": _i(15),
}
_SIZE = {"w": _i(0, 0), "h": _i(1, 0), "d": _i(11, 0), "c": _i(2, 0)}

_RUN = {"outer": _i(0, 1), "axis": _i(1, 1), "inner": _i(2, 1)}
_BROADCAST = {"a": _ints(10), "b": _ints(11)}
_OWN_POOL = {
    "planes": _i(0, 0),
    "spatial": _ints(10),
    "kernel": _ints(11),
    "strides": _ints(12),
    "pads": _ints(13),
    "result": _ints(14),
    "dilations": _ints(15),
}
_REGIONS = {
    "batch": _i(0, 1),
    "channels": _i(1, 0),
    "height": _i(2, 0),
    "width": _i(3, 0),
    "output_height": _i(4, 0),
    "output_width": _i(5, 0),
    "sampling_ratio": _i(6, 0),
    "spatial_scale": _f(7, 1.0),
    "half_pixel": _i(8, 1),
}
_OWN: dict[str, dict[str, Param]] = {
    "MkArg": {**_RUN, "largest": _i(3, 1), "select_last_index": _i(4, 0)},
    "MkCumSum": {**_RUN, "exclusive": _i(3, 0), "reverse": _i(4, 0), "product": _i(5, 0)},
    "MkDiv": {**_BROADCAST, "truncate": _i(3, 0)},
    "MkFloat32": {},
    "MkGather": _RUN,
    "MkGatherElements": {"data": _ints(10), "positions": _ints(11), "axis": _i(12, 0)},
    "MkGatherND": {"batch": _i(0, 1), "inner": _i(2, 1), "sizes": _ints(10)},
    "MkGridSample": {
        "batch": _i(0, 1),
        "channels": _i(1, 1),
        "mode": _i(3, 0),
        "padding": _i(4, 0),
        "align_corners": _i(5, 0),
        "spatial": _ints(10),
    },
    "MkLpPool": {**_OWN_POOL, "p": _i(3, 2)},
    "MkMaxPoolIndices": {**_OWN_POOL, "storage_order": _i(3, 0)},
    "MkMod": {**_BROADCAST, "fmod": _i(3, 0)},
    "MkNonMaxSuppression": {
        "batch": _i(0, 1),
        "classes": _i(1, 1),
        "boxes": _i(2, 0),
        "max_output_boxes_per_class": _i(3, 0),
        "iou_threshold": _f(4, 0.0),
        "score_threshold": _f(5, 0.0),
        "has_score_threshold": _i(6, 0),
        "center_point_box": _i(7, 0),
        "bound": _i(8, 0),
    },
    "MkNonZero": {"bound": _i(3, 0), "shape": _ints(10)},
    "MkPow": _BROADCAST,
    "MkRecurrent": {
        "kind": _i(0, 0),
        "hidden": _i(1, 0),
        "direction": _i(2, 0),
        "batch": _i(3, 1),
        "inputs": _i(4, 0),
        "batch_first": _i(5, 0),
        "reset_after": _i(6, 0),
        "input_forget": _i(7, 0),
        "clip": _f(8, 0.0),
        "peepholes": _i(9, 0),
        "activations": _ints(10),
        "alphas": _floats(11),
        "betas": _floats(12),
        "extra": _i(13, 0),
    },
    "MkRoiAlign": _REGIONS,
    "MkRoiAlignMax": _REGIONS,
    "MkScatterElements": {"reduction": _i(3, 0), "data": _ints(10), "positions": _ints(11), "axis": _i(12, 0)},
    "MkScatterND": {"inner": _i(2, 1), "reduction": _i(3, 0), "sizes": _ints(10)},
    "MkTfIdf": {
        "rows": _i(0, 1),
        "columns": _i(1, 0),
        "mode": _i(3, 0),
        "min_gram_length": _i(4, 0),
        "max_gram_length": _i(5, 0),
        "max_skip_count": _i(6, 0),
        "size": _i(7, 0),
        "pool": _ints(10),
        "ngram_counts": _ints(11),
        "ngram_indexes": _ints(12),
        "weights": _floats(13),
    },
    "MkTopK": {**_RUN, "k": _i(3), "largest": _i(4, 1)},
    "MkUnique": {**_RUN, "sorted": _i(3, 1)},
}
_DIMS = {f"dims{index}": _ints(20 + index) for index in range(5)}

OWN_LAYERS: Mapping[str, Mapping[str, Param]] = MappingProxyType(
    {kind: MappingProxyType({**params, **_DIMS}) for kind, params in _OWN.items()}
)
"""Our own layer type -> its parameters by name: android-harness/layers/README.md. ``dims0`` ... are outputs' dims."""

LAYERS: Mapping[str, Mapping[str, Param]] = MappingProxyType(
    {
        **OWN_LAYERS,
        "BatchNorm": {"channels": _i(0, 0), "eps": _f(1, 0.0)},
        "BinaryOp": {"op_type": _i(0, 0), "with_scalar": _i(1, 0), "b": _f(2, 0.0)},
        "CELU": {"alpha": _f(0, 1.0)},
        "Clip": {"min": _f(0, -FLT_MAX), "max": _f(1, FLT_MAX)},
        "Concat": {"axis": _i(0, 0)},
        "Convolution": {**_CONV_2D, **_INT8, "pad_value": _f(18, 0.0), "dynamic_weight": _i(19, 0)},
        "Convolution1D": {**_CONV_COMMON, "pad_value": _f(18, 0.0), "dynamic_weight": _i(19, 0)},
        "Convolution3D": {**_CONV_3D, "pad_value": _f(18, 0.0)},
        "ConvolutionDepthWise": {
            **_CONV_2D,
            **_GROUP,
            **_INT8,
            "pad_value": _f(18, 0.0),
            "dynamic_weight": _i(19, 0),
        },
        "ConvolutionDepthWise1D": {**_CONV_COMMON, **_GROUP, "pad_value": _f(18, 0.0), "dynamic_weight": _i(19, 0)},
        "ConvolutionDepthWise3D": {**_CONV_3D, **_GROUP, "pad_value": _f(18, 0.0)},
        "Crop": {
            "starts": _ints(9),
            "ends": _ints(10),
            "axes": _ints(11),
            "starts_expr": _text(19),
            "ends_expr": _text(20),
            "axes_expr": _text(21),
        },
        "CumulativeSum": {"axis": _i(0, 0)},
        "Deconvolution": {**_CONV_2D, "output_pad_right": _i(18, 0), "output_pad_bottom": _i(19)},
        "DeconvolutionDepthWise": {**_CONV_2D, **_GROUP, "output_pad_right": _i(18, 0), "output_pad_bottom": _i(19)},
        "Deconvolution3D": {**_CONV_3D, **_OUTPUT_PAD_3D},
        "DeconvolutionDepthWise3D": {**_CONV_3D, **_GROUP, **_OUTPUT_PAD_3D},
        "Deconvolution1D": {**_CONV_COMMON, "output_pad_right": _i(18, 0)},
        "DeconvolutionDepthWise1D": {**_CONV_COMMON, **_GROUP, "output_pad_right": _i(18, 0)},
        "DeformableConv2D": _CONV_2D,
        "ELU": {"alpha": _f(0, 0.1)},
        "Embed": {"num_output": _i(0, 0), "input_dim": _i(1, 0), "bias_term": _i(2, 0), "weight_data_size": _i(3, 0)},
        "Erf": {},
        "Flip": {"axes": _ints(0)},
        "GELU": {"fast_gelu": _i(0, 0)},
        "Gemm": {
            "alpha": _f(0, 1.0),
            "beta": _f(1, 1.0),
            "transA": _i(2, 0),
            "transB": _i(3, 0),
            "constantA": _i(4, 0),
            "constantB": _i(5, 0),
            "constantC": _i(6, 0),
            "constantM": _i(7, 0),
            "constantN": _i(8, 0),
            "constantK": _i(9, 0),
            "constant_broadcast_type_C": _i(10, 0),
        },
        "GridSample": {
            "sample_type": _i(0, 1),
            "padding_mode": _i(1, 1),
            "align_corner": _i(2, 0),
            "permute_fusion": _i(3, 0),
        },
        "GroupNorm": {"group": _i(0, 1), "channels": _i(1, 0), "eps": _f(2, 0.001), "affine": _i(3, 1)},
        "GRU": {"num_output": _i(0, 0), "weight_data_size": _i(1, 0), "direction": _i(2, 0)},
        "HardSigmoid": {"alpha": _f(0, 0.2), "beta": _f(1, 0.5)},
        "HardSwish": {"alpha": _f(0, 0.2), "beta": _f(1, 0.5)},
        "InnerProduct": {
            "num_output": _i(0, 0),
            "bias_term": _i(1, 0),
            "weight_data_size": _i(2, 0),
            **_ACTIVATION,
            **_INT8,
        },
        "Input": _SIZE,
        "InstanceNorm": {"channels": _i(0, 0), "eps": _f(1, 0.001), "affine": _i(2, 1)},
        "Interp": {
            "resize_type": _i(0, 0),
            "height_scale": _f(1, 1.0),
            "width_scale": _f(2, 1.0),
            "output_height": _i(3, 0),
            "output_width": _i(4, 0),
            "dynamic_target_size": _i(5, 0),
            "align_corner": _i(6, 0),
            "size_expr": _text(9),
        },
        "LayerNorm": {"affine_size": _i(0, 0), "eps": _f(1, 0.001), "affine": _i(2, 1)},
        "LRN": {
            "region_type": _i(0, 0),
            "local_size": _i(1, 5),
            "alpha": _f(2, 1.0),
            "beta": _f(3, 0.75),
            "bias": _f(4, 1.0),
        },
        "LSTM": {
            "num_output": _i(0, 0),
            "weight_data_size": _i(1, 0),
            "direction": _i(2, 0),
            "hidden_size": _i(3),
        },
        "MatMul": {"transB": _i(0, 0)},
        "MemoryData": {**_SIZE, "load_type": _i(21, 1)},
        "Mish": {},
        "Padding": {
            "top": _i(0, 0),
            "bottom": _i(1, 0),
            "left": _i(2, 0),
            "right": _i(3, 0),
            "type": _i(4, 0),
            "value": _f(5, 0.0),
            "front": _i(7, 0),
            "behind": _i(8, 0),
        },
        "Permute": {"order_type": _i(0, 0)},
        "PixelShuffle": {"upscale_factor": _i(0, 1), "mode": _i(1, 0)},
        "Pooling": _POOL_2D,
        "Pooling1D": _POOL_COMMON,
        "Pooling3D": {
            **_POOL_2D,
            "kernel_d": _i(21),
            "stride_d": _i(22),
            "pad_front": _i(23),
            "pad_behind": _i(16),
        },
        "PReLU": {"num_slope": _i(0, 0)},
        "Reduction": {
            "operation": _i(0, 0),
            "reduce_all": _i(1, 1),
            "coeff": _f(2, 1.0),
            "axes": _ints(3),
            "keepdims": _i(4, 0),
            "fixbug0": _i(5, 0),
        },
        "ROIAlign": {
            "pooled_width": _i(0, 0),
            "pooled_height": _i(1, 0),
            "spatial_scale": _f(2, 1.0),
            "sampling_ratio": _i(3, 0),
            "aligned": _i(4, 0),
            "version": _i(5, 0),
        },
        "ReLU": {"slope": _f(0, 0.0)},
        "Reorg": {"stride": _i(0, 1), "mode": _i(1, 0)},
        "Reshape": {
            "w": _i(0, -233),
            "h": _i(1, -233),
            "d": _i(11, -233),
            "c": _i(2, -233),
            "shape_expr": _text(6),
        },
        "RMSNorm": {"affine_size": _i(0, 0), "eps": _f(1, 0.001), "affine": _i(2, 1)},
        "RNN": {"num_output": _i(0, 0), "weight_data_size": _i(1, 0), "direction": _i(2, 0)},
        "Scale": {"scale_data_size": _i(0, 0), "bias_term": _i(1, 0)},
        "SDPA": {"attn_mask": _i(5, 0), "scale": _f(6, 0.0)},
        "SELU": {"alpha": _f(0, 1.67326324), "lambda_": _f(1, 1.050700987)},
        "ShuffleChannel": {"group": _i(0, 1), "reverse": _i(1, 0)},
        "Sigmoid": {},
        "Slice": {"slices": _ints(0), "axis": _i(1, 0)},
        "Softmax": {"axis": _i(0, 0), "fixbug0": _i(1, 0)},
        "Softplus": {},
        "Split": {},
        "Squeeze": {},
        "Swish": {},
        "TanH": {},
        "Tile": {"axis": _i(0, 0), "tiles": _i(1, 1), "repeats": _ints(2)},
        "UnaryOp": {"op_type": _i(0, 0)},
    }
)
"""Layer type -> its parameters by name, ncnn's and our own."""
