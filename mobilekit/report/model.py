"""One validation as data; the console table and the JSON file are made from this and from nothing else."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mobilekit.preprocess import Preprocess
from mobilekit.report.answers import SampleAnswer
from mobilekit.report.base import Frozen
from mobilekit.report.device_time import DeviceTimeReport
from mobilekit.report.endurance import CoolDownReport, SingleStreamReport, SustainedReport
from mobilekit.report.gpu import GpuReport
from mobilekit.report.instructions import InstructionReport
from mobilekit.report.ladder import LadderReport
from mobilekit.report.limits import LimitReport, PartReport
from mobilekit.report.metrics import AccuracyReport, MetricReport
from mobilekit.report.stopped import StoppedReport
from mobilekit.report.sweep import SweepRow
from mobilekit.report.vulkan import VulkanFacts
from mobilekit.targets.base import TargetName
from mobilekit.tuning import Cluster
from mobilekit.validate.tolerance import Verdict

__all__ = [
    "SCHEMA_VERSION",
    "AnswerPair",
    "DeviceFacts",
    "LatencyReport",
    "OutputReport",
    "ReferenceFacts",
    "RunSettings",
    "SampleErrors",
    "ValidationReport",
]

SCHEMA_VERSION = "2.2"

Precision = Literal["fp32", "tf32", "fp16", "bf16", "int8", "fp8"]


class OutputReport(Frozen):
    """One output of the model: the worst over all samples of each error (formulas in ``metrics/tensors.py``).

    ``worst_sample`` names the sample that decided: the one furthest beyond its limits, or nearest to them; ``limits``
    are those it was held against. ``top1_agreement`` is the share of samples whose
    best class is the same, for a classifier's outputs; else ``None``. ``part``: what failed, where the whole did not.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    verdict: Verdict
    reason: str
    max_abs: float
    max_rel: float
    relative_l2: float
    cosine: float
    psnr_db: float
    nonfinite_actual: int = Field(ge=0)
    nonfinite_expected: int = Field(ge=0)
    evidence: bool
    worst_sample: str
    limits: LimitReport
    top1_agreement: float | None = None
    part: PartReport | None = None


class DeviceFacts(Frozen):
    """Where the model ran. ``kind``: ``"adb"``; ``"local"``, this machine's processor; ``"gpu"``, a plan on a GPU;
    ``"prepared"``, what a plan was built from, in ONNX Runtime. ``virtual`` and its ``cpu_profile`` for our daemon's.

    ``runner`` and ``runner_version`` name the program that computed there, ``vulkan`` the GPU that it did so on.
    ``hardware_serial``, in no report, is the device's own where ``serial`` may be an address.
    """

    kind: Literal["adb", "local", "gpu", "prepared"]
    serial: str
    model: str
    manufacturer: str = ""
    android: str = ""
    abi: str
    cpu_features: tuple[str, ...] = ()
    virtual: bool = False
    cpu_profile: str = ""
    runner: str
    runner_version: str
    vulkan: VulkanFacts | None = None
    hardware_serial: str = Field(default="", exclude=True)


class ReferenceFacts(Frozen):
    """What the result is held against; ``gpu`` names the one that computed it, if any."""

    name: str
    version: str
    gpu: str = ""


class LatencyReport(Frozen):
    """Single inferences on the device, warm-up left out. ``comparable`` is False for an emulated processor.

    ``batch``: how many samples, run one after another, an inference is; the times are those of all of them.
    ``values_ms``: each one, in order. ``warmup_stable``: the times had settled before (``None``: nobody looked).
    ``temperatures_celsius``: the hottest zone's before and after; ``frequencies_khz``: the sum over the cores.
    The rest as in :class:`mobilekit.validate.latency.LatencyStats`.
    """

    iterations: int = Field(ge=1)
    p50_ms: float
    p50_low_ms: float
    p50_high_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    mean_ms: float
    min_ms: float
    max_ms: float
    cv: float
    spread: float
    outliers: int = 0
    drift: float = 0.0
    warmup_stable: bool | None = None
    temperatures_celsius: tuple[float, float] | None = None
    frequencies_khz: tuple[int, int] | None = None
    batch: int = Field(default=1, ge=1)
    comparable: bool
    remark: str = ""
    values_ms: tuple[float, ...] = ()


class AnswerPair(Frozen):
    """A classifier's best class for one sample, from the reference and from the device; probabilities 0 to 1."""

    sample: str
    reference_label: str
    reference_probability: float
    device_label: str
    device_probability: float

    @property
    def agrees(self) -> bool:
        return self.reference_label == self.device_label


class SampleErrors(Frozen):
    """One sample: its relative L2 by output, and the worst verdict among them."""

    name: str
    verdict: Verdict
    relative_l2: dict[str, float]


class RunSettings(Frozen):
    """``threads=0``: the runner's choice. ``tuned``: as ``mobilekit tune`` found fastest for such a device.
    ``inputs``: ``"seeded"``, ``"files"`` for the user's own, or
    ``"recorded"`` with the reference."""

    inputs: Literal["seeded", "files", "recorded"]
    seed: int
    threads: int
    warmup: int
    iterations: int
    precision: Precision
    cluster: Cluster = "all"
    winograd: bool = True
    packing: bool = True
    tuned: bool = False


class ValidationReport(Frozen):
    """``precision`` is that of the stored weights; ``settings.precision`` that of the arithmetic asked for. ``gpu``
    only where a plan was executed, ``instructions`` only of a virtual device, ``layers_on_cpu`` (by type: layers
    that do not run on the GPU) only with Vulkan. ``sweep``: times with other threads and cores.

    ``load_ms`` and ``first_ms`` are a cold start's parts: loading the model, and the first inference after that.

    ``shown``: both sides' whole answers for the worst samples; ``preprocess``: how a picture became the input that
    these are about. ``command``: what was typed, word by word.
    """

    schema_version: str = SCHEMA_VERSION
    mobilekit_version: str
    model: str
    model_sha256: str
    model_license: str = ""
    target: TargetName = "ncnn"
    precision: Precision
    device: DeviceFacts
    reference: ReferenceFacts
    settings: RunSettings
    samples: tuple[str, ...]
    sample_errors: tuple[SampleErrors, ...] = ()
    outputs: tuple[OutputReport, ...]
    verdict: Verdict
    sentence: str
    latency: LatencyReport | None
    load_ms: float | None
    first_ms: float | None = None
    peak_blob_bytes: int | None = None
    peak_workspace_bytes: int | None = None
    answers: tuple[AnswerPair, ...] = ()
    gpu: GpuReport | None = None
    layers_on_cpu: dict[str, int] = Field(default_factory=dict)
    ladder: LadderReport | None = None
    instructions: InstructionReport | None = None
    sustained: SustainedReport | None = None
    single_stream: SingleStreamReport | None = None
    cool_downs: tuple[CoolDownReport, ...] = ()
    sweep: tuple[SweepRow, ...] = ()
    metrics: tuple[MetricReport, ...] = ()
    accuracy: AccuracyReport | None = None
    stopped: StoppedReport | None = None
    shown: tuple[SampleAnswer, ...] = ()
    preprocess: Preprocess | None = None
    command: tuple[str, ...] = ()
    device_time: DeviceTimeReport | None = None
