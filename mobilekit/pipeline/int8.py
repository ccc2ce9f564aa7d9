"""int8 for ncnn: calibrated, each layer tried by itself, written into the model; and what such a bundle must answer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mobilekit.errors import Finding, ModelError, UnsupportedModelError, UsageError
from mobilekit.paths import Scratch
from mobilekit.progress import Progress

if TYPE_CHECKING:
    from mobilekit.bundle import Bundle, NcnnInt8, TensorInfo
    from mobilekit.graph import Graph
    from mobilekit.preprocess import Preprocess
    from mobilekit.targets.ncnn.emit import Model
    from mobilekit.tensors import Array
    from mobilekit.validate.int8 import Shapes
    from mobilekit.validate.rounding import Costs, NumberFormat

__all__ = ["Calibration", "check_calibration", "cost_of", "in_int8", "legal_graph", "node_scales"]

_WORST_LOCAL = 0.25
"""A layer that loses more than this by itself, in relative L2, stays float: int8 has no room for its values."""
_SLOWER = "convolutions of groups are slower in int8 than in float (--int8-depthwise)"
_TRIED = 8
"""Samples on which that is measured."""
_LARGEST_BYTES = 1_900_000_000
"""A model with its weights must fit in one message of 2 GB."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """``folder``: pictures or ``.npy`` files; ``method``: a key of :data:`~mobilekit.precision.quantise.METHODS`.
    ``depthwise``: ncnn's depthwise and grouped convolutions in int8, too: smaller, and slower (docs/int8.md)."""

    folder: Path | None
    method: str = "minmax"
    depthwise: bool = False


def check_calibration(calibration: Calibration | None) -> Calibration:
    """What can be said before any work is done. Raises :class:`UsageError`."""
    from mobilekit.precision.ranges import check_method

    if calibration is None or calibration.folder is None:
        raise UsageError(
            "int8 takes its ranges from real inputs",
            hint="--calib DIR with pictures, .npy files or folders of them; a few hundred are usual",
        )
    check_method(calibration.method)
    if not calibration.folder.is_dir():
        raise UsageError(
            f"there is no folder {calibration.folder} to calibrate with",
            hint="--calib takes a folder of pictures or .npy files",
        )
    return calibration


def in_int8(
    graph: Graph,
    model: Model,
    inputs: Sequence[TensorInfo],
    calibration: Calibration,
    preprocess: Preprocess | None,
    progress: Progress,
) -> tuple[Model, NcnnInt8]:
    """``model``, emitted from ``graph``, with its heavy layers in int8, and what the manifest says of that; layers have
    the names that they have in ``model``.

    ``inputs`` are those of the graph. Raises :class:`UnsupportedModelError` where no layer can be int8,
    :class:`UsageError` for inputs that do not fit, and what calibrating raises.
    """
    from mobilekit.bundle import NcnnInt8
    from mobilekit.precision.int8 import scale_of
    from mobilekit.precision.ranges import ranges_of
    from mobilekit.targets.ncnn.int8 import candidates, with_int8
    from mobilekit.validate.inputs import file_samples

    found = candidates(graph, model)
    if not found:
        raise UnsupportedModelError(
            "no layer of this model can be int8; nothing was written",
            findings=[
                Finding(
                    graph.name,
                    "model",
                    "ncnn has int8 for 2-D convolutions and products of one row, with constant weights; it has none",
                    "export it with --precision fp16",
                )
            ],
        )
    assert calibration.folder is not None
    progress.step("calibrating for int8")
    digest = hashlib.sha256()
    count = 0

    def seen() -> Iterator[Mapping[str, Array]]:
        nonlocal count
        from mobilekit.tensors import digest_of

        assert calibration.folder is not None
        for sample in file_samples(calibration.folder, inputs, preprocess=preprocess):
            digest.update(digest_of(sample.tensors).encode())
            count += 1
            yield sample.tensors

    with Scratch("int8") as folder:
        tensors = sorted({each.tensor for each in found})
        exact = folder / "model.onnx"
        _write(_up_to(graph, tensors), exact)
        ranges = ranges_of(exact, seen(), tensors, method=calibration.method)
    scales = {each.node.label: scale_of(*ranges.get(each.tensor, (0.0, 0.0))) for each in found}
    kept = {label: "it reads nothing but zeros, or what is not finite" for label, scale in scales.items() if not scale}
    if not calibration.depthwise:
        grouped = [each.node.label for each in found if each.layer.type == "ConvolutionDepthWise"]
        kept |= {label: _SLOWER for label in grouped if label not in kept}
    scales = {label: scale for label, scale in scales.items() if label not in kept}
    progress.step("trying each layer in int8")
    some = file_samples(calibration.folder, inputs, preprocess=preprocess)
    lost = _local_errors(graph, scales, [sample.tensors for sample, _ in zip(some, range(_TRIED), strict=False)])
    kept |= {
        label: f"int8 alone would cost it relative L2 {error:.2g}"
        for label, error in lost.items()
        if not error <= _WORST_LOCAL
    }
    layers = {each.node.label: each.layer.name for each in found}
    chosen = {layers[label]: scale for label, scale in scales.items() if label not in kept}
    if lossy := {label: why for label, why in kept.items() if why != _SLOWER}:
        progress.note(f"{len(lossy)} of {len(found)} layers that could be int8 stay float: {_listed(lossy)}")
    if not chosen:
        raise UnsupportedModelError(
            "no layer of this model keeps its values in int8; nothing was written",
            findings=[Finding(label, "model", reason, "other calibration inputs") for label, reason in kept.items()],
        )
    record = NcnnInt8(
        scales=chosen,
        kept={layers[label]: reason for label, reason in kept.items()},
        method=calibration.method,
        samples=count,
        inputs_sha256=digest.hexdigest(),
    )
    return with_int8(model, chosen), record


def _listed(kept: Mapping[str, str]) -> str:
    some = [f"{label} ({reason})" for label, reason in list(kept.items())[:3]]
    return "; ".join([*some, *(["..."] if len(kept) > 3 else [])])


def _copy(graph: Graph) -> Graph:
    """Another graph with the same constants."""
    from mobilekit.importers.convert import from_proto, to_proto
    from mobilekit.passes.infer import infer

    made = from_proto(to_proto(graph), Path())
    infer(made)
    return made


def _up_to(graph: Graph, tensors: Sequence[str]) -> Graph:
    """A copy that ends at ``tensors``: what stands behind them may be operators that ONNX Runtime does not know."""
    made = _copy(graph)
    inputs = {value.name for value in made.inputs}
    ends = [value for value in made.values() if value.name in tensors and value.name not in inputs]
    made.outputs = ends or made.outputs
    made.prune()
    return made


def _local_errors(
    graph: Graph, scales: Mapping[str, float], samples: Sequence[Mapping[str, Array]]
) -> dict[str, float]:
    """By node, the relative L2 that int8 costs it on exact inputs, over all samples."""
    import math

    from mobilekit.precision.int8 import add_costs
    from mobilekit.runners.base import RunOptions
    from mobilekit.runners.ort import OrtRunner

    if not scales:
        return {}
    own = _copy(graph)
    twins = add_costs(own, scales)
    sums: dict[str, float] = {}
    with Scratch("int8") as folder:
        path = folder / "twins.onnx"
        _write(own, path)
        with OrtRunner(path, optimise=False) as runner:
            for sample in samples:
                answer = runner.run(sample, RunOptions()).outputs
                for name, array in answer.items():
                    sums[name] = sums.get(name, 0.0) + float(array)
    return {
        label: math.sqrt(sums[error] / sums[signal]) if sums[signal] > 0 else 0.0
        for label, (error, signal) in twins.items()
    }


def _write(graph: Graph, path: Path) -> None:
    import onnx

    from mobilekit.importers.convert import to_proto

    size = sum(value.const.nbytes for value in graph.values() if value.const is not None)
    if size > _LARGEST_BYTES:
        raise ModelError(f"with {size / 1e9:.1f} GB of weights the model is too large for int8 to be calibrated")
    onnx.save(to_proto(graph), path)


def cost_of(bundle: Bundle, form: NumberFormat, *, cache: bool = True) -> AbstractContextManager[Costs]:
    """What ``form`` costs on ``bundle``: a context manager. ``cache`` is for formats that are no int8."""
    from mobilekit.validate.int8 import Int8Cost
    from mobilekit.validate.rounding import RoundingCost

    if form.weights != "int8":
        return RoundingCost(bundle, form, cache=cache)
    return Int8Cost(lambda folder, shapes: _write_emulated(bundle, folder, shapes), form)


def _write_emulated(bundle: Bundle, folder: Path, shapes: Shapes) -> tuple[Path, Path]:
    """The bundle's legalised graph, made again, as it is and with its int8 layers emulated."""
    from mobilekit.precision.int8 import fake_quantise

    exact, emulated = folder / "exact.onnx", folder / "emulated.onnx"
    graph = legal_graph(bundle, shapes, whole=True)
    _write(graph, exact)
    fake_quantise(graph, node_scales(bundle, graph))
    _write(graph, emulated)
    return exact, emulated


def legal_graph(bundle: Bundle, shapes: Shapes, *, whole: bool) -> Graph:
    """The graph that ``bundle`` was converted from, for inputs of ``shapes``; ``whole``: with its batch.

    Raises :class:`ModelError` where it cannot be made again.
    """
    from mobilekit.importers.onnx import load
    from mobilekit.pipeline.intermediates import remake
    from mobilekit.targets.ncnn.trace import read_trace

    artifact = bundle.manifest.ncnn
    source = replace(load(bundle.source, bundle.fixed()), fake_quant=bundle.manifest.fake_quant)
    trace = read_trace(bundle.root / artifact.trace) if artifact is not None and artifact.trace else None
    wanted = sorted({blob.tensor for blob in trace.blobs.values()}) if trace is not None else []
    graph = remake(bundle, source, wanted, shapes, whole=whole)
    if graph is None:
        raise ModelError("the converted graph cannot be made again", hint="export the model again")
    return graph


def node_scales(bundle: Bundle, graph: Graph) -> dict[str, float]:
    """The scales of the bundle's int8 layers by the node of ``graph`` that each was made of."""
    from mobilekit.precision.int8 import weighs

    artifact = bundle.manifest.ncnn
    if artifact is None or artifact.int8 is None:
        raise UsageError("the bundle has no int8 layers", hint="export with --precision int8")
    heavy = {node.label for node in graph.nodes if weighs(node)}
    made = {layer: label for label, layers in artifact.nodes.items() if label in heavy for layer in layers}
    found: dict[str, float] = {}
    for layer, scale in artifact.int8.scales.items():
        if layer not in made:
            raise ModelError(f"the model, made again, has no node for the layer {layer!r}", hint="export it again")
        found[made[layer]] = scale
    return found
