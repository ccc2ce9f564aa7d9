"""The emitters, a file for each family of operators; importing this package fills the registry."""

from mobilekit.targets.ncnn.ops import (
    activation,
    conv,
    elementwise,
    gather,
    matmul,
    norm,
    pad,
    pool,
    recurrent,
    reduce,
    resize,
    shape,
    slicing,
)

__all__ = [
    "activation",
    "conv",
    "elementwise",
    "gather",
    "matmul",
    "norm",
    "pad",
    "pool",
    "recurrent",
    "reduce",
    "resize",
    "shape",
    "slicing",
]
