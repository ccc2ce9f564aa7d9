"""The bundle's ncnn model on a device: pushed by content, run by the harness, inputs streamed over one connection."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from mobilekit.device.harness.client import HarnessSession
from mobilekit.device.harness.protocol import LoadOptions
from mobilekit.device.harness.toolchains import ABIS
from mobilekit.device.store import DEFAULT_QUOTA_BYTES, Store
from mobilekit.errors import BundleError, DeviceError, UsageError
from mobilekit.progress import SILENT, Progress
from mobilekit.runners.base import RunnerInfo, RunOptions, RunResult
from mobilekit.runners.blobs import check_sizes, extracted, from_blobs, to_blob

if TYPE_CHECKING:
    from mobilekit.bundle import Bundle
    from mobilekit.device.base import Device
    from mobilekit.device.harness.reports import HarnessInfo, LoadReport
    from mobilekit.tensors import Array

__all__ = ["DeviceRunner"]

_IDLE_S = 1800.0  # between two inputs the reference runs, which may take long


class DeviceRunner:
    """Implements :class:`mobilekit.runners.base.Runner`. Leaving the block ends the harness on the device.

    ``harness`` is a built harness for the device's ABI; without it one is found or built. Entering raises
    :class:`DeviceError` where no harness fits the device, and what building, pushing and starting it raise.
    """

    def __init__(
        self,
        device: Device,
        bundle: Bundle,
        *,
        harness: Path | None = None,
        quota_bytes: int | None = None,
        progress: Progress = SILENT,
    ) -> None:
        if bundle.manifest.ncnn is None:
            raise UsageError("this bundle holds no ncnn model", hint="export it with --target ncnn")
        self._device = device
        self._bundle = bundle
        self._artifact = bundle.manifest.ncnn
        self._harness = harness
        self._store = Store(device, quota_bytes=quota_bytes or DEFAULT_QUOTA_BYTES)
        self._progress = progress
        self._stack = ExitStack()
        self._session: HarnessSession | None = None
        self._info: HarnessInfo | None = None
        self._paths: tuple[str, str] = ("", "")
        self._loaded: tuple[LoadOptions, LoadReport] | None = None

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
        self._paths = (there[param], there[weights])
        self._session = self._stack.enter_context(HarnessSession(self._device, there[program], idle_timeout_s=_IDLE_S))
        try:
            self._info = self._session.info()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._session = None
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
        )

    def _load(self, session: HarnessSession, options: RunOptions) -> LoadReport:
        """Load the model, unless it already is with these options."""
        if options.cluster not in ("all", "little", "big"):
            raise UsageError(f"unknown core cluster {options.cluster!r}", hint="all, little or big")
        precision = "fp16" if options.fp16 else "bf16" if options.bf16 else "fp32"
        wanted = LoadOptions.for_precision(precision, threads=options.threads, cluster=options.cluster)
        if self._loaded is None or self._loaded[0] != wanted:
            self._loaded = None
            self._loaded = (wanted, session.load(*self._paths, wanted, timeout_s=options.timeout_s))
        return self._loaded[1]

    def run(self, inputs: Mapping[str, Array], options: RunOptions) -> RunResult:
        """Compute all outputs. ``facts`` holds temperatures and frequencies where the device shows them.

        Raises :class:`UsageError` for inputs that do not fit, :class:`BundleError` where an output is missing, and
        the harness's errors.
        """
        session = self._session
        assert session is not None, "use the runner in a with statement"
        manifest = self._bundle.manifest
        infos = {info.name: info for info in manifest.inputs}
        if inputs.keys() != infos.keys():
            raise UsageError(
                f"the model's inputs are {', '.join(infos)}; given: {', '.join(inputs) or 'none'}",
                hint="give each input once, by its ONNX name",
            )
        check_sizes(infos.values(), {name: array.shape for name, array in inputs.items()})
        loaded = self._load(session, options)
        artifact = self._artifact
        report = session.infer(
            {blob.blob: to_blob(inputs[blob.tensor], infos[blob.tensor], blob) for blob in artifact.inputs},
            extracted(artifact.outputs),
            warmup=options.warmup,
            iterations=options.iterations,
            timeout_s=options.timeout_s,
        )
        missing = {info.name for info in manifest.outputs} - {blob.tensor for blob in artifact.outputs}
        if missing:
            raise BundleError(f"the bundle maps no blob to {sorted(missing)[0]!r}", hint="export the model again")
        return RunResult(
            outputs=from_blobs(report.outputs, manifest.outputs, artifact.outputs),
            latencies_ns=report.latencies_ns,
            load_ns=loaded.param_ns + loaded.weights_ns,
            peak_blob_bytes=report.peak_blob_bytes,
            peak_workspace_bytes=report.peak_workspace_bytes,
            facts={
                "threads": loaded.threads,
                "temperatures_celsius": report.state.temperatures_celsius,
                "frequencies_khz": report.state.frequencies_khz,
            },
        )
