"""Models made of the one a plan is built from, to look inside: with more outputs, or cut apart; and who runs them."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mobilekit.progress import SILENT, Progress
from mobilekit.runners.base import RunOptions

if TYPE_CHECKING:
    import onnx

    from mobilekit.bundle import Bundle, TensorRTArtifact
    from mobilekit.runners.base import Runner
    from mobilekit.targets.tensorrt import TensorRTOptions
    from mobilekit.targets.tensorrt.host import WorkerHost
    from mobilekit.targets.tensorrt.runner import PlanRunner
    from mobilekit.tensors import Array, NamedTensors
    from mobilekit.validate.blobnet import BlobNet, Unit

__all__ = ["Marked", "Prepared", "build_marked", "exact_model", "executor", "options_of"]

_MARK = "/seen"
_NODE = "Node"


class Marked(Protocol):
    """``model``: the file to make others of; ``typed``: what the plan is built from, whose tensors have its types."""

    model: Path
    typed: Path

    def run(
        self, proto: onnx.ModelProto, inputs: Mapping[str, Array], timeout_s: float, *, whole: bool
    ) -> NamedTensors:
        """The outputs that were marked, by tensor. ``whole``: it has the inputs of the bundle's model."""
        ...


def executor(
    bundle: Bundle, artifact: TensorRTArtifact, runner: Runner, folder: Path, progress: Progress = SILENT
) -> Marked:
    """For where ``runner`` runs the plan."""
    from mobilekit.targets.tensorrt.runner import PlanRunner

    if isinstance(runner, PlanRunner):
        return _OnGpu(bundle, artifact, runner, folder, progress)
    return _InOnnxRuntime(bundle, artifact, folder)


class _InOnnxRuntime:
    def __init__(self, bundle: Bundle, artifact: TensorRTArtifact, folder: Path) -> None:
        from mobilekit.pipeline.tensorrt import runnable

        self.typed = bundle.root / artifact.onnx
        self.model = runnable(self.typed, artifact.precision, folder)
        self._folder = folder

    def run(
        self, proto: onnx.ModelProto, inputs: Mapping[str, Array], timeout_s: float, *, whole: bool
    ) -> NamedTensors:
        from mobilekit.runners.ort import OrtRunner

        del whole
        path = _saved(proto, self._folder / "marked")
        with OrtRunner(path, optimise=False) as runner:
            return _seen(runner.run(inputs, RunOptions(timeout_s=timeout_s)).outputs)


class _OnGpu:
    """Each model becomes a plan. Marking a tensor ends the fusions across it: a fault of a fusion can vanish so."""

    def __init__(
        self, bundle: Bundle, artifact: TensorRTArtifact, runner: PlanRunner, folder: Path, progress: Progress
    ) -> None:
        self.model = self.typed = bundle.root / artifact.onnx
        self._artifact, self._runner, self._folder, self._progress = artifact, runner, folder, progress
        self._count = 0

    def run(
        self, proto: onnx.ModelProto, inputs: Mapping[str, Array], timeout_s: float, *, whole: bool
    ) -> NamedTensors:
        from mobilekit.targets.tensorrt.host import LocalHost
        from mobilekit.targets.tensorrt.runner import GpuOptions, PlanRunner

        self._count += 1
        host, gpu = self._runner.place
        root = self._folder / f"plan{self._count}"
        artifact = build_marked(
            proto, root, self._artifact, whole=whole, progress=self._progress,
            host=None if isinstance(host, LocalHost) else host,
        )  # fmt: skip
        with PlanRunner(root, artifact, host, gpu, GpuOptions(cuda_graph=False), self._progress) as runner:
            return _seen(runner.run(inputs, RunOptions(timeout_s=timeout_s)).outputs)


def build_marked(
    proto: onnx.ModelProto,
    root: Path,
    artifact: TensorRTArtifact,
    *,
    whole: bool,
    host: WorkerHost | None = None,
    progress: Progress = SILENT,
) -> TensorRTArtifact:
    """A plan of ``proto`` below ``root``, built as ``artifact`` was."""
    from mobilekit.targets.tensorrt import MODEL, build
    from mobilekit.targets.tensorrt.flavour import FLAVOURS

    options = replace(options_of(artifact), precision=artifact.precision)
    if not whole:
        options = replace(options, profiles={})
    _saved(proto, root / Path(MODEL).parent)
    return build(root, FLAVOURS[artifact.flavour], options, host, progress)


def exact_model(bundle: Bundle, artifact: TensorRTArtifact, folder: Path) -> Path:
    """The prepared model in float32, made again from the original."""
    from mobilekit.importers.onnx import load
    from mobilekit.passes.precision import single_precision
    from mobilekit.pipeline.tensorrt import exact_graph, write_model
    from mobilekit.precision.quantise import is_quantised

    shapes = {info.name: info.shape for info in bundle.manifest.inputs if info.name not in artifact.profiles}
    source = load(bundle.source, bundle.fixed())
    path = folder / "exact.onnx"
    graph = exact_graph(source, shapes, options_of(artifact).profiles)
    if not is_quantised(graph):
        single_precision(graph)
    write_model(graph, path)
    return path


def options_of(artifact: TensorRTArtifact) -> TensorRTOptions:
    """Those that the plan was built with, but for the number format."""
    from mobilekit.targets.tensorrt import TensorRTOptions
    from mobilekit.targets.tensorrt.prepare import Profile

    return TensorRTOptions(
        profiles={name: Profile(*shapes) for name, shapes in artifact.profiles.items()},
        compute_capabilities=artifact.compute_capabilities,
        workspace_bytes=artifact.workspace_bytes,
        optimization_level=artifact.optimization_level,
        flavour=artifact.flavour,
    )


@dataclass(frozen=True)
class Prepared:
    """The model that a plan is built from. ``net``: its tensors that the reference has too, each with the nodes between
    it and those before it; ``operators`` by node name."""

    proto: onnx.ModelProto
    net: BlobNet
    operators: Mapping[str, str]
    _types: Mapping[str, int]
    _formats: Mapping[str, int]
    _nodes: Mapping[str, onnx.NodeProto]

    @classmethod
    def read(cls, path: Path, known: Collection[str], typed: Path | None = None) -> Prepared:
        """``known``: the tensors that the reference has. ``typed``: the model whose types the one at ``path``
        emulates, where it does."""
        import onnx

        from mobilekit.targets.ncnn.reader import ParamLayer
        from mobilekit.targets.ncnn.trace import Trace, TracedBlob
        from mobilekit.validate.blobnet import BlobNet

        proto = onnx.load(str(path))
        graph = proto.graph
        taken: set[str] = set()
        for index, node in enumerate(graph.node):
            node.name = node.name if node.name and node.name not in taken else f"{node.op_type}#{index}"
            taken.add(node.name)
        infos = _infos(proto)
        types = {name: kind.elem_type for name, kind in infos.items()}
        formats = types
        if typed is not None and typed != path:
            # By type alone, which the numbers of the weights have no part in.
            inferred = _infos(onnx.load(str(typed), load_external_data=False))
            formats = {name: kind.elem_type for name, kind in inferred.items()}
        floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
        inputs = [info.name for info in graph.input]
        constants = {tensor.name for tensor in graph.initializer}
        layers = [ParamLayer("Input", name, (), (name,), ()) for name in inputs if name not in constants]
        nodes = {}
        for node in graph.node:
            read = dict.fromkeys(name for name in _reads(node) if name and name not in constants)
            layers.append(ParamLayer(_NODE, node.name, tuple(read), tuple(filter(None, node.output)), ()))
            nodes[node.name] = node
        blobs = {
            name: TracedBlob(name, tuple(axis.dim_value or 1 for axis in infos[name].shape.dim))
            for name in known
            if name in infos and (types[name] in floats or name in inputs)
        }
        operators = {node.name: node.op_type for node in graph.node}
        return cls(proto, BlobNet.of(layers, Trace(blobs, {}), known), operators, types, formats, nodes)

    def with_outputs(self, names: Sequence[str]) -> onnx.ModelProto:
        """The whole model, with ``names`` as outputs besides its own."""
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(self.proto)
        for name in names:
            _mark(model.graph, name, name, self._types[name])
        return model

    def can_be_cut(self, unit: Unit) -> bool:
        """Not where a node with a graph inside reads from outside by name."""
        return all(
            set(_reads(self._nodes[layer.name])) == set(self._nodes[layer.name].input)
            for layer in unit.layers
            if layer.type == _NODE
        )

    def cut(self, units: Sequence[Unit], values: Mapping[str, Array]) -> tuple[onnx.ModelProto, dict[str, Array]]:
        """The nodes of ``units`` alone, every unit a graph of its own in one model, with what they are fed: ``values``
        of their parents, rounded to the types that the tensors have."""
        import numpy as np
        import onnx
        from onnx import helper

        old = self.proto
        graph = onnx.GraphProto(name="apart")
        constants = {tensor.name for tensor in old.graph.initializer}
        used: set[str] = set()
        fed: dict[str, Array] = {}
        arrived: dict[str, str] = {}
        for parent in dict.fromkeys(parent for unit in units for parent in unit.parents):
            array = np.ascontiguousarray(values[parent])
            own = self._types[parent]
            arrived[parent] = given = f"{parent}/given"
            if own == onnx.TensorProto.BFLOAT16:  # numpy has none
                arrived[parent] = f"{parent}/arrived"
                graph.node.append(helper.make_node("Cast", [given], [arrived[parent]], to=own, name=given))
            elif array.dtype.kind == "f":
                for kind in (self._formats.get(parent, own), own):
                    with np.errstate(over="ignore"):
                        array = array.astype(helper.tensor_dtype_to_np_dtype(kind))
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            graph.input.append(helper.make_tensor_value_info(given, kind, array.shape))
            fed[given] = array
        for number, unit in enumerate(units):
            for layer in unit.layers:
                if layer.type != _NODE:
                    continue
                node = copy.deepcopy(self._nodes[layer.name])
                used |= constants & set(_reads(node))
                for index, name in enumerate(node.input):
                    if name and name not in constants:
                        node.input[index] = arrived[name] if name in unit.parents else f"{name}/{number}"
                for index, name in enumerate(node.output):
                    node.output[index] = f"{name}/{number}" if name else ""
                node.name = f"{node.name}/{number}"
                graph.node.append(node)
            _mark(graph, f"{unit.blob}/{number}", unit.blob, self._types[unit.blob])
        graph.initializer.extend(tensor for tensor in old.graph.initializer if tensor.name in used)
        model = helper.make_model(
            graph, opset_imports=old.opset_import, ir_version=old.ir_version, functions=list(old.functions)
        )
        return model, fed


def _infos(proto: onnx.ModelProto) -> dict[str, onnx.TypeProto.Tensor]:
    """Type and shape of every tensor, by name."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(proto).graph
    return {info.name: info.type.tensor_type for info in [*graph.value_info, *graph.input, *graph.output]}


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """What a node reads, graphs inside it included."""
    yield from node.input
    for attribute in node.attribute:
        for graph in [*attribute.graphs, attribute.g] if attribute.g.node else attribute.graphs:
            made = {name for inner in graph.node for name in inner.output} | {info.name for info in graph.input}
            made |= {tensor.name for tensor in graph.initializer}
            for inner in graph.node:
                yield from (name for name in _reads(inner) if name not in made)


def _mark(graph: onnx.GraphProto, name: str, called: str, kind: int) -> None:
    """Give ``name`` out, as it is: behind a Cast to float32 ONNX Runtime would leave the rounding out."""
    import onnx
    from onnx import helper

    seen = f"{called}{_MARK}"
    if kind == onnx.TensorProto.BFLOAT16:
        kind = onnx.TensorProto.FLOAT
        graph.node.append(helper.make_node("Cast", [name], [seen], to=kind, name=seen))
    else:
        graph.node.append(helper.make_node("Identity", [name], [seen], name=seen))
    graph.output.append(helper.make_tensor_value_info(seen, kind, None))


def _seen(outputs: NamedTensors) -> NamedTensors:
    return {
        name.removesuffix(_MARK): array.astype("float32") for name, array in outputs.items() if name.endswith(_MARK)
    }


def _saved(proto: onnx.ModelProto, folder: Path) -> Path:
    import onnx

    from mobilekit.importers.write import LARGE_BYTES

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    for old in folder.glob("model.onnx*"):
        old.unlink()
    size = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    onnx.save_model(proto, str(path), save_as_external_data=size > LARGE_BYTES, location=f"{path.name}.data")
    return path
