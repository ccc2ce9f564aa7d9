"""The original model in float64, by ONNX's own reference evaluator: slow, and nearer to the truth than any runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilekit.errors import UsageError

if TYPE_CHECKING:
    from onnx import GraphProto

    from mobilekit.tensors import Array

__all__ = ["run_float64"]

_FLOAT, _DOUBLE = 1, 11
_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype"})


def run_float64(
    model: Path, inputs: Mapping[str, Array], fixed: Mapping[str, Array], *, timeout_s: float, wide: bool = True
) -> dict[str, Array]:
    """Outputs by name, floats as float64; ``wide=False``: by the same evaluator, in the model's own types.

    Raises :class:`UsageError` where the evaluator cannot compute the model, :class:`~mobilekit.errors.ChildError` past
    ``timeout_s``.
    """
    from mobilekit.child import call

    answer: dict[str, Array] = call(
        "mobilekit.runners.float64:evaluate",
        {"model": str(model), "inputs": {**fixed, **inputs}, "wide": wide},
        what="computing in float64",
        timeout_s=timeout_s,
    )
    return answer


def evaluate(model: str, inputs: dict[str, Any], wide: bool) -> dict[str, Any]:
    """Runs in the child."""
    import warnings

    import numpy as np
    import onnx
    from onnx.reference import ReferenceEvaluator

    warnings.simplefilter("ignore")
    proto = onnx.load(model)
    if wide:
        _widen(proto.graph)
    names = [output.name for output in proto.graph.output]
    known = {info.name for info in proto.graph.input}
    feed = {
        name: array.astype(np.float64) if wide and array.dtype == np.float32 else array
        for name, array in inputs.items()
        if name in known
    }
    try:
        found = ReferenceEvaluator(proto, new_ops=[_conv(), _batch_normalization()]).run(names, feed)
    except Exception as error:  # the evaluator raises what numpy and it like
        said = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise UsageError(f"onnx.reference cannot compute the model in float64: {said}") from error
    return dict(zip(names, found, strict=True))


def _widen(graph: GraphProto) -> None:
    """Every float32 becomes a float64: weights, constants, types that are named, and values' types."""
    import numpy as np
    from onnx import numpy_helper

    for tensor in graph.initializer:
        if tensor.data_type == _FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for info in (*graph.input, *graph.output, *graph.value_info):
        if info.type.tensor_type.elem_type == _FLOAT:
            info.type.tensor_type.elem_type = _DOUBLE
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _widen(attribute.g)
            elif attribute.t.data_type == _FLOAT:
                wide = numpy_helper.to_array(attribute.t).astype(np.float64)
                attribute.t.CopyFrom(numpy_helper.from_array(wide, attribute.t.name))
            elif attribute.name in _TYPE_ATTRIBUTES and attribute.i == _FLOAT:
                attribute.i = _DOUBLE


def _conv() -> Any:
    """``Conv`` of our own: that of onnx's evaluator takes ten times as long."""
    import numpy as np
    from onnx.reference.op_run import OpRun

    class Conv(OpRun):
        op_domain = ""

        def _run(
            self,
            x: Any,
            w: Any,
            bias: Any = None,
            auto_pad: str | None = None,
            dilations: Any = None,
            group: int | None = None,
            kernel_shape: Any = None,  # noqa: ARG002 - the weight has it
            pads: Any = None,
            strides: Any = None,
        ) -> tuple[Any]:
            axes = x.ndim - 2
            steps, gaps = strides or [1] * axes, dilations or [1] * axes
            spans = [(k - 1) * gap + 1 for k, gap in zip(w.shape[2:], gaps, strict=True)]
            around = _pads(auto_pad or "NOTSET", pads or [0] * (2 * axes), x.shape[2:], spans, steps)
            padded = np.pad(x, [(0, 0), (0, 0), *around])
            windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=tuple(range(2, 2 + axes)))
            # (n, c, *out, *span), thinned out to the strides and the dilations
            slices = [slice(None, None, step) for step in (*steps, *gaps)]
            windows = windows[(slice(None), slice(None), *slices)]
            groups = group or 1
            made = [
                # over channels and kernel: (n, *out, m)
                np.tensordot(part, weight, axes=([1, *range(2 + axes, 2 + 2 * axes)], range(1, 2 + axes)))
                for part, weight in zip(np.split(windows, groups, axis=1), np.split(w, groups), strict=True)
            ]
            y = np.moveaxis(np.concatenate(made, axis=-1), -1, 1)
            if bias is not None:
                y = y + bias.reshape(-1, *[1] * axes)
            return (np.ascontiguousarray(y, dtype=x.dtype),)

    return Conv


def _batch_normalization() -> Any:
    """That of onnx's evaluator mixes the batch's own mean and variance in, for opsets 7 to 13."""
    import numpy as np
    from onnx.reference.op_run import OpRun

    class BatchNormalization(OpRun):
        op_domain = ""

        def _run(
            self,
            x: Any,
            scale: Any,
            bias: Any,
            mean: Any,
            variance: Any,
            epsilon: float | None = None,
            momentum: float | None = None,  # noqa: ARG002 - for training, as is the next one
            training_mode: int | None = None,  # noqa: ARG002
        ) -> tuple[Any]:
            shape = (-1, *[1] * (x.ndim - 2))
            root = np.sqrt(variance + (1e-5 if epsilon is None else epsilon))
            made = (x - mean.reshape(shape)) * (scale / root).reshape(shape) + bias.reshape(shape)
            return (made.astype(x.dtype),)

    return BatchNormalization


def _pads(
    auto_pad: str, pads: Sequence[int], sizes: Sequence[int], spans: Sequence[int], steps: Sequence[int]
) -> list[tuple[int, int]]:
    """Zeros before and behind each axis."""
    axes = len(sizes)
    if auto_pad == "NOTSET":
        return [(pads[axis], pads[axis + axes]) for axis in range(axes)]
    if auto_pad == "VALID":
        return [(0, 0)] * axes
    found = []
    for size, span, step in zip(sizes, spans, steps, strict=True):
        total = max((-(-size // step) - 1) * step + span - size, 0)
        less, more = total // 2, total - total // 2
        found.append((less, more) if auto_pad == "SAME_UPPER" else (more, less))
    return found
