"""Which inputs of an operator are its parameters.

The backend tests give everything as a graph input, ``axes`` and weights too. A converter for devices fixes what is
fixed in every real model: shapes, axes, sizes, ``k``, pads, scales, weights, biases, index tables. Those inputs become
initializers before the conversion; all others, the second operands of Gemm, MatMul and arithmetic among them, stay
inputs. The choice is the one under which the peers in the project's brief were measured: exactly then the element types
of what stays an input split the cases into their float and integer tiers.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["PARAMETERS"]

_WINDOWED = (1, 2)  # weight, bias
_RECURRENT = (1, 2, 3, 4)  # W, R, B, sequence_lens; the initial states stay inputs

PARAMETERS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "AffineGrid": (1,),  # size
        "BatchNormalization": (1, 2, 3, 4),  # scale, bias, mean, variance
        "CausalConvWithState": _WINDOWED,
        "CenterCropPad": (1,),  # shape
        "Clip": (1, 2),  # min, max
        "Col2Im": (1, 2),  # image_shape, block_shape
        "Compress": (1,),  # condition: it decides the shape
        "Conv": _WINDOWED,
        "ConvTranspose": _WINDOWED,
        "CumProd": (1,),  # axis
        "CumSum": (1,),  # axis
        "DFT": (1, 2),  # dft_length, axis
        "DeformConv": (1, 3),  # W, B; offset and mask stay inputs
        "Dropout": (1, 2),  # ratio, training_mode
        "Expand": (1,),  # shape
        "GRU": _RECURRENT,
        "Gather": (1,),  # indices
        "GatherElements": (1,),
        "GatherND": (1,),
        "GroupNormalization": (1, 2),  # scale, bias
        "InstanceNormalization": (1, 2),
        "LSTM": (*_RECURRENT, 7),  # and the peepholes
        "LayerNormalization": (1, 2),
        "MaxUnpool": (1, 2),  # indices, output_shape
        "NegativeLogLikelihoodLoss": (2,),  # weight of each class
        "NonMaxSuppression": (2, 3, 4),  # max_output_boxes_per_class, iou_threshold, score_threshold
        "OneHot": (1, 2),  # depth, values
        "PRelu": (1,),  # slope
        "Pad": (1, 2, 3),  # pads, constant_value, axes
        "RMSNormalization": (1,),  # scale
        "RNN": _RECURRENT,
        "ReduceL1": (1,),  # axes
        "ReduceL2": (1,),
        "ReduceLogSum": (1,),
        "ReduceLogSumExp": (1,),
        "ReduceMax": (1,),
        "ReduceMean": (1,),
        "ReduceMin": (1,),
        "ReduceProd": (1,),
        "ReduceSum": (1,),
        "ReduceSumSquare": (1,),
        "Reshape": (1,),  # shape
        "Resize": (1, 2, 3),  # roi, scales, sizes
        "ReverseSequence": (1,),  # sequence_lens
        "RoiAlign": (2,),  # batch_indices
        "RotaryEmbedding": (1, 2, 3),  # cos_cache, sin_cache, position_ids
        "STFT": (1, 2, 3),  # frame_step, window, frame_length
        "Scatter": (1,),  # indices
        "ScatterElements": (1,),
        "ScatterND": (1,),
        "Slice": (1, 2, 3, 4),  # starts, ends, axes, steps
        "SoftmaxCrossEntropyLoss": (2,),  # weight of each class
        "Split": (1,),  # split
        "Squeeze": (1,),  # axes
        "TensorScatter": (2,),  # write_indices
        "Tile": (1, 2),  # repeats
        "TopK": (1,),  # k
        "Trilu": (1,),  # k
        "Unsqueeze": (1,),  # axes
        "Upsample": (1,),  # scales
    }
)
"""Operator -> the input positions that are constants; an expanded case follows the operator it stands for."""
