"""Rewrite rules, a file for each family, run to a fixpoint: :func:`legalise`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mobilekit.passes.base import Edit, Rule, apply_rules

if TYPE_CHECKING:
    from mobilekit.graph import Graph
    from mobilekit.passes.verify import PassVerifier

__all__ = ["RULES", "legalise"]


def _rules() -> tuple[Rule[Any], ...]:
    from mobilekit.passes.legalise.activations import CanonicalClip, FuseActivation, FuseHardSigmoid
    from mobilekit.passes.legalise.affine_grid import LowerAffineGrid
    from mobilekit.passes.legalise.arithmetic import MatMulToGemm, PairwiseVariadic
    from mobilekit.passes.legalise.batchnorm import FoldAffine
    from mobilekit.passes.legalise.clip import ComputedClip
    from mobilekit.passes.legalise.drop import DropNoOp
    from mobilekit.passes.legalise.einsum import LowerEinsum
    from mobilekit.passes.legalise.empty import DropEmptyParts
    from mobilekit.passes.legalise.guard import GuardedSoftmax
    from mobilekit.passes.legalise.layout import MergeReshape, MergeTranspose, PushTranspose, TransposeToReshape
    from mobilekit.passes.legalise.masking import MaskedSoftmax
    from mobilekit.passes.legalise.normalisation import FuseLayerNorm, FuseNormScale
    from mobilekit.passes.legalise.pad import CutPad
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
        FuseLayerNorm(),
        FuseNormScale(),
        MatMulToGemm(),
        MaskedSoftmax(),
        MergeTranspose(),
        TransposeToReshape(),
        PushTranspose(),
        MergeReshape(),
    )


RULES: tuple[Rule[Any], ...] = _rules()
"""In the order in which they are tried at a node."""


def legalise(graph: Graph, verifier: PassVerifier | None = None) -> Edit:
    """Merge common subexpressions and apply every rule until none fires; says what fired and what was refused."""
    from mobilekit.passes.legalise.cse import merge_common

    merge_common(graph, verifier)
    edit = apply_rules(graph, RULES, verifier)
    if merge_common(graph, verifier):
        edit = apply_rules(graph, RULES, verifier)
    return edit
