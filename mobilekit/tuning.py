"""How ncnn runs a model, and for what kind of device a bundle knows the fastest way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

__all__ = ["Cluster", "Setting", "Tuned", "TunedPlace"]

Cluster = Literal["all", "little", "big"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """``threads=0``: as ncnn chooses. ``fp16``: storage, packing and arithmetic in half precision where the processor
    can. ``packing``: several channels in one element, for vector registers."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = {"extra": "forbid"}

    threads: int = 0
    cluster: Cluster = "all"
    fp16: bool = False
    winograd: bool = True
    packing: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.threads <= 256:
            raise ValueError(f"{self.threads} threads")

    def __str__(self) -> str:
        """``4 threads, big cores, fp16, no winograd``"""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}" if self.threads else "ncnn's threads"
        parts = [threads, "" if self.cluster == "all" else f"{self.cluster} cores", "fp16" if self.fp16 else "fp32"]
        off = ["" if self.winograd else "no winograd", "" if self.packing else "no packing"]
        return ", ".join(filter(None, parts + off))

    def distance(self, other: Setting) -> int:
        """In how many of the five they differ."""
        pairs = (
            (self.threads, other.threads),
            (self.cluster, other.cluster),
            (self.fp16, other.fp16),
            (self.winograd, other.winograd),
            (self.packing, other.packing),
        )
        return sum(mine != theirs for mine, theirs in pairs)


@dataclass(frozen=True, kw_only=True)
class TunedPlace:
    """A kind of device: what two must share for one's setting to be of use to the other. No single device's name."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = {"extra": "forbid"}

    kind: Literal["adb", "local"]
    model: str
    abi: str
    cpu_features: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.model} ({self.abi})"


@dataclass(frozen=True, kw_only=True)
class Tuned:
    __pydantic_config__: ClassVar[Mapping[str, str]] = {"extra": "forbid"}

    place: TunedPlace
    setting: Setting
