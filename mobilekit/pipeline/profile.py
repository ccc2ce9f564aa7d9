"""``mobilekit profile``: where a bundle's time goes, layer by layer, and how near each is to the device's peak."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mobilekit.pipeline.place import open_timed
from mobilekit.pipeline.settings import run_options, setting_at
from mobilekit.progress import SILENT, Progress

if TYPE_CHECKING:
    from onnx import ModelProto

    from mobilekit.device.harness.reports import LayerTime
    from mobilekit.report.model import DeviceFacts
    from mobilekit.report.profile import LayerProfile, Peak, ProfileReport
    from mobilekit.runners.base import RunOptions, RunResult
    from mobilekit.targets.ncnn.cost import LayerCost

__all__ = ["ProfileOptions", "profile_bundle"]


_PEAK_ITERATIONS = 20


@dataclass(frozen=True, slots=True)
class ProfileOptions:
    """``iterations=None``: 20, on a virtual device 2. ``peak``: measure what the device can do, too. Of a batch one
    sample is profiled. The rest as in :class:`~mobilekit.pipeline.validate.ValidateOptions`."""

    inputs: Path | None = None
    seed: int = 0
    threads: int = 0
    iterations: int | None = None
    precision: Literal["fp32", "fp16"] | None = None
    peak: bool = True
    tuned: bool = True
    timeout_s: float = 300.0


def profile_bundle(
    bundle: str | Path,
    device: str | None = None,
    options: ProfileOptions | None = None,
    progress: Progress = SILENT,
) -> ProfileReport:
    """Time every layer at ``device`` (as :func:`~mobilekit.pipeline.place.open_place` takes it; on this machine the
    harness, which is built where there is none). The whole inference is timed apart, without the layers' clocks.

    Raises what opening the bundle and the device raise, and :class:`~mobilekit.errors.UsageError` for inputs that do
    not fit.
    """
    from mobilekit import __version__
    from mobilekit.pipeline.bisect import open_traced
    from mobilekit.report.profile import ProfileReport
    from mobilekit.runners.batch import of_one_sample
    from mobilekit.targets.ncnn.cost import layer_costs
    from mobilekit.validate.inputs import samples_of

    options = options or ProfileOptions()
    opened, artifact, trace, layers = open_traced(Path(bundle))
    # What a layer costs is known at the default size.
    about = replace(of_one_sample(opened.manifest), sizes=())
    tensors = next(samples_of(about, options.inputs, seed=options.seed, count=1)).tensors
    with open_timed(opened, device, progress=progress) as (runner, facts):
        iterations = options.iterations or (2 if facts.virtual else 20)
        setting, _ = setting_at(
            opened.manifest,
            facts,
            threads=options.threads,
            precision=options.precision,
            tuned=options.tuned,
            progress=progress,
        )
        run = replace(
            run_options(setting, timeout_s=options.timeout_s),
            warmup=1 if facts.virtual else 3,
            iterations=iterations,
        )
        progress.step("timing the whole model")
        whole = runner.run(tensors, run)
        progress.step("timing each layer")
        each = runner.run(tensors, replace(run, layer_times=True))
    peak = _peak(device, run, facts, progress) if options.peak else None
    nodes: dict[str, list[str]] = {}
    for node, names in artifact.nodes.items():
        for name in names:
            nodes.setdefault(name, []).append(node)
    found = _layers(each.layers, nodes, layer_costs(layers, trace), peak)
    return ProfileReport(
        mobilekit_version=__version__,
        model=about.model.id,
        precision="int8" if artifact.precision == "int8" else "fp16" if run.fp16 else "fp32",
        device=facts,
        threads=run.threads,
        iterations=iterations,
        p50_ms=statistics.median(whole.latencies_ns) / 1e6,
        layers_ms=sum(layer.mean_ms for layer in found),
        peak=peak,
        layers=found,
    )


def _layers(
    times: Sequence[LayerTime], nodes: Mapping[str, Sequence[str]], costs: Mapping[str, LayerCost], peak: Peak | None
) -> tuple[LayerProfile, ...]:
    from mobilekit.report.profile import LayerProfile
    from mobilekit.targets.ncnn.cost import LayerCost

    means = [time.total_ns / max(time.calls, 1) for time in times]
    total = sum(means) or 1.0
    found = []
    for time, mean in zip(times, means, strict=True):
        cost = costs.get(time.name, LayerCost(None, None))
        gflops = 2 * cost.macs / time.min_ns if cost.macs and time.min_ns else None
        rate = cost.moved_bytes / time.min_ns if cost.moved_bytes and time.min_ns else None
        share, bound = _of_roof(cost, gflops, rate, peak)
        found.append(
            LayerProfile(
                name=time.name,
                type=time.type,
                nodes=tuple(nodes.get(time.name, ())),
                mean_ms=mean / 1e6,
                min_ms=time.min_ns / 1e6,
                share=mean / total,
                macs=cost.macs,
                moved_bytes=cost.moved_bytes,
                gflops=gflops,
                gbytes_s=rate,
                of_roof=share,
                bound=bound,
            )
        )
    return tuple(found)


def _of_roof(
    cost: LayerCost, gflops: float | None, rate: float | None, peak: Peak | None
) -> tuple[float | None, Literal["compute", "memory"] | None]:
    """The share of the roofline at the layer's arithmetic intensity (Williams, Waterman, Patterson 2009): what is
    attainable is the lesser of the peak and intensity times bandwidth. A layer that fits the caches may exceed it."""
    if peak is None or not cost.moved_bytes or rate is None:
        return None, None
    if not cost.macs or gflops is None:
        return rate / peak.gbytes_s, "memory"
    by_memory = 2 * cost.macs / cost.moved_bytes * peak.gbytes_s
    if by_memory < peak.gflops:
        return gflops / by_memory, "memory"
    return gflops / peak.gflops, "compute"


def _peak(device: str | None, run: RunOptions, facts: DeviceFacts, progress: Progress) -> Peak:
    """What ncnn reaches on two models made for it: a deep 1x1 convolution, and an elementwise layer over more than the
    caches hold (on a virtual device smaller ones: its figures say nothing anyway)."""
    from mobilekit.report.profile import Peak

    if not facts.virtual:
        run = replace(run, iterations=max(run.iterations, _PEAK_ITERATIONS))
    size, channels = (14, 64) if facts.virtual else (28, 512)
    progress.step("measuring what the device can do")
    convolution = _fastest(_convolution(channels, size), "Convolution", device, run)
    width = 64 if facts.virtual else 256
    elementwise = _fastest(_elementwise(width, width), "UnaryOp", device, run)
    return Peak(
        gflops=2 * channels * channels * size * size / convolution,
        gbytes_s=2 * 4 * width * width * width / elementwise,
    )


def _fastest(model: ModelProto, kind: str, device: str | None, run: RunOptions) -> float:
    """The least time in ns of the layer of type ``kind``."""
    import numpy as np
    import onnx

    from mobilekit.bundle import open_bundle
    from mobilekit.pipeline.export import ExportOptions, export_model

    with tempfile.TemporaryDirectory(prefix="mobilekit-peak-") as folder:
        onnx.save(model, f"{folder}/peak.onnx")
        export_model(f"{folder}/peak.onnx", f"{folder}/peak", ExportOptions(verify=False))
        opened = open_bundle(Path(folder) / "peak")
        tensors = {info.name: np.ones(info.shape, np.float32) for info in opened.manifest.inputs}
        with open_timed(opened, device) as (runner, _):
            found: RunResult = runner.run(tensors, replace(run, layer_times=True))
    return max(1.0, min(time.min_ns for time in found.layers if time.type == kind))


def _convolution(channels: int, size: int) -> ModelProto:
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(0).standard_normal((channels, channels, 1, 1)).astype(np.float32)
    shape = [1, channels, size, size]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    graph = helper.make_graph(nodes, "peak", ends[:1], ends[1:], [numpy_helper.from_array(weight, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _elementwise(channels: int, size: int) -> ModelProto:
    """A small input is enlarged on the device, so that little is sent, and shrunk again before it comes back."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    scales = numpy_helper.from_array(np.array([1, 1, size, size], np.float32), "scales")
    nodes = [
        helper.make_node("Resize", ["x", "", "scales"], ["large"], mode="nearest"),
        helper.make_node("Abs", ["large"], ["same"]),
        helper.make_node("GlobalAveragePool", ["same"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 1, 1]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "peak", ends[:1], ends[1:], [scales])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
