"""The attention family, as ONNX's Attention and RotaryEmbedding (opset 23)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mobilekit.passes.contrib._build import MICROSOFT, Build, Rule, UnclearError

if TYPE_CHECKING:
    from mobilekit.graph import Value

__all__ = ["RULES", "packed_attention"]

_FILTER = -10000.0


def _attention(it: Build) -> None:
    packed = it.add(it("MatMul", it.input(0), it.input(1)), it.optional(2))
    packed_attention(it, packed, mask=3, past=4, bias=5)


def packed_attention(it: Build, packed: Value, *, mask: int, past: int, bias: int | None) -> None:
    """Attention of ``packed`` = queries, keys and values side by side, made of the node's inputs 0 and 1.

    ``mask``, ``past`` and ``bias`` are the indices of the node's inputs.
    """
    if it.optional(past) is not None or it.output(1) is not None:
        raise UnclearError("it keeps the keys and values of earlier calls")
    if it.attr("do_rotary", 0):
        raise UnclearError("it rotates its embeddings itself")
    batch, length, _ = it.shape(it.input(0))
    width = it.shape(it.input(1))[1]
    sizes = [int(size) for size in it.attr("qkv_hidden_sizes", [])] or [width // 3] * 3
    query, key, value = it.many("Split", 3, packed, it.const(sizes, "int64"), axis=-1)
    scores = _mask(it, it.optional(mask), batch, length)
    _attend(it, query, key, value, _both(it, scores, None if bias is None else it.optional(bias)))


def _both(it: Build, scores: Value | None, bias: Value | None) -> Value | None:
    if scores is None or bias is None:
        return bias if scores is None else scores
    return it("Add", bias, scores)


def _attend(
    it: Build,
    query: Value,
    key: Value,
    value: Value,
    scores: Value | None,
    past: tuple[Value | None, Value | None] = (None, None),
) -> None:
    heads = int(it.attr("num_heads", 0))
    attrs: dict[str, Any] = {"q_num_heads": heads, "kv_num_heads": heads}
    if it.attr("scale", 0.0):
        attrs["scale"] = it.attr("scale", 0.0)
    if it.attr("unidirectional", 0):
        attrs["is_causal"] = 1
    keeps = [index for index in (1, 2) if it.output(index) is not None]
    made = it.many("Attention", 3 if keeps else 1, query, key, value, scores, *past, **attrs)
    for index in (0, *keeps):
        it.bind(index, made[index])


def _mask(it: Build, mask: Value | None, batch: int, length: int) -> Value | None:
    """What is added to the scores: 0, or a large negative number where the mask says no."""
    if mask is None:
        return None
    shape = it.shape(mask)
    if len(shape) == 1 and shape[0] == batch:
        # The length of each row, padding behind it.
        column = it.reshape(it("Cast", mask, to=7), batch, 1)
        allowed = it("Cast", it("Less", it.const(np.arange(length)[None], "int64"), column), to=1)
        shape = (batch, length)
    elif len(shape) in (2, 3, 4):
        allowed = it("Cast", mask, to=1)
    else:
        raise UnclearError("its mask gives the ends of its rows in another form")
    filtered = it.const(it.attr("mask_filter_value", _FILTER))
    added = it("Mul", it("Sub", it.const(1.0), allowed), filtered)
    return it.reshape(added, *{2: (shape[0], 1, 1, shape[-1]), 3: (shape[0], 1, *shape[1:])}.get(len(shape), shape))


def _multi_head(it: Build) -> None:
    query, key, value = it.input(0), it.optional(1), it.optional(2)
    if it.optional(8) is not None or it.optional(9) is not None:
        raise UnclearError("it writes into a shared buffer of earlier keys and values")
    batch = it.shape(query)[0]
    if key is None or value is None:
        raise UnclearError("its keys and values are packed into one tensor")
    width = it.shape(query)[2]
    split = len(it.shape(key)) == 4
    length = it.shape(key)[2 if split else 1]
    if split:
        # They were split by heads before: (batch, heads, length, depth).
        key, value = _merged(it, key), _merged(it, value)
    bias = it.optional(3)
    if bias is not None:
        widths = [width, width, it.shape(bias)[0] - 2 * width]
        of_query, of_key, of_value = it.many("Split", 3, bias, it.const(widths, "int64"), axis=0)
        query = it("Add", query, of_query)
        if not split:
            key, value = it("Add", key, of_key), it("Add", value, of_value)
    past = (it.optional(6), it.optional(7))
    total = length + (it.shape(past[0])[2] if past[0] is not None else 0)
    scores = _both(it, _mask(it, it.optional(4), batch, total), it.optional(5))
    _attend(it, query, key, value, scores, past)


def _merged(it: Build, value: Value) -> Value:
    batch, heads, length, depth = it.shape(value)
    return it.reshape(it("Transpose", value, perm=[0, 2, 1, 3]), batch, length, heads * depth)


def _rotary(it: Build) -> None:
    x, positions, cos, sin = (it.input(index) for index in range(4))
    if it.attr("is_packed_batching", 0):
        raise UnclearError("its batch is packed into one row")
    shape = it.shape(x)
    length = shape[1] if len(shape) == 3 else shape[2]
    if it.shape(positions) != (shape[0], length):
        offset = it.reshape(positions, 1, 1)
        row = it("Add", offset, it.const(np.arange(length)[None], "int64"))
        positions = it("Expand", row, it.const([shape[0], length], "int64"))
    attrs = {name: it.attr(name, 0) for name in ("interleaved", "num_heads", "rotary_embedding_dim")}
    if len(shape) == 3 and not attrs["num_heads"]:
        depth = attrs["rotary_embedding_dim"] or 2 * it.shape(cos)[-1]
        attrs["num_heads"] = shape[2] // depth
    made = it("RotaryEmbedding", x, cos, sin, positions, **attrs)
    scale = it.attr("scale", 1.0)
    it.bind(0, made if scale == 1 else it("Mul", made, it.like(scale, x)))


_ALL_TOKENS = (
    "fix its attention mask: --input MASK=ones.npy, as many ones as there are earlier and new tokens; new tokens that "
    "only fill up the last places change no others"
)


def _grouped(it: Build) -> None:
    """GroupQueryAttention: causal, rotating queries and keys by their positions, keys and values for several heads."""
    query, key, value = it.input(0), it.optional(1), it.optional(2)
    heads, groups = int(it.attr("num_heads", 0)), int(it.attr("kv_num_heads", 0))
    if it.attr("smooth_softmax", 0) or any(it.optional(index) is not None for index in range(11, 16)):
        raise UnclearError("it softens its softmax, or normalises queries and keys, itself")
    if it.attr("k_quant_type", "NONE") != "NONE" or it.attr("qk_output", 0):
        raise UnclearError("it quantises its cache, or gives its scores")
    batch, length, width = it.shape(query)
    if key is None or value is None:
        depth = width // (heads + 2 * groups)
        sizes = it.const([heads * depth, groups * depth, groups * depth], "int64")
        query, key, value = it.many("Split", 3, query, sizes, axis=-1)
    else:
        depth = width // heads
    past = (it.optional(3), it.optional(4))
    before = it.shape(past[0])[2] if past[0] is not None else 0
    total = before + length
    lengths = it.input(5).const
    if lengths is None or (lengths + 1 != total).any():
        raise UnclearError("how many of its tokens count is computed while running, or not all of them do", _ALL_TOKENS)
    if it.attr("do_rotary", 0):
        positions = it.optional(9)
        if positions is None:
            row = np.broadcast_to(np.arange(before, total), (batch, length))
            positions = it.const(row, "int64")
        attrs = {"interleaved": int(it.attr("rotary_interleaved", 0))}
        rotary = 2 * it.shape(it.input(7))[-1]
        if rotary != depth:
            attrs["rotary_embedding_dim"] = rotary
        query, key = (
            it("RotaryEmbedding", x, it.input(7), it.input(8), positions, num_heads=count, **attrs)
            for x, count in ((query, heads), (key, groups))
        )
    attrs = {"q_num_heads": heads, "kv_num_heads": groups}
    for ours, theirs in (("scale", "scale"), ("softcap", "softcap")):
        if it.attr(theirs, 0.0):
            attrs[ours] = it.attr(theirs, 0.0)
    keeps = [index for index in (1, 2) if it.output(index) is not None]
    made = it.many(
        "Attention",
        3 if keeps else 1,
        query,
        key,
        value,
        _causal(it, length, before),
        *(past if before else ()),
        **attrs,
    )
    for index in (0, *keeps):
        it.bind(index, made[index])


def _causal(it: Build, length: int, before: int) -> Value | None:
    """What is added to the scores of ``length`` tokens and those ``before`` them: earlier ones count, in a window."""
    window, bias = int(it.attr("local_window_size", -1)), it.optional(10)
    age = np.arange(before, before + length)[:, None] - np.arange(before + length)[None]
    seen = (age >= 0) & ((age < window) if window > 0 else True)
    if seen.all():
        return bias
    filtered = it.const(np.where(seen, 0, np.finfo(np.float32).min)[None, None])
    return filtered if bias is None else it("Add", bias, filtered)


RULES: dict[tuple[str, str], Rule] = {
    (MICROSOFT, "GroupQueryAttention"): _grouped,
    (MICROSOFT, "Attention"): _attention,
    (MICROSOFT, "MultiHeadAttention"): _multi_head,
    (MICROSOFT, "RotaryEmbedding"): _rotary,
}
