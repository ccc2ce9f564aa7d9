"""What the harness reports, checked: its JSON comes from a device and is not believed unseen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from mobilekit.errors import ProtocolError
from mobilekit.fields import first_wrong

__all__ = [
    "CpuCluster",
    "Gpu",
    "GpuList",
    "GpuUse",
    "HarnessInfo",
    "InferReport",
    "LayerTime",
    "LoadReport",
    "PixelsReport",
    "State",
    "parse",
]


class _Report(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", arbitrary_types_allowed=True)


class State(_Report):
    """What ``/sys`` showed at that moment; empty where it shows nothing. Zones and cores by the kernel's names."""

    temperatures_celsius: dict[str, float] = {}
    frequencies_khz: dict[str, int] = {}


class CpuCluster(_Report):
    cores: int
    max_khz: int


class HarnessInfo(_Report):
    """``cpu_features`` is what ncnn found on the CPU; which of them have kernels depends on the harness's build.
    ``pixels_version`` is that of the request PIXELS; 0: a harness of before."""

    harness_version: str
    protocol_version: int
    pixels_version: int = 0
    ncnn_version: str
    abi: str
    toolchain: str
    vulkan: bool
    kernel: str
    machine: str
    cpu_features: tuple[str, ...]
    own_layers: tuple[str, ...]
    cpus: int
    big_cpus: int
    little_cpus: int
    clusters: tuple[CpuCluster, ...] = ()
    state: State = State()


class Gpu(_Report):
    """A GPU that ncnn finds through Vulkan. ``type``: ``discrete``, ``integrated``, ``virtual`` or ``cpu`` (Mesa's
    lavapipe). ``fp16_*``: which of ncnn's options for half precision it supports. ``chosen``: ncnn takes this one."""

    name: str
    type: str
    driver: str
    api_version: str
    fp16_packed: bool
    fp16_storage: bool
    fp16_arithmetic: bool
    chosen: bool


class GpuList(_Report):
    """``vulkan``: whether the harness is built with it."""

    vulkan: bool
    gpus: tuple[Gpu, ...]


class GpuUse(_Report):
    """What a loaded model computes with on a GPU: what is left of the options asked for, and, by type, how many layers
    have no Vulkan form and run on the CPU."""

    name: str
    fp16_packed: bool
    fp16_storage: bool
    fp16_arithmetic: bool
    layers_on_cpu: dict[str, int]


class LoadReport(_Report):
    """``weights_ns`` covers reading the ``.bin`` and preparing the kernels; ``depth`` is the longest path in layers.

    ``cluster_applied`` is false where the system did not let the harness choose its cores.
    """

    param_ns: int
    weights_ns: int
    layers: int
    depth: int
    stack_bytes: int
    threads: int
    cluster: str
    cluster_applied: bool
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    gpu: GpuUse | None = None


class LayerTime(_Report):
    """Over all timed iterations: the layer's own computation, without ncnn's casts and packing before it."""

    name: str
    type: str
    calls: int
    total_ns: int
    min_ns: int


class InferReport(_Report):
    """``outputs``: arrays by blob name, float32 in ncnn's axis order (c, d, h, w).

    ``latencies_ns``: one for each timed iteration, from the first input set to the last output taken. Peaks: bytes
    that ncnn asked of the blob and the workspace allocator (inputs and outputs included), and of both at one time.
    ``session_ns``: from the arrival of the model's first input to this answer, of which ``session_inference_ns`` ncnn
    computed.
    """

    outputs: Mapping[str, Any]
    warmup: int
    warmup_ns: int
    latencies_ns: tuple[int, ...]
    peak_blob_bytes: int
    peak_workspace_bytes: int
    peak_total_bytes: int
    session_ns: int = 0
    session_inference_ns: int = 0
    layers: tuple[LayerTime, ...] = ()
    state: State = State()


class PixelsReport(_Report):
    """``tensor``: ``(channels, height, width)`` float32; ``elapsed_ns``: what making it took, transport left out."""

    tensor: Any
    elapsed_ns: int


_Parsed = TypeVar("_Parsed", bound=_Report)


def parse(kind: type[_Parsed], values: Mapping[str, Any]) -> _Parsed:
    """Raises :class:`ProtocolError` where a field is missing or has another type."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ProtocolError(f"the harness's report is not valid: {first_wrong(error)}") from error
