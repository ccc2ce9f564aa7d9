"""One ncnn model for many input sizes, from the static models of some of them.

The same graph is emitted at several sizes. What comes out must be the same layers, wired alike, with the same
weights; a number that differs between them is one that ncnn has to compute from a size, which Reshape, Crop, Slice
and Interp can. Whatever else differs needs a fixed size, and the ONNX node that made the layer is named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mobilekit.errors import Finding
from mobilekit.targets.ncnn.emit import Blob, Layer, Model, ParamValue
from mobilekit.targets.ncnn.fit import Symbol, fit, fit_local, letter
from mobilekit.targets.ncnn.layers import OWN_LAYERS
from mobilekit.targets.ncnn.node import Refuse
from mobilekit.targets.ncnn.tables import memory, tile

if TYPE_CHECKING:
    from mobilekit.graph import Graph
    from mobilekit.tensors import Array

__all__ = ["Case", "Cut", "Sized", "unify"]

_REMEDY = "export without --dynamic, or choose a --dynamic-shape that leaves this size fixed"
_TO_END = -233
"""What ncnn's Crop and Slice take for "up to the end"."""
_LONGEST_EXPRESSION = 254
"""``src/paramdict.cpp`` holds 255 characters."""
_LONGEST_AXIS = 1 << 16


@dataclass(frozen=True, slots=True)
class Sized:
    """What the graph became at one size. ``steps`` counts each free axis in its steps; ``label`` is for people."""

    steps: tuple[int, ...]
    label: str
    model: Model


@dataclass(frozen=True, slots=True)
class Cut:
    """What is cut from an axis of ``size`` elements, which does not grow with the input: ``start`` to ``end`` at each
    size looked at. ``finding`` refuses it."""

    size: int
    start: tuple[int, ...]
    end: tuple[int, ...]
    finding: Finding


def unify(sized: Sequence[Sized], symbols: Sequence[Symbol], graph: Graph, *, cuts: list[Cut] | None = None) -> Model:
    """The model that is right at all sizes; its ``findings`` name every node that needs a fixed size.

    ``sized[0]`` is the size that dims are noted for, ``graph`` any of the graphs (for the operators' names).
    ``cuts`` is told of what is cut from tensors that do not grow with the input, so that not every size fits; by
    default that is refused.
    """
    return _Unifier(sized, symbols, graph, cuts).run()


class Case:
    """One layer at every size, and what it can become."""

    remedy = _REMEDY

    def __init__(self, unifier: _Unifier, layers: Sequence[Layer]) -> None:
        self.unifier = unifier
        self.layers = layers
        self.first = layers[0]
        self.sources = [layer.inputs[0].dims if layer.inputs else () for layer in layers]

    def values(self, name: str) -> list[ParamValue | None]:
        return [layer.params.get(name) for layer in self.layers]

    def changed(self) -> list[str]:
        """Parameters whose value is not the same at all sizes."""
        names = dict.fromkeys(name for layer in self.layers for name in layer.params)
        return [name for name in names if any(value != self.first.params.get(name) for value in self.values(name))]

    def says(self, values: Sequence[object]) -> str:
        """``100 at 1x3x320x352, 144 at 1x3x384x416``."""
        seen: dict[str, str] = {}
        for value, each in zip(values, self.unifier.sized, strict=True):
            seen.setdefault(str(value), each.label)
        return ", ".join(f"{value} at {label}" for value, label in list(seen.items())[:3])

    def refuse(self, what: str, values: Sequence[object]) -> Refuse:
        return Refuse(f"it needs a fixed input size: {what} is {self.says(values)}", _REMEDY)

    def numbers(
        self, wanted: Sequence[Sequence[int]], what: str, *, local: bool = True
    ) -> tuple[list[str], list[Blob]]:
        """For each row of ``wanted`` (a number for each size) its expression; the inputs that they read besides.

        ``local``: the layer's own input may be read, too.
        """
        texts: list[str] = []
        sources: list[int] = []
        for values in wanted:
            if len(set(values)) == 1:
                texts.append(str(values[0]))
                continue
            near = fit_local(values, self.sources) if local else None
            if near is not None:
                texts.append(near)
                continue
            found = fit(values, [each.steps for each in self.unifier.sized], self.unifier.symbols, self.unifier.inputs)
            if found is None:
                raise self.refuse(what, values)
            text = found.text
            for index, source in enumerate(found.sources):
                if source not in sources:
                    sources.append(source)
                for name in "whdc":
                    # Marked first, so that no blob is renamed twice.
                    text = text.replace(f"{1 + index}{name}", f"@{1 + sources.index(source)}{name}")
            texts.append(text.replace("@", ""))
        if len(",".join(texts)) > _LONGEST_EXPRESSION:
            raise Refuse("what it needs of the input size takes a longer expression than ncnn reads", _REMEDY)
        return texts, [self.unifier.input_blobs[source] for source in sources]

    def remade(self, params: Mapping[str, ParamValue], extra: Sequence[Blob] = ()) -> list[Layer]:
        first = self.first
        return [replace(first, inputs=[*first.inputs, *extra], params=dict(params))]


class _Unifier:
    def __init__(self, sized: Sequence[Sized], symbols: Sequence[Symbol], graph: Graph, cuts: list[Cut] | None) -> None:
        self.cuts = cuts
        self.sized = sized
        self.symbols = symbols
        self.base = sized[0].model
        self.input_blobs = [blob for _, blob in self.base.inputs]
        self.inputs = [blob.dims for blob in self.input_blobs]
        self.made_by = {name: label for label, names in self.base.nodes.items() for name in names}
        self.types = {node.label: node.type_name for node in graph.nodes}
        self.places: list[dict[int, tuple[int, int]]] = [{} for _ in sized]

    def run(self) -> Model:
        findings: dict[tuple[str, str], Finding] = {}
        layers: list[Layer] = []
        nodes = {label: list(names) for label, names in self.base.nodes.items()}
        every = [each.model.layers for each in self.sized]
        for index in range(min(map(len, every))):
            case = Case(self, [layers_of[index] for layers_of in every])
            try:
                self._same_wiring(case, index)
            except Refuse as refusal:
                self._note(findings, case, refusal)
                break  # what follows is not comparable
            try:
                made = self._merge(case)
            except Refuse as refusal:
                self._note(findings, case, refusal)
                continue
            layers += made
            label = self.made_by.get(case.first.name)
            if label is not None and len(made) > 1:
                names = nodes[label]
                at = names.index(case.first.name)
                names[at : at + 1] = [layer.name for layer in made]
        else:
            if len({len(layers_of) for layers_of in every}) > 1 and not findings:
                findings["", ""] = Finding("the model", "Model", "it has more layers at some sizes", _REMEDY)
        if not findings:
            for pairs in zip(*(each.model.inputs + each.model.outputs for each in self.sized), strict=True):
                info = pairs[0][0]
                # ``dims``: it lies flat, and the Mat's sizes do not tell the tensor's.
                if any(other != info for other, _ in pairs):
                    reason = "it needs a fixed input size: ncnn holds it in another way at another size"
                    findings[info.tensor, ""] = Finding(info.tensor, "Tensor", reason, _REMEDY)
        return Model(
            tuple(layers),
            self.base.inputs,
            self.base.outputs,
            {label: tuple(names) for label, names in nodes.items()},
            tuple(findings.values()),
            self.base.rows,
        )

    def _note(self, findings: dict[tuple[str, str], Finding], case: Case, refusal: Refuse) -> None:
        finding = self.finding(case, refusal)
        findings.setdefault((finding.node, refusal.reason), finding)

    def finding(self, case: Case, refusal: Refuse) -> Finding:
        label = self.made_by.get(case.first.name, case.first.name)
        return Finding(label, self.types.get(label, case.first.type), refusal.reason, refusal.remedy or _REMEDY)

    def _same_wiring(self, case: Case, index: int) -> None:
        """The layers are of one type, and read what the same layers before them made."""
        kinds = [layer.type for layer in case.layers]
        if len(set(kinds)) > 1:
            raise case.refuse("the ncnn layer that it becomes", kinds)
        shapes = set()
        for layer, places in zip(case.layers, self.places, strict=True):
            wiring = tuple(places[id(blob)] for blob in layer.inputs)
            shapes.add((wiring, tuple(len(blob.dims) for blob in layer.outputs)))
            for number, blob in enumerate(layer.outputs):
                places[id(blob)] = (index, number)
        if len(shapes) > 1:
            raise Refuse("it needs a fixed input size: it is laid out in another way at another size", _REMEDY)

    def _merge(self, case: Case) -> list[Layer]:
        first = case.first
        weights = all(_same_weights(first, layer) for layer in case.layers[1:])
        rule = _RULES.get(first.type)
        if rule is not None:
            if not weights:
                raise Refuse("it needs a fixed input size: its weights depend on it", _REMEDY)
            return rule(case)
        changed = case.changed()
        if first.type == "MemoryData" and (changed or not weights):
            return memory(case)
        if not weights:
            raise Refuse("it needs a fixed input size: its weights depend on it", _REMEDY)
        if changed:
            if (opened := _opened(case, changed)) is not None:
                return opened
            name = changed[0]
            raise case.refuse(f"{name!r} of the ncnn layer {first.type}", case.values(name))
        return [first]


def _opened(case: Case, changed: Sequence[str]) -> list[Layer] | None:
    """One of our own layers, which finds one axis of each output by itself where its dims say -1."""
    if case.first.type not in OWN_LAYERS or not all(name.startswith("dims") for name in changed):
        return None
    params = dict(case.first.params)
    for name in changed:
        values = [value for value in case.values(name) if isinstance(value, Sequence) and not isinstance(value, str)]
        columns = list(zip(*values, strict=True))
        sizes = [-1 if len(set(column)) > 1 else int(column[0]) for column in columns]
        if len(values) != len(case.layers) or sizes.count(-1) > 1:
            return None
        params[name] = sizes
    return case.remade(params)


def _same_weights(a: Layer, b: Layer) -> bool:
    if len(a.weights) != len(b.weights):
        return False
    return all(
        len(x.parts) == len(y.parts) and all(_same_array(p, q) for p, q in zip(x.parts, y.parts, strict=True))
        for x, y in zip(a.weights, b.weights, strict=True)
    )


def _same_array(a: Array, b: Array) -> bool:
    return a is b or (a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))


def _input(case: Case) -> list[Layer]:
    # An axis of 0 is open; ncnn's dims count is the input's own.
    return case.remade({} if case.changed() else case.first.params)


def _reshape(case: Case) -> list[Layer]:
    targets = [layer.outputs[0].dims for layer in case.layers]
    names = [letter(targets[0], index) for index in range(len(targets[0]))]
    columns = list(zip(*targets, strict=True))
    varying = [index for index, column in enumerate(columns) if len(set(column)) > 1]
    params = {name: value for name, value in case.first.params.items() if name not in names}
    if not varying:
        return [case.first]
    if len(varying) == 1:
        sizes: list[int] = [-1 if index in varying else column[0] for index, column in enumerate(columns)]
        return case.remade({**params, **dict(zip(names, sizes, strict=True))})
    # One of them follows from the number of elements; the others have to be said.
    best: tuple[list[str], list[Blob]] | None = None
    refused: Refuse | None = None
    for rest in reversed(varying):
        wanted = [(-1,) * len(column) if index == rest else column for index, column in enumerate(columns)]
        try:
            found = case.numbers(wanted, "the shape that it makes")
        except Refuse as refusal:
            refused = refused or refusal
            continue
        if best is None or len(found[1]) < len(best[1]):
            best = found
    if best is None:
        assert refused is not None
        raise case.refuse("the shape that it makes", ["x".join(map(str, dims)) for dims in targets])
    texts, extra = best
    by_name = dict(zip(names, texts, strict=True))
    # ncnn lists w, h, d, c.
    expression = ",".join(by_name[name] for name in "whdc" if name in by_name)
    return case.remade({**params, "shape_expr": expression}, extra)


def _interp(case: Case) -> list[Layer]:
    first = case.first
    targets = [layer.outputs[0].dims for layer in case.layers]
    changed = set(case.changed())
    if changed - {"output_height", "output_width"}:
        name = sorted(changed)[0]
        raise case.refuse(f"{name!r} of the ncnn layer Interp", case.values(name))
    if first.params.get("resize_type") == 1:
        for before, after in zip(zip(*case.sources, strict=True), zip(*targets, strict=True), strict=True):
            if len(set(before)) > 1 and not _exact_nearest(before, after):
                raise case.refuse(
                    "the ratio of its sizes",
                    [f"{a}/{b}" for a, b in zip(after, before, strict=True)],
                )
    if not changed:
        return [first]
    width, height = [dims[-1] for dims in targets], [dims[-2] for dims in targets]
    texts, extra = case.numbers([width, height], "the size that it resizes to")
    params = {name: value for name, value in first.params.items() if name not in ("output_height", "output_width")}
    return case.remade({**params, "size_expr": ",".join(texts)}, extra)


def _exact_nearest(before: Sequence[int], after: Sequence[int]) -> bool:
    """Whether ncnn's float32 arithmetic finds the ONNX element whatever the size: for whole ratios only."""
    if all(b % a == 0 for a, b in zip(before, after, strict=True)):
        factors = {b // a for a, b in zip(before, after, strict=True)}
        if len(factors) > 1:
            return False
        factor = factors.pop()
        index = np.arange(_LONGEST_AXIS, dtype=np.float32)
        found = (index * (np.float32(1) / np.float32(factor))).astype(np.int64)
        return bool((found == np.arange(_LONGEST_AXIS) // factor).all())
    if all(a % b == 0 for a, b in zip(before, after, strict=True)):
        factors = {a // b for a, b in zip(before, after, strict=True)}
        # ONNX divides by the scale 1/k, which float32 holds exactly for powers of two only.
        return len(factors) == 1 and (factor := factors.pop()) & (factor - 1) == 0
    return False


def _crop(case: Case) -> list[Layer]:
    first = case.first
    if "axes" in case.changed() or set(case.changed()) - {"starts", "ends"}:
        raise Refuse("it needs a fixed input size: it cuts other axes at another size", _REMEDY)
    axes = _ints(first.params["axes"])
    starts = list(zip(*(_ints(layer.params["starts"]) for layer in case.layers), strict=True))
    ends = list(zip(*(_ints(layer.params["ends"]) for layer in case.layers), strict=True))
    sizes = [[dims[axis] for dims in case.sources] for axis in axes]
    for column, size in zip(zip(starts, ends, strict=True), sizes, strict=True):
        if len(set(size)) == 1 and any(len(set(bounds)) > 1 for bounds in column):
            what = "what it cuts from a tensor of fixed size"
            refused = case.refuse(what, [f"{a}..{b}" for a, b in zip(*column, strict=True)])
            remedy = "give every free axis a MAX in --dynamic-shape that this tensor suffices for"
            refusal = Refuse(refused.reason, remedy)
            if case.unifier.cuts is None:
                raise refusal
            case.unifier.cuts.append(Cut(size[0], *column, case.unifier.finding(case, refusal)))
    plain_starts = [_from_end(column, size) for column, size in zip(starts, sizes, strict=True)]
    plain_ends = [_from_end(column, size, end=True) for column, size in zip(ends, sizes, strict=True)]
    if None not in plain_starts and None not in plain_ends:
        known = {"starts": [s for s in plain_starts if s is not None], "ends": [e for e in plain_ends if e is not None]}
        return case.remade({**first.params, **known})
    texts, extra = case.numbers([*starts, *ends], "what it cuts")
    return case.remade(
        {
            "starts_expr": ",".join(texts[: len(axes)]),
            "ends_expr": ",".join(texts[len(axes) :]),
            "axes_expr": ",".join(map(str, axes)),
        },
        extra,
    )


def _from_end(column: Sequence[int], sizes: Sequence[int], *, end: bool = False) -> int | None:
    """The bound as one number for all sizes, counted from the end where it moves with that; ``None`` if neither."""
    offsets = {bound - size for bound, size in zip(column, sizes, strict=True)}
    if len(set(column)) == 1:
        return column[0]
    if len(offsets) != 1:
        return None
    offset = offsets.pop()
    if offset == 0:
        return _TO_END if end else None
    return offset if offset != _TO_END else None


def _slice(case: Case) -> list[Layer]:
    first = case.first
    changed = case.changed()
    if not changed:
        return [first]
    if changed != ["slices"]:
        raise case.refuse(f"{changed[0]!r} of the ncnn layer Slice", case.values(changed[0]))
    columns = list(zip(*(_ints(layer.params["slices"]) for layer in case.layers), strict=True))
    if all(len(set(row)) == 1 for row in zip(*columns, strict=True)):
        return case.remade({**first.params, "slices": [_TO_END] * len(columns)})
    if all(len(set(column)) == 1 for column in columns[:-1]):
        return case.remade({**first.params, "slices": [*(column[0] for column in columns[:-1]), _TO_END]})
    # Slice cannot compute its sizes, Crop can: one for each piece.
    axis = first.params["axis"]
    assert isinstance(axis, int)
    layers: list[Layer] = []
    begin = [0] * len(case.layers)
    sizes = [dims[axis] for dims in case.sources]
    for number, (column, blob) in enumerate(zip(columns, first.outputs, strict=True)):
        end = [a + b for a, b in zip(begin, column, strict=True)]
        (start_text, end_text), extra = case.numbers([begin, end if end != sizes else [_TO_END] * len(end)], "a piece")
        params: dict[str, ParamValue] = {"starts_expr": start_text, "ends_expr": end_text, "axes_expr": str(axis)}
        name = first.name if number == 0 else f"{first.name}/{number}"
        layers.append(Layer("Crop", name, [*first.inputs, *extra], [blob], params, exact=first.exact))
        begin = end
    return layers


def _ints(value: ParamValue) -> list[int]:
    assert not isinstance(value, int | float)
    return [int(item) for item in value]


_RULES: Mapping[str, Callable[[Case], list[Layer]]] = {
    "Crop": _crop,
    "Input": _input,
    "Interp": _interp,
    "Reshape": _reshape,
    "Slice": _slice,
    "Tile": tile,
}
