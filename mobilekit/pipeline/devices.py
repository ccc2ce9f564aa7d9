"""``mobilekit devices``: everything that ``--device`` can name."""

from __future__ import annotations

from mobilekit.device.select import KnownDevice, known_devices
from mobilekit.errors import NoDeviceError
from mobilekit.progress import SILENT, Progress

__all__ = ["known_places"]


def known_places(progress: Progress = SILENT) -> tuple[KnownDevice, ...]:
    """What :func:`~mobilekit.device.select.known_devices` lists, and this machine's NVIDIA GPUs (kind ``"gpu"``)."""
    from mobilekit.targets.tensorrt.gpus import GPU, local_gpus

    try:
        gpus = local_gpus()
    except NoDeviceError:
        gpus = ()
    found = (
        KnownDevice(
            f"{GPU}:{gpu.index}",
            "device",
            GPU,
            f"{gpu.name}, {gpu.memory_bytes / 2**30:.1f} GiB",
            f"compute capability {gpu.compute_capability}",
        )
        for gpu in gpus
    )
    return (*known_devices(progress), *found)
