"""Which axes of a model's inputs are free: what the user says, and what the model leaves open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mobilekit.errors import UsageError
from mobilekit.sizes import AxisRange
from mobilekit.tensors import format_shape

if TYPE_CHECKING:
    from mobilekit.importers.onnx import SourceModel
    from mobilekit.tensors import TensorSpec

__all__ = ["DynamicShape", "FreeSymbol", "free_axes"]

DynamicShape = tuple[int | AxisRange, ...]
_MOST_SYMBOLS = 3
_PICTURE, _SEQUENCE, _IDS = 256, 1024, 64
"""The size of an axis that neither the user nor the model gives one: of pictures, of other numbers, of ids."""


@dataclass(frozen=True, slots=True)
class FreeSymbol:
    """A free axis; ``places`` are (input's index, axis). ``default`` is what was asked for, not yet a multiple."""

    name: str
    places: tuple[tuple[int, int], ...]
    range: AxisRange
    default: int

    def lowest(self, step: int) -> int:
        return -(-(self.range.minimum or 1) // step)

    def highest(self, step: int) -> int | None:
        return None if self.range.maximum is None else self.range.maximum // step

    def up_to(self, size: int) -> FreeSymbol:
        """The same axis, ``size`` elements long at most."""
        return replace(self, range=replace(self.range, maximum=size), default=min(self.default, size))

    def clamp(self, steps: int, step: int) -> int:
        return max(self.lowest(step), min(steps, self.highest(step) or steps))


def free_axes(
    source: SourceModel, shapes: Mapping[str, tuple[int, ...]], dynamic: Mapping[str, DynamicShape]
) -> tuple[list[list[int]], list[FreeSymbol]]:
    """The inputs' shapes, with any number for free axes, and what is free."""
    specs = {spec.name: spec for spec in source.inputs}
    for name in [*dynamic, *shapes]:
        if name not in specs:
            raise UsageError(f"the model has no input {name!r}", hint=f"its inputs: {', '.join(specs)}")
    places: dict[str, list[tuple[int, int]]] = {}
    ranges: dict[str, AxisRange] = {}
    defaults: dict[str, int] = {}
    bases: list[list[int]] = []
    chosen = _chosen_symbols(specs, dynamic)
    batches = {spec.shape[0] for spec in source.inputs if len(spec.shape) > 1 and isinstance(spec.shape[0], str)}
    for index, spec in enumerate(source.inputs):
        wanted = dynamic.get(spec.name)
        known = shapes.get(spec.name)
        for given, what in ((wanted, "--dynamic-shape"), (known, "--input-shape")):
            if given is not None and len(given) != len(spec.shape):
                raise UsageError(
                    f"input {spec.name!r} has {len(spec.shape)} axes ({format_shape(spec.shape)}), not {len(given)}",
                    hint=f"give {what} as many",
                )
        base: list[int] = []
        for axis, size in enumerate(spec.shape):
            asked = wanted[axis] if wanted is not None else None
            symbol = size if isinstance(size, str) else f"{spec.name}.{axis}"
            if isinstance(asked, AxisRange):
                if axis == 0 and len(spec.shape) > 1:
                    raise UsageError(
                        f"the first axis of {spec.name!r} is the batch, which is always 1",
                        hint="free other axes; run the model once for each image",
                    )
                ranges[symbol] = _narrower(ranges.get(symbol), asked, symbol)
            elif asked is not None:
                if isinstance(size, int) and size != asked:
                    raise UsageError(f"axis {axis} of {spec.name!r} is {size} in the model, not {asked}")
                base.append(asked)
                continue
            elif isinstance(size, int):
                base.append(size)
                continue
            elif symbol in batches or (axis == 0 and len(spec.shape) > 1):
                base.append(known[axis] if known is not None else 1)
                continue
            elif chosen is not None and symbol not in chosen:
                if known is None:
                    raise UsageError(
                        f"axis {axis} of {spec.name!r} ({format_shape(spec.shape)}) is neither free nor fixed",
                        hint="name the input in --dynamic-shape, or fix its shape with --input-shape",
                    )
                base.append(known[axis])
                continue
            places.setdefault(symbol, []).append((index, axis))
            if known is not None:
                if defaults.setdefault(symbol, known[axis]) != known[axis]:
                    raise UsageError(f"the axis {symbol!r} cannot be both {defaults[symbol]} and {known[axis]}")
            elif isinstance(size, int):
                defaults.setdefault(symbol, size)
            base.append(0)
        bases.append(base)
    if not places:
        raise UsageError(
            "the model has no symbolic axis but the batch, which is always 1",
            hint="name the axes to free: "
            + " ".join(f"--dynamic-shape '{spec.name}:{_open(spec)}'" for spec in source.inputs),
        )
    if len(places) > _MOST_SYMBOLS:
        raise UsageError(
            f"{len(places)} axes are free ({', '.join(places)}); at most {_MOST_SYMBOLS} can be",
            hint="choose some with --dynamic-shape",
        )
    return bases, [
        FreeSymbol(name, tuple(where), ranges.get(name, AxisRange()), defaults.get(name, _usual(source, where)))
        for name, where in places.items()
    ]


def _chosen_symbols(specs: Mapping[str, TensorSpec], dynamic: Mapping[str, DynamicShape]) -> set[str] | None:
    """Symbolic axes that the user frees; those of the same name in other inputs follow. ``None``: all are free."""
    if not dynamic:
        return None
    return {
        axis
        for name, wanted in dynamic.items()
        for axis, asked in zip(specs[name].shape, wanted, strict=False)
        if isinstance(axis, str) and isinstance(asked, AxisRange)
    }


def _narrower(one: AxisRange | None, other: AxisRange, name: str) -> AxisRange:
    if one is not None and one != other:
        raise UsageError(f"the axis {name!r} has two ranges", hint="give both places the same")
    return other


def _open(spec: TensorSpec) -> str:
    """The shape with its last axes free, as an example."""
    rank = len(spec.shape)
    first = max(1, rank - (2 if rank > 3 else 1))
    return "x".join(".." if axis >= first else str(size or 1) for axis, size in enumerate(spec.shape))


def _usual(source: SourceModel, places: Sequence[tuple[int, int]]) -> int:
    spec = source.inputs[places[0][0]]
    if "int" in spec.dtype:
        return _IDS
    return _PICTURE if len(spec.shape) > 3 else _SEQUENCE
