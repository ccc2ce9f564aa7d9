"""What models are converted to: the registry of targets, each imported when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mobilekit.graph import Graph
    from mobilekit.targets.base import Survey

__all__ = ["Check", "targets"]

Check = Callable[["Graph"], "Survey"]
"""A target's ``survey`` with its default options."""


def _ncnn() -> Check:
    from mobilekit.targets.ncnn import NcnnOptions, NcnnTarget

    return lambda graph: NcnnTarget().survey(graph, NcnnOptions())


def targets() -> Mapping[str, Callable[[], Check]]:
    """Every target by name; calling the entry imports the target and gives its :data:`Check`."""
    return MappingProxyType({"ncnn": _ncnn})
