"""What a bundle's answers are held against: ONNX Runtime on the original model, or what was recorded of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from mobilekit.errors import UsageError
from mobilekit.progress import SILENT, Progress
from mobilekit.runners.base import RunOptions
from mobilekit.tensors import digest_of

if TYPE_CHECKING:
    from mobilekit.bundle import Bundle
    from mobilekit.report.model import ReferenceFacts
    from mobilekit.runners.base import Runner
    from mobilekit.targets.tensorrt.host import WorkerHost
    from mobilekit.tensors import Array, NamedTensors
    from mobilekit.validate.doubt import Doubt
    from mobilekit.validate.inputs import Sample
    from mobilekit.validate.recording import Recording

__all__ = ["ONNXRUNTIME", "ONNXRUNTIME_CUDA", "TENSORRT", "Reference", "open_reference"]

ONNXRUNTIME = "onnxruntime"
ONNXRUNTIME_CUDA = "onnxruntime-cuda"
TENSORRT = "tensorrt"


class Reference(Protocol):
    """Right answers, and how sure they are. Inputs and outputs by ONNX name, in ONNX shape and dtype."""

    @property
    def facts(self) -> ReferenceFacts: ...

    @property
    def digest(self) -> str:
        """Of a recording's content: recorded anew into the same folder, it is another; empty for what computes."""
        ...

    def samples(self) -> Iterator[Sample] | None:
        """The only inputs that it has answers for; ``None`` where it answers any."""
        ...

    def answer(self, inputs: Mapping[str, Array], timeout_s: float) -> NamedTensors: ...

    def doubt(
        self,
        inputs: Mapping[str, Array],
        expected: NamedTensors,
        timeout_s: float,
        errors: Mapping[str, float] | None = None,
    ) -> dict[str, float]:
        """Relative L2 by output between ``expected`` and the same computed in another way; empty where unknown.
        ``errors``: of the outputs that are doubted, as of :meth:`~mobilekit.validate.doubt.Doubt.of`."""
        ...


class _Computed:
    """Answers of a runner. ``doubt``: what tells how sure it is; without it nobody knows."""

    def __init__(self, runner: Runner, doubt: Doubt | None, gpu: str = "") -> None:
        self._runner = runner
        self._doubt = doubt
        self._gpu = gpu

    @property
    def facts(self) -> ReferenceFacts:
        from mobilekit.report.model import ReferenceFacts

        info = self._runner.info()
        return ReferenceFacts(name=info.name, version=info.version, gpu=self._gpu)

    @property
    def digest(self) -> str:
        return ""

    def samples(self) -> None:
        return None

    def answer(self, inputs: Mapping[str, Array], timeout_s: float) -> NamedTensors:
        return self._runner.run(inputs, RunOptions(timeout_s=timeout_s)).outputs

    def doubt(
        self,
        inputs: Mapping[str, Array],
        expected: NamedTensors,
        timeout_s: float,
        errors: Mapping[str, float] | None = None,
    ) -> dict[str, float]:
        return {} if self._doubt is None else self._doubt.of(inputs, expected, RunOptions(timeout_s=timeout_s), errors)


class _Recorded:
    """Answers by content: the inputs that come are found among the recorded ones."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._known: dict[str, int] = {}

    @property
    def facts(self) -> ReferenceFacts:
        from mobilekit.report.model import ReferenceFacts

        provider = self._recording.manifest.provider
        version = f"{provider.version} (recorded on {provider.machine})"
        return ReferenceFacts(name=provider.name, version=version, gpu=provider.gpu)

    @property
    def digest(self) -> str:
        return self._recording.digest

    def samples(self) -> Iterator[Sample]:
        return self._recording.samples()

    def answer(self, inputs: Mapping[str, Array], timeout_s: float) -> NamedTensors:  # noqa: ARG002 - nothing runs
        return self._recording.tensors(self._find(inputs), "output")

    def doubt(
        self,
        inputs: Mapping[str, Array],
        expected: NamedTensors,  # noqa: ARG002
        timeout_s: float,  # noqa: ARG002
        errors: Mapping[str, float] | None = None,  # noqa: ARG002
    ) -> dict[str, float]:
        return self._recording.doubt(self._find(inputs))

    def _find(self, inputs: Mapping[str, Array]) -> int:
        if not self._known:
            for index, sample in enumerate(self._recording.samples()):
                self._known.setdefault(digest_of(sample.tensors), index)
        index = self._known.get(digest_of(inputs), -1)
        if index < 0:
            raise UsageError(
                f"{self._recording.root} has no answer for these inputs",
                hint="a recording answers the inputs that were recorded, and no others",
            )
        return index


@contextmanager
def open_reference(
    bundle: Bundle,
    which: str | Path = ONNXRUNTIME,
    progress: Progress = SILENT,
    *,
    host: WorkerHost | None = None,
    plugins: tuple[str, ...] = (),
) -> Iterator[Reference]:
    """What ``bundle`` is held against. ``which``: ``"onnxruntime"`` (the CPU, on the original model),
    ``"onnxruntime-cuda"`` (the same on the first GPU), ``"tensorrt"`` (the bundle's plan on it, or with ``host``
    on another machine's; ``plugins`` are creators that it needs), or the folder of a recording.

    Raises :class:`UsageError` where it is none of these, :class:`~mobilekit.errors.ModelError` where ONNX Runtime
    cannot load the model, :class:`~mobilekit.errors.NoDeviceError` or :class:`~mobilekit.errors.SetupError` where there
    is no GPU or nothing to use it with, :class:`~mobilekit.errors.BundleError` for a recording that is damaged or of
    another model.
    """
    if which in (ONNXRUNTIME, ONNXRUNTIME_CUDA):
        with _onnxruntime(bundle, cuda=which == ONNXRUNTIME_CUDA) as reference:
            yield reference
        return
    if which == TENSORRT:
        from mobilekit.pipeline.place_plan import open_plan
        from mobilekit.targets.tensorrt.gpus import GPU
        from mobilekit.targets.tensorrt.runner import GpuOptions

        with open_plan(bundle, GPU, GpuOptions(plugins=plugins), progress, host) as (runner, facts):
            yield _Computed(runner, None, facts.model)
        return
    folder = Path(which)
    if not folder.exists():
        raise UsageError(
            f"there is no reference {str(which)!r}",
            hint=f"{ONNXRUNTIME}, {ONNXRUNTIME_CUDA}, {TENSORRT}, or a folder that mobilekit reference record wrote",
        )
    from mobilekit.validate.recording import open_recording

    recording = open_recording(folder)
    recording.require_model(bundle)
    yield _Recorded(recording)


@contextmanager
def _onnxruntime(bundle: Bundle, *, cuda: bool) -> Iterator[Reference]:
    from mobilekit.runners.ort import OrtRunner
    from mobilekit.validate.doubt import Doubt, input_step

    gpu = ""
    if cuda:
        from mobilekit.targets.tensorrt.gpus import local_gpus

        gpu = local_gpus()[0].name
    fixed = bundle.fixed()

    def ort(*, optimise: bool = True, jitter: int = 0) -> OrtRunner:
        provider: Literal["cpu", "cuda"] = "cuda" if cuda else "cpu"
        return OrtRunner(
            bundle.source, fixed=fixed, free=bundle.free, optimise=optimise, jitter=jitter, provider=provider
        )

    allowed = bundle.manifest.rtol
    rescaled = None if allowed is None else lambda seed: ort(jitter=seed)
    with ort() as runner, Doubt(lambda: ort(optimise=False), input_step(allowed), rescaled) as doubt:
        yield _Computed(runner, doubt, gpu)
