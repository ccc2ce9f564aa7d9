"""Which function emits which ONNX operator, from which version on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mobilekit.targets.ncnn.emit import Emission
    from mobilekit.targets.ncnn.node import NodeView

__all__ = ["REGISTRY", "Emitter", "Entry", "Registry", "emits"]

Emitter = Callable[["NodeView", "Emission"], None]


@dataclass(frozen=True, slots=True)
class Entry:
    """An emitter of ``op`` for opsets from ``since`` on. ``data`` says which element types it takes.

    ``"float"``: float32 only. ``"any"``: it only moves elements, so integers and booleans pass exactly. ``"exact"``:
    its arithmetic on integers is exact while they stay below 2^24 in magnitude. ``own`` names the layers of our own
    that it may need (``stock``: not always).
    """

    domain: str
    op: str
    since: int
    emit: Emitter
    data: Literal["float", "any", "exact"]
    own: str = ""
    stock: bool = True


class Registry:
    """Emitters keyed by ``(domain, op, since_version)``; registering a key twice raises ``ValueError``."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], dict[int, Entry]] = {}

    def emits(
        self,
        *ops: str,
        since: int = 1,
        domain: str = "",
        data: Literal["float", "any", "exact"] = "float",
        own: str = "",
        stock: bool = False,
    ) -> Callable[[Emitter], Emitter]:
        """Register the decorated function as the emitter of each of ``ops``."""

        def decorate(function: Emitter) -> Emitter:
            for op in ops:
                versions = self._entries.setdefault((domain, op), {})
                if since in versions:
                    raise ValueError(f"two emitters for {domain or 'ai.onnx'}::{op} since {since}")
                versions[since] = Entry(domain, op, since, function, data, own, stock or not own)
            return function

        return decorate

    def find(self, domain: str, op: str, opset: int) -> Entry | None:
        """The emitter for a model at ``opset``: the newest whose ``since`` is not above it."""
        versions = self._entries.get((domain, op), {})
        fitting = [since for since in versions if since <= opset]
        return versions[max(fitting)] if fitting else None

    def entries(self) -> tuple[Entry, ...]:
        """All, ordered by domain, operator and version: what the support table is made from."""
        return tuple(self._entries[key][since] for key in sorted(self._entries) for since in sorted(self._entries[key]))


REGISTRY = Registry()
"""The emitters of :mod:`mobilekit.targets.ncnn.ops`, filled when that package is imported, and not after."""

emits = REGISTRY.emits
