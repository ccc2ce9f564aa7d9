"""Where a bundle's TensorRT plan runs: a GPU; without one, what it was built from runs in ONNX Runtime."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mobilekit.errors import BundleError, MissingExtraError, NoDeviceError, SetupError, UsageError
from mobilekit.paths import Scratch
from mobilekit.progress import SILENT, Progress

if TYPE_CHECKING:
    from mobilekit.bundle import Bundle, TensorRTArtifact
    from mobilekit.report.model import DeviceFacts
    from mobilekit.runners.base import Runner
    from mobilekit.targets.tensorrt.host import WorkerHost
    from mobilekit.targets.tensorrt.runner import GpuOptions

__all__ = ["PREPARED", "open_plan", "plan_of", "worker_host"]

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


@contextmanager
def open_plan(
    bundle: Bundle, device: str | None = None, options: GpuOptions | None = None, progress: Progress = SILENT
) -> Iterator[tuple[Runner, DeviceFacts]]:
    """The bundle's plan at ``device``, and what it runs on.

    ``device``: ``"gpu"``, ``"gpu:1"``; ``"prepared"``, the prepared ONNX in ONNX Runtime, which executes no plan;
    ``None``: the first GPU, or where there is none ``"prepared"``, with a note that says so. Raises
    :class:`~mobilekit.errors.NoDeviceError`, :class:`~mobilekit.errors.SetupError` without that TensorRT, and what
    :class:`~mobilekit.targets.tensorrt.runner.PlanRunner` raises.
    """
    from mobilekit.report.model import DeviceFacts
    from mobilekit.targets.tensorrt.flavour import FLAVOURS, installed
    from mobilekit.targets.tensorrt.gpus import GPU, parse_gpu, require_gpu
    from mobilekit.targets.tensorrt.host import LocalHost
    from mobilekit.targets.tensorrt.runner import PlanRunner

    artifact = plan_of(bundle)
    if device is None:
        device = GPU
        try:
            require_gpu(0)
        except NoDeviceError as error:
            progress.note(f"{error.message}: the plan is not executed, what it was built from is verified instead")
            device = PREPARED
    if device == PREPARED:
        with _prepared(bundle, artifact) as found:
            yield found
        return
    index = parse_gpu(device)
    if index is None:
        raise UsageError(f"a TensorRT plan does not run on {device!r}", hint=f"--device {GPU}, gpu:1 or {PREPARED}")
    gpu = require_gpu(index)
    flavour = FLAVOURS[artifact.flavour]
    if not installed(flavour):
        if flavour.name == "rtx":
            raise MissingExtraError(flavour.module, extra="tensorrt", purpose=f"running a plan of {flavour.product}")
        hint = "install it (JetPack has it), or export here with --flavour rtx"
        raise SetupError(f"the plan is one of full {flavour.product}, which is not installed here", hint=hint)
    with PlanRunner(bundle.root, artifact, LocalHost(), gpu, options, progress) as runner:
        info = runner.info()
        yield (
            runner,
            DeviceFacts(
                kind="gpu",
                serial=f"{GPU}:{gpu.index}",
                model=gpu.name,
                abi=f"compute capability {gpu.compute_capability}",
                runner=info.name,
                runner_version=info.version,
            ),
        )


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
                model=f"this machine, {platform.system()}",
                abi=platform.machine(),
                runner=info.name,
                runner_version=info.version,
            )
            yield runner, facts
