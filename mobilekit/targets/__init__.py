"""What models are converted to: the registry of targets, each imported when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mobilekit.errors import Finding
    from mobilekit.graph import Graph

__all__ = ["Check", "targets"]

Check = Callable[["Graph"], "tuple[Finding, ...]"]
"""A target's ``check`` with its default options."""


def _ncnn() -> Check:
    from mobilekit.targets.ncnn import NcnnOptions, NcnnTarget

    return lambda graph: NcnnTarget().check(graph, NcnnOptions())


def targets() -> Mapping[str, Callable[[], Check]]:
    """Every target by name; calling the entry imports the target and gives its :data:`Check`."""
    return MappingProxyType({"ncnn": _ncnn})
