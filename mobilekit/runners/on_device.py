"""The bundle's ncnn model on a device: pushed by content, run by the harness, inputs streamed over one connection."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from mobilekit.device.harness.client import HarnessSession
from mobilekit.device.harness.toolchains import ABIS
from mobilekit.device.store import DEFAULT_QUOTA_BYTES, Store
from mobilekit.errors import DeviceError, UsageError
from mobilekit.progress import SILENT, Progress
from mobilekit.runners.base import RunnerInfo, RunOptions, RunResult
from mobilekit.runners.harness import HarnessModel

if TYPE_CHECKING:
    from mobilekit.bundle import Bundle
    from mobilekit.device.base import Device
    from mobilekit.device.harness.pixels import PixelRequest
    from mobilekit.device.harness.reports import Gpu, HarnessInfo, PixelsReport
    from mobilekit.tensors import Array

__all__ = ["DeviceRunner"]

_IDLE_S = 1800.0  # between two inputs the reference runs, which may take long


class DeviceRunner:
    """Implements :class:`mobilekit.runners.base.Runner`. Leaving the block ends the harness on the device.

    ``harness`` is a built harness for the device's ABI; without it one is found or built. ``vulkan``: for runs with
    that option. Entering raises :class:`DeviceError` where no harness fits the device,
    :class:`~mobilekit.errors.SetupError` where ``vulkan`` cannot be had, and what building, pushing and starting raise.
    """

    def __init__(
        self,
        device: Device,
        bundle: Bundle,
        *,
        harness: Path | None = None,
        vulkan: bool = False,
        quota_bytes: int | None = None,
        progress: Progress = SILENT,
    ) -> None:
        if bundle.manifest.ncnn is None:
            raise UsageError("this bundle holds no ncnn model", hint="export it with --target ncnn")
        self._device = device
        self._bundle = bundle
        self._artifact = bundle.manifest.ncnn
        self._harness = harness
        self._vulkan = vulkan
        self._gpu: Gpu | None = None
        self._store = Store(device, quota_bytes=quota_bytes or DEFAULT_QUOTA_BYTES)
        self._progress = progress
        self._stack = ExitStack()
        self._model: HarnessModel | None = None
        self._info: HarnessInfo | None = None

    def __enter__(self) -> DeviceRunner:
        about = self._device.info()
        abi = next((abi for abi in about.abis if abi in ABIS), None)
        if abi is None:
            raise DeviceError(
                f"{self._device.serial}: no harness runs on its ABIs ({', '.join(about.abis) or 'none named'})",
                hint=f"supported: {', '.join(ABIS)}",
            )
        harness = self._harness
        if harness is None:
            from mobilekit.device.harness.locate import find_harness

            # A virtual device has no Android linker, which an NDK build asks for.
            harness = find_harness(abi, self._progress, static_only=about.virtual)
        from mobilekit.bundle import sha256_of

        root = self._bundle.root
        program = sha256_of(harness)
        # open_bundle() has compared these with the files.
        known = {entry.path: entry.sha256 for entry in self._bundle.manifest.files}
        param, weights = known[self._artifact.param], known[self._artifact.bin]
        there = self._store.ensure(
            {program: harness, param: root / self._artifact.param, weights: root / self._artifact.bin},
            executable={program},
            progress=self._progress,
        )
        session = self._stack.enter_context(HarnessSession(self._device, there[program], idle_timeout_s=_IDLE_S))
        try:
            self._model = HarnessModel(session, self._bundle.manifest, there[param], there[weights])
            self._info = session.info()
            self._gpu = self._model.gpu() if self._vulkan else None
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._model = None
        self._stack.close()

    def info(self) -> RunnerInfo:
        assert self._info is not None, "use the runner in a with statement"
        return RunnerInfo(
            name="mobilekit harness",
            version=f"{self._info.harness_version} (ncnn {self._info.ncnn_version}, {self._info.toolchain})",
            device=self._device.serial,
            abi=self._info.abi,
            cpu_features=self._info.cpu_features,
            virtual=self._device.info().virtual,
            gpu=self._gpu,
        )

    def run(self, inputs: Mapping[str, Array], options: RunOptions) -> RunResult:
        """Compute all outputs; :meth:`mobilekit.runners.harness.HarnessModel.run` says what it raises."""
        assert self._model is not None, "use the runner in a with statement"
        return self._model.run(inputs, options)

    def run_each(
        self, inputs: Iterable[Mapping[str, Array]], options: RunOptions
    ) -> Generator[Callable[[], RunResult], None, None]:
        """Implements :meth:`mobilekit.runners.base.StreamRunner.run_each`."""
        assert self._model is not None, "use the runner in a with statement"
        return self._model.run_each(inputs, options)

    def interrupt(self) -> None:
        """Implements :meth:`mobilekit.runners.base.StreamRunner.interrupt`."""
        if self._model is not None:
            self._model.interrupt()

    def state(self) -> Mapping[str, object]:
        """Implements :meth:`mobilekit.runners.base.Watched.state`."""
        assert self._model is not None, "use the runner in a with statement"
        return self._model.state()

    def blobs(self, fed: Mapping[str, Array], wanted: Sequence[str], options: RunOptions) -> dict[str, Array]:
        """Implements :meth:`mobilekit.runners.base.BlobRunner.blobs`."""
        assert self._model is not None, "use the runner in a with statement"
        return self._model.blobs(fed, wanted, options)

    def pixels(self, request: PixelRequest, options: RunOptions) -> PixelsReport:
        """Implements :meth:`mobilekit.runners.base.PixelRunner.pixels`."""
        assert self._model is not None, "use the runner in a with statement"
        return self._model.pixels(request, options)
