"""An output's error and limit, and times, as every rendering shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mobilekit.validate.tolerance import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mobilekit.report.model import OutputReport

__all__ = ["error_of", "limit_of", "relative", "short_ms", "why", "worst_of"]


def relative(output: OutputReport, value: float, form: str) -> str:
    """A figure relative to the reference; none where the reference is blank, for it would be infinite at any error."""
    return format(value, form) if output.evidence else "-"


def error_of(output: OutputReport, form: str) -> str:
    """The relative L2 that decided: of a part where only that is off, and says so."""
    if output.part is not None:
        return f"{output.part.relative_l2:{form}} in a part"
    return relative(output, output.relative_l2, form)


def limit_of(output: OutputReport, form: str = ".3g") -> str:
    """The limit that decided, or would have."""
    limits = output.limits
    if output.part is not None:
        return format(output.part.limit, form)
    if not output.evidence:
        return f"max abs {limits.atol:.2g}"
    if limits.rtol is not None:
        return format(limits.rtol, form)
    return f"cos {limits.cosine:g}" if limits.cosine is not None else f"{limits.psnr_db:g} dB"


def short_ms(value: float) -> str:
    """Two digits after the point; below 1 ms three that count."""
    return f"{value:.2f}" if value >= 1 else f"{value:.3g}"


def why(output: OutputReport) -> str:
    """The reason; of a fail with the sample that decided."""
    return f"{output.reason} (sample {output.worst_sample})" if output.verdict is Verdict.FAIL else output.reason


def worst_of(outputs: Iterable[OutputReport]) -> OutputReport | None:
    """The one that is furthest off; one whose reference is blank only where all are, or where it fails."""

    def off(output: OutputReport) -> float:
        return output.relative_l2 if output.part is None else output.part.relative_l2

    ranked = [((output.verdict is Verdict.FAIL, output.evidence, off(output)), output) for output in outputs]
    return max(ranked, key=lambda item: item[0])[1] if ranked else None
