"""The ncnn model on this machine, in a process of its own that loads it once and takes many inputs.

A model of stock layers runs on the ``ncnn`` wheel; one with mobilekit's own layers in the host build of the harness.
"""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mobilekit.child import Child, physical_memory_bytes
from mobilekit.errors import BundleError, ChildError, MissingToolError, SetupError, UsageError
from mobilekit.progress import SILENT, Progress
from mobilekit.runners.base import RunnerInfo, RunOptions, RunResult
from mobilekit.runners.blobs import extracted, input_blobs, output_tensors

if TYPE_CHECKING:
    from mobilekit.bundle import Manifest, NcnnArtifact
    from mobilekit.device.harness.client import HarnessSession
    from mobilekit.device.harness.pixels import PixelRequest
    from mobilekit.device.harness.reports import PixelsReport
    from mobilekit.runners.harness import HarnessModel
    from mobilekit.tensors import Array
    from mobilekit.tuning import Cluster

__all__ = ["NcnnHostRunner", "infer", "start_process"]

_STACK_BYTES_A_LAYER = 8 * 1024
_SMALLEST_STACK_BYTES = 16 * 1024 * 1024
_LARGEST_STACK_BYTES = 2 * 1024 * 1024 * 1024
_IDLE_S = 1800.0  # between two inputs the reference runs, which may take long


class NcnnHostRunner:
    """Implements :class:`mobilekit.runners.base.Runner` for a bundle's ncnn model.

    The model is loaded with the first input and stays loaded until the ``with`` block ends (without one, for that
    input alone), or until a run asks for other threads or another precision, or fails: then the next run has a fresh
    process. A model with own layers needs a harness for this machine, which the first run builds where there is none;
    ``harness`` asks for it with any model, since it alone times layers and takes pictures; ``vulkan`` for the one that
    computes on this machine's GPU, too, for runs with that option. ``timed=False``: only answers are wanted, so that
    threads sleep while they wait (spinning gains time where there are cores to spare, and takes several times the work
    where there are none). ``started``: what :func:`start_process` gave, for the wheel to run in.
    """

    def __init__(
        self,
        root: Path,
        manifest: Manifest,
        *,
        harness: bool = False,
        vulkan: bool = False,
        timed: bool = True,
        started: Child | None = None,
        progress: Progress = SILENT,
    ) -> None:
        if manifest.ncnn is None:
            raise UsageError("this bundle holds no ncnn model", hint="export it with --target ncnn")
        own = harness or vulkan or bool(manifest.ncnn.custom_layers)
        self._engine: _Engine = (
            _HarnessEngine(root, manifest, manifest.ncnn, vulkan, timed, progress)
            if own
            else _WheelEngine(root, manifest, manifest.ncnn, timed, started)
        )
        self._entered = False

    def __enter__(self) -> NcnnHostRunner:
        self._entered = True
        return self

    def __exit__(self, *exc: object) -> None:
        self._entered = False
        self._engine.close()

    def info(self) -> RunnerInfo:
        return self._engine.info()

    def run(self, inputs: Mapping[str, Array], options: RunOptions) -> RunResult:
        """Compute all outputs.

        Raises :class:`UsageError` for a missing, unknown or misshapen input; on the wheel :class:`BundleError` where
        ncnn does not take the files and :class:`~mobilekit.errors.ChildError` where it fails, crashes or hangs; in
        the harness :class:`~mobilekit.errors.SetupError` where there is none and none can be built, and
        :class:`~mobilekit.errors.HarnessError` for the rest.
        """
        with self._kept():
            return self._engine.run(inputs, options)

    def state(self) -> Mapping[str, object]:
        """Implements :meth:`mobilekit.runners.base.Watched.state`."""
        from mobilekit.runners.host_state import host_state

        return host_state()

    def blobs(self, fed: Mapping[str, Array], wanted: Sequence[str], options: RunOptions) -> dict[str, Array]:
        """Implements :meth:`mobilekit.runners.base.BlobRunner.blobs`; raises what :meth:`run` does."""
        with self._kept():
            return self._engine.blobs(fed, wanted, options)

    def pixels(self, request: PixelRequest, options: RunOptions) -> PixelsReport:
        """Implements :meth:`mobilekit.runners.base.PixelRunner.pixels`, made with ``harness``."""
        assert isinstance(self._engine, _HarnessEngine), "only the harness takes pictures"
        with self._kept():
            return self._engine.pixels(request, options)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except UsageError:  # the caller's fault: the process is as it was
            raise
        except BaseException:
            self._engine.close()
            raise
        finally:
            if not self._entered:
                self._engine.close()


class _Engine(Protocol):
    """A process that holds the model. After :meth:`close`, :meth:`run` starts another."""

    def info(self) -> RunnerInfo: ...

    def run(self, inputs: Mapping[str, Array], options: RunOptions) -> RunResult: ...

    def blobs(self, fed: Mapping[str, Array], wanted: Sequence[str], options: RunOptions) -> dict[str, Array]: ...

    def close(self) -> None: ...


_ASLEEP = {"OMP_WAIT_POLICY": "passive"}
"""What OpenMP reads when it is loaded: its threads do not spin while they wait."""


def start_process(*, timed: bool = True) -> Child:
    """A process that imports what the wheel needs in the background; whoever asks for it closes it."""
    child = Child(
        what="running the model on the ncnn wheel", preload=("numpy", "ncnn", __name__), env={} if timed else _ASLEEP
    )
    child.start()
    return child


class _WheelEngine:
    def __init__(
        self, root: Path, manifest: Manifest, artifact: NcnnArtifact, timed: bool, started: Child | None
    ) -> None:
        self._manifest = manifest
        self._timed = timed
        self._spare = started
        self._model = {
            "param": str(root / artifact.param),
            "weights": str(root / artifact.bin),
            "depth": artifact.depth,
        }
        self._outputs = extracted(artifact.outputs)
        self._child: Child | None = None
        self._loaded: dict[str, Any] = {}

    def info(self) -> RunnerInfo:
        from importlib.metadata import version

        return RunnerInfo("ncnn on host", version("ncnn"), device=platform.machine(), abi=platform.machine())

    def run(self, inputs: Mapping[str, Array], options: RunOptions) -> RunResult:
        answer = self._ask(input_blobs(inputs, self._manifest), self._outputs, options)
        return RunResult(
            outputs=output_tensors(dict(zip(self._outputs, answer["outputs"], strict=True)), self._manifest),
            latencies_ns=tuple(answer["latencies_ns"]),
            load_ns=answer["load_ns"],
            facts={name: answer[name] for name in ("threads", "cores", "cluster_applied")},
        )

    def blobs(self, fed: Mapping[str, Array], wanted: Sequence[str], options: RunOptions) -> dict[str, Array]:
        answer = self._ask(fed, wanted, options)
        return dict(zip(wanted, answer["outputs"], strict=True))

    def _ask(self, fed: Mapping[str, Array], wanted: Sequence[str], options: RunOptions) -> dict[str, Any]:
        if options.vulkan:
            raise UsageError("the ncnn wheel computes on the CPU", hint="the harness has Vulkan")
        deadline = time.monotonic() + options.timeout_s
        settings = {
            "threads": options.threads,
            "cluster": options.cluster,
            "fp16": options.fp16,
            "bf16": options.bf16,
            "winograd": options.winograd,
            "packing": options.packing,
        }
        child = self._started(settings, options)
        answer: dict[str, Any] = child.call(
            "run",
            {
                "inputs": dict(fed),
                "outputs": list(wanted),
                "warmup": options.warmup,
                "iterations": options.iterations,
            },
            timeout_s=max(0.0, deadline - time.monotonic()),
        )
        return answer

    def _started(self, settings: dict[str, Any], options: RunOptions) -> Child:
        if self._child is not None and self._loaded == settings:
            return self._child
        spare, self._spare = self._spare, None
        self.close()
        self._child = spare or start_process(timed=self._timed)
        self._loaded = settings
        self._child.create(
            "mobilekit.runners.ncnn_host:_Model", {**self._model, **settings}, timeout_s=options.timeout_s
        )
        return self._child

    def close(self) -> None:
        for child in (self._child, self._spare):
            if child is not None:
                child.close()
        self._child = self._spare = None


class _HarnessEngine:
    def __init__(
        self, root: Path, manifest: Manifest, artifact: NcnnArtifact, vulkan: bool, timed: bool, progress: Progress
    ) -> None:
        self._manifest = manifest
        self._environment = {} if timed else _ASLEEP
        self._layers = artifact.custom_layers
        self._vulkan = vulkan
        # A harness takes absolute paths; it runs in another folder than we do.
        self._paths = (str((root / artifact.param).absolute()), str((root / artifact.bin).absolute()))
        self._progress = progress
        self._session: HarnessSession | None = None
        self._model: HarnessModel | None = None

    def info(self) -> RunnerInfo:
        from mobilekit.device.harness.source import NCNN_VERSION

        machine = platform.machine()
        gpu = (self._model or self._started()).gpu() if self._vulkan else None
        name = "mobilekit harness on host"
        return RunnerInfo(name, f"ncnn {NCNN_VERSION}", device=machine, abi=machine, gpu=gpu)

    def run(self, inputs: Mapping[str, Array], options: RunOptions) -> RunResult:
        return (self._model or self._started()).run(inputs, options)

    def blobs(self, fed: Mapping[str, Array], wanted: Sequence[str], options: RunOptions) -> dict[str, Array]:
        return (self._model or self._started()).blobs(fed, wanted, options)

    def pixels(self, request: PixelRequest, options: RunOptions) -> PixelsReport:
        return (self._model or self._started()).pixels(request, options)

    def _started(self) -> HarnessModel:
        from mobilekit.device.harness.client import HarnessSession
        from mobilekit.runners.harness import HarnessModel

        session = HarnessSession.connect_local(
            self._program(),
            idle_timeout_s=_IDLE_S,
            memory_bytes=physical_memory_bytes() * 9 // 10,
            environment=self._environment,
        )
        session.__enter__()
        self._session = session
        self._model = HarnessModel(session, self._manifest, *self._paths)
        return self._model

    def _program(self) -> Path:
        from mobilekit.device.harness.locate import find_harness
        from mobilekit.device.harness.toolchains import host_abi

        why = "layers are timed, and pictures prepared, by the harness"
        if self._vulkan:
            why = "ncnn on the GPU runs in the harness"
        if self._layers:
            why = f"the model has layers of mobilekit's own ({', '.join(self._layers)}), which run in the harness"
        instead = "; or export with --stock-only, or unverified (--no-verify)"
        abi = host_abi()
        if abi is None:
            raise SetupError(
                f"{why}, and that does not run on {platform.system()} {platform.machine()}",
                hint=f"validate on a device, or on Linux{instead}",
            )
        try:
            return find_harness(abi, self._progress, static_only=not self._vulkan, vulkan=self._vulkan)
        except MissingToolError as error:
            raise MissingToolError(f"{why}, but {error.message}", hint=f"{error.hint}{instead}") from error

    def close(self) -> None:
        session, self._session, self._model = self._session, None, None
        if session is not None:
            session.close()


def infer(
    *,
    param: str,
    weights: str,
    inputs: Mapping[str, Array],
    outputs: Sequence[str],
    depth: int,
    threads: int,
    fp16: bool,
    bf16: bool,
    warmup: int,
    iterations: int,
) -> dict[str, Any]:
    """Load the model in this process and run it once; keys ``outputs``, ``latencies_ns``, ``load_ns``."""
    model = _Model(param=param, weights=weights, depth=depth, threads=threads, fp16=fp16, bf16=bf16)
    try:
        return model.run(inputs, outputs, warmup, iterations)
    finally:
        model.close()


class _Model:
    """Lives in the child: a loaded net, and the one thread that computes with it.

    ncnn recurses once for each layer of the longest chain, hence a thread with a stack that fits ``depth``.
    """

    def __init__(self, *, param: str, weights: str, depth: int, **settings: Any) -> None:
        stack = min(max(_SMALLEST_STACK_BYTES, depth * _STACK_BYTES_A_LAYER), _LARGEST_STACK_BYTES)
        usual = threading.stack_size(stack)
        try:
            self._thread = ThreadPoolExecutor(max_workers=1)
            self._net, self._facts = self._thread.submit(_load, param, weights, **settings).result()
        finally:
            threading.stack_size(usual)

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str], warmup: int, iterations: int) -> dict[str, Any]:
        """Feed ``inputs`` by blob name, extract ``outputs`` in order, time each run."""
        answer = self._thread.submit(_run, self._net, inputs, outputs, warmup, iterations).result()
        return {**answer, **self._facts}

    def close(self) -> None:
        del self._net
        self._thread.shutdown()


def _load(
    param: str,
    weights: str,
    *,
    threads: int,
    fp16: bool,
    bf16: bool,
    cluster: Cluster = "all",
    winograd: bool = True,
    packing: bool = True,
) -> tuple[Any, dict[str, Any]]:
    """The net, and what is told of it: keys ``load_ns``, ``threads``, ``cores``, ``cluster_applied``."""
    import ncnn

    # This thread's affinity, and that of the OpenMP team under it; nobody undoes it, so it is left alone for all cores.
    applied = cluster == "all" or ncnn.set_cpu_powersave({"little": 1, "big": 2}[cluster]) == 0
    net = ncnn.Net()
    for flag in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
        setattr(net.opt, flag, fp16)
    net.opt.use_bf16_storage = bf16
    for flag in ("", "23", "43", "63"):
        setattr(net.opt, f"use_winograd{flag}_convolution", winograd)
    net.opt.use_packing_layout = packing
    net.opt.use_vulkan_compute = False
    if threads > 0:
        net.opt.num_threads = threads
    begin = time.perf_counter_ns()
    for load, path in ((net.load_param, param), (net.load_model, weights)):
        code = load(path)
        if code != 0:
            raise BundleError(
                f"ncnn does not load {Path(path).name} (code {code})", hint="export again; the bundle may be damaged"
            )
    return net, {
        "load_ns": time.perf_counter_ns() - begin,
        "threads": net.opt.num_threads,
        "cores": {
            "all": ncnn.get_cpu_count(),
            "big": ncnn.get_big_cpu_count(),
            "little": ncnn.get_little_cpu_count(),
        },
        "cluster_applied": applied,
    }


def _run(net: Any, inputs: Mapping[str, Array], outputs: Sequence[str], warmup: int, iterations: int) -> dict[str, Any]:
    import ncnn
    import numpy as np

    # A Mat over an array neither keeps it alive nor counts references, so that a layer in place would write into it
    # (and past its end, where ncnn expects its own padding). A clone is ncnn's own.
    mats = {name: ncnn.Mat(array).clone() for name, array in inputs.items()}
    latencies: list[int] = []
    results: list[Array] = []
    for iteration in range(warmup + iterations):
        begin = time.perf_counter_ns()
        extractor = net.create_extractor()
        for name, mat in mats.items():
            code = extractor.input(name, mat)
            if code != 0:
                raise BundleError(f"ncnn has no input blob {name!r} (code {code})", hint="export the model again")
        found = []
        for name in outputs:
            code, mat = extractor.extract(name)
            if code != 0:
                raise ChildError(
                    f"ncnn could not compute the blob {name!r} (code {code})",
                    hint="this is ncnn's limit or a fault of the export; the code -100 means out of memory",
                )
            found.append(mat)
        elapsed = time.perf_counter_ns() - begin
        if iteration >= warmup:
            latencies.append(elapsed)
        if iteration == warmup + iterations - 1:
            results = [np.array(mat) for mat in found]
    return {"outputs": results, "latencies_ns": latencies}
