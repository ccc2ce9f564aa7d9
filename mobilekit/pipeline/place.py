"""Where a bundle's model runs: this machine, its GPU, a device over adb, a virtual device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from mobilekit.errors import BundleError, UsageError
from mobilekit.progress import SILENT, Progress

if TYPE_CHECKING:
    from mobilekit.bundle import Bundle, Manifest
    from mobilekit.device.harness.reports import Gpu
    from mobilekit.report.model import DeviceFacts
    from mobilekit.report.vulkan import VulkanFacts
    from mobilekit.runners.base import BlobRunner, PixelRunner, Runner
    from mobilekit.targets.base import TargetName
    from mobilekit.targets.tensorrt.host import WorkerHost
    from mobilekit.targets.tensorrt.runner import GpuOptions

    _R = TypeVar("_R", bound=Runner)

__all__ = ["LOCAL", "choose_target", "is_virtual", "open_blobs", "open_pixels", "open_place", "open_timed"]

LOCAL = "local"


def choose_target(bundle: Bundle, target: TargetName | None = None, device: str | None = None) -> TargetName:
    """Which of the bundle's models is meant: ``target``; else TensorRT's plan where ``device`` is a GPU or nothing else
    is there; else ncnn's. Raises :class:`BundleError` where the bundle lacks it."""
    from mobilekit.pipeline.place_plan import PREPARED
    from mobilekit.targets.tensorrt.gpus import parse_gpu

    manifest = bundle.manifest
    if target is None:
        on_gpu = device is not None and (device == PREPARED or parse_gpu(device) is not None)
        target = "tensorrt" if on_gpu or (manifest.ncnn is None and manifest.tensorrt is not None) else "ncnn"
    if (manifest.ncnn if target == "ncnn" else manifest.tensorrt) is None:
        what = "ncnn model" if target == "ncnn" else "TensorRT plan"
        raise BundleError(f"{bundle.root} holds no {what}", hint=f"export it with --target {target}")
    return target


def is_virtual(bundle: Bundle, device: str | None = None, progress: Progress = SILENT) -> bool:
    """Whether :func:`open_place` would run the bundle on an emulated CPU. Starts a virtual device that is asked for."""
    from mobilekit.device.select import open_device

    if device == LOCAL or choose_target(bundle, None, device) == "tensorrt":
        return False
    return open_device(device, progress).info().virtual


@contextmanager
def open_place(
    bundle: Bundle,
    device: str | None = None,
    *,
    target: TargetName | None = None,
    gpu: GpuOptions | None = None,
    host: WorkerHost | None = None,
    quota_bytes: int | None = None,
    wait_s: float | None = None,
    harness: bool = False,
    vulkan: bool = False,
    progress: Progress = SILENT,
) -> Iterator[tuple[Runner, DeviceFacts]]:
    """The bundle's model (:func:`choose_target` says which) at ``device``, started, and what it runs on.

    ``device`` of an ncnn model: an adb serial, ``"virtual"``, ``"virtual:cortex-a76"``, ``"local"`` (the ncnn wheel on
    this machine) or ``None``, the one connected; of a plan: see :func:`~mobilekit.pipeline.place_plan.open_plan`, which
    ``gpu`` and ``host`` are for. ``quota_bytes`` bounds what is kept on the device. ``harness``: on this machine the
    harness instead of the wheel. With ``wait_s`` an adb device is locked meanwhile, and waited for so long
    (:mod:`mobilekit.device.lock`). ``vulkan``: with a harness that computes on the GPU there, for runs with that
    option; :class:`~mobilekit.errors.SetupError` where there is none. Raises any
    :class:`~mobilekit.errors.DeviceError` or :class:`~mobilekit.errors.ChildError`, :class:`BundleError` where the
    bundle has no such model.
    """
    from mobilekit.runners.batch import sample_by_sample

    if choose_target(bundle, target, device) == "tensorrt":
        from mobilekit.pipeline.place_plan import open_plan

        if vulkan:
            raise UsageError(
                "a TensorRT plan does not run through Vulkan", hint="add --target ncnn, or leave --vulkan out"
            )
        with open_plan(bundle, device, gpu, progress, host) as plan:
            yield plan
        return

    with _opened(
        bundle,
        device,
        sample_by_sample,
        quota_bytes,
        progress,
        harness=harness,
        wait_s=wait_s,
        vulkan=vulkan,
    ) as found:
        yield found


@contextmanager
def open_blobs(
    bundle: Bundle,
    device: str | None = None,
    *,
    quota_bytes: int | None = None,
    vulkan: bool = False,
    progress: Progress = SILENT,
) -> Iterator[tuple[BlobRunner, DeviceFacts]]:
    """Like :func:`open_place`, for inner blobs too; of a batch, the model of one sample."""
    with _opened(bundle, device, _one_sample, quota_bytes, progress, vulkan=vulkan) as found:
        yield found


@contextmanager
def open_timed(
    bundle: Bundle, device: str | None = None, *, progress: Progress = SILENT
) -> Iterator[tuple[Runner, DeviceFacts]]:
    """Like :func:`open_blobs`, by a runner that times layers: on this machine the harness, not the wheel."""
    with _opened(bundle, device, _one_sample, None, progress, harness=True) as found:
        yield found


@contextmanager
def open_pixels(
    bundle: Bundle, device: str | None = None, *, wait_s: float | None = None, progress: Progress = SILENT
) -> Iterator[tuple[PixelRunner, DeviceFacts]]:
    """Like :func:`open_timed`, by a runner that takes pictures too."""
    with _opened(bundle, device, _one_sample, None, progress, harness=True, wait_s=wait_s) as found:
        yield cast("tuple[PixelRunner, DeviceFacts]", found)


def _one_sample(manifest: Manifest, make: Callable[[Manifest], BlobRunner]) -> BlobRunner:
    from mobilekit.runners.batch import of_one_sample

    return make(of_one_sample(manifest))


@contextmanager
def _opened(
    bundle: Bundle,
    device: str | None,
    arrange: Callable[[Manifest, Callable[[Manifest], BlobRunner]], _R],
    quota_bytes: int | None,
    progress: Progress,
    *,
    harness: bool = False,
    wait_s: float | None = None,
    vulkan: bool = False,
) -> Iterator[tuple[_R, DeviceFacts]]:
    from mobilekit.report.model import DeviceFacts

    if device == LOCAL:
        import platform

        from mobilekit.runners.ncnn_host import NcnnHostRunner

        def make(manifest: Manifest) -> BlobRunner:
            return NcnnHostRunner(bundle.root, manifest, harness=harness, vulkan=vulkan, progress=progress)

        with arrange(bundle.manifest, make) as host:
            info = host.info()
            yield (
                cast("_R", host),
                DeviceFacts(
                    kind="local",
                    serial=LOCAL,
                    model=f"this machine, {platform.system()}",
                    abi=info.abi,
                    cpu_features=info.cpu_features or _host_features(),
                    runner=info.name,
                    runner_version=info.version,
                    vulkan=_vulkan_facts(info.gpu),
                ),
            )
        return
    from mobilekit.device.lock import device_lock
    from mobilekit.device.select import open_device
    from mobilekit.runners.on_device import DeviceRunner

    chosen = open_device(device, progress)
    about = chosen.info()

    def on_device(manifest: Manifest) -> BlobRunner:
        one = replace(bundle, manifest=manifest)
        return DeviceRunner(chosen, one, vulkan=vulkan, quota_bytes=quota_bytes, progress=progress)

    held = nullcontext() if wait_s is None else device_lock(chosen, wait_s=wait_s, progress=progress)
    with held, arrange(bundle.manifest, on_device) as remote:
        info = remote.info()
        yield (
            cast("_R", remote),
            DeviceFacts(
                kind="adb",
                serial=chosen.serial,
                model=about.model,
                manufacturer=about.manufacturer,
                android=about.android,
                abi=info.abi,
                cpu_features=info.cpu_features,
                virtual=about.virtual,
                cpu_profile=about.cpu_profile,
                runner=info.name,
                runner_version=info.version,
                vulkan=_vulkan_facts(info.gpu),
                hardware_serial=about.hardware_serial,
            ),
        )


def _vulkan_facts(gpu: Gpu | None) -> VulkanFacts | None:
    from mobilekit.report.vulkan import VulkanFacts

    if gpu is None:
        return None
    return VulkanFacts(
        name=gpu.name,
        type=gpu.type,
        driver=gpu.driver,
        api_version=gpu.api_version,
        fp16=gpu.fp16_packed or gpu.fp16_storage,
        fp16_arithmetic=gpu.fp16_arithmetic,
    )


def _host_features() -> tuple[str, ...]:
    """Those of this processor that ncnn has kernels for, as Linux names them."""
    known = [
        "fma",
        "f16c",
        "avx",
        "avx2",
        "avx_vnni",
        "avx512f",
        "avx512_vnni",
        "avx512_bf16",
        "avx512_fp16",
        "asimd",
        "asimdhp",
        "asimddp",
        "asimdfhm",
        "bf16",
        "i8mm",
        "sve",
        "sve2",
    ]
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return ()
    line = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    there = set(line.partition(":")[2].split())
    return tuple(name for name in known if name in there)
