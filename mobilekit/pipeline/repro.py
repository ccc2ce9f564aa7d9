"""The smallest model that shows a fault: a bundle of its own, cut out of another, with the inputs that show it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mobilekit.errors import UsageError
from mobilekit.paths import atomic_dir

if TYPE_CHECKING:
    from onnx import ModelProto

    from mobilekit.bundle import NcnnArtifact, NcnnBlob
    from mobilekit.graph import Graph, Node, Value
    from mobilekit.pipeline.bisect import Session
    from mobilekit.report.bisection import BisectionReport
    from mobilekit.targets.ncnn.reader import ParamLayer
    from mobilekit.tensors import Array
    from mobilekit.validate.blobnet import Unit

__all__ = ["write_repro"]

_README = """\
The smallest part of {model} that shows the fault, as a bundle of its own.

{sentence}

bundle/source/model.onnx   the ONNX nodes, from the legalised graph
bundle/ncnn/               the ncnn layers and their weights, cut out of the original .param and .bin
inputs/                    what they were fed: the reference's values
expected.npy, actual.npy   what ONNX Runtime and the device made of it (flat, row-major)
repro.json                 the device, the versions and the settings

Run it again, in this folder:
    {command}
"""


def write_repro(session: Session, report: BisectionReport, folder: Path) -> None:
    """Write ``folder``, whole or not at all. Raises :class:`UsageError` where it holds something already, or where the
    layer stands for nodes that ONNX alone cannot express."""
    import numpy as np

    from mobilekit import __version__
    from mobilekit.bundle import Manifest, ModelInfo, TensorInfo, check_outside, sha256_of, write_manifest
    from mobilekit.tensors import save_npy

    assert report.first is not None
    check_outside(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already", hint="give --bundle-repro a folder that is empty or new")
    unit = session.net.units[report.first.blob]
    parents = [session.net.units[blob] for blob in unit.parents]
    proto = _submodel(session, unit, parents)
    values = session.inner.values(session.inputs, list(dict.fromkeys(u.tensor for u in [*parents, unit])))
    expected = session.expected([unit])[unit.blob]
    actual = session.compute_local([unit]).get(unit.blob)
    inputs = {tensor: _as_fed(values[tensor]) for tensor in dict.fromkeys(u.tensor for u in parents)}
    with atomic_dir(folder) as root:
        bundle = root / "bundle"
        (bundle / "source").mkdir(parents=True)
        (bundle / "ncnn").mkdir()
        (bundle / "source" / "model.onnx").write_bytes(proto.SerializeToString())
        output = proto.graph.output[0].name
        artifact = _cut(session, unit, parents, values, bundle / "ncnn", output)
        stem = f"{session.bundle.manifest.model.id}-{unit.rank}"
        manifest = Manifest(
            mobilekit_version=__version__,
            model=ModelInfo(
                id=stem,
                file="source/model.onnx",
                sha256=sha256_of(bundle / "source" / "model.onnx"),
                opset=proto.opset_import[0].version,
                license=session.bundle.manifest.model.license,
            ),
            inputs=tuple(TensorInfo(name=name, dtype=str(a.dtype), shape=a.shape) for name, a in inputs.items()),
            outputs=(TensorInfo(name=output, dtype="float32", shape=values[unit.tensor].shape),),
            ncnn=artifact,
        )
        write_manifest(bundle, manifest)
        several = len(inputs) > 1
        sample = root / "inputs" / "sample" if several else root / "inputs"
        sample.mkdir(parents=True)
        for name, array in inputs.items():
            save_npy(sample / (_file(name) if several else "sample.npy"), array)
        save_npy(root / "expected.npy", expected)
        if actual is not None:
            save_npy(root / "actual.npy", np.ascontiguousarray(actual).reshape(-1))
        command = f"mobilekit validate bundle --inputs inputs --device {report.device.serial}"
        command += f" --precision {report.precision}" if report.precision in ("fp32", "fp16") else ""
        command += " --vulkan" if session.run.vulkan else ""
        facts = {
            "command": command,
            "mobilekit_version": __version__,
            "precision": report.precision,
            "threads": session.run.threads,
            "device": report.device.model_dump(mode="json"),
            "reference": report.reference.model_dump(mode="json"),
            "model_sha256": report.model_sha256,
            "suspect": report.first.model_dump(mode="json"),
        }
        (root / "repro.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        text = _README.format(model=report.model, sentence=report.sentence, command=command)
        (root / "README.txt").write_text(text, encoding="utf-8")


def _file(name: str) -> str:
    return name.replace("/", "_").replace(":", "_") + ".npy"


def _as_fed(array: Array) -> Array:
    """What a float input of the cut model takes: float32, as the converter made all floats."""
    return array.astype("float32") if array.dtype.kind == "f" else array


# ONNX


def _submodel(session: Session, unit: Unit, parents: Sequence[Unit]) -> ModelProto:
    """The nodes of the legalised graph between ``parents`` and ``unit``."""
    from mobilekit.graph import Graph, Node, Value
    from mobilekit.importers.convert import to_proto
    from mobilekit.passes.bounds import DOMAIN

    graph = session.inner.graph
    values = {value.name: value for value in graph.values()} if graph is not None else {}
    if graph is None or unit.tensor not in values or any(parent.tensor not in values for parent in parents):
        raise UsageError(
            "no reproduction can be written: the graph that the layer was made from cannot be made again",
            hint="export the model again with this mobilekit",
        )
    begin = {parent.tensor for parent in parents}
    nodes = _between(graph, values[unit.tensor], begin)
    if any(node.domain == DOMAIN for node in nodes):
        raise UsageError("no reproduction can be written: ONNX has no such operator as our own layer computes")
    cut = Graph("repro", {"": graph.opset})
    known: dict[str, Value] = {}

    def copy(value: Value) -> Value:
        if value.name not in known:
            cut.register(value.name)
            const = None if value.name in begin else value.const
            known[value.name] = Value(value.name, value.dtype, value.shape, const=const)
        return known[value.name]

    cut.inputs = [copy(values[name]) for name in dict.fromkeys(parent.tensor for parent in parents)]
    for node in nodes:
        inputs = [None if value is None else copy(value) for value in node.inputs]
        outputs = [None if value is None else copy(value) for value in node.outputs]
        cut.append(Node(node.name, node.op, inputs, outputs, dict(node.attrs), node.domain))
    result = copy(values[unit.tensor])
    if unit.tensor in begin:  # another view of the same elements
        again = Value(cut.fresh(f"{unit.tensor}/again"), result.dtype, result.shape)
        cut.append(Node("again", "Identity", [result], [again]))
        result = again
    cut.outputs = [result]
    return to_proto(cut)


def _between(graph: Graph, last: Value, begin: set[str]) -> list[Node]:
    wanted: set[int] = set()
    pending = [last]
    while pending:
        value = pending.pop()
        node = value.producer
        if value.name in begin or node is None or id(node) in wanted:
            continue
        wanted.add(id(node))
        pending += [read for read in node.inputs if read is not None]
    return [node for node in graph.nodes if id(node) in wanted]


# ncnn


def _cut(
    session: Session,
    unit: Unit,
    parents: Sequence[Unit],
    values: Mapping[str, Array],
    folder: Path,
    output: str,
) -> NcnnArtifact:
    """Write ``model.param``, ``model.bin`` and ``trace.json`` of the layers of ``unit``; the manifest's entry."""
    from mobilekit.targets.ncnn.layout import kept_axes
    from mobilekit.targets.ncnn.reader import write_layers
    from mobilekit.targets.ncnn.trace import TRACE, Trace, TracedBlob

    layers, first = _wired(session, unit, parents)
    write_layers(layers, folder / "model.param")
    names = {layer.name for layer in unit.layers}
    sizes = {name: each for name, each in session.trace.weights.items() if name in names}
    _copy_weights(session, unit.layers, folder / "model.bin")
    blobs = {parent.blob: TracedBlob(parent.tensor, parent.dims) for parent in parents}
    Trace({**blobs, unit.blob: TracedBlob(output, unit.dims)}, sizes).write(folder / TRACE)
    given = {info.blob: info.kind for info in session.artifact.inputs}

    def info(tensor: str, blob: str, of: Unit) -> NcnnBlob:
        from mobilekit.bundle import NcnnBlob

        axes = kept_axes(values[of.tensor].shape, of.dims)
        kind = given.get(of.blob, "float32")
        return NcnnBlob(tensor=tensor, blob=blob, axes=axes or (), kind=kind, dims=of.dims if axes is None else None)

    int8 = session.artifact.int8
    scales = {name: scale for name, scale in session.artifact.int8_scales.items() if name in names}
    return replace(
        session.artifact,
        precision="fp32" if int8 is not None and not scales else session.artifact.precision,
        int8=replace(int8, scales=scales, kept={}) if int8 is not None and scales else None,
        inputs=tuple(info(parent.tensor, parent.blob, parent) for parent in first),
        outputs=(info(output, unit.blob, unit),),
        layers=len(layers),
        depth=len(layers),
        custom_layers=tuple(sorted({layer.type for layer in unit.layers} & set(session.artifact.custom_layers))),
        batch=None,
        names={},
        nodes={
            label: kept
            for label, made in session.artifact.nodes.items()
            if (kept := tuple(name for name in made if name in names))
        },
    )


def _wired(session: Session, unit: Unit, parents: Sequence[Unit]) -> tuple[list[ParamLayer], list[Unit]]:
    """The layers with an ``Input`` for each tensor (``Reshape`` for its other views) and a ``Split`` where a blob has
    several readers; the units that are inputs."""
    from mobilekit.targets.ncnn.reader import ParamLayer

    aliases = session.net.aliases
    head: list[ParamLayer] = []
    first: dict[str, Unit] = {}
    reads: list[str] = []
    for parent in parents:
        sizes = tuple(zip(_SIZE_IDS[len(parent.dims)], map(str, parent.dims), strict=True))
        if parent.tensor not in first:
            first[parent.tensor] = parent
            head.append(ParamLayer("Input", f"input/{parent.blob}", (), (parent.blob,), _sorted(sizes)))
        else:
            source = first[parent.tensor].blob
            reads.append(source)
            head.append(ParamLayer("Reshape", f"view/{parent.blob}", (source,), (parent.blob,), _sorted(sizes)))
    body = [replace(layer, inputs=tuple(aliases.get(blob, blob) for blob in layer.inputs)) for layer in unit.layers]
    reads += [blob for layer in body for blob in layer.inputs]
    wired: list[ParamLayer] = []
    copies: dict[str, list[str]] = {}
    for layer in [*head, *body]:
        inputs = tuple(copies[blob].pop() if copies.get(blob) else blob for blob in layer.inputs)
        wired.append(replace(layer, inputs=inputs))
        for blob in layer.outputs:
            count = reads.count(blob)
            if count > 1:
                copies[blob] = [f"{blob}/copy{index}" for index in range(count)]
                wired.append(ParamLayer("Split", f"split/{blob}", (blob,), tuple(copies[blob]), ()))
    return wired, list(first.values())


_SIZE_IDS = {1: (0,), 2: (1, 0), 3: (2, 1, 0), 4: (2, 11, 1, 0)}
"""Of ``Input`` and ``Reshape``: the ids of c, d, h and w, for dims that stand outermost first."""


def _sorted(params: tuple[tuple[int, str], ...]) -> tuple[tuple[int, str], ...]:
    return tuple(sorted(params))


def _copy_weights(session: Session, layers: Sequence[ParamLayer], path: Path) -> None:
    wanted = {layer.name for layer in layers}
    source = session.bundle.root / session.artifact.bin
    with source.open("rb") as old, path.open("wb") as new:
        for layer in session.layers:
            size = sum(session.trace.weights.get(layer.name, ()))
            if layer.name in wanted:
                new.write(old.read(size))
            else:
                old.seek(size, 1)
