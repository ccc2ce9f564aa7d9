"""What values a model's tensors take on the user's inputs: ONNX Runtime's calibration, one sample in memory at a time.

Its quantiser (:mod:`mobilekit.precision.quantise`) calibrates for itself; a target that has its own 8-bit layers asks
here for the ranges alone. The methods are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilekit.errors import UsageError
from mobilekit.precision.quantise import METHODS

if TYPE_CHECKING:
    from mobilekit.tensors import Array

__all__ = ["Calibrator", "check_method", "ranges_of"]

_TIMEOUT_S = 1800.0


def check_method(method: str) -> None:
    """Raises :class:`UsageError` for one that there is not."""
    if method not in METHODS:
        raise UsageError(f"there is no calibration method {method!r}", hint=f"one of {', '.join(METHODS)}")


def ranges_of(
    model: Path, samples: Iterable[Mapping[str, Array]], tensors: Sequence[str], *, method: str = "minmax"
) -> dict[str, tuple[float, float]]:
    """By tensor of the ONNX file ``model``, the lowest and the highest value that ``method`` keeps.

    Raises :class:`UsageError` for an unknown method, no samples, or samples that the model cannot run, and
    :class:`~mobilekit.errors.ChildError` where the calibration fails.
    """
    from mobilekit.child import Child

    check_method(method)
    count = 0
    with Child(what=f"calibrating {model.name}") as child:
        child.create(
            "mobilekit.precision.ranges:Calibrator",
            {"model": str(model), "tensors": list(tensors), "method": METHODS[method]},
            timeout_s=_TIMEOUT_S,
        )
        for sample in samples:
            child.call("see", {"inputs": dict(sample)}, timeout_s=_TIMEOUT_S)
            count += 1
        if not count:
            raise UsageError(
                "int8 needs inputs to take its ranges from", hint="--calib DIR with pictures or .npy files"
            )
        found: dict[str, tuple[float, float]] = child.call("ranges", {}, timeout_s=_TIMEOUT_S)
    return found


class Calibrator:
    """Lives in a child process: ONNX Runtime's calibrators write a model beside the one they are given."""

    def __init__(self, *, model: str, tensors: list[str], method: str) -> None:
        import logging
        from tempfile import TemporaryDirectory

        from onnxruntime.quantization import CalibrationMethod
        from onnxruntime.quantization.calibrate import create_calibrator

        logging.disable(logging.WARNING)
        self._wanted = frozenset(tensors)
        self._folder = TemporaryDirectory(prefix="mobilekit-calibrate-")
        # With no operators to look at, it makes a session for a model without anything to watch...
        self._calibrator: Any = create_calibrator(
            model,
            ["mobilekit_none"],
            augmented_model_path=str(Path(self._folder.name) / "watched.onnx"),
            calibrate_method=getattr(CalibrationMethod, method),
            extra_options={"symmetric": True},
        )
        # ... and then one that watches what is wanted.
        self._calibrator.select_tensors_to_calibrate = self._select
        self._calibrator.augment_graph()
        self._calibrator.create_inference_session()

    def _select(self, model: Any) -> tuple[set[str], dict[str, Any]]:
        infos = [*model.graph.value_info, *model.graph.output, *model.graph.input]
        return set(self._wanted), {info.name: info for info in infos}

    def see(self, *, inputs: dict[str, Any]) -> None:
        """Run one sample."""

        class Once:
            def __init__(self) -> None:
                self._left: Iterator[dict[str, Any]] = iter([inputs])

            def get_next(self) -> dict[str, Any] | None:
                return next(self._left, None)

        try:
            self._calibrator.collect_data(Once())
        except Exception as error:  # ONNX Runtime raises what it likes
            said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UsageError(
                f"a calibration input cannot be run: {said}", hint="give inputs that fit the model"
            ) from error

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Of all that was seen."""
        import numpy as np

        data = self._calibrator.compute_data()
        found = {}
        for name, tensor in data.items():
            low, high = (float(np.asarray(value).reshape(-1)[0]) for value in tensor.range_value)
            found[name] = (low, high)
        return found
