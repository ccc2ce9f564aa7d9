"""The batch axis, tracked from the inputs through the graph: :func:`one_sample` makes a graph of one sample.

ncnn has no batch axis. Where every sample is proven to go its own way (no operator lets one sample's elements into
another's result, :mod:`mobilekit.passes.batch_rules`), the graph of one sample says everything about a batch of any
size: the runners feed it sample by sample. Which axis of an input is the batch is not known from the file, so the
readings are tried in turn; each is proven or refuted, none is guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mobilekit.errors import REPORT_IT, ModelError
from mobilekit.passes.batch_rules import RULES, Rule
from mobilekit.passes.batch_tracker import Mixed, Place, Tracker
from mobilekit.passes.schemas import Schemas, infer_node

if TYPE_CHECKING:
    from mobilekit.graph import Graph, Node

__all__ = ["Batch", "Mixing", "one_sample"]

_MOST_SIZES = 2


@dataclass(frozen=True, slots=True)
class Batch:
    """``size`` samples; where inputs and outputs of the whole batch hold them (those not listed have no batch)."""

    size: int
    places: Mapping[str, Place]


@dataclass(frozen=True, slots=True)
class Mixing:
    """The node at which the first reading of the batch ends, and why."""

    node: str
    op: str
    reason: str


def one_sample(graph: Graph) -> Batch | Mixing | None:
    """Turn ``graph`` (static shapes, newest forms, not yet legalised) into that of one sample of its batch.

    ``None`` where no input has a first axis above 1, so that there is no batch; :class:`Mixing` where samples do not
    stay apart, the graph being left as it is. Linear in nodes for each reading of the inputs (six at most).
    """
    first: Mixing | None = None
    for size, inputs in _readings(graph):
        tracker = Tracker(size)
        tracker.places.update(inputs)
        found = _track(graph, tracker) or _outputs(graph, tracker)
        if found is None:
            places = {value.name: place for value in graph.inputs if (place := tracker.place(value))}
            places |= {value.name: place for value in graph.outputs if (place := tracker.place(value))}
            _apply(graph, tracker)
            return Batch(size, places)
        first = first or found
    return first


def _readings(graph: Graph) -> Iterator[tuple[int, dict[int, Place]]]:
    """(batch size, where the inputs hold it): the first axis of as many as have that size; then the second.

    States of recurrent layers hold the batch in their second axis, sequences that count time first do too.
    """
    shapes = {id(value): tuple(axis for axis in value.shape or () if isinstance(axis, int)) for value in graph.inputs}
    firsts = dict.fromkeys(shape[0] for shape in shapes.values() if shape and shape[0] > 1)
    seconds = dict.fromkeys(shape[1] for shape in shapes.values() if len(shape) > 2 and min(shape[:2]) > 1)
    tried: list[dict[int, Place]] = []
    for order, sizes in (((0, 1), firsts), ((0,), firsts), ((1, 0), seconds)):
        for size in list(sizes)[:_MOST_SIZES]:
            places: dict[int, Place] = {}
            for key, shape in shapes.items():
                axis = next((axis for axis in order if axis < len(shape) and shape[axis] == size), None)
                if axis is not None:
                    places[key] = Place(axis)
            if places not in tried:
                tried.append(places)
                yield size, places


def _track(graph: Graph, tracker: Tracker) -> Mixing | None:
    """Carry the places from node to node."""
    for node in graph.nodes:
        if not tracker.placed(node) and not node.bodies():
            continue
        try:
            places = _rule_of(node)(tracker, node)
        except Mixed as mixed:
            return Mixing(node.label, node.type_name, str(mixed))
        for value, place in zip(node.outputs, places if isinstance(places, list) else [places], strict=False):
            if value is not None and place is not None:
                tracker.places[id(value)] = place
        if any(value is not None and id(value) not in tracker.places for value in node.outputs):
            return Mixing(node.label, node.type_name, "nothing is known about where one of its outputs holds the batch")
    return None


def _rule_of(node: Node) -> Rule:
    rule = None if node.domain else RULES.get(node.op)
    if rule is None:
        raise Mixed("whether it keeps samples apart is not known")
    return rule


def _outputs(graph: Graph, tracker: Tracker) -> Mixing | None:
    if any(tracker.place(value) for value in graph.outputs):
        return None
    return Mixing(graph.outputs[0].name if graph.outputs else "", "Output", "no output depends on the batch")


def _apply(graph: Graph, tracker: Tracker) -> None:
    """Give every value its shape for one sample; shape inference has to come to the same."""
    shapes = {id(value): tracker.sample_shape(value) for value in graph.values()}
    for value in graph.values():
        value.shape = shapes[id(value)]
    for node, index, array in tracker.constants:
        graph.set_input(node, index, graph.constant("one_sample", array))
    for node in tracker.reshapes:
        target = node.outputs[0]
        assert target is not None
        # Squeeze without axes would take the batch of one along; a target shape says what is meant.
        shape = graph.constant("one_sample", np.array(shapes[id(target)], np.int64))
        for index in range(len(node.inputs) - 1, 0, -1):
            graph.set_input(node, index, None)
        node.op, node.attrs, node.inputs = "Reshape", {"allowzero": 1}, [node.inputs[0], shape]
        shape.consumers.append(node)
    schemas = Schemas(graph.opset)
    for node in graph.nodes:
        infer_node(node, schemas)
        for made in node.outputs:
            if made is not None and made.shape != shapes[id(made)]:
                raise ModelError(
                    f"{node.op} at {node.label!r} makes {made.shape} of one sample, not {shapes[id(made)]}",
                    hint=REPORT_IT,
                )
