"""Which way a batch goes: sample by sample through a model of one, or as it is through layers for all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mobilekit.passes.batch import Mixing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mobilekit.graph import Graph
    from mobilekit.importers.onnx import SourceModel
    from mobilekit.passes.batch import Batch
    from mobilekit.passes.verify import PassVerifier
    from mobilekit.targets.ncnn.emit import Model

__all__ = ["choose_batch"]


def choose_batch(
    graph: Graph,
    source: SourceModel,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    simplify: bool,
    stock_only: bool = False,
    verifier: PassVerifier | None = None,
) -> tuple[Graph, Batch | None, Mixing | None]:
    """The graph to convert, the batch that has to be run sample by sample on it, and what mixes samples if any does.

    ncnn has no batch axis, so that layers for several samples are more, and slower ones, than for one. The batch stays
    in the model only where that is no worse (a dense network over the rows of a matrix).
    """
    from mobilekit.passes import prepare_sample
    from mobilekit.targets.ncnn.emit import emit

    if not any(value.shape and value.shape[0] != 1 for value in graph.inputs):
        return graph, None, None
    found = prepare_sample(source, shapes, simplify=simplify, stock_only=stock_only, verifier=verifier)
    if found is None or isinstance(found, Mixing):
        return graph, None, found
    sample, batch = found
    one, whole = (emit(each, stock_only=stock_only) for each in (sample, graph))
    stays = not whole.findings and (one.findings or _is_no_worse(whole, one))
    return (graph, None, None) if stays else (sample, batch, None)


def _is_no_worse(whole: Model, one: Model) -> bool:
    """At most twice the layers of one sample, which is what even a batch of two would run, and none in 3-D (images that
    stand behind each other) that one sample does not need: ncnn's are slow. Nor layers of our own."""
    deeper = {layer.type for layer in whole.layers if layer.type.endswith("3D")} - {layer.type for layer in one.layers}
    own = set(whole.custom_layers) - set(one.custom_layers)
    return len(whole.layers) <= 2 * len(one.layers) and not deeper and not own
