"""Normalisations with what stands before them: residual sums, embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mobilekit.passes.contrib._build import MICROSOFT, Build, Rule, UnclearError

if TYPE_CHECKING:
    from mobilekit.graph import Value

__all__ = ["RULES", "embed"]

_EPSILON = 1e-12


def _none_of(it: Build, *indices: int) -> None:
    if any(it.output(index) is not None for index in indices):
        raise UnclearError("its mean or inverse deviation is read")


def _layer_norm(it: Build) -> None:
    made = it.many("LayerNormalization", len(it.node.outputs), *it.node.inputs, **it.node.attrs)
    for index, value in enumerate(made):
        it.bind(index, value)


def _rms_norm(it: Build) -> None:
    _none_of(it, 1)
    attrs = {name: value for name, value in it.node.attrs.items() if name in ("axis", "epsilon", "stash_type")}
    it.bind(0, it("RMSNormalization", it.input(0), it.input(1), **attrs))


def _skip(it: Build, bias: int) -> Value:
    _none_of(it, 1, 2)
    total = it.add(it("Add", it.input(0), it.input(1)), it.optional(bias))
    it.bind(3, total)
    return total


def _skip_layer_norm(it: Build) -> None:
    total = _skip(it, 4)
    epsilon = it.attr("epsilon", _EPSILON)
    it.bind(0, it("LayerNormalization", total, it.input(2), it.optional(3), axis=-1, epsilon=epsilon))


def _skip_rms_norm(it: Build) -> None:
    total = _skip(it, 3)
    it.bind(0, it("RMSNormalization", total, it.input(2), axis=-1, epsilon=it.attr("epsilon", _EPSILON)))


def _embed_layer_norm(it: Build) -> None:
    tables = [it.input(2), it.input(3), it.optional(4)]
    embed(it, tables, it.input(5), it.input(6), it.optional(7), it.optional(8))


def embed(
    it: Build,
    tables: list[Value | None],
    gamma: Value,
    beta: Value | None,
    mask: Value | None,
    positions: Value | None,
) -> None:
    """Word, position and segment rows summed and normalised; the second output counts each row's mask."""
    ids = it.input(0)
    length = it.shape(ids)[1]
    words, places, segments = tables
    assert words is not None
    assert places is not None
    total = it("Gather", words, ids)
    if positions is None:
        positions = it.const(np.arange(length)[None], "int64")
    total = it("Add", total, it("Gather", places, positions))
    segment_ids = it.optional(1)
    if segments is not None and segment_ids is not None:
        total = it("Add", total, it("Gather", segments, segment_ids))
    it.bind(2, total)
    it.bind(0, it("LayerNormalization", total, gamma, beta, axis=-1, epsilon=it.attr("epsilon", _EPSILON)))
    if it.output(1) is not None:
        batch = it.shape(ids)[0]
        if mask is None:
            it.bind(1, it.const(np.zeros(batch), "int32"))
        else:
            counted = it("ReduceSum", it("Cast", mask, to=1), it.const([1], "int64"), keepdims=0)
            it.bind(1, it("Cast", counted, to=6))


RULES: dict[tuple[str, str], Rule] = {
    (MICROSOFT, "EmbedLayerNormalization"): _embed_layer_norm,
    (MICROSOFT, "LayerNormalization"): _layer_norm,
    (MICROSOFT, "SimplifiedLayerNormalization"): _rms_norm,
    (MICROSOFT, "SkipLayerNormalization"): _skip_layer_norm,
    (MICROSOFT, "SkipSimplifiedLayerNormalization"): _skip_rms_norm,
    ("", "SimplifiedLayerNormalization"): _rms_norm,
}
