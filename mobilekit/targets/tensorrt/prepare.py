"""From a model as read to the ONNX that TensorRT parses: :func:`prepare`.

The steps are those that ncnn's models go through too (functions inlined, shapes fixed or named, constants folded,
operators lifted), without the fusions: TensorRT's optimiser makes its own. What is particular:

- every symbolic axis of every input gets a name of its own: two axes that share one make TensorRT say that the
  profiles contradict each other;
- every node gets a name of its own, without control characters: the build log tells by name what was fused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mobilekit.errors import UsageError
from mobilekit.progress import SILENT, Progress
from mobilekit.tensors import format_shape

if TYPE_CHECKING:
    from mobilekit.graph import Graph, Value
    from mobilekit.importers.onnx import SourceModel

__all__ = ["OPSET", "Profile", "name_nodes", "parse_bytes", "parse_profile", "part_recurrent", "prepare"]

OPSET = 22
"""What models are lifted to: bfloat16 reached Conv and the pools there. Newer models stay as they are."""

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Profile:
    """The sizes that one input of the plan may have: a shape each for the smallest, the usual and the largest."""

    low: Shape
    best: Shape
    high: Shape


def parse_profile(text: str) -> tuple[str, Profile]:
    """``NAME:min=1x3x224x224,opt=4x3x224x224,max=8x3x224x224``. Raises :class:`UsageError`; names may hold colons."""
    from mobilekit.tensors import parse_named_shape

    name, separator, sizes = text.rpartition(":")
    fields = dict(part.partition("=")[::2] for part in sizes.split(","))
    if not separator or fields.keys() != {"min", "opt", "max"}:
        raise UsageError(f"cannot read the profile {text!r}", hint="--profile NAME:min=1x3x224x224,opt=...,max=...")
    low, best, high = (parse_named_shape(f"{name}:{fields[key]}")[1] for key in ("min", "opt", "max"))
    if not len(low) == len(best) == len(high):
        raise UsageError(f"the shapes of the profile {text!r} differ in their number of axes")
    if not all(a <= b <= c for a, b, c in zip(low, best, high, strict=True)):
        raise UsageError(f"the profile {text!r} needs min <= opt <= max on each axis")
    return name, Profile(low, best, high)


_UNITS = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "kb": 10**3, "mb": 10**6, "gb": 10**9}


def parse_bytes(text: str) -> int:
    """``1GiB``, ``512MiB``, ``1048576`` in bytes. Raises :class:`UsageError`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)", text.strip())
    if found is None or found[2].lower() not in _UNITS:
        raise UsageError(f"cannot read the size {text!r}", hint="a number with KiB, MiB or GiB behind it")
    return int(float(found[1]) * _UNITS[found[2].lower()])


def prepare(
    model: SourceModel,
    shapes: Mapping[str, Shape],
    profiles: Mapping[str, Profile],
    *,
    progress: Progress = SILENT,
) -> Graph:
    """The graph to write for TensorRT. Inputs in ``profiles`` keep the axes that their profile lets vary; all others
    are fixed as for ncnn (``shapes``, a batch of 1 assumed).

    Raises ``UsageError`` where a profile names no input or contradicts it, and what ``fix_inputs`` and ``infer`` raise.
    """
    from mobilekit.importers.convert import from_proto
    from mobilekit.passes import shapes as shaping
    from mobilekit.passes.infer import infer

    graph = from_proto(model.proto, model.path.parent)
    free = _check_profiles(graph, profiles)
    named = {value.name: value.shape or () for value in graph.inputs}
    fixed = dict(shapes)
    for name, profile in profiles.items():
        if name in fixed:
            raise UsageError(f"input {name!r} has both a shape and a profile", hint="give one of the two")
        fixed[name] = profile.best
    shaping.fix_inputs(graph, fixed, progress)
    _check_shared_axes(named, profiles)
    for value in graph.inputs:
        axes = free.get(value.name, frozenset())
        if axes and value.shape is not None:
            value.shape = tuple(f"{value.name}_{i}" if i in axes else axis for i, axis in enumerate(value.shape))
    for value in graph.outputs:
        if free:
            value.shape = None  # as the model says it, with symbols that are gone
    infer(graph, target_opset=OPSET)
    _omit_empty(graph)
    return graph


def _omit_empty(graph: Graph) -> None:
    """An empty ``roi`` or ``scales`` of ``Resize`` is an omitted one; TensorRT warns of the former."""
    for node in graph.nodes:
        if node.op != "Resize":
            continue
        for index in range(1, len(node.inputs)):
            value = node.inputs[index]
            if value is not None and value.const is not None and value.const.size == 0:
                graph.set_input(node, index, None)


def part_recurrent(graph: Graph) -> None:
    """Put a sum with zero between a GRU that is reset after its product (as PyTorch's and Keras's are) and a Cast of
    what it reads, in place: TensorRT for RTX 1.7 takes that Cast for a step of the loop and fails to build."""
    import numpy as np

    from mobilekit.graph import Node, Value

    order: list[Node] = []
    for node in graph.nodes:
        given = node.inputs[0] if node.op == "GRU" and node.attrs.get("linear_before_reset") else None
        if given is not None and given.dtype == "float32" and _is_cast(given):
            zero = graph.constant(f"{given.name}/zero", np.zeros(1, np.float32))
            result = Value(graph.fresh(f"{given.name}/apart"), given.dtype, given.shape)
            order.append(Node(result.name, "Add", [given, zero], [result]))
            graph.set_input(node, 0, result)
        order.append(node)
    graph.rebuild(order)


_MOVES = ("Concat", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


def _is_cast(value: Value) -> bool:
    """By itself, or behind what moves its numbers."""
    node = value.producer
    while node is not None and node.op in _MOVES and node.inputs[0] is not None:
        node = node.inputs[0].producer
    return node is not None and node.op == "Cast"


def _check_profiles(graph: Graph, profiles: Mapping[str, Profile]) -> dict[str, frozenset[int]]:
    """The axes of each input that vary."""
    inputs = {value.name: value for value in graph.inputs}
    free: dict[str, frozenset[int]] = {}
    for name, profile in profiles.items():
        if name not in inputs:
            raise UsageError(f"the model has no input {name!r}", hint=f"its inputs: {', '.join(inputs)}")
        axes = frozenset(i for i, (low, high) in enumerate(zip(profile.low, profile.high, strict=True)) if low != high)
        given = inputs[name].shape
        if given is not None:
            wrong = [axis for axis in axes if axis < len(given) and isinstance(given[axis], int)]
            if wrong:
                raise UsageError(
                    f"input {name!r} is {format_shape(given)} in the model: its axis {wrong[0]} cannot vary",
                    hint="export the model with a dynamic axis there, or give the profile one size",
                )
        free[name] = axes
    return free


def _check_shared_axes(inputs: Mapping[str, tuple[int | str | None, ...]], profiles: Mapping[str, Profile]) -> None:
    """Raises :class:`UsageError` where ``inputs``, by their shapes in the model, share an axis and do not vary alike
    along it: a plan is built of that all the same, and can be run at no other size than the usual one."""
    known: dict[str, tuple[str, tuple[int, int, int]]] = {}
    for name, profile in profiles.items():
        for axis, sizes in zip(inputs[name], zip(profile.low, profile.best, profile.high, strict=True), strict=False):
            if not isinstance(axis, str):
                continue
            other, theirs = known.setdefault(axis, (name, sizes))
            if theirs != sizes:
                raise UsageError(
                    f"the axis {axis!r} is {_range(theirs)} in the profile of {other!r} and {_range(sizes)} in that of "
                    f"{name!r}",
                    hint="it is one size in the model: give both the same",
                )
    for name, shape in inputs.items():
        for axis in shape if name not in profiles else ():
            if not isinstance(axis, str) or axis not in known:
                continue
            other, sizes = known[axis]
            if sizes[0] != sizes[2]:
                raise UsageError(
                    f"input {name!r} has no profile, and its axis {axis!r} varies with that of {other!r}",
                    hint=f"--profile '{name}:min=...,opt=...,max=...' with {_range(sizes)} there",
                )


def _range(sizes: tuple[int, int, int]) -> str:
    low, best, high = sizes
    return str(best) if low == high else f"{low}, {best} and {high}"


def name_nodes(graph: Graph) -> None:
    """Give every node a name of its own, without control characters."""
    taken: set[str] = set()
    for index, node in enumerate(graph.nodes):
        stem = "".join(letter if letter.isprintable() else "_" for letter in node.label) or f"{node.op}_{index}"
        name = stem
        count = 1
        while name in taken:
            count += 1
            name = f"{stem}#{count}"
        taken.add(name)
        node.name = name
