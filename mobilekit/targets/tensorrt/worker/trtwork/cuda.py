"""CUDA's driver API."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path
from typing import Any

from .base import WorkError

MEMORY_HINT = "use fewer --streams or a smaller profile, end other programs on the GPU, or export with --workspace"

_LIBRARY = "libcuda.so.1"
_ELSEWHERE = (
    "/usr/lib/wsl/lib",  # Windows' own
    "/usr/local/nvidia/lib64",  # where container runtimes mount it
    "/usr/lib/aarch64-linux-gnu/nvidia",  # Jetson
    "/usr/lib/aarch64-linux-gnu/tegra",
    "/run/opengl-driver/lib",  # NixOS
)
"""Where the driver's library lies on systems whose loader is not told. Once it is loaded, TensorRT finds it by name."""

_LOOK = "look with nvidia-smi"
_HINTS = {
    # CUDA's numbers: what else they may come from is told by nothing but the documentation of each.
    34: "a stub of the CUDA toolkit is found before the driver's library: take it out of LD_LIBRARY_PATH",
    46: "another program has the GPU to itself (compute mode, MPS): look with nvidia-smi",
    802: "GPUs that are joined by NVSwitch need a service: systemctl start nvidia-fabricmanager",
    803: "the driver was updated and is not loaded yet: restart the machine",
    804: "a libcuda for newer GPUs is found before the driver's own: take it out of LD_LIBRARY_PATH",
    999: "look with nvidia-smi; a machine that has slept may have to load the driver again, or to be restarted",
}


def _load() -> ctypes.CDLL:
    """Raises :class:`WorkError`, by what the loader says of the usual place."""
    said = ""
    for name in (_LIBRARY, *(f"{folder}/{_LIBRARY}" for folder in _ELSEWHERE)):
        try:
            return ctypes.CDLL(name)
        except OSError as error:
            said = said or str(error)
    if "No such file" in said:
        text = f"this machine has no NVIDIA driver (no {_LIBRARY})"
    else:  # a container that was made without one has an empty file
        text = f"the NVIDIA driver's library cannot be loaded: {said}"
    raise WorkError("no-gpu", text, "run it where there is an NVIDIA GPU, or install its driver")


class Cuda:
    """``cuda("cuMemAlloc_v2", ...)`` calls the driver and raises :class:`WorkError` where it does not succeed."""

    def __init__(self) -> None:
        self._library = _load()
        code = self._library.cuInit(0)
        if code:
            text = f"the NVIDIA driver finds no usable GPU: {self._text(code)}"
            raise WorkError("no-gpu", text, _hidden() if code == 100 else _HINTS.get(code, _LOOK))

    def __call__(self, function: str, *arguments: Any) -> None:
        try:
            code = getattr(self._library, function)(*arguments)
        except AttributeError:
            raise WorkError("driver", f"the NVIDIA driver has no {function}", "update the NVIDIA driver") from None
        if code == 2:
            raise WorkError("memory", "the GPU has not enough memory left", MEMORY_HINT)
        if code:
            raise WorkError("cuda", f"{function}: {self._text(code)}", _HINTS.get(code, _LOOK))

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
            hint = f"{count} are there, the first is 0" if count else _hidden()
            raise WorkError("no-gpu", f"there is no GPU {index}", hint)
        self("cuCtxSetCurrent", self.handle("cuDevicePrimaryCtxRetain", self.integer("cuDeviceGet", index)))


def _hidden() -> str:
    """What to look at where a driver is loaded and shows no GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return f"CUDA_VISIBLE_DEVICES is {visible!r}: unset it, or name a GPU that nvidia-smi -L lists"
    return "look with nvidia-smi; a container sees the GPUs that it was started with (docker run --gpus all)"


def driver_version() -> str:
    """As nvidia-smi shows it ("570.86.10"); empty where neither the kernel module nor NVML tells."""
    with contextlib.suppress(OSError):
        return Path("/sys/module/nvidia/version").read_text().strip()
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        text = ctypes.create_string_buffer(96)
        if nvml.nvmlInit_v2() == 0 and nvml.nvmlSystemGetDriverVersion(text, 96) == 0:
            return text.value.decode("utf-8", "replace")
    except (OSError, AttributeError):
        pass
    return ""
