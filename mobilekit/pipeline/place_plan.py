"""Where a bundle's TensorRT plan runs: a GPU; without one, what it was built from runs in ONNX Runtime."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from mobilekit.errors import BundleError, NoDeviceError, SetupError, UsageError
from mobilekit.paths import Scratch
from mobilekit.progress import SILENT, Progress
from mobilekit.targets.tensorrt.flavour import FLAVOURS, FlavourName, installed

if TYPE_CHECKING:
    from mobilekit.bundle import Bundle, Manifest, TensorInfo, TensorRTArtifact
    from mobilekit.report.model import DeviceFacts
    from mobilekit.runners.base import Runner
    from mobilekit.targets.tensorrt.host import Gpu, WorkerHost
    from mobilekit.targets.tensorrt.runner import GpuOptions

__all__ = ["PREPARED", "inputs_of_plan", "open_plan", "plan_of", "sizes_of_plan", "worker_host"]

PREPARED = "prepared"


def worker_host(
    on: str, *, pythons: Sequence[str] = (), quota_bytes: int | None = None, progress: Progress = SILENT
) -> WorkerHost:
    """The machine at ``on`` (``"ssh://user@host:port"``), to do TensorRT's work; it is connected by ``with``.

    Raises :class:`~mobilekit.errors.UsageError` for what is no address.
    """
    from mobilekit.device.ssh_address import SshAddress
    from mobilekit.targets.tensorrt.ssh_host import SshHost

    return SshHost(SshAddress.parse(on), pythons=pythons, quota_bytes=quota_bytes, progress=progress)


def plan_of(bundle: Bundle) -> TensorRTArtifact:
    """Raises :class:`BundleError` where there is no plan."""
    if bundle.manifest.tensorrt is None:
        raise BundleError(f"{bundle.root} holds no TensorRT plan", hint="export it with --target tensorrt")
    return bundle.manifest.tensorrt


def inputs_of_plan(manifest: Manifest, artifact: TensorRTArtifact) -> tuple[TensorInfo, ...]:
    """The inputs, with the axes free that the plan's profiles let vary."""
    from mobilekit.bundle import FreeAxis

    def freed(info: TensorInfo) -> TensorInfo:
        if info.name not in artifact.profiles:
            return info
        low, _, high = artifact.profiles[info.name]
        varying = [i for i, (a, b) in enumerate(zip(low, high, strict=True)) if a != b]
        axes = (FreeAxis(axis=i, symbol=f"{info.name}:{i}", minimum=low[i], maximum=high[i]) for i in varying)
        return replace(info, free=tuple(axes))

    return tuple(map(freed, manifest.inputs))


def sizes_of_plan(artifact: TensorRTArtifact) -> tuple[dict[str, tuple[int, ...]], ...]:
    """Input shapes to try in turn: the usual, the smallest and the largest of its profiles."""
    if not artifact.profiles:
        return ()
    return tuple({name: shapes[which] for name, shapes in artifact.profiles.items()} for which in (1, 0, 2))


@contextmanager
def open_plan(
    bundle: Bundle,
    device: str | None = None,
    options: GpuOptions | None = None,
    progress: Progress = SILENT,
    host: WorkerHost | None = None,
) -> Iterator[tuple[Runner, DeviceFacts]]:
    """The bundle's plan at ``device``, and what it runs on.

    ``device``: ``"gpu"``, ``"gpu:1"``; ``"prepared"``, the prepared ONNX in ONNX Runtime, which executes no plan;
    ``None``: the first GPU, or where there is none ``"prepared"``, with a note that says so. ``host``: another machine,
    whose GPUs are meant then. Raises
    :class:`~mobilekit.errors.NoDeviceError`, :class:`~mobilekit.errors.SetupError` without that TensorRT, and what
    :class:`~mobilekit.targets.tensorrt.runner.PlanRunner` raises.
    """
    from mobilekit.targets.tensorrt.gpus import GPU, local_gpus, parse_gpu, pick_gpu
    from mobilekit.targets.tensorrt.host import LocalHost

    artifact = plan_of(bundle)
    if device is None:
        device = GPU
        try:
            if host is None:
                local_gpus()
        except NoDeviceError as error:
            progress.note(f"{error.message}: the plan is not executed, what it was built from is verified instead")
            device = PREPARED
    if device == PREPARED:
        if host is not None:
            raise UsageError("what a plan was built from is run on this machine", hint="leave --on out")
        with _prepared(bundle, artifact) as found:
            yield found
        return
    index = parse_gpu(device)
    if index is None:
        raise UsageError(f"a TensorRT plan does not run on {device!r}", hint=f"--device {GPU}, gpu:1 or {PREPARED}")
    if host is None:
        gpu = pick_gpu(local_gpus(), index, "this machine")
        _require(artifact.flavour, {name for name, flavour in FLAVOURS.items() if installed(flavour)}, "this machine")
        with _on_gpu(bundle, LocalHost(), gpu, options, progress) as found:
            yield found
        return
    with host:
        hello = host.hello()
        if not hello.gpus:
            raise NoDeviceError(f"{host.name}: {hello.problem}", hint="install the NVIDIA driver there")
        _require(artifact.flavour, set(hello.flavours), host.name)
        with _on_gpu(bundle, host, pick_gpu(hello.gpus, index, host.name), options, progress) as found:
            yield found


def _require(name: FlavourName, there: Set[str], where: str) -> None:
    if name in there:
        return
    flavour = FLAVOURS[name]
    hint = "pip install 'mobilekit[tensorrt]'" if name == "rtx" else "install it: JetPack has it, so has NVIDIA's index"
    raise SetupError(f"this is a plan of {flavour.product}, which is not installed on {where}", hint=hint)


@contextmanager
def _on_gpu(
    bundle: Bundle, host: WorkerHost, gpu: Gpu, options: GpuOptions | None, progress: Progress
) -> Iterator[tuple[Runner, DeviceFacts]]:
    from mobilekit.report.model import DeviceFacts
    from mobilekit.targets.tensorrt.gpus import GPU
    from mobilekit.targets.tensorrt.host import LocalHost
    from mobilekit.targets.tensorrt.runner import PlanRunner

    here = isinstance(host, LocalHost)
    doubles = [info.name for info in bundle.manifest.outputs if info.dtype == "float64"]
    with PlanRunner(bundle.root, plan_of(bundle), host, gpu, options, progress, doubles) as runner:
        info = runner.info()
        facts = DeviceFacts(
            kind="gpu",
            serial=f"{GPU}:{gpu.index}" if here else f"{host.name} {GPU}:{gpu.index}",
            model=gpu.name,
            abi=f"compute capability {gpu.compute_capability}",
            runner=info.name,
            runner_version=info.version,
        )
        yield runner, facts


@contextmanager
def _prepared(bundle: Bundle, artifact: TensorRTArtifact) -> Iterator[tuple[Runner, DeviceFacts]]:
    from mobilekit.pipeline.tensorrt import runnable
    from mobilekit.report.model import DeviceFacts
    from mobilekit.runners.ort import OrtRunner

    with Scratch("tensorrt") as folder:
        model = runnable(bundle.root / artifact.onnx, artifact.precision, folder)
        # ONNX Runtime's own rewrites of Q/DQ graphs fail on some valid ones.
        with OrtRunner(model, optimise=False) as runner:
            info = runner.info()
            facts = DeviceFacts(
                kind="prepared",
                serial=PREPARED,
                model="none: what the plan was built from",
                abi=platform.machine(),
                runner=info.name,
                runner_version=info.version,
            )
            yield runner, facts
