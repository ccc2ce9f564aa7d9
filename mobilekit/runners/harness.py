"""A bundle's ncnn model in a harness, on a device or on this machine: loaded once, inputs streamed through it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

from mobilekit.device.harness.client import NO_GPU_HINT
from mobilekit.device.harness.protocol import LoadOptions
from mobilekit.errors import SetupError
from mobilekit.runners.base import RunOptions, RunResult
from mobilekit.runners.blobs import extracted, input_blobs, output_tensors

if TYPE_CHECKING:
    from mobilekit.bundle import Manifest
    from mobilekit.device.harness.client import HarnessSession
    from mobilekit.device.harness.pixels import PixelRequest
    from mobilekit.device.harness.reports import Gpu, InferReport, LoadReport, PixelsReport
    from mobilekit.tensors import Array

__all__ = ["HarnessModel", "load_options"]


def load_options(options: RunOptions) -> LoadOptions:
    """What the harness is asked for."""
    precision = "fp16" if options.fp16 else "bf16" if options.bf16 else "fp32"
    return LoadOptions.for_precision(
        precision,
        threads=options.threads,
        cluster=options.cluster,
        winograd=options.winograd,
        packing=options.packing,
        vulkan=options.vulkan,
    )


class HarnessModel:
    """``param`` and ``weights`` are paths where the harness runs. Raises :class:`~mobilekit.errors.HarnessError`
    where the harness lacks one of our own layers that the model needs.
    """

    def __init__(self, session: HarnessSession, manifest: Manifest, param: str, weights: str) -> None:
        assert manifest.ncnn is not None
        session.require_layers(manifest.ncnn.custom_layers)
        self._session = session
        self._manifest = manifest
        self._outputs = extracted(manifest.ncnn.outputs)
        self._paths = (param, weights)
        self._loaded: tuple[LoadOptions, LoadReport] | None = None
        self._cores: dict[str, int] = {}

    def _load(self, options: RunOptions) -> LoadReport:
        """Load the model, unless it already is with these options."""
        wanted = load_options(options)
        if self._loaded is None or self._loaded[0] != wanted:
            self._loaded = None
            self._loaded = (wanted, self._session.load(*self._paths, wanted, timeout_s=options.timeout_s))
        return self._loaded[1]

    def gpu(self) -> Gpu:
        """The GPU that runs with ``vulkan`` use; :class:`~mobilekit.errors.SetupError` where there is none."""
        built = self._session.info().vulkan
        if built and (found := next((gpu for gpu in self._session.gpus().gpus if gpu.chosen), None)):
            return found
        why = "finds no Vulkan driver, or no GPU that it drives" if built else "is built without Vulkan"
        raise SetupError(f"the harness there {why}", hint=NO_GPU_HINT)

    def run(self, inputs: Mapping[str, Array], options: RunOptions) -> RunResult:
        """Compute all outputs. ``facts`` holds temperatures and frequencies where the machine shows them.

        Raises :class:`~mobilekit.errors.UsageError` for inputs that do not fit, :class:`~mobilekit.errors.BundleError`
        where an output is missing, and the harness's errors.
        """
        blobs = input_blobs(inputs, self._manifest)
        loaded = self._load(options)
        if not self._cores:
            about = self._session.info()
            self._cores = {"all": about.cpus, "big": about.big_cpus, "little": about.little_cpus}
        report = self._session.infer(
            blobs,
            self._outputs,
            warmup=options.warmup,
            iterations=options.iterations,
            layer_times=options.layer_times,
            timeout_s=options.timeout_s,
        )
        return self._result(report, loaded)

    def run_each(
        self, inputs: Iterable[Mapping[str, Array]], options: RunOptions
    ) -> Generator[Callable[[], RunResult], None, None]:
        """Implements :meth:`mobilekit.runners.base.StreamRunner.run_each`; warm-up and iterations do not count."""
        loaded = self._load(options)
        blobs = (input_blobs(each, self._manifest) for each in inputs)
        with closing(self._session.infer_each(blobs, self._outputs, timeout_s=options.timeout_s)) as reports:
            for report in reports:
                yield partial(self._result, report, loaded)

    def interrupt(self) -> None:
        self._session.interrupt()

    def _result(self, report: InferReport, loaded: LoadReport) -> RunResult:
        return RunResult(
            outputs=output_tensors(report.outputs, self._manifest),
            latencies_ns=report.latencies_ns,
            load_ns=loaded.param_ns + loaded.weights_ns,
            peak_blob_bytes=report.peak_blob_bytes,
            peak_workspace_bytes=report.peak_workspace_bytes,
            facts={
                "threads": loaded.threads,
                "cores": self._cores,
                "cluster_applied": loaded.cluster_applied,
                "temperatures_celsius": report.state.temperatures_celsius,
                "frequencies_khz": report.state.frequencies_khz,
            },
            layers=report.layers,
            layers_on_cpu={} if loaded.gpu is None else loaded.gpu.layers_on_cpu,
            session_ns=report.session_ns,
            session_inference_ns=report.session_inference_ns,
        )

    def state(self) -> dict[str, object]:
        """Implements :meth:`mobilekit.runners.base.Watched.state`."""
        return self._session.info().state.model_dump()

    def blobs(self, fed: Mapping[str, Array], wanted: Sequence[str], options: RunOptions) -> dict[str, Array]:
        """Implements :meth:`mobilekit.runners.base.BlobRunner.blobs`."""
        self._load(options)
        return dict(self._session.infer(fed, wanted, timeout_s=options.timeout_s).outputs)

    def pixels(self, request: PixelRequest, options: RunOptions) -> PixelsReport:
        """Implements :meth:`mobilekit.runners.base.PixelRunner.pixels`."""
        return self._session.pixels(request, timeout_s=options.timeout_s)
