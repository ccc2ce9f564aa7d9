"""Which number format which GPU can compute in, said before a build that would fail or fall back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mobilekit.errors import UsageError

if TYPE_CHECKING:
    from mobilekit.graph import Graph
    from mobilekit.targets.tensorrt.flavour import Flavour

__all__ = ["CONSTANTS", "PRECISIONS", "check_capabilities", "check_graph", "unsupported_in"]

PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8", "fp8")

_FLOATS = {"float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float4_e2m1fn"}
CONSTANTS = frozenset(_FLOATS | {"int64", "int32", "int8", "uint8", "int4", "uint4", "bool"})
"""The types that stored tensors may have; int16 and float8_e5m2 were seen to be refused (RTX 1.7)."""

_NO_BFLOAT16 = (
    "ConvTranspose",
    "GlobalLpPool",
    "HardSwish",
    "LpNormalization",
    "LpPool",
    "Mish",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
)

_SINCE = {"tf32": (8, 0), "bf16": (8, 0), "fp8": (8, 9)}
"""NVIDIA's compute capability tables: TF32 and bfloat16 came with Ampere, FP8 tensor cores with Ada."""


def check_capabilities(flavour: Flavour, precision: str, capabilities: Sequence[str]) -> None:
    """Raises :class:`UsageError` where ``flavour`` cannot build any model in ``precision`` for each capability named.

    ``capabilities`` are spelled ``"8.6"``; none means the flavour's own choice.
    """
    if capabilities and not flavour.architectures:
        raise UsageError(
            f"{flavour.product} builds for the GPU that is present, not for {', '.join(capabilities)}",
            hint="leave --compute-capability out, or add --flavour rtx",
        )
    for capability in capabilities:
        if capability not in flavour.architectures:
            known = ", ".join(flavour.architectures)
            hint = f"one of {known}"
            if capability == "9.0":
                hint = "Hopper is served by full TensorRT: export on that machine with --flavour full"
            raise UsageError(f"{flavour.product} does not build for compute capability {capability}", hint=hint)
        least = _SINCE.get(precision)
        if least and _number(capability) < least:
            raise UsageError(
                f"compute capability {capability} does not compute in {precision}",
                hint=f"{precision} needs {least[0]}.{least[1]} or newer; fp16 runs on all",
            )


def check_graph(flavour: Flavour, precision: str, capabilities: Sequence[str], graph: Graph) -> None:
    """Raises :class:`UsageError` where ``flavour`` lacks what ``graph`` needs on one of the capabilities."""
    if flavour.name == "rtx" and "7.5" in capabilities and precision == "fp32":
        gemm = next((node for node in graph.nodes if node.op in ("Gemm", "MatMul")), None)
        if gemm is not None:
            raise UsageError(
                f"{flavour.product} has no float32 matrix product for compute capability 7.5 ({gemm.op} at "
                f"{gemm.label!r})",
                hint="add --precision fp16, or leave 7.5 out",
            )


def unsupported_in(precision: str) -> dict[str, str]:
    """Operators that TensorRT does not build in ``precision``, and why: they stay in float32 (measured, RTX 1.7)."""
    kept = {
        "Celu": "TensorRT's parser mixes types inside a Celu of 16 bits",
        "GRU": "TensorRT's parser mixes types inside a GRU of 16 bits",
        "MeanVarianceNormalization": "TensorRT's parser mixes types inside it where it has 16 bits",
        "TensorScatter": "TensorRT writes into the cache that is an input itself, and inputs keep their types",
    }
    if precision == "bf16":
        kept |= {op: f"TensorRT has no bfloat16 {op}" for op in _NO_BFLOAT16}
    return kept


def _number(capability: str) -> tuple[int, int]:
    major, _, minor = capability.partition(".")
    return int(major), int(minor or 0)
