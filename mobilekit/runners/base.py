"""What a runner is: something that takes a model's inputs and gives its outputs, on this machine or on a device."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from mobilekit.device.harness.pixels import PixelRequest
    from mobilekit.device.harness.reports import Gpu, LayerTime, PixelsReport
    from mobilekit.tensors import Array, NamedTensors
    from mobilekit.tuning import Cluster

__all__ = [
    "BlobRunner",
    "PixelRunner",
    "RunOptions",
    "RunResult",
    "Runner",
    "RunnerInfo",
    "StreamRunner",
    "Watched",
]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Settings of one run. ``iterations`` are timed, after ``warmup`` untimed ones. ``threads=0``: the runner's choice.

    ``fp16``: fp16 storage, packing and arithmetic; ``bf16``: bf16 storage. Off, both, for an fp32 comparison.
    ``vulkan``: on the GPU, where the runner was made for that.
    ``cluster``: the cores to run on, ``all``, ``little`` or ``big``. ``winograd``, ``packing``: ncnn may use Winograd's
    convolutions, and several channels in one element.
    ``layer_times``: each layer's too, where the runner can: two more clock readings a layer.
    """

    threads: int = 0
    warmup: int = 0
    iterations: int = 1
    fp16: bool = False
    bf16: bool = False
    vulkan: bool = False
    cluster: Cluster = "all"
    winograd: bool = True
    packing: bool = True
    layer_times: bool = False
    timeout_s: float = 300.0


@dataclass(frozen=True, slots=True)
class RunnerInfo:
    """Who computed: ``name`` ("ONNX Runtime CPU", "ncnn on host", "harness"), ``version``, where, and its features;
    ``gpu``: the one that runs with ``vulkan`` use."""

    name: str
    version: str
    device: str
    abi: str = ""
    cpu_features: tuple[str, ...] = ()
    virtual: bool = False
    gpu: Gpu | None = None


@dataclass(frozen=True, slots=True)
class RunResult:
    """Outputs by ONNX name, in ONNX shape and dtype, and per-iteration latencies in nanoseconds.

    ``facts`` of an ncnn model: ``threads`` that computed, ``cores`` there are by cluster, ``cluster_applied``:
    False where the system did not let us choose them. ``layers_on_cpu``: with ``vulkan``, how many layers of
    each type have no Vulkan form.
    ``session_ns``, where the runner tells: since the model's first input arrived, by the device's clock;
    ``session_inference_ns``: of which it computed.
    """

    outputs: NamedTensors
    latencies_ns: tuple[int, ...]
    load_ns: int = 0
    peak_blob_bytes: int | None = None
    peak_workspace_bytes: int | None = None
    facts: Mapping[str, object] = field(default_factory=dict)
    layers: tuple[LayerTime, ...] = ()
    layers_on_cpu: Mapping[str, int] = field(default_factory=dict)
    session_ns: int = 0
    session_inference_ns: int = 0


class Runner(Protocol):
    """A context manager: the model is loaded once, many inputs stream through."""

    def __enter__(self) -> Runner: ...

    def __exit__(self, *exc: object) -> None: ...

    def info(self) -> RunnerInfo: ...

    def run(self, inputs: Mapping[str, Array], options: RunOptions) -> RunResult: ...


@runtime_checkable
class Watched(Protocol):
    """A runner that can say how hot and how fast the machine is, while it runs nothing."""

    def state(self) -> Mapping[str, object]:
        """``temperatures_celsius`` by thermal zone, ``frequencies_khz`` by core; empty where nothing is shown."""
        ...


@runtime_checkable
class StreamRunner(Protocol):
    """A runner far away, to which the next inputs can be on their way while it computes."""

    def run_each(
        self, inputs: Iterable[Mapping[str, Array]], options: RunOptions
    ) -> Generator[Callable[[], RunResult], None, None]:
        """One run on each of ``inputs``, in order; what is yielded gives the result, or raises
        :class:`~mobilekit.errors.VerificationError` where the answer cannot be read as the model's outputs."""
        ...

    def interrupt(self) -> None:
        """From another thread: end a run that is awaited."""
        ...


class BlobRunner(Runner, Protocol):
    """A runner of an ncnn model that can also start and stop at inner blobs."""

    def blobs(self, fed: Mapping[str, Array], wanted: Sequence[str], options: RunOptions) -> dict[str, Array]:
        """The ``wanted`` blobs as ncnn has them, of one run that is fed ``fed`` (by blob name, float32 or int32, with
        the Mat's dims, outermost first). What is fed is not computed. ``wanted`` in the order of the layers: ncnn
        lets go of a blob once it was read."""
        ...


class PixelRunner(Runner, Protocol):
    """A runner whose machine can also prepare pictures."""

    def pixels(self, request: PixelRequest, options: RunOptions) -> PixelsReport:
        """The picture as ncnn's own functions make a tensor of it there."""
        ...
