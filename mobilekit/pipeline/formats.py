"""What numbers a model is rounded to where it runs: of the bundle's precision, and of what the place computes in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from mobilekit.validate.rounding import NumberFormat

if TYPE_CHECKING:
    from mobilekit.report.model import DeviceFacts, Precision

__all__ = ["number_format", "plan_format"]


def number_format(
    weights: Literal["fp32", "fp16", "int8"], arithmetic: Literal["fp32", "fp16"], facts: DeviceFacts
) -> NumberFormat:
    """What a model is rounded to where ``facts`` says. ncnn computes in 16 bits on ARM and on GPUs alone; elsewhere the
    option is about some weights."""
    if weights == "int8":
        narrow = arithmetic == "fp16" and (
            facts.abi.startswith(("arm", "aarch64")) if facts.vulkan is None else facts.vulkan.fp16
        )
        return NumberFormat("int8", "fp16" if narrow else "fp32")
    if facts.vulkan is not None:
        # Weights that are stored in halves are widened where the GPU has none.
        narrow = arithmetic == "fp16" and facts.vulkan.fp16
        return NumberFormat("fp16" if narrow else weights, "fp16" if narrow else "fp32")
    narrow = arithmetic == "fp16" and facts.abi.startswith(("arm", "aarch64"))
    # x86 keeps the weights of InnerProduct in halves then (``src/layer/x86/innerproduct_x86.cpp``).
    return NumberFormat("fp16" if arithmetic == "fp16" else weights, "fp16" if narrow else "fp32")


def plan_format(precision: Precision) -> NumberFormat | str:
    """What a plan rounds to; the precision itself where its cost cannot be measured on a CPU (TF32)."""
    match precision:
        case "int8" | "fp8":
            return NumberFormat(precision)
        case "fp32" | "fp16" | "bf16":
            return NumberFormat(computed=precision)
    return precision
