"""``mobilekit export --dynamic``: which axes are free, in which steps, and the model that is right at all sizes.

The graph is prepared and emitted at several sizes, :func:`~mobilekit.targets.ncnn.unify.unify` makes one model of
that or names the nodes that need a fixed size. The sizes lie far apart and next to each other, their counts of steps
share no pattern, and no two axes have the same; the smallest is the smallest that the bundle then admits. The step
(``multiple of 32``) is the smallest for which this works, out of what the strides of the model multiply to.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mobilekit.errors import Finding, ModelError, UnsupportedModelError
from mobilekit.pipeline.free_axes import DynamicShape, FreeSymbol, free_axes
from mobilekit.progress import SILENT, Progress
from mobilekit.tensors import format_shape

if TYPE_CHECKING:
    from mobilekit.bundle import FreeAxis
    from mobilekit.graph import Graph, Node
    from mobilekit.importers.onnx import SourceModel
    from mobilekit.targets.ncnn.emit import Model
    from mobilekit.targets.ncnn.unify import Cut, Sized
    from mobilekit.tensors import Array

__all__ = ["DynamicModel", "DynamicShape", "convert_dynamic"]

_LARGEST_STRIDE = 4096
_LARGEST_START = 160
_LOW = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)


@dataclass(frozen=True, slots=True)
class DynamicModel:
    """``graph`` is the one at the default size, ``model`` the one for all; ``inputs`` and ``outputs`` hold the free
    axes by tensor, ``sizes`` the input shapes to verify with, the default first."""

    graph: Graph
    model: Model
    inputs: Mapping[str, tuple[FreeAxis, ...]]
    outputs: Mapping[str, tuple[FreeAxis, ...]]
    sizes: tuple[dict[str, tuple[int, ...]], ...]


def convert_dynamic(
    source: SourceModel,
    shapes: Mapping[str, tuple[int, ...]],
    dynamic: Mapping[str, DynamicShape],
    *,
    stock_only: bool = False,
    progress: Progress = SILENT,
) -> DynamicModel:
    """One ncnn model for many input sizes.

    ``dynamic`` says which axes are free; empty: all symbolic axes but the batch. ``shapes`` gives default sizes.
    Raises :class:`UnsupportedModelError` with the nodes that need a fixed size, or that ncnn does not take at all,
    and :class:`UsageError` where no axis is free or the shapes do not fit the model.
    """
    fixed, symbols = free_axes(source, shapes, dynamic)
    return _Search(source, fixed, symbols, stock_only=stock_only, progress=progress).run()


@dataclass(slots=True)
class _Attempt:
    """What one step came to; ``graphs`` holds (default sizes' graph or ``None``, its output shapes) of each size."""

    steps: tuple[int, ...]
    sized: list[Sized]
    outputs: list[list[tuple[int, ...]]]
    graph: Graph | None = None
    model: Model | None = None
    findings: tuple[Finding, ...] = ()
    cuts: Sequence[Cut] = ()

    @property
    def works(self) -> bool:
        return self.model is not None


class _Search:
    def __init__(
        self,
        source: SourceModel,
        bases: list[list[int]],
        symbols: list[FreeSymbol],
        *,
        stock_only: bool,
        progress: Progress,
    ) -> None:
        self.source = source
        self.bases = bases
        self.asked = self.symbols = symbols
        self.stock_only = stock_only
        self.progress = progress
        self.bounded = all(symbol.range.maximum for symbol in symbols)
        self.arrays: dict[bytes, Array] = {}
        self.leave: frozenset[str] = frozenset()

    def run(self) -> DynamicModel:
        candidates = self._candidates()
        # A step that the ranges hold too few multiples of has nothing to say but that.
        candidates = [step for step in candidates if self._points(self._steps(step))] or candidates[:1]
        found = self._try(candidates[0])
        if not found.works and len(candidates) > 1:
            # Whatever works with a step works with its multiples.
            low, high = 0, len(candidates) - 1
            last = self._try(candidates[high])
            found = last
            while last.works and high - low > 1:
                middle = (low + high) // 2
                attempt = self._try(candidates[middle])
                if attempt.works:
                    high, found = middle, attempt
                else:
                    low = middle
        if not found.works:
            raise UnsupportedModelError(
                f"{self.source.path.name} needs a fixed input size in some places; nothing was written",
                findings=found.findings,
                hint="export it without --dynamic, or free fewer axes with --dynamic-shape",
            )
        return self._finish(found, self._smallest(found))

    # sizes

    def _shapes(self, steps: Sequence[int], counts: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """Input shapes where the free axes have ``counts`` steps."""
        made = [list(base) for base in self.bases]
        for symbol, step, count in zip(self.symbols, steps, counts, strict=True):
            for index, axis in symbol.places:
                made[index][axis] = step * count
        return {spec.name: tuple(shape) for spec, shape in zip(self.source.inputs, made, strict=True)}

    def _label(self, steps: Sequence[int], counts: Sequence[int]) -> str:
        shapes = self._shapes(steps, counts)
        free = {self.source.inputs[index].name for symbol in self.symbols for index, _ in symbol.places}
        shown = [format_shape(shape) if len(shapes) == 1 else f"{name} {format_shape(shape)}"
                 for name, shape in shapes.items() if name in free]  # fmt: skip
        return ", ".join(shown)

    def _steps(self, step: int) -> tuple[int, ...]:
        return tuple(symbol.range.multiple or step for symbol in self.symbols)

    def _default(self, steps: Sequence[int]) -> tuple[int, ...]:
        return tuple(
            symbol.clamp(-(-symbol.default // step), step) for symbol, step in zip(self.symbols, steps, strict=True)
        )

    def _points(self, steps: tuple[int, ...]) -> list[tuple[int, ...]] | None:
        """Counts of steps to look at: neighbours and far ones, each axis in an order of its own.

        No axis has the size of another, or a simple multiple of it: what is computed from one must not pass for
        what is computed from the other at a lower resolution. ``None`` where a range holds too few sizes.
        """
        wanted = (1 << len(self.symbols)) + 2
        rows: list[list[int]] = []
        for symbol, step, start in zip(self.symbols, steps, self._default(steps), strict=True):
            low, high = symbol.lowest(step), symbol.highest(step)
            if len(self.symbols) > 1:
                start = min(start, _LARGEST_START // step)  # the square of a map has to be a tensor still
            start = max(start, 5, low)
            far = max(2, start // 3) | 1
            offsets = (0, 1, far + 2, 2 * far + 7, 3 * far + 4, far // 2 + 5, 2 * far, 3 * far + 13, far + 8, far + 11)
            row = [start + offset for offset in (*offsets, *range(2, 60))]
            if high is not None:
                row = [low + (high - low) * i // (wanted + 8) for i in range(wanted + 9)]
                row = row[1::2] + row[::2]
            rows.append(list(dict.fromkeys(row)))
            if len(rows[-1]) < wanted:
                return None
        points: list[tuple[int, ...]] = []
        for index in range(wanted):
            point: list[int] = []
            for number, (row, step) in enumerate(zip(rows, steps, strict=True)):
                turned = row[index + 2 * number :] + row[: index + 2 * number]
                taken = [count * other for count, other in zip(point, steps, strict=False)]
                used = {each[number] for each in points}
                apart = [c for c in turned if all(_unlike(c * step, size) for size in taken)] or turned
                point.append(next((c for c in apart if c not in used), apart[0]))
            points.append(tuple(point))
        return points

    def _candidates(self) -> list[int]:
        """Steps to try, each a multiple of the one before it."""
        if all(symbol.range.multiple for symbol in self.symbols):
            return [1]  # not looked at
        coarse = self._steps(64)
        attempt = self._emit(coarse, [self._default(coarse)], self.progress)
        if attempt.graph is None:
            coarse = self._steps(1)
            attempt = self._emit(coarse, [self._default(coarse)], self.progress)
        if attempt.graph is None:
            raise UnsupportedModelError(
                f"{self.source.path.name} cannot be converted for {self._label(coarse, self._default(coarse))}; "
                "nothing was written",
                findings=attempt.findings,
                hint="where it can without --dynamic, it needs a fixed input size in these places",
            )
        self.leave = self._following(coarse)
        stride = min(_stride(attempt.graph), _LARGEST_STRIDE)
        chain = [1]
        rest = stride
        for prime in range(2, stride + 1):
            while rest % prime == 0:
                chain.append(chain[-1] * prime)
                rest //= prime
        return [*chain, chain[-1] * 2, chain[-1] * 4]

    def _following(self, steps: tuple[int, ...]) -> frozenset[str]:
        """What would become a constant whose shape follows the input's: such tables are computed at run time."""
        from mobilekit.passes import prepare
        from mobilekit.passes.infer import Folding

        seen: list[dict[str, tuple[int, ...]]] = []
        for more in (0, 1):
            counts = [
                symbol.clamp(count + more, step)
                for symbol, count, step in zip(self.symbols, self._default(steps), steps, strict=True)
            ]
            folding = Folding()
            try:
                prepare(
                    self.source,
                    self._shapes(steps, counts),
                    simplify=False,
                    resize=True,
                    stock_only=self.stock_only,
                    folding=folding,
                )
            except (ModelError, UnsupportedModelError):
                return frozenset()
            seen.append(folding.shapes)
        one, other = seen
        found = {name for name, shape in one.items() if name in other and other[name] != shape}
        # How many elements NonZero finds is known only where what it counts is folded.
        counted = {
            name
            for node in self.source.proto.graph.node
            if node.op_type == "NonZero"
            for name in (*node.input, *node.output)
        }
        return frozenset(found - counted)

    # looking

    def _emit(self, steps: tuple[int, ...], points: Sequence[tuple[int, ...]], progress: Progress = SILENT) -> _Attempt:
        """Prepare and emit at each of ``points``; ``graph`` is ``None`` where one of them fails."""
        from mobilekit.passes import prepare
        from mobilekit.passes.infer import Folding
        from mobilekit.targets.ncnn.emit import emit
        from mobilekit.targets.ncnn.unify import Sized

        attempt = _Attempt(steps, [], [])
        for counts in points:
            shapes, label = self._shapes(steps, counts), self._label(steps, counts)
            try:
                folding = Folding(leave=self.leave)
                graph = prepare(
                    self.source,
                    shapes,
                    simplify=False,
                    resize=True,
                    stock_only=self.stock_only,
                    folding=folding,
                    progress=progress,
                )
            except (ModelError, UnsupportedModelError) as error:
                attempt.graph = None
                findings = getattr(error, "findings", ())
                attempt.findings = tuple(findings) or (
                    Finding("the model", "Shape", f"at {label}: {error.message}",
                            "export it without --dynamic, or for that size only"),
                )  # fmt: skip
                return attempt
            model = emit(graph, stock_only=self.stock_only)
            if model.findings:
                attempt.graph, attempt.findings = None, model.findings
                return attempt
            self._share(model)
            attempt.sized.append(Sized(counts, label, model))
            attempt.outputs.append([_fixed(value.shape) for value in graph.outputs])
            attempt.graph = attempt.graph or graph
        return attempt

    def _share(self, model: Model) -> None:
        """Weights that are the same as at another size are held once."""
        for layer in model.layers:
            layer.weights = tuple(
                replace(weights, parts=tuple(self._one(part) for part in weights.parts)) for weights in layer.weights
            )

    def _one(self, array: Array) -> Array:
        import numpy as np

        whole = np.ascontiguousarray(array)
        key = hashlib.blake2b(whole.data, digest_size=20, key=f"{array.dtype}{array.shape}".encode()[:64]).digest()
        return self.arrays.setdefault(key, array)

    def _try(self, step: int) -> _Attempt:
        steps = self._steps(step)
        self.progress.step(f"trying sizes in steps of {', '.join(map(str, dict.fromkeys(steps)))}")
        points = self._points(steps)
        if points is None:
            shown = ", ".join(f"{s.range.minimum or 1}..{s.range.maximum}" for s in self.symbols if s.range.maximum)
            reason = (
                f"{shown} holds too few multiples of {', '.join(map(str, dict.fromkeys(steps)))} to tell how it follows"
            )
            remedy = "widen the range in --dynamic-shape, or export one bundle for each size"
            return _Attempt(steps, [], [], findings=(Finding("the model", "Shape", reason, remedy),))
        attempt = self._emit(steps, points)
        if attempt.graph is not None and self.bounded:
            # What fits the largest sizes fits all: a table, say, that is cut to the size.
            top = tuple(symbol.highest(step) or 1 for symbol, step in zip(self.symbols, steps, strict=True))
            corner = self._emit(steps, [top])
            if corner.graph is None:
                return corner
        united = self._unite(attempt)
        return self._within(united) if united.works and united.cuts and not self.bounded else united

    def _within(self, attempt: _Attempt) -> _Attempt:
        """``attempt``, which cuts tensors that do not grow with the input, up to the sizes that those suffice for:
        free axes without a largest size get one. Refused where that is not known, or the model not had there."""
        from mobilekit.pipeline.free_cuts import most_steps

        tops: dict[int, int] = {}
        for cut in attempt.cuts:
            found = most_steps(cut, [each.steps for each in attempt.sized])
            if found is None:
                attempt.model, attempt.findings = None, (cut.finding,)
                return attempt
            index, most = found
            tops[index] = min(most * attempt.steps[index], tops.get(index, most * attempt.steps[index]))
        before = self.symbols
        self.symbols = [
            symbol if index not in tops or symbol.range.maximum is not None else symbol.up_to(tops[index])
            for index, symbol in enumerate(self.asked)
        ]
        steps = attempt.steps
        default = self._default(steps)
        top = tuple(symbol.highest(s) or d for symbol, s, d in zip(self.symbols, steps, default, strict=True))
        corner = self._emit(steps, [top])
        if corner.graph is None:
            self.symbols = before
            return corner
        for symbol, asked in zip(self.symbols, self.asked, strict=True):
            if symbol != asked:
                self.progress.note(f"the axis {symbol.name!r} is {symbol.range.maximum} at most: a table ends there")
        return attempt

    def _unite(self, attempt: _Attempt) -> _Attempt:
        from mobilekit.targets.ncnn.fit import Symbol
        from mobilekit.targets.ncnn.unify import unify

        if attempt.graph is None:
            return attempt
        blobs = attempt.sized[0].model.inputs
        symbols = []
        for symbol, step in zip(self.symbols, attempt.steps, strict=True):
            index, axis = symbol.places[0]
            symbols.append(Symbol(symbol.name, step, index, blobs[index][0].axes.index(axis)))
        cuts: list[Cut] = []
        model = unify(attempt.sized, symbols, attempt.graph, cuts=cuts)
        attempt.findings, attempt.cuts = model.findings, cuts
        attempt.model = None if model.findings else model
        return attempt

    def _smallest(self, found: _Attempt) -> _Attempt:
        """``found`` with small sizes among those looked at: the smallest for which it is still the same model."""
        steps = found.steps
        lowest = [min(counts[i] for counts in (s.steps for s in found.sized)) for i in range(len(self.symbols))]
        asked = [symbol.lowest(step) if symbol.range.minimum else 0
                 for symbol, step in zip(self.symbols, steps, strict=True)]  # fmt: skip
        tried: set[tuple[int, ...]] = set()
        for low in _LOW if max(steps) == 1 else _LOW[1:]:  # one step leaves maps of one element: blank outputs
            floor = tuple(
                want or symbol.clamp(min(low, known), step)
                for want, known, symbol, step in zip(asked, lowest, self.symbols, steps, strict=True)
            )
            if floor in tried:
                continue
            tried.add(floor)
            points = [
                tuple(
                    symbol.clamp(value + (3 if j != i else 0), step)
                    for j, (value, symbol, step) in enumerate(zip(floor, self.symbols, steps, strict=True))
                )
                for i in range(len(floor))
            ]
            more = self._emit(steps, points)
            if more.graph is None:
                if all(asked):
                    raise self._too_small(more)
                continue
            both = _Attempt(steps, [*found.sized, *more.sized], [*found.outputs, *more.outputs], found.graph)
            if self._unite(both).works:
                return both
            if all(asked):
                raise self._too_small(both)
        return found

    def _too_small(self, attempt: _Attempt) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"{self.source.path.name} is not the same ncnn model at the smallest size asked for; nothing was written",
            findings=attempt.findings,
            hint="begin the range in --dynamic-shape with a larger size, or leave its beginning out",
        )

    # the result

    def _finish(self, found: _Attempt, whole: _Attempt) -> DynamicModel:
        from mobilekit.bundle import FreeAxis
        from mobilekit.passes import prepare

        assert whole.model is not None
        steps = found.steps
        minima = [min(sized.steps[i] for sized in whole.sized) for i in range(len(self.symbols))]
        default = tuple(max(a, b) for a, b in zip(self._default(steps), minima, strict=True))
        for symbol, step, count in zip(self.symbols, steps, default, strict=True):
            if step * count != symbol.default:
                self.progress.note(
                    f"the default size of the axis {symbol.name!r} is {step * count}, not {symbol.default}"
                    + (f": a multiple of {step}" if step > 1 else "")
                )
        inputs: dict[str, list[FreeAxis]] = {}
        for symbol, step, least in zip(self.symbols, steps, minima, strict=True):
            top = symbol.highest(step)
            for index, axis in symbol.places:
                free = FreeAxis(
                    axis=axis,
                    symbol=symbol.name,
                    minimum=least * step,
                    maximum=None if top is None else top * step,
                    multiple=step,
                )
                inputs.setdefault(self.source.inputs[index].name, []).append(free)
        outputs: dict[str, tuple[FreeAxis, ...]] = {}
        assert found.graph is not None
        for number, value in enumerate(found.graph.outputs):
            seen = list(zip(*(shapes[number] for shapes in whole.outputs), strict=True))
            outputs[value.name] = tuple(FreeAxis(axis=a) for a, sizes in enumerate(seen) if len(set(sizes)) > 1)
        sizes = [self._shapes(steps, counts) for counts in self._verified(default, minima, whole)]
        graph = prepare(self.source, sizes[0], simplify=False, resize=True, stock_only=self.stock_only)
        return DynamicModel(
            graph, whole.model, {name: tuple(axes) for name, axes in inputs.items()}, outputs, tuple(sizes)
        )

    def _verified(self, default: tuple[int, ...], minima: Sequence[int], whole: _Attempt) -> list[tuple[int, ...]]:
        """The default size, the smallest, and one that was not looked at, an odd number of steps from the default."""
        seen = {sized.steps for sized in whole.sized}
        other = default
        for more in range(1, 40):
            other = tuple(
                max(least, symbol.clamp(count + (count // (3 + 2 * i) + more + i | 1 if more % 2 else 1 - more), step))
                for i, (count, least, symbol, step) in enumerate(
                    zip(default, minima, self.symbols, whole.steps, strict=True)
                )
            )
            if other not in seen and other != default:
                break
        return list(dict.fromkeys([default, tuple(minima), other]))


def _unlike(one: int, other: int) -> bool:
    """Neither is a small multiple of the other's half, third or quarter."""
    common = math.gcd(one, other)
    return min(one, other) // common > 4


def _fixed(shape: tuple[int | str | None, ...] | None) -> tuple[int, ...]:
    return tuple(axis for axis in shape or () if isinstance(axis, int))


def _stride(graph: Graph) -> int:
    """What the strides along a path through ``graph`` multiply to at most, counting enlargements back."""
    reach: dict[int, int] = {}
    most = 1
    for node in graph.nodes:
        before = max((reach.get(id(value), 1) for value in node.inputs if value is not None), default=1)
        after = max(1, before * _shrinks(node) // _grows(node))
        most = max(most, after)
        for value in node.outputs:
            if value is not None:
                reach[id(value)] = after
    return most


def _shrinks(node: Node) -> int:
    if node.op == "SpaceToDepth":
        return int(node.attrs.get("blocksize", 1))
    if node.op == "Slice" and len(node.inputs) > 4 and node.inputs[4] is not None and node.inputs[4].const is not None:
        return max(1, *(abs(int(step)) for step in node.inputs[4].const.reshape(-1)))
    if node.op in ("Conv", "AveragePool", "MaxPool", "LpPool"):
        return max([1, *(int(stride) for stride in node.attrs.get("strides", ()))])
    return 1


def _grows(node: Node) -> int:
    if node.op == "DepthToSpace":
        return int(node.attrs.get("blocksize", 1))
    if node.op == "ConvTranspose":
        return max([1, *(int(stride) for stride in node.attrs.get("strides", ()))])
    if node.op == "Resize" and node.inputs[0] is not None and node.outputs[0] is not None:
        pairs = zip(_fixed(node.inputs[0].shape), _fixed(node.outputs[0].shape), strict=False)
        return max([1, *(math.ceil(after / before) for before, after in pairs)])
    return 1
