"""ONNX files: read, checked as far as we rely on them, described."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto

from mobilekit.errors import ModelError
from mobilekit.importers.fixed import fix_values
from mobilekit.importers.located import without_weights
from mobilekit.importers.tensors import ExternalData, dtype_name, tensor_location
from mobilekit.tensors import TensorSpec

if TYPE_CHECKING:
    from mobilekit.tensors import FixedValue, NamedTensors

__all__ = ["OLDEST_OPSET", "SourceModel", "check_names", "default_opset", "load", "spec_of", "symbol"]

OLDEST_OPSET = 7
"""Opset 7 gave ONNX numpy's broadcasting; what came before means other things by the same names."""

_LARGE_BYTES = 16_000_000
"""A file from this size on keeps its weights to itself: they are mapped where they are used."""

_RE_EXPORT = "export the model again from its framework"


@dataclass(frozen=True, slots=True)
class SourceModel:
    """A model file as read. ``inputs`` leave out the weights that old files (IR 3) list as inputs.

    ``external_files`` are the data files beside the model, relative to its folder; ``size_bytes`` counts them too.
    ``proto`` is the parsed model, its external data unread; ``located``: so are large weights that lie in the file
    itself, which then stands as their external data (:mod:`mobilekit.importers.located`). ``fixed`` holds the inputs
    that were given a value: in ``proto`` they are weights. ``fake_quant=False``: a quantised model is to keep the
    digits that it would round.
    """

    path: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    opsets: dict[str, int]
    ir_version: int
    producer: str
    external_files: tuple[str, ...]
    size_bytes: int
    proto: ModelProto = field(repr=False, compare=False)
    fixed: NamedTensors = field(default_factory=dict, repr=False, compare=False)
    fake_quant: bool = True
    located: bool = field(default=False, repr=False, compare=False)

    def whole_proto(self) -> ModelProto:
        """``proto`` with all weights that lie in the model's own file: for who writes it elsewhere, or has it run."""
        if not self.located:
            return self.proto
        whole, data = ModelProto(), ExternalData(self.path.parent)
        whole.CopyFrom(self.proto)
        for tensor in whole.graph.initializer:
            if tensor_location(tensor) == self.path.name:
                tensor.raw_data = bytes(data.bytes(tensor))
                del tensor.external_data[:]
                tensor.ClearField("data_location")
        return whole


def load(path: Path, values: Mapping[str, FixedValue] | None = None) -> SourceModel:
    """Read an ONNX file. Weights in external files are located, not read. ``values`` fixes inputs by name.

    Raises :class:`UsageError` for a value that does not fit its input, :class:`ModelError` where the file is absent,
    not ONNX, damaged, of an opset that is too old or too new, has inputs that are no tensors, or where a data file is
    missing, too short, or out of the model's folder.
    """
    proto, located = _parse(path)
    graph = proto.graph
    check_names(proto.producer_name, proto.producer_version, *(entry.domain for entry in proto.opset_import))
    check_names(*(info.name for infos in (graph.input, graph.output) for info in infos))
    opsets = {_domain(entry.domain): entry.version for entry in proto.opset_import}
    opset = default_opset(proto)
    weights = {tensor.name for tensor in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    inputs = tuple(spec_of(info, "input") for info in graph.input if info.name not in weights)
    outputs = tuple(spec_of(info, "output") for info in graph.output)
    if not outputs:
        raise ModelError(f"{path} has no outputs", hint=_RE_EXPORT)
    for kind, specs in (("input", inputs), ("output", outputs)):
        names = [spec.name for spec in specs]
        if len(set(names)) != len(names):
            raise ModelError(f"{path} has two {kind}s of the same name: {', '.join(names)}", hint=_RE_EXPORT)
    external, size = _external(proto, path, located)
    fixed: NamedTensors = {}
    if values:
        fixed = fix_values(proto, inputs, values)
        inputs = tuple(spec_of(info, "input") for info in proto.graph.input if info.name not in weights)
    return SourceModel(
        path=path,
        inputs=inputs,
        outputs=outputs,
        opset=opset,
        opsets=opsets,
        ir_version=proto.ir_version,
        producer=" ".join(part for part in (proto.producer_name, proto.producer_version) if part),
        external_files=external,
        size_bytes=size,
        proto=proto,
        fixed=fixed,
        located=located > 0,
    )


def _parse(path: Path) -> tuple[ModelProto, int]:
    """The model, and how many of its weights were left in the file."""
    try:
        data, located = _read(path)
    except FileNotFoundError:
        raise ModelError(f"there is no file {path}") from None
    except IsADirectoryError:
        raise ModelError(f"{path} is a folder", hint="give the .onnx file in it") from None
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from None
    if not data:
        raise ModelError(f"{path} is empty", hint="copy it again")
    proto = ModelProto()
    try:
        proto.ParseFromString(data)
        if located and located != sum(_is_in(path, tensor) for tensor in _tensors(proto.graph)):
            # The file names itself as its external data, too: what is whose can no longer be told.
            proto.ParseFromString(path.read_bytes())
            located = 0
    except DecodeError:
        raise ModelError(
            f"{path} is not an ONNX model, or is damaged", hint="copy it again; a .onnx file is wanted"
        ) from None
    # Protobuf takes many a random file for a message of unknown fields.
    if not proto.HasField("graph") or not proto.ir_version or not (proto.graph.node or proto.graph.output):
        raise ModelError(f"{path} is not an ONNX model", hint="a .onnx file is wanted")
    return proto, located


def _read(path: Path) -> tuple[bytes, int]:
    """The file, of a large one without large weights, and how many those are."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size >= _LARGE_BYTES and _can_be_named(path):
            with suppress(OSError):  # a file system that cannot map
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                    found = without_weights(mapped, path.name)
                if found is not None:
                    return found
        return file.read(), 0


def _can_be_named(path: Path) -> bool:
    """Whether ``path`` may be the external data of a model in its folder (a link that leads out of it may not)."""
    try:
        path.name.encode()
        ExternalData(path.parent).path(path.name, "")
    except (ModelError, UnicodeEncodeError):
        return False
    return True


def _is_in(path: Path, tensor: TensorProto) -> bool:
    return tensor.data_location == TensorProto.EXTERNAL and tensor_location(tensor) == path.name


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def default_opset(proto: ModelProto) -> int:
    """The default domain's opset; 7 for an older one all of whose operators mean the same there.

    :class:`ModelError` where it is older and they do not, or newer than onnx knows.
    """
    version = next((entry.version for entry in proto.opset_import if _domain(entry.domain) == ""), None)
    if version is None:
        # A model of custom operators, or of local functions only, need not import the default domain.
        version = onnx.defs.onnx_opset_version() if proto.opset_import else 1
    if version < OLDEST_OPSET and _unchanged(proto.graph, version):
        return OLDEST_OPSET
    if version < OLDEST_OPSET:
        raise ModelError(
            f"the model is of ONNX opset {version}; the oldest that can be read is {OLDEST_OPSET}",
            hint="convert it with onnx.version_converter, or export it again with a newer opset",
        )
    newest = onnx.defs.onnx_opset_version()
    if version > newest:
        raise ModelError(
            f"the model is of ONNX opset {version}; the installed onnx {onnx.__version__} knows up to {newest}",
            hint="pip install --upgrade onnx, or export the model with an older opset",
        )
    return int(version)


def _unchanged(graph: GraphProto, version: int) -> bool:
    """Whether every operator in ``graph`` is the same in opset ``version`` as in the oldest that we read."""
    pending = [graph]
    while pending:
        for node in pending.pop().node:
            try:
                known = [onnx.defs.get_schema(node.op_type, v, node.domain) for v in (version, OLDEST_OPSET)]
            except onnx.defs.SchemaError:
                return False
            if known[0].since_version != known[1].since_version:
                return False
            pending += [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return True


def spec_of(info: ValueInfoProto, kind: str) -> TensorSpec:
    """Name, dtype and shape of a graph input or output. :class:`ModelError` where it is not a plain tensor."""
    which = info.type.WhichOneof("value")
    if which not in ("tensor_type", None):
        what = str(which).removesuffix("_type").replace("_", " ")
        raise ModelError(
            f"{kind} {info.name!r} is a {what}; only tensors can be given to a device",
            hint="export the model with tensors as its inputs and outputs",
        )
    tensor = info.type.tensor_type
    if which is None or not tensor.elem_type:
        if kind == "input":
            raise ModelError(f"input {info.name!r} has no element type", hint=_RE_EXPORT)
        return TensorSpec(info.name, "", ())
    shape: list[int | str | None] = []
    for dim in tensor.shape.dim:
        if dim.HasField("dim_value") and dim.dim_value >= 0:
            shape.append(int(dim.dim_value))
        else:
            shape.append(symbol(dim.dim_param))
    return TensorSpec(info.name, dtype_name(tensor.elem_type), tuple(shape))


def check_names(*names: str | bytes) -> None:
    """:class:`ModelError` for a name that is not UTF-8 (protobuf hands those on as bytes)."""
    for name in names:
        if not isinstance(name, str):
            raise ModelError(
                f"the model holds a name that is not UTF-8: {name!r}", hint="the file is damaged: copy it again"
            )


def symbol(name: str) -> str | None:
    """A symbolic axis's name; ``None`` for those that exporters give to axes they know nothing about."""
    check_names(name)
    return None if name in ("", "?", "-1", "None") else name


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Every tensor of a graph, those in attributes and subgraphs too."""
    pending = [graph]
    while pending:
        current = pending.pop()
        yield from current.initializer
        for sparse in current.sparse_initializer:
            yield sparse.values
            yield sparse.indices
        for node in current.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.TENSOR:
                    yield attribute.t
                elif attribute.type == onnx.AttributeProto.TENSORS:
                    yield from attribute.tensors
                elif attribute.type == onnx.AttributeProto.GRAPH:
                    pending.append(attribute.g)
                elif attribute.type == onnx.AttributeProto.GRAPHS:
                    pending.extend(attribute.graphs)


def _external(proto: ModelProto, path: Path, located: int) -> tuple[tuple[str, ...], int]:
    data = ExternalData(path.parent)
    locations: dict[str, int] = {}
    for tensor in _tensors(proto.graph):
        location = tensor_location(tensor)
        if location:
            if location not in locations:
                locations[location] = data.path(location, tensor.name).stat().st_size
            data.bytes(tensor)
    if located:
        del locations[path.name]
    return tuple(sorted(locations)), path.stat().st_size + sum(locations.values())
