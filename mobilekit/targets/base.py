"""What a target is: it says completely what it cannot take, then builds its files into a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar

from mobilekit.errors import Finding

if TYPE_CHECKING:
    from mobilekit.graph import Graph

__all__ = ["Survey", "Target", "TargetName"]

TargetName = Literal["ncnn", "tensorrt"]

OptionsT_contra = TypeVar("OptionsT_contra", contravariant=True)
ArtifactT_co = TypeVar("ArtifactT_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Survey:
    """What a target says of a model before anything is written: what it cannot take, and which layers of our own
    (``android-harness/layers``) an app needs to run it."""

    findings: tuple[Finding, ...]
    custom_layers: tuple[str, ...] = ()


class Target(Protocol, Generic[OptionsT_contra, ArtifactT_co]):
    """``ncnn``, ``tensorrt``. The graph given to both methods is legalised and has static shapes."""

    name: str

    def check(self, graph: Graph, options: OptionsT_contra) -> tuple[Finding, ...]:
        """Every node the target cannot take; empty where the build will succeed. Writes nothing."""
        ...

    def build(self, graph: Graph, folder: Path, options: OptionsT_contra) -> ArtifactT_co:
        """Write the artifact's files into ``folder``; raises ``UnsupportedModelError`` with all findings."""
        ...
