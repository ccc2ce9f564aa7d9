"""Fix the shapes of a graph's inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mobilekit.errors import UsageError
from mobilekit.progress import Progress
from mobilekit.tensors import format_shape

if TYPE_CHECKING:
    from mobilekit.graph import Graph, Value

__all__ = ["apply_shapes", "fix_inputs", "resize_inputs"]


def fix_inputs(graph: Graph, shapes: Mapping[str, tuple[int, ...]], progress: Progress) -> None:
    """Give every input a static shape: the one named in ``shapes``, else the model's own.

    A symbolic first axis that is not named counts as the batch and becomes 1 (with a note). Raises what
    :func:`apply_shapes` raises, and :class:`UsageError` for an axis that nothing fixes; the hint gives the option
    to write.
    """
    apply_shapes(graph, shapes)
    assumed: list[str] = []
    missing: list[Value] = []
    for value in graph.inputs:
        if value.shape is None:
            missing.append(value)
            continue
        fixed = value.shape
        if fixed and not isinstance(fixed[0], int):
            fixed = (1, *fixed[1:])
        if not all(isinstance(axis, int) for axis in fixed):
            missing.append(value)
            continue
        if fixed != value.shape:
            assumed.append(value.name)
        value.shape = fixed
    if missing:
        said = ", ".join(f"{v.name!r} is {format_shape(v.shape) if v.shape is not None else 'open'}" for v in missing)
        options = " ".join(f"--input-shape '{v.name}:{_suggest(v.shape)}'" for v in missing)
        raise UsageError(f"the input shape is not fixed: {said}", hint=f"{options} with numbers for the letters")
    if assumed:
        progress.note(f"batch size 1 is assumed for {', '.join(assumed)} (choose with --input-shape)")


def resize_inputs(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Give the inputs the shapes named, fixed axes of the file included, and forget every shape that follows."""
    for value in graph.inputs:
        if value.name in shapes:
            value.shape = shapes[value.name]
    for node in graph.nodes:
        for made in node.outputs:
            if made is not None:
                made.shape = None


def apply_shapes(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Take the shapes that are named; a symbol that gets a size there has it in every input.

    Raises :class:`UsageError` for a name that is no input, a shape that contradicts the model's, or two sizes for
    one symbol.
    """
    names = [value.name for value in graph.inputs]
    for name in shapes:
        if name not in names:
            raise UsageError(
                f"the model has no input {name!r}",
                hint=f"its inputs: {', '.join(names)}" if names else "it has no inputs",
            )
    symbols: dict[str, int] = {}
    for value in graph.inputs:
        if value.name not in shapes:
            continue
        wanted = shapes[value.name]
        given = value.shape
        if given is not None and len(given) != len(wanted):
            raise UsageError(
                f"input {value.name!r} has {len(given)} axes ({format_shape(given)}), not {len(wanted)}",
                hint=f"--input-shape '{value.name}:{_suggest(given)}'",
            )
        for old, new in zip(given or (), wanted, strict=False):
            if isinstance(old, int) and old != new:
                raise UsageError(
                    f"input {value.name!r} is {format_shape(given or ())} in the model, not {format_shape(wanted)}",
                    hint="only symbolic axes can be chosen; export the model again for another size",
                )
            if isinstance(old, str) and symbols.setdefault(old, new) != new:
                raise UsageError(
                    f"the axis {old!r} cannot be both {symbols[old]} and {new}",
                    hint="it is one size in the model: give every input that has it the same",
                )
        value.shape = wanted
    for value in graph.inputs:
        if value.shape is not None:
            value.shape = tuple(symbols.get(axis, axis) if isinstance(axis, str) else axis for axis in value.shape)


def _suggest(shape: tuple[int | str | None, ...] | None) -> str:
    if shape is None:
        return "1xN"
    axes = []
    for index, axis in enumerate(shape):
        axes.append(str(axis) if isinstance(axis, int) else "1" if index == 0 else "N")
    return "x".join(axes) or "scalar"
