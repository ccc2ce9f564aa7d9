"""What a bundle's answers are held against: ONNX Runtime on the original model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from mobilekit.runners.base import RunOptions

if TYPE_CHECKING:
    from mobilekit.bundle import Bundle
    from mobilekit.report.model import ReferenceFacts
    from mobilekit.runners.base import Runner
    from mobilekit.tensors import Array, NamedTensors
    from mobilekit.validate.doubt import Doubt

__all__ = ["Reference", "open_reference"]


class Reference(Protocol):
    """Right answers, and how sure they are. Inputs and outputs by ONNX name, in ONNX shape and dtype."""

    @property
    def facts(self) -> ReferenceFacts: ...

    def answer(self, inputs: Mapping[str, Array], timeout_s: float) -> NamedTensors: ...

    def doubt(self, inputs: Mapping[str, Array], expected: NamedTensors, timeout_s: float) -> dict[str, float]:
        """Relative L2 by output between ``expected`` and the same computed in another way; empty where unknown."""
        ...


class _OnnxRuntime:
    def __init__(self, runner: Runner, doubt: Doubt) -> None:
        self._runner = runner
        self._doubt = doubt

    @property
    def facts(self) -> ReferenceFacts:
        from mobilekit.report.model import ReferenceFacts

        info = self._runner.info()
        return ReferenceFacts(name=info.name, version=info.version)

    def answer(self, inputs: Mapping[str, Array], timeout_s: float) -> NamedTensors:
        return self._runner.run(inputs, RunOptions(timeout_s=timeout_s)).outputs

    def doubt(self, inputs: Mapping[str, Array], expected: NamedTensors, timeout_s: float) -> dict[str, float]:
        return self._doubt.of(inputs, expected, RunOptions(timeout_s=timeout_s))


@contextmanager
def open_reference(bundle: Bundle) -> Iterator[Reference]:
    """ONNX Runtime on the bundle's original model; :class:`~mobilekit.errors.ModelError` where it cannot load it."""
    from mobilekit.runners.ort import OrtRunner
    from mobilekit.validate.doubt import Doubt

    fixed = bundle.fixed()

    def ort(*, optimise: bool) -> OrtRunner:
        return OrtRunner(bundle.source, fixed=fixed, free=bundle.free, optimise=optimise)

    with ort(optimise=True) as runner, Doubt(lambda: ort(optimise=False)) as doubt:
        yield _OnnxRuntime(runner, doubt)
