"""Whose fault an error is that nobody foresaw: the model's, if ONNX Runtime does not take it either."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mobilekit.errors import ChildError, MobilekitError, ModelError, UsageError

if TYPE_CHECKING:
    from mobilekit.tensors import NamedTensors

__all__ = ["blamed"]

_TIMEOUT_S = 60.0


@contextmanager
def blamed(model: Path, fixed: NamedTensors | None = None) -> Iterator[None]:
    """Within, an exception that is none of ours becomes :class:`ModelError` where ONNX Runtime cannot load ``model``,
    or cannot run it on seeded inputs and ``fixed``, and says why; else it is a bug of ours and goes on as it is."""
    try:
        yield
    except (MobilekitError, MemoryError, OSError):
        raise
    except Exception as error:
        said = _refusal(model, fixed or {})
        if said:
            raise ModelError(
                f"{model.name} is malformed: {said}", hint="export the model again from its framework"
            ) from error
        raise


def _refusal(model: Path, fixed: NamedTensors) -> str:
    """What ONNX Runtime says against the model; ``""`` where it runs it, or cannot be asked."""
    from mobilekit.bundle import TensorInfo
    from mobilekit.importers.onnx import load
    from mobilekit.runners.base import RunOptions
    from mobilekit.runners.ort import OrtRunner
    from mobilekit.validate.inputs import seeded_inputs

    try:
        with OrtRunner(model, fixed=fixed) as runner:
            specs = [spec for spec in load(model).inputs if spec.name not in fixed]
            if not all(spec.is_static for spec in specs):
                return ""
            infos = [
                TensorInfo(name=spec.name, dtype=spec.dtype, shape=tuple(int(str(axis)) for axis in spec.shape))
                for spec in specs
            ]
            inputs = seeded_inputs(infos, seed=0)
            try:
                runner.run(inputs, RunOptions(timeout_s=_TIMEOUT_S))
            except UsageError as refusal:
                return refusal.message
    except ModelError as refusal:
        return refusal.message
    except (UsageError, ChildError):
        pass
    return ""
