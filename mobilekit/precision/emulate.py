"""A model whose int8 layers are emulated, run in ONNX Runtime: what int8 costs it on one input.

The integers are the same everywhere, but what is rounded to them is not: kernels sum in another order, and some take an
approximate inverse of a scale (x86's depthwise convolution, to 12 bits). Where a value lies between two steps it is
rounded the other way then, which a deep model makes as much of as of the rounding itself. So the cost is the worst of
several draws, with the results of all layers rounded to 12 bits, or to the format that a device computes in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mobilekit.errors import ModelError, UsageError
from mobilekit.precision.rounding import DRAW, RoundedType, round_everywhere

__all__ = ["EmulatedModel"]

_DRAWS: dict[RoundedType, tuple[float, ...]] = {
    "float32": (1.0, 4097.0, 5003.0),
    "float16": (1.0, 1.19, 1.41),
    "bfloat16": (65537.0, 77987.0, 92405.0),
}
"""As in :mod:`mobilekit.precision.rounding`; 4097 leaves a float32 12 bits."""


class EmulatedModel:
    """Lives in a child process. ``exact`` and ``emulated`` are ONNX files with all their data in them, ``computed`` is
    what results between layers are rounded to. Raises :class:`ModelError` where ONNX Runtime does not load them."""

    def __init__(self, exact: str, emulated: str, computed: RoundedType) -> None:
        import onnx
        import onnxruntime as ort

        settings = ort.SessionOptions()
        settings.log_severity_level = 3
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # It would take roundings out.
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL

        def session(model: Any) -> Any:
            data = model.SerializeToString()
            return ort.InferenceSession(data, settings, providers=["CPUExecutionProvider"])

        try:
            self._exact = session(onnx.load(exact))
            proto = onnx.load(emulated)
            round_everywhere(proto, "float32", computed)
            self._emulated = session(proto)
        except Exception as error:  # onnx and ONNX Runtime raise what they like
            raise ModelError(f"{Path(emulated).name} cannot be run: {error}") from error
        self._draws = _DRAWS[computed]

    def errors(self, inputs: dict[str, Any]) -> dict[str, list[list[float]]]:
        """By output, a draw each, against the exact model: relative L2, largest absolute error, relative L2 of the
        faint part.

        Raises :class:`UsageError` where the model cannot run.
        """
        from mobilekit.metrics.tensors import compare

        names = [output.name for output in self._exact.get_outputs()]
        known = {value.name for value in self._exact.get_inputs()}
        feed = {name: array for name, array in inputs.items() if name in known}
        found: dict[str, list[list[float]]] = {name: [] for name in names}
        try:
            expected = self._exact.run(names, feed)
            for draw in self._draws:
                outputs = self._emulated.run(names, {**feed, DRAW: np.array(draw, dtype=np.float32)})
                for name, output, wanted in zip(names, outputs, expected, strict=True):
                    off = compare(output, wanted)
                    found[name].append([off.relative_l2, off.max_abs, off.faint_l2])
        except Exception as error:  # ONNX Runtime's exceptions share no base class of its own
            raise UsageError(f"the emulated model cannot be run: {error}") from error
        return found
