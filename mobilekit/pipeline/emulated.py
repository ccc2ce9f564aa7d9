"""What an inference costs on a virtual device's CPU: instructions, since its times say nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mobilekit.errors import DeviceError, SetupError
from mobilekit.progress import SILENT, Progress

if TYPE_CHECKING:
    from mobilekit.bundle import Bundle
    from mobilekit.report.instructions import InstructionReport
    from mobilekit.report.model import DeviceFacts
    from mobilekit.runners.base import RunOptions
    from mobilekit.tensors import Array

__all__ = ["PATHS", "instruction_report"]

PATHS: Mapping[str, tuple[str, str]] = {
    "neon": ("NEON", "neon"),
    "fp16-convert": ("fp16 conversions", "neon"),
    "fp16": ("fp16 arithmetic", "asimdhp"),
    "dotprod": ("dot product", "asimddp"),
    "fhm": ("fhm", "asimdfhm"),
    "bf16": ("bf16", "bf16"),
    "i8mm": ("i8mm", "i8mm"),
    "sve": ("SVE", "sve"),
}
"""A class of instructions: its name for people, and the feature that ncnn asks for before it takes such a kernel."""


def instruction_report(
    bundle: Bundle,
    facts: DeviceFacts,
    tensors: Mapping[str, Array],
    run: RunOptions,
    progress: Progress = SILENT,
) -> InstructionReport | None:
    """``None`` for a real device. What keeps instructions from being counted is said in the report, never raised."""
    from mobilekit.device.virtual import CPU_PROFILES
    from mobilekit.report.instructions import InstructionReport, IsaPath
    from mobilekit.runners.counted import count_bundle

    if not facts.virtual:
        return None
    profile = CPU_PROFILES.get(facts.cpu_profile)
    if profile is None or facts.abi != "arm64-v8a":
        return InstructionReport(remark="this device runs this machine's own code; give it an emulated arm64 CPU")

    def report(counts: Mapping[str, int], remark: str = "") -> InstructionReport:
        return InstructionReport(
            total=sum(counts.values()) if counts else None,
            cpu=profile.name,
            paths=tuple(
                IsaPath(name=name, offered=feature in facts.cpu_features, instructions=counts.get(kind))
                for kind, (name, feature) in PATHS.items()
            ),
            remark=remark,
        )

    progress.step("counting instructions")
    try:
        return report(count_bundle(bundle, tensors, run, cpu=profile.qemu, progress=progress).by_class)
    except (SetupError, DeviceError) as error:
        progress.note(f"instructions are not counted: {error.message}")
        return report({}, f"{error.message} ({error.hint.splitlines()[0]})" if error.hint else error.message)
