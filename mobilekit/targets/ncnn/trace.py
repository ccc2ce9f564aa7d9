"""``trace.json``: what bisecting, repairing and cutting need of an ncnn model beside ``.param`` and ``.bin``.

A blob's elements are an ONNX tensor's in the same row-major order (docs/decisions/0003), so a name and the Mat's dims
say all. A line for each blob and layer keeps the file short and its differences readable.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilekit.errors import BundleError

if TYPE_CHECKING:
    from mobilekit.targets.ncnn.writer import Named

__all__ = ["TRACE", "Trace", "TracedBlob", "read_trace", "trace_of"]

TRACE = "trace.json"
_VERSION = "1.0"


@dataclass(frozen=True, slots=True)
class TracedBlob:
    """The tensor of the legalised graph that a blob holds, and the blob's dims (of a model of many sizes: at the
    default one), outermost first."""

    tensor: str
    dims: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Trace:
    """``blobs`` by blob name; those that hold no tensor of the graph are left out. ``weights``: by layer name, the
    bytes that each of its arrays takes in the ``.bin``, tag and padding included; layers in the ``.param``'s order."""

    blobs: Mapping[str, TracedBlob]
    weights: Mapping[str, tuple[int, ...]]

    def write(self, path: Path) -> None:
        def lines(entries: Mapping[str, Any]) -> str:
            return ",\n".join(f"  {_text(name)}: {_text(entry)}" for name, entry in entries.items())

        blobs = lines({name: [blob.tensor, *blob.dims] for name, blob in self.blobs.items()})
        weights = lines({name: list(sizes) for name, sizes in self.weights.items()})
        text = (
            f'{{\n "schema_version": "{_VERSION}",\n "blobs": {{\n{blobs}\n }},\n "weights": {{\n{weights}\n }}\n}}\n'
        )
        path.write_text(text, encoding="utf-8")


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def trace_of(model: Named, weights: Mapping[str, tuple[int, ...]]) -> Trace:
    """``weights`` as :func:`~mobilekit.targets.ncnn.writer.write_bin` gives them."""
    blobs = {
        model.name(blob): TracedBlob(blob.holds, blob.dims)
        for layer in model.layers
        for blob in layer.outputs
        if blob.holds is not None
    }
    return Trace(blobs, weights)


def read_trace(path: Path) -> Trace:
    """Read and distrust. Raises :class:`BundleError`."""
    try:
        raw = json.loads(path.read_text("utf-8"))
        if int(str(raw["schema_version"]).split(".")[0]) > int(_VERSION.split(".")[0]):
            raise ValueError(f"schema {raw['schema_version']} is newer than {_VERSION}")
        blobs = {str(name): TracedBlob(str(entry[0]), _sizes(entry[1:])) for name, entry in raw["blobs"].items()}
        weights = {str(name): _sizes(sizes) for name, sizes in raw["weights"].items()}
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise BundleError(f"cannot read {path}: {error}", hint="export the model again") from error
    return Trace(blobs, weights)


def _sizes(values: Any) -> tuple[int, ...]:
    if not all(type(value) is int and value > 0 for value in values):
        raise ValueError(f"{values} are no sizes")
    return tuple(values)
