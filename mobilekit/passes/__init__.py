"""From a model as read to a graph that a target's emitter can rely upon: :func:`prepare`.

What the emitter may rely upon (``graph = prepare(...)``):

- Opset: ``graph.opset`` is at least 24 (:data:`CANONICAL_OPSET`); every node has the *newest* form of its operator:

  - what moved from attributes to inputs is an input: ``Clip`` min/max, ``Squeeze``/``Unsqueeze`` axes, ``Reduce*`` axes
    (with ``noop_with_empty_axes``), ``Slice`` starts/ends/axes/steps, ``Pad`` pads/constant_value/axes, ``Split`` sizes
    (always given, ``num_outputs`` never), ``Resize`` (``Upsample`` is a ``Resize``), ``TopK`` k, ``Dropout`` ratio;
  - ``Softmax``, ``LogSoftmax``, ``Hardmax`` work along one ``axis`` (older flattening semantics become Reshapes);
  - ``BatchNormalization`` has one output and no ``spatial``; ``GroupNormalization`` has per-channel scale and bias;
  - ``auto_pad`` is gone from Conv, ConvTranspose and pools: explicit ``pads`` (``dilations``, ``strides``,
    ``kernel_shape`` and ``group`` are always given too, ``output_padding`` of ConvTranspose, whose ``output_shape``
    is gone);
  - ``Max`` and ``Min`` have two inputs, ``Sum`` and ``Mean`` are ``Add`` (and ``Mul``);
  - ``Constant`` nodes, ``Identity`` and ``Dropout`` are gone (an ``Identity`` stays only where a graph output is
    a graph input, a constant, or another output).

- Every value has ``dtype`` and a static ``shape`` (``tuple[int, ...]``); all axes attributes and axes constants may be
  negative still. Constants are ``Value.const``.
- Where a shape depended on data but had an upper bound (NonMaxSuppression, NonZero, Unique, Compress), it is that
  bound, the operator is one of our own domain (:mod:`mobilekit.passes.bounds`), and ``graph.rows`` says which outputs
  are to be trimmed.
- Nodes are in topological order and each reaches an output; inputs and outputs have the model's names and order.
- ``Conv``, ``ConvTranspose`` and ``Gemm`` with constant weights have taken in the BatchNormalization and the
  channel-wise ``Add``, ``Sub``, ``Mul``, ``Div`` behind them; a rank-2 ``MatMul`` with constant weight and
  bias is ``Gemm``.
- Floats are float32, but for inputs and outputs of other types, with a ``Cast`` beside each (unless a node has a body).
- Fused nodes: ``Gelu`` (``approximate`` "none" | "tanh"), ``LayerNormalization``, ``RMSNormalization``, ``HardSwish``,
  ``HardSigmoid``, ``Mish``, ``Swish`` (``alpha``) of the default domain; ``Attention`` with operands
  ``(batch, heads, n, size)`` and its first output alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mobilekit.progress import SILENT, Progress

if TYPE_CHECKING:
    from mobilekit.graph import Graph
    from mobilekit.importers.onnx import SourceModel
    from mobilekit.passes.batch import Batch, Mixing
    from mobilekit.passes.infer import Folding
    from mobilekit.passes.verify import PassVerifier

__all__ = ["CANONICAL_OPSET", "lifted", "prepare", "prepare_sample"]

CANONICAL_OPSET = 24


def prepare(
    model: SourceModel,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    simplify: bool = True,
    resize: bool = False,
    stock_only: bool = False,
    folding: Folding | None = None,
    progress: Progress = SILENT,
    verifier: PassVerifier | None = None,
) -> Graph:
    """A legalised graph with static shapes.

    ``shapes`` fixes the symbolic axes of inputs by name. Raises ``UsageError`` where a shape does not fit or one is
    missing, ``ModelError`` where the model is malformed, ``UnsupportedModelError`` where a shape depends on data.
    ``simplify=False`` leaves out onnxsim (our own folding and rules still run). With ``resize`` the shapes override
    what the file says, fixed axes too. ``folding`` says what not to fold, and notes what was. ``stock_only``: what only
    our own layers take as a whole is written out in plain operators where that can be done. ``verifier`` holds each
    rewrite against ONNX Runtime (:mod:`mobilekit.passes.verify`) and raises ``VerificationError``.
    """
    graph = lifted(model, shapes, progress, resize=resize, stock_only=stock_only, folding=folding, verifier=verifier)
    return _legal(graph, simplify=simplify, progress=progress, verifier=verifier)


def prepare_sample(
    model: SourceModel,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    simplify: bool = True,
    stock_only: bool = False,
    progress: Progress = SILENT,
    verifier: PassVerifier | None = None,
) -> tuple[Graph, Batch] | Mixing | None:
    """Like :func:`prepare`, the graph of one sample of the batch, where :func:`~mobilekit.passes.batch.one_sample`
    proves that samples stay apart; else why they do not, or ``None`` where there is no batch."""
    from dataclasses import replace

    from mobilekit.importers.convert import to_proto
    from mobilekit.passes.batch import Batch, one_sample

    graph = lifted(model, shapes, SILENT, keep_batches=True, stock_only=stock_only)
    found = one_sample(graph)
    if not isinstance(found, Batch):
        return found
    if verifier is not None:
        verifier.begin(replace(model, proto=to_proto(graph)), graph)
    return _legal(graph, simplify=simplify, progress=progress, verifier=verifier), found


def lifted(
    model: SourceModel,
    shapes: Mapping[str, tuple[int, ...]],
    progress: Progress = SILENT,
    *,
    keep_batches: bool = False,
    stock_only: bool = False,
    resize: bool = False,
    folding: Folding | None = None,
    verifier: PassVerifier | None = None,
) -> Graph:
    """What :func:`prepare` begins with: static shapes, functions and constants folded, floats float32, and no rewrite
    for a target yet. Arguments and errors as there."""
    from mobilekit.importers.convert import from_proto
    from mobilekit.passes import infer
    from mobilekit.passes import shapes as shaping
    from mobilekit.passes.bounds import Bounds
    from mobilekit.passes.dequantise import dequantise
    from mobilekit.passes.precision import single_precision

    graph = from_proto(model.proto, model.path.parent)
    graph.fake_quant = model.fake_quant
    if resize:
        shaping.resize_inputs(graph, shapes)
    shaping.fix_inputs(graph, shapes, progress)
    infer.infer(
        graph,
        target_opset=CANONICAL_OPSET,
        keep_batches=keep_batches,
        stock_only=stock_only,
        folding=folding,
        bounds=Bounds(graph),
    )
    infer.require_static(graph)
    if verifier is not None:
        verifier.begin(model, graph)
    if others := single_precision(graph):
        if verifier is not None:
            verifier.stage("single precision", graph, halves=bool(others - {"float64"}))
        progress.note(f"the model computes in {', '.join(sorted(others))}; the converted one does in float32")
    if count := dequantise(graph):
        if verifier is not None:
            verifier.stage("dequantise", graph, halves=True)
        progress.note(f"{count} tensors that the model quantises while running stay floats")
    return graph


def _legal(graph: Graph, *, simplify: bool, progress: Progress, verifier: PassVerifier | None) -> Graph:
    from mobilekit.passes.legalise import accelerate, legalise

    legalise(graph, verifier)
    if simplify:
        from mobilekit.passes.simplify import simplify as run_onnxsim
        from mobilekit.passes.simplify import worthwhile

        simplified = run_onnxsim(graph, progress) if worthwhile(graph) else graph
        if simplified is not graph:
            graph = simplified
            if verifier is not None:
                verifier.stage("onnxsim", graph)
            legalise(graph, verifier)
    accelerate(graph, verifier)
    if verifier is not None:
        verifier.finish(graph)
    return graph
