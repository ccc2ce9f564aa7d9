"""The NVIDIA GPUs of this machine, asked of the driver: a tenth of a millisecond where there is none."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mobilekit.errors import NoDeviceError, UsageError
from mobilekit.targets.tensorrt.host import Gpu
from mobilekit.targets.tensorrt.worker.trtwork.base import WorkError
from mobilekit.targets.tensorrt.worker.trtwork.cuda import Cuda

__all__ = ["GPU", "local_gpus", "parse_gpu", "pick_gpu"]

GPU = "gpu"
"""What ``--device`` calls the first GPU; ``gpu:1`` is the second."""


def local_gpus() -> tuple[Gpu, ...]:
    """Raises :class:`NoDeviceError`, one sentence, where there is no driver or it shows none."""
    try:
        found = tuple(Gpu(**gpu) for gpu in Cuda().gpus())
    except WorkError as error:
        raise NoDeviceError(error.message, hint=error.hint) from error
    if not found:
        raise NoDeviceError("the NVIDIA driver shows no GPU", hint="look with nvidia-smi")
    return found


def pick_gpu(found: Sequence[Gpu], index: int, where: str) -> Gpu:
    """Raises :class:`NoDeviceError` where there is no such GPU."""
    if index >= len(found):
        names = ", ".join(f"{GPU}:{gpu.index} {gpu.name}" for gpu in found)
        hint = f"it has {names}" if found else "look with nvidia-smi there"
        raise NoDeviceError(f"there is no GPU {index} on {where}", hint=hint)
    return found[index]


def parse_gpu(device: str) -> int | None:
    """``"gpu"`` -> 0, ``"gpu:2"`` -> 2, anything else -> ``None``. Raises :class:`UsageError` for ``"gpu:x"``."""
    head, colon, number = device.partition(":")
    if head != GPU:
        return None
    if colon and not re.fullmatch(r"\d{1,4}", number):
        raise UsageError(f"{device!r} names no GPU", hint="gpu, or gpu:1 for the second one")
    return int(number or 0)
