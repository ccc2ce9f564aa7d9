"""8 bits by Q/DQ: QuantizeLinear and DequantizeLinear pairs written into the ONNX by ONNX Runtime's own quantiser.

The options are those that TensorRT takes (symmetric, int8 activations and weights, a scale a channel, no int32 bias).
Scales come from calibration inputs; which statistic makes them is the user's choice, none is best for every model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mobilekit.errors import UsageError

if TYPE_CHECKING:
    from mobilekit.graph import Graph
    from mobilekit.tensors import Array

__all__ = ["METHODS", "QuantisedType", "is_quantised", "quantise", "quantise_in_child"]

QuantisedType = Literal["int8", "fp8"]

METHODS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
"""What makes a range of the values seen: their extremes, the least loss of information, or all but the outliers."""

_HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Where 8 bits pay. What lies between runs in float: quantised too, it loses accuracy and gains nothing once fused."""

_TIMEOUT_S = 1800.0


def is_quantised(graph: Graph) -> bool:
    """Whether the model has Q/DQ pairs already: such a model is taken as it is."""
    return any(node.op == "DequantizeLinear" and not node.domain for node in graph.nodes)


def quantise(
    source: Path,
    result: Path,
    samples: Sequence[Mapping[str, Array]],
    *,
    dtype: QuantisedType = "int8",
    method: str = "minmax",
) -> None:
    """Write ``source`` with Q/DQ pairs to ``result``, calibrated with ``samples`` (inputs by name), in a child process.

    fp8 is E4M3 with scales from the spread of the values; ``method`` is for int8. Raises :class:`UsageError` for an
    unknown method or no samples, :class:`~mobilekit.errors.ChildError` where the quantiser fails.
    """
    from mobilekit.child import call

    if method not in METHODS:
        raise UsageError(f"there is no calibration method {method!r}", hint=f"one of {', '.join(METHODS)}")
    if not samples:
        raise UsageError(
            f"{dtype} needs inputs to take its ranges from", hint="--calib DIR with pictures or .npy files"
        )
    call(
        "mobilekit.precision.quantise:quantise_in_child",
        {
            "source": str(source),
            "result": str(result),
            "samples": [dict(sample) for sample in samples],
            "dtype": dtype,
            "method": METHODS[method],
        },
        what=f"calibrating {source.name} for {dtype}",
        timeout_s=_TIMEOUT_S,
    )


def quantise_in_child(*, source: str, result: str, samples: list[dict[str, Any]], dtype: str, method: str) -> None:
    """Runs in the child: ONNX Runtime's quantiser changes the process's logging and working files."""
    import logging

    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as quantize_with

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(samples)

        def get_next(self) -> dict[str, Any] | None:
            return next(self._left, None)

    logging.disable(logging.WARNING)
    narrow = QuantType.QInt8 if dtype == "int8" else QuantType.QFLOAT8E4M3FN
    try:
        quantize_with(
            _own_biases(source),
            result,
            Reader(),
            quant_format=QuantFormat.QDQ,
            activation_type=narrow,
            weight_type=narrow,
            op_types_to_quantize=list(_HEAVY),
            per_channel=dtype == "int8",
            calibrate_method=getattr(CalibrationMethod, method if dtype == "int8" else "Distribution"),
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
        )
    except Exception as error:  # the quantiser raises what it likes
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(
            f"ONNX Runtime's quantiser could not make {dtype} of the model: {said}",
            hint="try another --calib-method, or give inputs that exercise the model",
        ) from error


def _own_biases(source: str) -> str:
    """A model in which no two of the nodes to quantise share a bias, beside ``source``; or that itself.

    ONNX Runtime's quantiser gives each of them a copy, named by a number behind the old name: that of another tensor,
    if there is one.
    """
    import onnx

    model = onnx.load(source, load_external_data=False)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    names = {*constants, *(name for node in model.graph.node for name in node.output)}
    names |= {info.name for info in model.graph.input}
    seen: set[str] = set()
    before = len(constants)
    for node in model.graph.node:
        bias = node.input[2] if node.op_type in _HEAVY and len(node.input) > 2 else ""
        if bias in constants and bias in seen:
            node.input[2] = next(name for number in count() if (name := f"{bias}/own{number}") not in names)
            names.add(node.input[2])
            copy = model.graph.initializer.add()
            copy.CopyFrom(constants[bias])
            copy.name = node.input[2]
        seen.add(bias)
    if len(model.graph.initializer) == before:
        return source
    path = Path(source).with_name(f"{Path(source).stem}.own_biases.onnx")  # where its external data is, too
    onnx.save(model, str(path))
    return str(path)
