"""The cost of an inference in instructions of an emulated CPU, and which of its extensions the model used."""

from __future__ import annotations

from pydantic import Field

from mobilekit.report.base import Frozen

__all__ = ["InstructionReport", "IsaPath", "cost", "paths"]


class IsaPath(Frozen):
    """An extension of the instruction set for which ncnn has kernels. ``offered``: ncnn found it on the CPU;
    ``instructions``: so many of the inference needed it, ``None`` where nothing was counted."""

    name: str
    offered: bool
    instructions: int | None = Field(default=None, ge=0)


class InstructionReport(Frozen):
    """Of one inference on one thread, from the first input set to the last output taken; exact, the same each time.

    ``total``: ``None`` where nothing was counted, for ``remark``. ``cpu``: the profile that was emulated. Of a batch,
    that of one sample.
    """

    total: int | None = Field(default=None, ge=0)
    cpu: str = ""
    paths: tuple[IsaPath, ...] = ()
    remark: str = ""


def cost(report: InstructionReport) -> str:
    """In words: what an inference costs, or why nobody knows."""
    if report.total is None:
        return f"not counted: {report.remark}"
    return f"{report.total:,} an inference, exact, on one thread ({report.cpu})"


def paths(report: InstructionReport) -> list[str]:
    """In words: what was exercised, what was not although the CPU has it, what the CPU lacks."""
    used = [path for path in report.paths if path.instructions]
    idle = [path.name for path in report.paths if path.offered and not path.instructions]
    absent = [path.name for path in report.paths if not path.offered and not path.instructions]
    if report.total is None:
        return [f"on this CPU: {', '.join(idle)}"] if idle else []
    shares = ", ".join(f"{path.name} {(path.instructions or 0) / max(report.total, 1):.1%}" for path in used)
    lines = [f"exercised: {shares or 'none'}"]
    if idle:
        lines.append(f"not exercised, though the CPU has it: {', '.join(idle)}")
    if absent:
        lines.append(f"not on this CPU: {', '.join(absent)}")
    return lines
