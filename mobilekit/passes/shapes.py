"""Fix the shapes of a graph's inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mobilekit.errors import UsageError
from mobilekit.progress import Progress
from mobilekit.tensors import format_shape

if TYPE_CHECKING:
    from mobilekit.graph import Graph

__all__ = ["fix_inputs"]


def fix_inputs(graph: Graph, shapes: Mapping[str, tuple[int, ...]], progress: Progress) -> None:
    """Give every input a static shape: the one named in ``shapes``, else the model's own.

    A symbolic first axis that is not named counts as the batch and becomes 1 (with a note). Raises
    :class:`UsageError` for a name that is no input, a shape that contradicts the model's, two values for one symbol,
    or an axis that nothing fixes; the hint gives the option to write.
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
                    f"input {value.name!r} is {format_shape(given or ())} in the model, which {format_shape(wanted)} contradicts",
                    hint="only symbolic axes can be chosen; export the model again for another size",
                )
            if isinstance(old, str) and symbols.setdefault(old, new) != new:
                raise UsageError(f"the axis {old!r} cannot be both {symbols[old]} and {new}")
        value.shape = wanted
    assumed: list[str] = []
    for value in graph.inputs:
        if value.shape is None:
            raise UsageError(
                f"input {value.name!r} has no shape in the model", hint=f"--input-shape '{value.name}:1x...'"
            )
        fixed = tuple(symbols.get(axis, axis) if isinstance(axis, str) else axis for axis in value.shape)
        if fixed and not isinstance(fixed[0], int):
            assumed.append(value.name)
            fixed = (1, *fixed[1:])
        if not all(isinstance(axis, int) for axis in fixed):
            raise UsageError(
                f"input {value.name!r} has no fixed shape: {format_shape(value.shape)}",
                hint=f"--input-shape '{value.name}:{_suggest(value.shape)}', with numbers for the letters",
            )
        value.shape = fixed
    if assumed:
        progress.note(f"batch size 1 is assumed for {', '.join(assumed)} (choose with --input-shape)")


def _suggest(shape: tuple[int | str | None, ...]) -> str:
    axes = []
    for index, axis in enumerate(shape):
        axes.append(str(axis) if isinstance(axis, int) else "1" if index == 0 else "N")
    return "x".join(axes) or "scalar"
