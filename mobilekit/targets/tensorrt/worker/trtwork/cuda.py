"""CUDA's driver API."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from .base import WorkError

MEMORY_HINT = "use fewer --streams or a smaller profile, end other programs on the GPU, or export with --workspace"


class Cuda:
    """``cuda("cuMemAlloc_v2", ...)`` calls the driver and raises :class:`WorkError` where it does not succeed."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libcuda.so.1")
        except OSError:
            raise WorkError(
                "no-gpu",
                "this machine has no NVIDIA driver (no libcuda.so.1)",
                "run it where there is an NVIDIA GPU, or install its driver",
            ) from None
        code = self._library.cuInit(0)
        if code:
            raise WorkError(
                "no-gpu", f"the NVIDIA driver finds no usable GPU: {self._text(code)}", "look with nvidia-smi"
            )

    def __call__(self, function: str, *arguments: Any) -> None:
        try:
            code = getattr(self._library, function)(*arguments)
        except AttributeError:
            raise WorkError("driver", f"the NVIDIA driver has no {function}", "update the NVIDIA driver") from None
        if code == 2:
            raise WorkError("memory", "the GPU has not enough memory left", MEMORY_HINT)
        if code:
            raise WorkError("cuda", f"{function}: {self._text(code)}", "look with nvidia-smi")

    def _text(self, code: int) -> str:
        name, words = ctypes.c_char_p(), ctypes.c_char_p()
        self._library.cuGetErrorName(code, ctypes.byref(name))
        self._library.cuGetErrorString(code, ctypes.byref(words))
        return f"{(words.value or b'unknown error').decode()} ({(name.value or b'error').decode()} {code})"

    def integer(self, function: str, *arguments: Any) -> int:
        """The int that ``function`` writes to its first argument."""
        value = ctypes.c_int(0)
        self(function, ctypes.byref(value), *arguments)
        return value.value

    def handle(self, function: str, *arguments: Any) -> ctypes.c_void_p:
        value = ctypes.c_void_p()
        self(function, ctypes.byref(value), *arguments)
        return value

    def gpus(self) -> list[dict[str, Any]]:
        return [self.gpu(index) for index in range(self.integer("cuDeviceGetCount"))]

    def gpu(self, index: int) -> dict[str, Any]:
        device = self.integer("cuDeviceGet", index)
        name = ctypes.create_string_buffer(256)
        self("cuDeviceGetName", name, 256, device)
        memory = ctypes.c_size_t(0)
        self("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
        major, minor, integrated = (self.integer("cuDeviceGetAttribute", what, device) for what in (75, 76, 18))
        return {
            "index": index,
            "name": name.value.decode("utf-8", "replace"),
            "compute_capability": f"{major}.{minor}",
            "memory_bytes": memory.value,
            "integrated": bool(integrated),
        }

    def use(self, index: int) -> None:
        """Make the GPU's primary context current, the one that TensorRT uses too."""
        count = self.integer("cuDeviceGetCount")
        if not 0 <= index < count:
            raise WorkError("no-gpu", f"there is no GPU {index}", f"{count} are there, the first is 0")
        self("cuCtxSetCurrent", self.handle("cuDevicePrimaryCtxRetain", self.integer("cuDeviceGet", index)))


def driver_version() -> str:
    """As nvidia-smi shows it ("570.86.10"); empty where neither the kernel module nor NVML tells."""
    try:
        return Path("/sys/module/nvidia/version").read_text().strip()
    except OSError:
        pass
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        text = ctypes.create_string_buffer(96)
        if nvml.nvmlInit_v2() == 0 and nvml.nvmlSystemGetDriverVersion(text, 96) == 0:
            return text.value.decode("utf-8", "replace")
    except (OSError, AttributeError):
        pass
    return ""
