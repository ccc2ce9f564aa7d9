"""The two products that share TensorRT's API: full TensorRT, and TensorRT for RTX, which builds without a GPU."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Literal

from mobilekit.errors import MissingExtraError, SetupError
from mobilekit.targets.tensorrt.worker.trtwork.base import WorkError
from mobilekit.targets.tensorrt.worker.trtwork.cuda import Cuda

if TYPE_CHECKING:
    from mobilekit.targets.tensorrt.host import Hello

__all__ = ["FLAVOURS", "Flavour", "FlavourName", "choose_flavour", "choose_flavour_there", "count_gpus", "installed"]

FlavourName = Literal["rtx", "full"]


@dataclass(frozen=True, slots=True)
class Flavour:
    """``module`` is what Python imports; ``architectures`` are the compute capabilities it can name as a target.

    Full TensorRT measures on the GPU that is present, so it has no such list and nothing to build for without one.
    """

    name: FlavourName
    module: str
    product: str
    packages: tuple[str, ...]
    """Distributions that carry the version, the first that is there counts."""
    architectures: tuple[str, ...] = ()
    there: str = ""
    """The version on the other machine, where it is one."""

    def version(self) -> str:
        """The installed version, ``""`` where it is not known (a JetPack without package metadata)."""
        if self.there:
            return self.there
        for package in self.packages:
            try:
                return version(package)
            except PackageNotFoundError:
                continue
        return ""


FLAVOURS: dict[FlavourName, Flavour] = {
    "rtx": Flavour(
        "rtx",
        "tensorrt_rtx",
        "TensorRT for RTX",
        ("tensorrt-rtx", "tensorrt_rtx"),
        # Hopper (9.0) is in none of its support matrices.
        ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1"),
    ),
    "full": Flavour("full", "tensorrt", "TensorRT", ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")),
}


def installed(flavour: Flavour) -> bool:
    """Whether its Python module is there; imports nothing."""
    return importlib.util.find_spec(flavour.module) is not None


def count_gpus() -> int:
    """NVIDIA GPUs that a driver shows; 0 without a driver. Takes a tenth of a millisecond where there is none."""
    try:
        return Cuda().integer("cuDeviceGetCount")
    except WorkError:
        return 0


def choose_flavour(wanted: str | None = None) -> Flavour:
    """The flavour to build with: ``wanted``, else full TensorRT where it and a GPU are there, else RTX.

    Raises :class:`MissingExtraError` where the module is not installed, and :class:`SetupError` where full TensorRT is
    asked for on a machine without a GPU.
    """
    if wanted is None:
        full = FLAVOURS["full"]
        return full if installed(full) and count_gpus() else _present(FLAVOURS["rtx"])
    flavour = _present(FLAVOURS["full" if wanted == "full" else "rtx"])
    if flavour.name == "full" and not count_gpus():
        raise SetupError(
            "full TensorRT measures its kernels on a GPU, and this machine shows none",
            hint="build with --flavour rtx here, or export on the machine that has the GPU",
        )
    return flavour


def choose_flavour_there(hello: Hello, where: str, wanted: str | None = None) -> Flavour:
    """As :func:`choose_flavour`, of what the machine ``where`` says that it has. Raises :class:`SetupError`."""
    known = hello.flavours
    name: FlavourName = "full" if wanted == "full" or ("full" in known and hello.gpus) or "rtx" not in known else "rtx"
    name = "rtx" if wanted == "rtx" else name
    flavour = FLAVOURS[name]
    if name not in known:
        reason = f": {hello.broken[name]}" if name in hello.broken else ""
        raise SetupError(
            f"{where} has no {flavour.product} (Python module {flavour.module}){reason}",
            hint=f"it has {', '.join(f'{FLAVOURS[n].product} {known[n]}' for n in FLAVOURS if n in known)}",
        )
    if name == "full" and not hello.gpus:
        raise SetupError(
            f"full TensorRT measures its kernels on a GPU, and {where} shows none: {hello.problem}",
            hint="look with nvidia-smi there, or build with --flavour rtx",
        )
    return replace(flavour, there=known[name])


def _present(flavour: Flavour) -> Flavour:
    if not installed(flavour):
        if flavour.name == "full":  # no extra can bring it: it comes from NVIDIA's own index, or with JetPack
            raise SetupError(
                f"full TensorRT is not installed (Python module {flavour.module})",
                hint="install NVIDIA's TensorRT on the machine that has the GPU, or build with --flavour rtx",
            )
        raise MissingExtraError(flavour.module, extra="tensorrt", purpose="building a TensorRT plan")
    return flavour
