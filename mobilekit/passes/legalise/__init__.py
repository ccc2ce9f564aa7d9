"""Rewrite rules, a file for each family, run to a fixpoint: :func:`legalise`, then :func:`accelerate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mobilekit.passes.base import Edit, Rule, apply_rules

if TYPE_CHECKING:
    from mobilekit.graph import Graph
    from mobilekit.passes.verify import PassVerifier

__all__ = ["FAST_RULES", "RULES", "accelerate", "legalise"]


def _rules() -> tuple[Rule[Any], ...]:
    from mobilekit.passes.legalise.activations import CanonicalClip, FuseActivation, FuseHardSigmoid
    from mobilekit.passes.legalise.affine_grid import LowerAffineGrid
    from mobilekit.passes.legalise.arithmetic import MatMulToGemm, PairwiseVariadic
    from mobilekit.passes.legalise.batchnorm import FoldAffine
    from mobilekit.passes.legalise.broadcast import SpreadOperand
    from mobilekit.passes.legalise.clip import ComputedClip
    from mobilekit.passes.legalise.drop import DropNoOp
    from mobilekit.passes.legalise.einsum import LowerEinsum
    from mobilekit.passes.legalise.empty import DropEmptyParts
    from mobilekit.passes.legalise.focus import FuseFocus, FuseFocusConv
    from mobilekit.passes.legalise.gather import GatherNDToGather
    from mobilekit.passes.legalise.groupnorm import FuseGroupNorm, FuseNormAffine
    from mobilekit.passes.legalise.guard import GuardedSoftmax
    from mobilekit.passes.legalise.layout import MergeReshape, MergeTranspose, PushTranspose, TransposeToReshape
    from mobilekit.passes.legalise.masking import MaskedSoftmax
    from mobilekit.passes.legalise.normalisation import FuseLayerNorm, FuseNormScale
    from mobilekit.passes.legalise.pad import CutPad
    from mobilekit.passes.legalise.pixels import FusePixelShuffle
    from mobilekit.passes.legalise.prelu import FusePRelu
    from mobilekit.passes.legalise.quantised import DequantiseEarly, FakeQuantise, IntegerProduct
    from mobilekit.passes.legalise.reduce import ReduceOfOnes
    from mobilekit.passes.legalise.scatter import ScatterSlice
    from mobilekit.passes.legalise.windows import ExplicitWindow, FoldPad

    return (
        DropNoOp(),
        DropEmptyParts(),
        DequantiseEarly(),
        FakeQuantise(),
        ExplicitWindow(),
        IntegerProduct(),
        LowerEinsum(),
        LowerAffineGrid(),
        ScatterSlice(),
        GuardedSoftmax(),
        PairwiseVariadic(),
        ReduceOfOnes(),
        FoldPad(),
        FoldAffine(),
        ComputedClip(),
        CutPad(),
        CanonicalClip(),
        FuseHardSigmoid(),
        FuseActivation(),
        FusePRelu(),
        GatherNDToGather(),
        FuseLayerNorm(),
        FuseNormScale(),
        FuseGroupNorm(),
        FuseNormAffine(),
        FusePixelShuffle(),
        FuseFocus(),
        FuseFocusConv(),
        MatMulToGemm(),
        MaskedSoftmax(),
        SpreadOperand(),
        MergeTranspose(),
        TransposeToReshape(),
        PushTranspose(),
        MergeReshape(),
    )


RULES: tuple[Rule[Any], ...] = _rules()
"""In the order in which they are tried at a node."""


def _fast_rules() -> tuple[Rule[Any], ...]:
    from mobilekit.passes.legalise.attention import FuseAttention
    from mobilekit.passes.legalise.branches import MergeBranches
    from mobilekit.passes.legalise.concat import ConcatOfSplit
    from mobilekit.passes.legalise.dense import AffineIntoDense, SplitDense
    from mobilekit.passes.legalise.flatten import FoldFlattenTranspose
    from mobilekit.passes.legalise.layout import SqueezeFirst
    from mobilekit.passes.legalise.split import CutsToSplit
    from mobilekit.passes.legalise.upsample import ConvBeforeUpsample

    return (
        MergeBranches(),
        ConvBeforeUpsample(),
        CutsToSplit(),
        ConcatOfSplit(),
        SplitDense(),
        AffineIntoDense(),
        SqueezeFirst(),
        FoldFlattenTranspose(),
        FuseAttention(),
    )


FAST_RULES: tuple[Rule[Any], ...] = _fast_rules()
"""What makes the same numbers with less work, once every layer has taken in what it can."""


def accelerate(graph: Graph, verifier: PassVerifier | None = None) -> Edit:
    """Apply :data:`FAST_RULES`, and :data:`RULES` to what they leave, until none fires. For a legal graph, once."""
    return apply_rules(graph, (*FAST_RULES, *RULES), verifier)


def legalise(graph: Graph, verifier: PassVerifier | None = None) -> Edit:
    """Merge common subexpressions and apply every rule until none fires; says what fired and what was refused."""
    from mobilekit.passes.legalise.cse import merge_common

    merge_common(graph, verifier)
    edit = apply_rules(graph, RULES, verifier)
    if merge_common(graph, verifier):
        edit = apply_rules(graph, RULES, verifier)
    return edit
