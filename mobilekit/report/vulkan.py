"""The GPU that an ncnn model ran on."""

from __future__ import annotations

from collections.abc import Mapping

from mobilekit.report.base import Frozen

__all__ = ["VulkanFacts", "fallback"]


class VulkanFacts(Frozen):
    """``type``: ``discrete``, ``integrated``, ``virtual`` or ``cpu`` (a driver without a GPU, such as Mesa's lavapipe).
    ``fp16``: it holds numbers in half precision where that is asked for; ``fp16_arithmetic``: it computes in it."""

    name: str
    type: str
    driver: str
    api_version: str
    fp16: bool
    fp16_arithmetic: bool

    def describe(self) -> str:
        kind = "on the CPU" if self.type == "cpu" else self.type
        return f"{self.name} ({self.driver}, Vulkan {self.api_version}, {kind})"


def fallback(layers_on_cpu: Mapping[str, int]) -> str:
    """Which layers did not run on the GPU, in words: ``3 layers on the CPU (2 Softmax, 1 MkTopK)``; or that all did."""
    if not layers_on_cpu:
        return "every layer on the GPU"
    count = sum(layers_on_cpu.values())
    kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(layers_on_cpu.items(), key=lambda item: (-item[1], item[0])))
    return f"{count} layer{'s' if count > 1 else ''} on the CPU ({kinds})"
