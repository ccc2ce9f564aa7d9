"""The walk over a legal graph that turns each node into ncnn layers, or into a finding.

What emitters (``ops/``) write with is imported from here: the parts of a model are those of
:mod:`mobilekit.targets.ncnn.model`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from mobilekit.bundle import MAX_DEPTH, NcnnBlob
from mobilekit.errors import Finding
from mobilekit.passes.bounds import DOMAIN
from mobilekit.passes.evaluate import RANDOM
from mobilekit.precision.small import small_numbers
from mobilekit.targets.ncnn.depth import depth_of
from mobilekit.targets.ncnn.layers import LAYERS, OWN_LAYERS
from mobilekit.targets.ncnn.layout import Dims, Groups, dims_of, kept_axes, match, merged, natural, unique
from mobilekit.targets.ncnn.model import EXACT_INTEGER, Blob, Layer, Model, ParamValue, Weights, as_float, raw, tagged
from mobilekit.targets.ncnn.node import NodeView, Refuse, static_shape
from mobilekit.targets.ncnn.registry import REGISTRY, Entry

if TYPE_CHECKING:
    from mobilekit.graph import Graph, Node, Value
    from mobilekit.tensors import Array

__all__ = [
    "EXACT_INTEGER",
    "Blob",
    "Emission",
    "Layer",
    "Model",
    "ParamValue",
    "Weights",
    "as_float",
    "emit",
    "id_rows",
    "is_table",
    "raw",
    "tagged",
]

_MOST_ELEMENTS = 2**31 - 1
"""ncnn counts them in an ``int``."""
_TAKEN = {"float": frozenset[str](), "exact": frozenset({"int32", "int64"})}
_SAME_ELEMENTS = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
_INTEGERS = frozenset({"int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool"})
_WIDE_INTEGERS = _INTEGERS - {"bool", "int8", "uint8"}
_FLOATS = frozenset({"float16", "float32", "float64"})
_TAKEN["any"] = _INTEGERS | _FLOATS


@dataclass(eq=False, slots=True)
class _Storage:
    """A run of elements and the blobs that show it under different dims; several ONNX tensors may share one."""

    views: dict[Dims, Blob] = field(default_factory=dict)
    const: Array | None = None
    label: str = ""
    kind: Literal["float32", "int32"] = "float32"
    exact: bool = False
    """One of the tensors that share it holds integers."""
    rows: int = 0
    """Of ids: how many rows the smallest table has that they point into."""
    numbers: _Storage | None = None
    """Of ids: the same as float32 numbers, once somebody computes with them."""


class Emission:
    """What an emitter writes to: layers, and which blob holds which ONNX tensor."""

    def __init__(self, graph: Graph, *, stock_only: bool = False) -> None:
        self.graph = graph
        self.stock_only = stock_only
        self.takes_own = not stock_only and DOMAIN in graph.opsets
        """Layers of our own are needed anyway: they may as well do what stock ones do worse."""
        self._layers: list[Layer] = []
        # By the value itself, not its id: constants made on the way are freed, and ids used again.
        self._storages: dict[Value, _Storage] = {}
        self._outputs = {id(value) for value in graph.outputs}
        self._names: set[str] = set()
        self._node: Node | None = None
        self._exact = False
        self._small = small_numbers(graph)
        self._made: dict[str, list[str]] = {}
        self._absorbed: set[int] = set()
        self._counts: dict[str, int] = {}

    # tensors

    def storage(self, value: Value) -> _Storage:
        found = self._storages.get(value)
        if found is None:
            if value.const is None:
                raise Refuse(f"nothing produces {value.name!r}", "repair the model")
            found = self._storages[value] = _Storage(const=value.const, label=value.name)
        return found

    def is_const(self, value: Value) -> bool:
        return value.const is not None

    def dims(self, value: Value) -> Dims:
        """The dims of the blob that ``value`` first had; its natural ones if it is a constant."""
        views = self.storage(value).views
        return next(iter(views)) if views else self.natural_dims(value)

    def natural_dims(self, value: Value) -> Dims:
        """One dim an axis less the batch; one dim for all where that makes more than four."""
        shape = static_shape(value)
        groups = natural(shape)
        return dims_of(shape, groups) if groups else (math.prod(shape),)

    def view(self, value: Value, dims: Dims) -> Blob:
        """``value`` as a blob of ``dims`` (row-major, so exact whatever the dims); a Reshape only where needed."""
        storage = self.storage(value)
        if storage.kind == "int32":
            storage = self._numbers(storage)
        return self._view(storage, dims)

    def _view(self, storage: _Storage, dims: Dims) -> Blob:
        found = storage.views.get(dims)
        if found is not None:
            return found
        if storage.const is not None:
            blob = self.memory(storage.const, dims, storage.label)
        else:
            source = next(iter(storage.views.values()))
            if math.prod(source.dims) != math.prod(dims):
                raise AssertionError(f"{storage.label}: {source.dims} seen as {dims}")
            blob = self.layer("Reshape", [source], dims, **_size(dims))
            blob.holds = source.holds
            self._layers[-1].exact |= storage.exact
        storage.views[dims] = blob
        return blob

    def native(self, value: Value) -> Blob:
        """``value`` in whatever dims it has: for what works element by element."""
        return self.view(value, self.dims(value))

    def ids(self, value: Value) -> Blob | None:
        """A graph input's integers as int32 bits, 1-dim: what Embed reads; ``None`` where they are computed."""
        storage = self.storage(value)
        if storage.kind != "int32":
            return None
        dims = (math.prod(static_shape(value)),)
        if dims not in storage.views:
            storage.views[dims] = self.layer("Reshape", [next(iter(storage.views.values()))], dims, **_size(dims))
            self._layers[-1].exact = True
        return storage.views[dims]

    def _numbers(self, storage: _Storage) -> _Storage:
        """Ids as float32 numbers: each looks itself up in a table of 0, 1, 2, ..."""
        if storage.numbers is None:
            source = next(iter(storage.views.values()))
            count = math.prod(source.dims)
            flat = self.reshape(source, (count,))
            table = np.arange(storage.rows, dtype=np.float32)
            params: dict[str, ParamValue] = {"num_output": 1, "input_dim": storage.rows, "weight_data_size": table.size}
            found = self.layer("Embed", [flat], (count, 1), [Weights((table,), tagged=True, exact=True)], **params)
            for layer in self._layers[-2:]:
                layer.exact |= found in layer.outputs or flat in layer.outputs
            storage.numbers = _Storage({found.dims: found}, label=storage.label, exact=True)
        return storage.numbers

    def bind(self, value: Value, blob: Blob) -> None:
        """``blob`` holds ``value`` from now on."""
        if math.prod(blob.dims) != math.prod(static_shape(value)):
            raise AssertionError(f"{value.name}: {static_shape(value)} bound to {blob.dims}")
        _refuse_huge(blob.dims)
        exact = self._exact or _is_whole(value)
        self._storages[value] = _Storage({blob.dims: blob}, label=value.name, exact=exact)
        if blob.tensor is None:
            blob.tensor = value.name
        blob.holds = blob.holds or value.name

    def alias(self, value: Value, source: Value) -> None:
        """``value`` has the same elements in the same order as ``source`` (Reshape, Identity, ...)."""
        storage = self.storage(source)
        if storage.const is not None:
            storage = _Storage(const=storage.const, label=value.name)
        storage.exact |= _is_whole(value)
        self._storages[value] = storage

    def groups(self, values: Sequence[Value], isolate: Sequence[int] = (), max_dims: int = 4) -> Groups:
        """A grouping that gives each axis of ``isolate`` a dim of its own, for all ``values`` (equal but on those).

        Picks the one that needs the fewest Reshape layers. Refuses where ``max_dims`` dims do not suffice.
        """
        shapes = [static_shape(value) for value in values]
        living = [value for value in values if not self.is_const(value)]
        candidates: list[Groups | None] = []
        for value in living:
            shape = static_shape(value)
            candidates += [match(shape, dims, isolate) for dims in self.storage(value).views]
        candidates += [natural(shapes[0], isolate), merged(shapes[0], isolate)]
        fitting = [groups for groups in unique(candidates) if len(groups) <= max_dims]
        if not fitting:
            raise Refuse(
                f"a tensor of shape {list(shapes[0])} does not fit in ncnn's {max_dims} dims here",
                "merge or split axes in the model so that at most four are in use at once",
            )

        def cost(groups: Groups) -> int:
            return sum(dims_of(static_shape(v), groups) not in self.storage(v).views for v in living)

        return min(fitting, key=cost)

    # layers

    def layer(
        self, kind: str, inputs: Sequence[Blob], dims: Dims, weights: Sequence[Weights] = (), /, **params: ParamValue
    ) -> Blob:
        """Add a layer with one output of ``dims``."""
        return self.layers(kind, inputs, [dims], weights, **params)[0]

    def layers(
        self,
        kind: str,
        inputs: Sequence[Blob],
        dims: Sequence[Dims],
        weights: Sequence[Weights] = (),
        /,
        **params: ParamValue,
    ) -> list[Blob]:
        """Add a layer with an output for each of ``dims``."""
        for name in params:
            if name not in LAYERS[kind]:
                raise AssertionError(f"ncnn's {kind} has no parameter {name!r}")
            _refuse_beyond(f"{kind}'s {name}", params[name], LAYERS[kind][name].kind)
        outputs = [Blob(each) for each in dims]
        label = self._node.label if self._node else "model"
        name = self._fresh(label if not self._made.get(label) else f"{label}/{kind}")
        self._made.setdefault(label, []).append(name)
        self._layers.append(
            Layer(kind, name, list(inputs), outputs, dict(params), tuple(weights), self._exact or kind in OWN_LAYERS)
        )
        return outputs

    def own(
        self,
        kind: str,
        inputs: Sequence[Blob],
        dims: Sequence[Dims],
        weights: Sequence[Weights] = (),
        /,
        **params: ParamValue,
    ) -> list[Blob]:
        """One of our own layers. It takes its inputs in whatever dims they have."""
        if self.stock_only:
            raise Refuse(
                f"only our own layer {kind} does this, and --stock-only leaves it out",
                "export without --stock-only and add our layers to the app: mobilekit harness layers",
            )
        shapes = {f"dims{index}": each for index, each in enumerate(dims) if len(each) > 1}
        return self.layers(kind, inputs, dims, weights, **params, **shapes)

    def _fresh(self, stem: str) -> str:
        name = stem
        while name in self._names:
            self._counts[stem] = self._counts.get(stem, 0) + 1
            name = f"{stem}_{self._counts[stem]}"
        self._names.add(name)
        return name

    def memory(self, array: Array, dims: Dims, label: str = "a constant") -> Blob:
        """A constant as a blob."""
        return self.layer("MemoryData", [], dims, [raw(as_float(array, label).reshape(dims))], **_size(dims))

    def reshape(self, blob: Blob, dims: Dims) -> Blob:
        """``blob`` under other dims, for intermediate results that are no ONNX tensor."""
        return blob if blob.dims == dims else self.layer("Reshape", [blob], dims, **_size(dims))

    def unary(self, kind: str, node: NodeView, **params: ParamValue) -> None:
        """A layer that works element by element on the node's first input."""
        source = self.native(node.input(0))
        self.bind(node.output(), self.layer(kind, [source], source.dims, **params))

    # fusing

    def only_reader(self, value: Value) -> Node | None:
        """The one node that reads ``value``, if there is exactly one, it reads it once, and it is no output."""
        if id(value) in self._outputs or len(value.consumers) != 1:
            return None
        return value.consumers[0]

    def may_absorb(self, node: Node) -> bool:
        """Not where ``node`` has to stay in float32 and what is being emitted has not."""
        return self._exact or id(node) not in self._small

    def absorb(self, node: Node) -> None:
        """``node`` is done by the current node's layers; the walk skips it."""
        self._absorbed.add(id(node))
        assert self._node is not None
        self._made.setdefault(node.label, self._made.setdefault(self._node.label, []))

    # the walk

    def run(self) -> Model:
        findings: list[Finding] = []
        inputs: list[tuple[NcnnBlob, Blob]] = []
        for value in self.graph.inputs:
            self._node = None
            finding, pair = self._input(value)
            if finding:
                findings.append(finding)
            inputs += [pair] if pair else []
        for node in self.graph.nodes:
            if id(node) not in self._absorbed:
                self._node = node
                self._exact = id(node) in self._small or any(
                    _is_whole(value) for value in [*node.inputs, *node.outputs] if value is not None
                )
                findings += self._emit(node)
        self._node, self._exact = None, False
        outputs: list[tuple[NcnnBlob, Blob]] = []
        for value in self.graph.outputs:
            try:
                outputs.append(self._output(value))
            except Refuse as refusal:
                findings.append(Finding(value.name, "Output", refusal.reason, refusal.remedy))
        final = [
            (replace(info, kind=self._storages[value].kind), blob)
            for value, (info, blob) in zip(self.graph.inputs, inputs, strict=False)
        ]
        nodes = {label: tuple(names) for label, names in self._made.items() if label != "model"}
        return Model(tuple(self._layers), tuple(final), tuple(outputs), nodes, tuple(findings), self.graph.rows)

    def _input(self, value: Value) -> tuple[Finding | None, tuple[NcnnBlob, Blob] | None]:
        try:
            shape = static_shape(value)
            if math.prod(shape) == 0:
                raise Refuse("it has no elements", "give it a shape without zeros")
            _refuse_huge(shape)
            dims = self.natural_dims(value)
            if value.dtype not in _FLOATS | _INTEGERS:
                raise Refuse(f"ncnn has no {value.dtype} values", "give the model float32 inputs")
            finding = None
        except Refuse as refusal:
            finding = Finding(value.name, "Input", refusal.reason, refusal.remedy)
        if finding:
            self._placeholder(value)
            return finding, None
        blob = Blob(dims, value.name, value.name)
        self._layers.append(Layer("Input", self._fresh(value.name), [], [blob], _size(dims)))
        storage = self._storages[value] = _Storage({dims: blob}, label=value.name)
        storage.rows, storage.exact = id_rows(value), _is_whole(value)
        storage.kind = "int32" if storage.rows else "float32"
        return None, (_blob_info(value, shape, dims), blob)

    def _output(self, value: Value) -> tuple[NcnnBlob, Blob]:
        shape = static_shape(value)
        storage = self.storage(value)
        fitting = (dims for dims in storage.views if kept_axes(shape, dims) is not None)
        dims = next(fitting, None) or self.natural_dims(value)
        info = _blob_info(value, shape, dims)
        return replace(info, kind=storage.kind), self._view(storage, dims)

    def _emit(self, node: Node) -> list[Finding]:
        view = NodeView(node, self.graph.opsets.get(node.domain, 0))
        findings: list[Finding] = []

        def refuse(reason: str, remedy: str) -> None:
            kind = node.op if node.domain == DOMAIN else node.type_name
            findings.append(Finding(node.label, kind, reason, remedy))

        entry = REGISTRY.find(node.domain, node.op, view.opset)
        if entry is None and not node.domain and node.op in RANDOM:
            refuse(
                "it makes random numbers, so that no two runs agree and nothing can be verified",
                "export the model with the noise as an input or as a constant, or without it",
            )
        elif entry is None:
            refuse(
                "ncnn has no such operator and no exact rewrite is known",
                "replace it in the model, or cut the model before it and compute the rest in the app",
            )
        else:
            try:
                self._check_types(view, entry)
                entry.emit(view, self)
                for phrase in view.unread():
                    refuse(f"its {phrase} is not understood", "remove it from the model if it has no effect")
            except Refuse as refusal:
                refuse(refusal.reason, refusal.remedy or "rewrite this part of the model")
        for value in node.outputs:
            if value is None or value in self._storages or not self._wanted(value):
                continue
            if not findings:
                refuse(f"its output {value.name!r} is not supported", "remove what reads that output")
            self._placeholder(value)
        return findings

    def _wanted(self, value: Value) -> bool:
        """Somebody still to come reads ``value``."""
        return id(value) in self._outputs or any(id(node) not in self._absorbed for node in value.consumers)

    def _placeholder(self, value: Value) -> None:
        """Stand in for a refused node's output, so that the nodes after it are checked too."""
        try:
            dims = self.natural_dims(value)
        except Refuse:
            dims = (1,)
        self._storages[value] = _Storage({dims: Blob(dims, value.name)}, label=value.name)

    def _check_types(self, view: NodeView, entry: Entry) -> None:
        node = view.node
        for value in [*node.inputs, *node.outputs]:
            if value is None or value.const is not None:
                continue
            if not self._wanted(value):
                continue
            if math.prod(static_shape(value)) == 0:
                raise Refuse(f"{value.name!r} has no elements, ncnn has no empty tensors", "remove it from the model")
            dtype = value.dtype or "unknown"
            if dtype == "float32" or dtype in _TAKEN[entry.data]:
                continue
            kind = " and ".join(["float32", *sorted(_TAKEN[entry.data])])
            raise Refuse(f"{value.name!r} is {dtype}; ncnn computes this with {kind} only", "cast it to float32")


def _blob_info(value: Value, shape: Dims, dims: Dims) -> NcnnBlob:
    axes = kept_axes(shape, dims)
    flat = axes is None
    return NcnnBlob(tensor=value.name, blob=value.name, axes=axes or (), dims=dims if flat else None)


def _is_whole(value: Value) -> bool:
    """Computed integers; booleans and bytes are exact in half precision too."""
    return value.const is None and value.dtype in _WIDE_INTEGERS


def id_rows(value: Value) -> int:
    """Rows of the smallest constant table into which ``value``, an integer input, points as it is; 0 if none."""
    rows: list[int] = []
    pending = [value]
    while pending:
        current = pending.pop()
        if current.dtype not in _INTEGERS:
            continue
        for node in current.consumers:
            if node.domain or not node.outputs or node.outputs[0] is None:
                continue
            if node.op == "Gather" and len(node.inputs) == 2 and node.inputs[1] is current:
                table = node.inputs[0]
                if table is not None and table.const is not None and is_table(table.const, node.attrs.get("axis", 0)):
                    rows.append(int(table.const.shape[0]))
            elif node.op in _SAME_ELEMENTS and node.inputs[0] is current:
                pending.append(node.outputs[0])
    return min(rows, default=0)


def is_table(array: Array, axis: int) -> bool:
    """Embed's kind of table: float rows along the first axis."""
    return axis in (0, -array.ndim) and array.ndim >= 2 and array.dtype.kind == "f"


def _refuse_huge(dims: Sequence[int]) -> None:
    if math.prod(dims) > _MOST_ELEMENTS:
        raise Refuse(f"a tensor of {math.prod(dims)} elements is more than ncnn can index", "use smaller shapes")


def _refuse_beyond(what: str, value: ParamValue, kind: str) -> None:
    """ncnn's parameters are 32-bit integers and finite float32 numbers."""
    top = float(np.finfo(np.float32).max) if kind in ("float", "floats") else 2**31 - 1
    for item in value if isinstance(value, Sequence) else (value,):
        if not isinstance(item, str) and not -top <= item <= top:
            raise Refuse(f"ncnn cannot hold {what}: {item}", "use smaller numbers in the model")


def emit(graph: Graph, *, stock_only: bool = False) -> Model:
    """Walk ``graph``; never raises for what it cannot take, but lists it in ``findings``."""
    import mobilekit.targets.ncnn.ops  # noqa: F401 - fills the registry

    model = Emission(graph, stock_only=stock_only).run()
    depth = depth_of(model.layers, [blob for _, blob in model.outputs])
    if depth <= MAX_DEPTH:
        return model
    too_deep = Finding(
        model.outputs[0][0].tensor if model.outputs else graph.name,
        "Output",
        f"{depth} layers stand one behind another; ncnn recurses once for each, and up to {MAX_DEPTH} were tried",
        "split the model in two and run one after the other",
    )
    return replace(model, findings=(*model.findings, too_deep))


def _size(dims: Dims) -> dict[str, ParamValue]:
    names = {1: ("w",), 2: ("h", "w"), 3: ("c", "h", "w"), 4: ("c", "d", "h", "w")}[len(dims)]
    return dict(zip(names, dims, strict=True))
