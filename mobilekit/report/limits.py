"""The limits that an output was held against, and where they come from."""

from __future__ import annotations

from typing import Literal

from mobilekit.report.base import Frozen

__all__ = ["LimitReport", "PartReport"]


class PartReport(Frozen):
    """The part of an output that failed while the whole did not: values so small that no error of theirs shows beside
    the others. ``limit`` is for the relative L2 over that part."""

    what: str
    relative_l2: float
    limit: float


class LimitReport(Frozen):
    """Limits of one output for the sample that decided; ``None``: no limit of that kind.

    ``basis``: ``"derived"`` from what ``format`` (``"fp32"``, ``"fp16 weights"``, ...) costs by itself on that sample,
    ``format_cost`` in relative L2 (infinite where values leave its range); ``"explicit"``, as the user said;
    ``"fixed"`` where nothing could be measured. ``atol`` holds where the reference is zero or constant.
    """

    rtol: float | None
    cosine: float | None
    psnr_db: float | None
    atol: float
    basis: Literal["fixed", "derived", "explicit"]
    format: str
    format_cost: float | None = None
