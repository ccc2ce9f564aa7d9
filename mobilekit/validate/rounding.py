"""What a number format must cost on one model and one input: measured, by rounding as the format does on this machine.

:mod:`mobilekit.precision.rounding` makes the rounded model; here are the formats, the process it runs in, and the
cache, by content, of what was measured: a validation of the same samples measures nothing twice.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from mobilekit.errors import ChildError, MobilekitError, ModelError, StorageError, UsageError
from mobilekit.tensors import digest_of

if TYPE_CHECKING:
    from types import TracebackType

    from mobilekit.bundle import Bundle
    from mobilekit.child import Child
    from mobilekit.precision.rounding import RoundedType
    from mobilekit.tensors import Array

__all__ = ["LONG_NAMES", "Cost", "Costs", "NumberFormat", "RoundingCost", "worst_of"]

_VERSION = "8"
"""Of what is measured, in the cache's keys."""

LONG_NAMES: Mapping[str, RoundedType] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_START_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """How weights are stored, and what results between layers are rounded to; with weights of 8 bits go layers that
    multiply in 8 bits."""

    weights: Literal["fp32", "fp16", "int8", "fp8"] = "fp32"
    computed: Literal["fp32", "fp16", "bf16"] = "fp32"

    @property
    def eight_bits(self) -> bool:
        return self.weights in ("int8", "fp8")

    def __str__(self) -> str:
        """``fp32``, ``fp16``, ``bf16``, ``fp16 weights``, ``fp16 weights, bf16``, ``int8``, ``int8, fp16``, ``fp8``"""
        if self.eight_bits:
            return self.weights if self.computed == "fp32" else f"{self.weights}, {self.computed}"
        if self.weights == "fp32" or self.computed == "fp16":
            return self.computed
        return "fp16 weights" if self.computed == "fp32" else f"fp16 weights, {self.computed}"


@dataclass(frozen=True, slots=True)
class Cost:
    """The error of one output that a format causes by itself: the worst of the draws; infinite where most of them
    leave the format's range. ``faint_l2``: that of its faint part (:mod:`mobilekit.metrics.faint`)."""

    relative_l2: float
    max_abs: float
    faint_l2: float = 0.0


class Costs(Protocol):
    """What knows the cost of a format on any input."""

    @property
    def unknown(self) -> str:
        """Why nothing can be measured; empty where it can, as far as is known."""
        ...

    def of(self, inputs: Mapping[str, Array], timeout_s: float) -> dict[str, Cost]:
        """By output; empty where nothing can be measured."""
        ...


class RoundingCost:
    """A context manager; the rounded model is loaded when a sample is asked for that the cache does not know."""

    def __init__(self, bundle: Bundle, form: NumberFormat, *, cache: bool = True) -> None:
        self._bundle = bundle
        self._form = form
        self._cache = cache
        self._child: Child | None = None
        self._broken = ""
        sources = [
            (entry.path, entry.sha256)
            for entry in bundle.manifest.files
            if entry.path.startswith(("source/", "fixed/"))
        ]
        from mobilekit.runners.ort import installed_version

        self._key = hashlib.sha256(repr((_VERSION, installed_version(), form, sorted(sources))).encode())

    def __enter__(self) -> RoundingCost:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None

    @property
    def unknown(self) -> str:
        """Why nothing can be measured; empty where it can, as far as is known."""
        return self._broken

    def of(self, inputs: Mapping[str, Array], timeout_s: float) -> dict[str, Cost]:
        """By output; empty where the model cannot be run with its results rounded (:attr:`unknown` says why)."""
        if self._broken:
            return {}
        name = self._name(inputs)
        draws = self._read(name) if self._cache else None
        if draws is None:
            try:
                draws = self._measure(inputs, timeout_s)
            except (ModelError, UsageError, ChildError) as error:
                self._broken = error.message
                return {}
            if self._cache:
                self._write(name, draws)
        return {output: worst_of(found) for output, found in draws.items()}

    def _measure(self, inputs: Mapping[str, Array], timeout_s: float) -> dict[str, list[list[float]]]:
        from mobilekit.child import Child

        if self._child is None:
            self._child = Child(what="rounding as the number format does")
            form = self._form
            weights_only = form.weights != "fp32" and form.computed == "fp32"
            self._child.create(
                "mobilekit.precision.rounding:RoundedModel",
                {
                    "model": str(self._bundle.source),
                    "weights": LONG_NAMES[form.weights if form.computed == "fp32" else form.computed],
                    "computed": None if weights_only else LONG_NAMES[form.computed],
                    "free": {name: list(axes) for name, axes in self._bundle.free.items()},
                },
                timeout_s=_START_TIMEOUT_S,
            )
        feed = {**self._bundle.fixed(), **inputs}
        answer: dict[str, list[list[float]]] = self._child.call("errors", {"inputs": feed}, timeout_s=10 * timeout_s)
        return answer

    def _name(self, inputs: Mapping[str, Array]) -> str:
        digest = self._key.copy()
        digest.update(digest_of(inputs).encode())
        return digest.hexdigest()[:40]

    def _read(self, name: str) -> dict[str, list[list[float]]] | None:
        from mobilekit.paths import cache_dir

        # What is no such file is as good as none.
        with suppress(OSError, ValueError, TypeError, AttributeError, RecursionError, MobilekitError):
            raw = json.loads((cache_dir("rounding") / f"{name}.json").read_text("utf-8"))
            draws = {str(k): [[float(a), float(b), float(c)] for a, b, c in v] for k, v in raw.items()}
            return draws if draws and all(draws.values()) else None
        return None

    def _write(self, name: str, draws: Mapping[str, list[list[float]]]) -> None:
        from mobilekit.paths import atomic_file, cache_dir

        # A full disk must not stop a validation.
        with suppress(StorageError), atomic_file(cache_dir("rounding") / f"{name}.json") as file:
            file.write_text(json.dumps(draws), encoding="utf-8")


def worst_of(draws: list[list[float]]) -> Cost:
    """One draw may just leave the range where another does not: only where most do, the format cannot hold it."""
    finite = [draw for draw in draws if math.isfinite(draw[0]) and math.isfinite(draw[1])]
    if not draws or 2 * len(finite) < len(draws):
        return Cost(math.inf, math.inf, math.inf)
    return Cost(*(max(found) for found in zip(*finite, strict=True)))
