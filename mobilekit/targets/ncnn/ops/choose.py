"""One of two tensors, element by element, exact for infinities."""

from __future__ import annotations

import numpy as np

from mobilekit.targets.ncnn.emit import Blob, Emission
from mobilekit.targets.ncnn.ops.activation import apply
from mobilekit.targets.ncnn.ops.elementwise import MAX, MIN, MUL, SUB, Operand, binary, scalar

__all__ = ["choose"]


def choose(out: Emission, condition: Operand, a: Operand, b: Operand, shape: tuple[int, ...]) -> Blob:
    """``a`` where ``condition`` is 1, ``b`` where it is 0: ``max(min(a, ±inf), min(b, ∓inf))``, exact for infinities.

    A constant condition costs two layers less, and a constant choice one more.
    """
    chosen, c_shape = condition
    if isinstance(chosen, Blob) or chosen.const is None:
        c = chosen if isinstance(chosen, Blob) else out.native(chosen)
        # (c - 1/2) * inf is +inf for 1 and -inf for 0 (ncnn divides by a reciprocal: a division by 0 is NaN).
        endless = out.graph.constant("infinity", np.array(np.inf, np.float32))
        upper = binary(out, MUL, [(scalar(out, SUB, c, 0.5), c_shape), (endless, ())], c_shape)
        lower = apply(out, "Neg", upper)
        left = binary(out, MIN, [a, (upper, c_shape)], _broadcast(a[1], c_shape))
        right = binary(out, MIN, [b, (lower, c_shape)], _broadcast(b[1], c_shape))
        pair: list[Operand] = [(left, _broadcast(a[1], c_shape)), (right, _broadcast(b[1], c_shape))]
        return binary(out, MAX, pair, shape)
    mask = chosen.const.astype(bool)
    sides: list[Operand] = []
    for side, kept in ((a, mask), (b, ~mask)):
        value, side_shape = side
        reach = _broadcast(side_shape, c_shape)
        if not isinstance(value, Blob) and value.const is not None:
            data = np.where(kept, value.const.astype(np.float32), np.float32(-np.inf))
            sides.append((out.graph.constant(f"{value.name}_chosen", data), reach))
        else:
            bound = out.graph.constant("chosen", np.where(kept, np.inf, -np.inf).astype(np.float32))
            sides.append((binary(out, MIN, [side, (bound, c_shape)], reach), reach))
    return binary(out, MAX, sides, shape)


def _broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(np.broadcast_shapes(a, b))
