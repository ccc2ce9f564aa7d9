"""The ncnn model on this machine, through the ``ncnn`` wheel, in a child process: one call, one process."""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilekit import child
from mobilekit.errors import BundleError, ChildError, UsageError
from mobilekit.runners.base import RunnerInfo, RunOptions, RunResult
from mobilekit.runners.blobs import check_sizes, extracted, from_blobs, to_blob

if TYPE_CHECKING:
    from mobilekit.bundle import Manifest, NcnnArtifact
    from mobilekit.tensors import Array

__all__ = ["NcnnHostRunner", "infer"]

_STACK_BYTES_A_LAYER = 8 * 1024
_SMALLEST_STACK_BYTES = 16 * 1024 * 1024
_LARGEST_STACK_BYTES = 2 * 1024 * 1024 * 1024


class NcnnHostRunner:
    """Implements :class:`mobilekit.runners.base.Runner` for a bundle's ncnn model."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        if manifest.ncnn is None:
            raise UsageError("this bundle holds no ncnn model", hint="export it with --target ncnn")
        self._root = root
        self._manifest = manifest
        self._artifact: NcnnArtifact = manifest.ncnn

    def __enter__(self) -> NcnnHostRunner:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def info(self) -> RunnerInfo:
        return RunnerInfo("ncnn on host", version("ncnn"), device=platform.machine(), abi=platform.machine())

    def run(self, inputs: Mapping[str, Array], options: RunOptions) -> RunResult:
        """Compute all outputs, in a process of its own.

        Raises :class:`UsageError` for a missing, unknown or misshapen input, :class:`BundleError` where ncnn does
        not take the files, and :class:`~mobilekit.errors.ChildError` where ncnn crashes or hangs.
        """
        infos = {info.name: info for info in self._manifest.inputs}
        if inputs.keys() != infos.keys():
            raise UsageError(
                f"the model's inputs are {', '.join(infos)}; given: {', '.join(inputs) or 'none'}",
                hint="give each input once, by its ONNX name",
            )
        check_sizes(infos.values(), {name: array.shape for name, array in inputs.items()})
        artifact = self._artifact
        wanted = extracted(artifact.outputs)
        answer = child.call(
            "mobilekit.runners.ncnn_host:infer",
            {
                "param": str(self._root / artifact.param),
                "weights": str(self._root / artifact.bin),
                "inputs": {b.blob: to_blob(inputs[b.tensor], infos[b.tensor], b) for b in artifact.inputs},
                "outputs": wanted,
                "depth": artifact.depth,
                "threads": options.threads,
                "fp16": options.fp16,
                "bf16": options.bf16,
                "warmup": options.warmup,
                "iterations": options.iterations,
            },
            what="running the model on the ncnn wheel",
            timeout_s=options.timeout_s,
        )
        found = dict(zip(wanted, answer["outputs"], strict=True))
        return RunResult(
            outputs=from_blobs(found, self._manifest.outputs, artifact.outputs),
            latencies_ns=tuple(answer["latencies_ns"]),
            load_ns=answer["load_ns"],
        )


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
    """Runs in the child process: load, feed ``inputs`` by blob name, extract ``outputs`` in order, time each run.

    ncnn recurses once for each layer of the longest chain, hence a thread with a stack that fits ``depth``.
    """
    done: dict[str, Any] = {}

    def work() -> None:
        try:
            done["value"] = _infer(param, weights, inputs, outputs, threads, fp16, bf16, warmup, iterations)
        except BaseException as error:
            done["error"] = error

    stack = min(max(_SMALLEST_STACK_BYTES, depth * _STACK_BYTES_A_LAYER), _LARGEST_STACK_BYTES)
    threading.stack_size(stack)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if "error" in done:
        raise done["error"]
    value: dict[str, Any] = done["value"]
    return value


def _infer(
    param: str,
    weights: str,
    inputs: Mapping[str, Array],
    outputs: Sequence[str],
    threads: int,
    fp16: bool,
    bf16: bool,
    warmup: int,
    iterations: int,
) -> dict[str, Any]:
    import ncnn
    import numpy as np

    net = ncnn.Net()
    for flag in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
        setattr(net.opt, flag, fp16)
    net.opt.use_bf16_storage = bf16
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
    load_ns = time.perf_counter_ns() - begin
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
    return {"outputs": results, "latencies_ns": latencies, "load_ns": load_ns}
